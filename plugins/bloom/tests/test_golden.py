"""T1: logits, loss and every gradient against Hugging Face transformers; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

import zoo_bloom
from zoo_core.testing import contract, folders, golden

ARCH = contract.architecture(zoo_bloom)
GOLDEN = Path(__file__).parent / "golden"
CASES = golden.golden_cases(GOLDEN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_transformers(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved")


def test_the_first_published_names_load_too(tmp_path):
    """bloom-560m and bloom-7b1 were published without the prefix `transformer.`."""
    folder = tmp_path / "four_heads"
    shutil.copytree(GOLDEN / "four_heads", folder)
    tensors = load_file(folder / "model.safetensors")
    assert all(name.startswith("transformer.") for name in tensors)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    golden.check_golden(ARCH, folder)


@pytest.mark.parametrize("name", ["four_heads", "six_heads", "five_heads", "twelve_heads"])
def test_the_slopes_of_another_number_of_heads_are_noticed(name, monkeypatch):
    """The comparison would fail if biases were wrong: here they are as if the heads were in the opposite order."""
    import zoo_bloom.modeling as modeling

    right = modeling.alibi_bias
    monkeypatch.setattr(modeling, "alibi_bias", lambda *args: right(*args).flip(1))
    with pytest.raises(AssertionError, match="logits"):
        golden.check_golden(ARCH, GOLDEN / name)
