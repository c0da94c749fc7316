"""T1: logits, loss and every gradient against Hugging Face transformers; `zoo_core.testing.golden` has the rule.

Logits against llama.cpp too, which is that exact to 1e-3 only (its GELU is a table of float16).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zoo_bloom
from zoo_core.testing import contract, folders, golden, models

ARCH = contract.architecture(zoo_bloom)
GOLDEN = Path(__file__).parent / "golden"
CASES = golden.golden_cases(GOLDEN)
LLAMACPP = load_file(GOLDEN / "llamacpp" / "logits.safetensors")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_transformers(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("name", LLAMACPP)
def test_logits_are_near_those_of_llamacpp(name):
    published, tensors, batch = golden.load_case(GOLDEN / name)
    config = ARCH.capabilities.config_class.from_hf(published)
    model = models.build(ARCH, config, golden.read_weights(GOLDEN / name, ARCH.table(config)))
    model.eval()
    real = tensors.get("attention_mask", np.ones_like(tensors["input_ids"]))[..., None]
    assert np.abs(model(batch).logits.numpy() * real - LLAMACPP[name]).max() < 1e-3


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
def test_slopes_of_other_heads_are_noticed(name, monkeypatch):
    """The comparison fails if biases are wrong: here the heads have each other's."""
    import zoo_bloom.modeling as modeling

    right = modeling.alibi_bias
    monkeypatch.setattr(modeling, "alibi_bias", lambda *args: right(*args).flip(1))
    with pytest.raises(AssertionError, match="logits"):
        golden.check_golden(ARCH, GOLDEN / name)
