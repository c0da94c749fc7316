"""T1: logits, loss and every gradient against Hugging Face transformers; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import zoo_opt
from zoo_core.testing import contract, folders, golden, models

ARCH = contract.architecture(zoo_opt)
FOLDER = Path(__file__).parent / "golden"
CASES = golden.golden_cases(FOLDER)
FUSED = {"fuse_attention_qkv": True}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fused_projections_equal_transformers(case):
    golden.check_golden(ARCH, case, **FUSED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips_through_fused_projections(case, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved", **FUSED)


@pytest.mark.parametrize("name", ["left_padded", "post_norm_left_padded"])
def test_positions_follow_from_the_mask_alone(name):
    from zoo_ops import Batch

    published, wanted, batch = golden.load_case(FOLDER / name)
    config = zoo_opt.OptConfig.from_hf(published)
    model = models.build(ARCH, config, golden.read_weights(FOLDER / name, ARCH.table(config)))
    model.eval()
    logits = model(Batch(batch.input_ids, attention_mask=batch.attention_mask)).logits.numpy()
    real = wanted["attention_mask"] == 1
    np.testing.assert_allclose(logits[real], wanted["logits"][real], rtol=1e-5, atol=1e-5)


def test_files_without_the_first_component_load(tmp_path):
    """The first published files call a tensor `decoder.layers...`, and hold the tied head too."""
    case = FOLDER / "post_norm_projected"
    published = load_file(case / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in published.items()}
    bare["lm_head.weight"] = published["model.decoder.embed_tokens.weight"].copy()
    save_file(bare, tmp_path / "model.safetensors")
    table = ARCH.table(zoo_opt.OptConfig.from_hf(golden.load_case(case)[0]))
    found = golden.read_weights(tmp_path, table)
    for name, array in golden.read_weights(case, table).items():
        assert np.array_equal(found[name], array), name
