"""T1: logits, loss and every gradient against Hugging Face transformers; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_llama
from zoo_core.testing import contract, folders, golden

ARCH = contract.architecture(zoo_llama)
CASES = golden.golden_cases(Path(__file__).parent / "golden")
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_transformers(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fused_projections_equal_transformers(case):
    golden.check_golden(ARCH, case, **FUSED)


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, changes, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved", **changes)
