"""Add adapters to their base model, tensor by tensor, and check what was written against its definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo_core.checkpoint import LocalTensor, Reader, save_hf
from zoo_core.checkpoint.dtypes import converted
from zoo_core.checkpoint.hf import hf_places
from zoo_core.checkpoint.writer import Extras
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError
from zoo_core.layout import Rule
from zoo_core.peft.files import AdapterFiles
from zoo_core.peft.spec import module_of

__all__ = ["Merged", "merge_lora"]

_UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half the distance of 1 to the next number: what rounding a number may change of it."""
_LEAST = {"float16": 2.0**-25}
"""The same below the least normal number."""


@dataclass(frozen=True)
class Merged:
    """What merging did.

    Args:
        layers: how many weights were changed.
        change: the largest change of an element, of any weight.
        error: the largest distance of (merged - base) from scale A B.
        worst: that distance over what rounding allows, at most 1.
    """

    layers: int
    change: float
    error: float
    worst: float


def merge_lora(
    base: Reader,
    adapter: AdapterFiles,
    folder: Path,
    *,
    table: Mapping[str, Rule],
    fused: Mapping[str, Rule],
    config: ModelConfig,
    dtype: str | None = None,
    files: Extras | None = None,
) -> Merged:
    """Write a Hugging Face folder of the base model with W + scale A B in the place of W.

    The sum is taken in float32 and rounded once. The base stays as it was, so that taking the adapter off again is
    exact. What was written is read back and compared.

    Args:
        base: over the base model, with `table`.
        folder: to be written; must not exist, or be empty.
        table: the rows of the base model, as `adapter` was opened with.
        fused: the same with projections fused, for reading back.
        dtype: element type to write; by default each tensor's own.
        files: small files to add (the tokenizer's).

    Raises:
        CheckpointError: as `Reader` and `save_hf`; or what was written is not the sum.
    """
    base.check()
    modules = {module_of(name) for name in adapter.rows}
    kinds = {name: dtype or base.dtype_of(name) for name in table}

    def tensors() -> Iterator[LocalTensor]:
        for name, rule in table.items():
            if not hf_places(rule):
                continue
            kind, module = kinds[name], module_of(name)
            if module not in modules or not name.endswith(".weight"):
                yield LocalTensor(rule, base.read_local(name, dtype=kind), kind)
                continue
            merged = base.read_local(name, dtype="float32") + adapter.product(module)
            yield LocalTensor(rule, converted(merged, "float32", kind), kind)

    save_hf(folder, tensors(), table=table, config=config, dtype=kinds.__getitem__, files=files)
    with Reader(folder, table, fused) as written:
        return _compared(base, adapter, written, sorted(modules), kinds)


def _compared(
    base: Reader, adapter: AdapterFiles, written: Reader, modules: list[str], kinds: Mapping[str, str]
) -> Merged:
    change = error = worst = 0.0
    for module in modules:
        name = f"{module}.weight"
        before, after = (reader.read_local(name, dtype="float32") for reader in (base, written))
        product = adapter.product(module)
        distance = np.abs((after.astype(np.float64) - before) - product)
        allowed = _UNIT.get(kinds[name], 2.0**-8) * np.abs(after) + _LEAST.get(kinds[name], 0.0)
        # the sum itself is rounded to float32 before, where the type is narrower
        allowed = allowed * (1 + 2.0**-20) + _UNIT["float32"] * (np.abs(before) + np.abs(product)) + 1e-38
        ratio = float((distance / allowed).max())
        if not ratio <= 1.0:
            raise CheckpointError(
                f"{written.folder} does not hold what was merged",
                f"{name} minus the base's is {float(distance.max()):.3g} away from scale A B",
                "remove it and merge again; if it stays so, the disk is damaged",
            )
        change, error, worst = (
            max(change, float(np.abs(product).max())),
            max(error, float(distance.max())),
            max(worst, ratio),
        )
    return Merged(len(modules), change, error, worst)
