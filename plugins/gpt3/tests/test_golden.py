"""T1: logits, loss and every gradient against Hugging Face transformers; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_gpt3
from zoo_core.testing import contract, folders, golden

ARCH = contract.architecture(zoo_gpt3)
CASES = golden.golden_cases(Path(__file__).parent / "golden")
FUSED = {"fuse_attention_qkv": True}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_transformers(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fused_projection_equals_transformers(case):
    golden.check_golden(ARCH, case, **FUSED)


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
def test_scaling_by_layer_number_changes_nothing(changes):
    golden.check_golden(ARCH, CASES[0], scale_qk_by_layer_num=True, **changes)


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, changes, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved", **changes)
