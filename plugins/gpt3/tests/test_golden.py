"""T1: logits, loss and every gradient against Hugging Face transformers; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

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
def test_scaling_by_the_number_of_layers_changes_nothing(changes):
    """With three of them, whose division rounds."""
    case = next(case for case in CASES if case.name == "untied")
    golden.check_golden(ARCH, case, scale_qk_by_layer_num=True, **changes)


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, changes, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved", **changes)


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
def test_files_as_openai_published_them(changes, tmp_path):
    """The first GPT-2 files have no `transformer.` in their names, and carry the causal masks along."""
    case = next(case for case in CASES if case.name == "gpt2")
    tensors = load_file(case / "model.safetensors")
    first = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    first |= {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 32, 32), np.float32)) for i in range(2)}
    save_file(first, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "golden.safetensors"):
        (tmp_path / name).write_bytes((case / name).read_bytes())
    golden.check_golden(ARCH, tmp_path, **changes)
