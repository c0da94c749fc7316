"""T1: a folder in DeepSeek's fp8 format, e4m3 in blocks of 128 x 128 with a scale each, is read as its values."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import zoo_deepseek_v3
from zoo_core.checkpoint import Reader
from zoo_core.checkpoint.hf import hf_places
from zoo_core.checkpoint.places import published_place
from zoo_core.layout import split
from zoo_core.testing import contract
from zoo_core.testing.models import random_weights

ARCH = contract.architecture(zoo_deepseek_v3)
V3 = next(entry.config for entry in ARCH.capabilities.models if entry.name == "deepseek-ai/DeepSeek-V3")
# Blocks that are cut off at both ends, and a key/value projection whose heads begin within a block.
CONFIG = V3.replace(**ARCH.capabilities.scales["tiny"]).replace(
    hidden_size=160, kv_lora_rank=136, v_head_dim=40, moe_intermediate_size=130, num_hidden_layers=2
)


def is_fp8(key):
    """Of the published tensors, the projections are fp8; embeddings, head, norms, router and `eh_proj` are not."""
    return key.endswith("_proj.weight") and "eh_proj" not in key or key.endswith("kv_a_proj_with_mqa.weight")


@pytest.fixture(scope="module")
def fp8(tmp_path_factory):
    """A folder, and the value of every parameter in it by single-card name."""
    folder, table, tensors, values = tmp_path_factory.mktemp("fp8"), ARCH.table(CONFIG), {}, {}
    for name, weight in random_weights(table).items():
        (place,) = hf_places(table[name])
        stored = np.ascontiguousarray(weight.T if place.transposed else weight)
        if is_fp8(place.key):
            blocks = [np.arange(size) // 128 for size in stored.shape]
            scales = np.zeros([index[-1] + 1 for index in blocks], np.float32)
            np.maximum.at(scales, np.ix_(*blocks), np.abs(stored) / 448)
            quantised = (stored / scales[np.ix_(*blocks)]).astype(ml_dtypes.float8_e4m3fn)
            tensors |= {place.key: quantised, f"{place.key}_scale_inv": scales}
            stored = quantised.astype(np.float32) * scales[np.ix_(*blocks)]
        elif place.key.endswith("_bias"):
            tensors[place.key] = stored
        else:
            tensors[place.key] = stored.astype(ml_dtypes.bfloat16)
            stored = tensors[place.key].astype(np.float32)
        values[name] = stored.T if place.transposed else stored
    for rule in table.values():
        if rule.single != rule.name:
            owner = hf_places(table[rule.single])[0].key
            tensors[published_place(rule, rule.hf).key] = tensors[owner]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    quantization = {"fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
    config = {**CONFIG.to_hf(), "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, values


@pytest.mark.parametrize("degree", [1, 2])
def test_every_rank_reads_its_part_of_the_values(fp8, degree):
    folder, values = fp8
    table = ARCH.table(ARCH.capabilities.config_class.from_hf(json.loads((folder / "config.json").read_text())))
    assert sum(is_fp8(place.key) for name in values for place in hf_places(table[name])) > 70
    with Reader(folder, table) as reader:
        assert not reader.check()
        for name, value in values.items():
            for rank in range(degree):
                found = reader.read_local(name, degree, rank, dtype="float32")
                assert np.array_equal(found, split(value, table[name], degree, rank)), name
        assert reader.dtype_of("deepseek_v3.layers.1.mlp.experts.3.gate_proj.weight") == "bfloat16"
        assert reader.dtype_of("deepseek_v3.layers.1.mlp.gate.e_score_correction_bias") == "float32"
