"""T0 and T1: the conformance kit, and its golden cases; the other files have what is special to OPT."""

from __future__ import annotations

from pathlib import Path

from zoo_core.testing import ArchConformance


class TestConformance(ArchConformance):
    family = "opt"
    golden = Path(__file__).parent / "golden"
    # T2 is in tests/parallel, where the cases of all families share their launches.
    layouts = ()
