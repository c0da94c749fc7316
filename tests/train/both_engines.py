"""What comparing the two engines takes, whatever is trained."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

BOTH = ("dp2", "tp2", "tp2+sp", "dp2xtp2", "sharding2", "sharding2-stage2", "sharding2-stage3")
"""Layouts under which the two engines are compared with one another as well."""

WEIGHTS = ("--max_steps", "10", "--save_strategy", "steps", "--save_steps", "5", "--adam_epsilon", "1e-3")
"""For weights: the default epsilon amplifies the rounding noise of gradients that are zero in exact arithmetic."""


def auto_layouts(layouts: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Those of `BOTH` under the semi-automatic engine."""
    return {f"auto-{name}": (layouts[name][0], f"--engine auto {layouts[name][1]}") for name in BOTH}


def same_columns(found: list[dict[str, str]], wanted: list[dict[str, str]], columns: Iterable[str], where: str) -> None:
    """Compare the recorded steps of two runs."""
    for column in columns:
        values, expected = ([float(row[column]) for row in part if row[column]] for part in (found, wanted))
        assert expected, f"no {column} to compare with"
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5, err_msg=f"{column} under {where}")
