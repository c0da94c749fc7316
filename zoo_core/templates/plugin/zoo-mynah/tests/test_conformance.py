"""Whether the plugin keeps the contract: `pytest`, or without the runs of several processes `pytest -m "not t2"`."""

from __future__ import annotations

from zoo_core.testing import ArchConformance


class TestConformance(ArchConformance):
    family = "mynah"
