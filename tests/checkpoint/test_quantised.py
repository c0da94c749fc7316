"""Float8 weights in blocks with a scale each (DeepSeek-V3's files) are read as the values they stand for."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from zoo_core.checkpoint import Reader
from zoo_core.errors import CheckpointError
from zoo_core.layout import Column, FusedColumn, Part, Replicate, Row, split

OUT, IN = 300, 200
RULES = {
    "a.weight": Column("a.weight", (IN, OUT), "model.a.weight", units=6),
    "b.weight": Row("b.weight", (IN, OUT), "model.b.weight", units=4),
    "c.weight": FusedColumn(
        "c.weight", (IN, OUT), parts=(Part("g", 180, 6, "model.g.weight"), Part("u", 120, 6, "model.u.weight"))
    ),
    "d.weight": Replicate("d.weight", (OUT, IN), "model.d.weight"),
}


def quantised(rng, shape, block):
    """A weight as its files hold it, and the values meant: [out, in] each."""
    bits = (rng.standard_normal(shape) * 8).astype(ml_dtypes.float8_e4m3fn)
    scale = rng.uniform(0.5, 2.0, [-(-n // b) for n, b in zip(shape, block, strict=True)]).astype(np.float32)
    grown = scale.repeat(block[0], 0).repeat(block[1], 1)[: shape[0], : shape[1]]
    return bits, scale, bits.astype(np.float32) * grown


@pytest.fixture(params=[(128, 128), (64, 32)], ids=str)
def folder(request, tmp_path):
    rng, files, meant = np.random.default_rng(0), {}, {}
    for name, shape in (("a", (OUT, IN)), ("b", (OUT, IN)), ("g", (180, IN)), ("u", (120, IN)), ("d", (OUT, IN))):
        key = f"model.{name}.weight"
        files[key], files[key + "_scale_inv"], meant[name] = quantised(rng, shape, request.param)
    save_file(files, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(request.param)}}
    (tmp_path / "config.json").write_text(json.dumps({} if request.param == (128, 128) else config))
    whole = {
        "a.weight": meant["a"].T,
        "b.weight": meant["b"].T,
        "c.weight": np.concatenate([meant["g"].T, meant["u"].T], axis=1),
        "d.weight": meant["d"],
    }
    return tmp_path, whole


@pytest.mark.parametrize("degree", [1, 2])
def test_a_rank_reads_the_values_of_its_part(folder, degree):
    path, whole = folder
    with Reader(path, RULES) as reader:
        assert reader.check() == (), "the scales are not left over"
        for name, rule in RULES.items():
            assert reader.dtype_of(name) == "bfloat16"
            for rank in range(degree):
                found = reader.read_local(name, degree, rank, dtype="float32")
                np.testing.assert_array_equal(found, split(np.ascontiguousarray(whole[name]), rule, degree, rank))
            flat = reader.read_local(name, flat=(7, 1000), dtype="float32")
            np.testing.assert_array_equal(flat, np.ascontiguousarray(whole[name]).reshape(-1)[7:1000])


def test_by_default_the_values_are_bfloat16(folder):
    path, whole = folder
    with Reader(path, RULES) as reader:
        found = reader.read_local("a.weight").view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found, whole["a.weight"].astype(ml_dtypes.bfloat16))


def test_scales_of_another_block_size_are_named(folder):
    path, _ = folder
    (path / "config.json").write_text(json.dumps({"quantization_config": {"weight_block_size": [50, 50]}}))
    with Reader(path, RULES) as reader, pytest.raises(CheckpointError, match="a.weight_scale_inv"):
        reader.read_local("a.weight")
