"""T1: logits, loss and every gradient against transformers and a plain reference; logits against llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

import zoo_baichuan
from zoo_baichuan import BaichuanConfig
from zoo_core.testing import contract, folders, golden
from zoo_core.testing.models import build
from zoo_ops import Batch

ARCH = contract.architecture(zoo_baichuan)
FOLDER = Path(__file__).parent / "golden"
CASES = golden.golden_cases(FOLDER)
FUSED = {"fuse_attention_ffn": True}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_reference(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_folder_says_which_baichuan_it_is(case):
    config = BaichuanConfig.from_hf(json.loads((case / "config.json").read_text()))
    assert config.position_embedding == ("rope" if "7b" in case.name else "alibi")
    assert config.normalize_head == case.name.startswith("v2")


@pytest.mark.parametrize("name", ["v1_13b", "v2_7b_odd_heads"])
def test_fused_gate_and_up_equal_the_reference(name):
    golden.check_golden(ARCH, FOLDER / name, **FUSED)


@pytest.mark.parametrize("changes", [{"normalize_head": False}, {"position_embedding": "rope"}], ids=str)
def test_another_baichuan_is_told_apart(changes):
    with pytest.raises(AssertionError, match="logits: differs"):
        golden.check_golden(ARCH, FOLDER / "v2_13b_left_padded", **changes)


@pytest.mark.parametrize("normalised", [False, True], ids=["head", "normalised head"])
@pytest.mark.parametrize("name", ["llamacpp_7b", "llamacpp_13b"])
def test_full_depth_equals_llamacpp(name, normalised):
    found = load_file(FOLDER / name / "llamacpp.safetensors")
    config = BaichuanConfig.from_hf(json.loads((FOLDER / name / "config.json").read_text()))
    assert (config.position_embedding, config.num_hidden_layers) == {"7b": ("rope", 32), "13b": ("alibi", 40)}[name[9:]]
    config = config.replace(normalize_head=normalised)
    weights = golden.read_weights(FOLDER / name, ARCH.table(config))
    model = build(ARCH, config, {key: value.astype(np.float32) for key, value in weights.items()})
    model.eval()
    ours = model(Batch(paddle.to_tensor(found["input_ids"]))).logits.numpy()
    theirs = found["logits_normalised_head" if normalised else "logits"]
    assert np.all(np.abs(ours - theirs) <= 1e-5 + 1e-5 * np.abs(theirs)), np.abs(ours - theirs).max()


@pytest.mark.parametrize("changes", [{}, FUSED], ids=["separate", "fused"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, changes, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved", **changes)
