"""T1: logits, loss and every gradient against transformers and modelscope; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_qwen
from zoo_core.testing import contract, folders, golden

ARCH = contract.architecture(zoo_qwen)
CASES = golden.golden_cases(Path(__file__).parent / "golden")
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_other_implementation(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fused_projections_equal_it_too(case):
    golden.check_golden(ARCH, case, **FUSED)


@pytest.mark.parametrize("case", [case for case in CASES if "qwen1" in case.name], ids=lambda case: case.name)
def test_v1_stretches_nothing_in_training(case):
    golden.check_golden(ARCH, case, training=True)


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, changes, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved", **changes)
