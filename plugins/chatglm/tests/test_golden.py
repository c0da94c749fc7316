"""T1: logits, loss and every gradient against modelscope; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_chatglm
from zoo_core.testing import contract, folders, golden

ARCH = contract.architecture(zoo_chatglm)
CASES = golden.golden_cases(Path(__file__).parent / "golden")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_other_implementation(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved")
