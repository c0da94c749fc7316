"""Folders with quantised weights: written whole or not at all, loaded by every family, read under any layout."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from quantised_models import FAMILIES, engine_over, fields, plain_folder, quantise, tiny, with_dense  # noqa: E402

from zoo_core.checkpoint import Reader, verify  # noqa: E402
from zoo_core.checkpoint.quantised import write_quantised  # noqa: E402
from zoo_core.engine.pretrained import from_pretrained  # noqa: E402
from zoo_core.errors import CheckpointError, ConfigError  # noqa: E402
from zoo_core.layout import merge, objection  # noqa: E402
from zoo_core.quantization import QuantSpec  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_ops import Batch, Cache  # noqa: E402

SPECS = {
    "int8": QuantSpec(),
    "int4": QuantSpec(bits=4, group_size=16, symmetric=False),
    "gptq3": QuantSpec("gptq", bits=3, group_size=16),
    "ordered": QuantSpec("gptq", bits=4, group_size=16, act_order=True, static_groups=False),
    "w8a8": QuantSpec("w8a8", smooth=True),
}


def answers(engine, batch, count=6):
    """Ids that the model answers with, greedily, through its cache."""
    ids = batch["input_ids"][:1]
    cache = Cache(engine.config.num_hidden_layers, 1, ids.shape[1] + count)
    found, start = [], 0
    for _ in range(count):
        positions = np.arange(start, start + ids.shape[1])[None]
        logits = engine.logits({"input_ids": ids, "position_ids": positions}, cache)
        start += ids.shape[1]
        found.append(int(logits[0, -1].argmax()))
        ids = np.array([[found[-1]]])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_answers_and_is_its_dequantised_self(family, tmp_path, zoo_evidence):
    zoo_evidence("chatglm" if family == "chatglm2" else family, "compression", tier="T1")
    base = plain_folder(family, tmp_path / "base")
    folder, arrays = quantise(base, tmp_path / "int8", QuantSpec())
    verify(folder)
    found, reference = engine_over(folder), with_dense(engine_over(base), arrays)
    batch = fields(found.config)
    with paddle.no_grad():
        one, other = (engine.logits(batch).numpy() for engine in (found, reference))
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()
        before = engine_over(base).logits(batch).numpy()
        assert np.abs(one - before).max() > 1e-4 * np.abs(before).max()
        assert answers(found, batch) == answers(reference, batch)
    integers = [held.tensor for name, held in found.held.items() if name.endswith("quant_weight")]
    assert len(integers) == len(arrays) and all(tensor.dtype == paddle.int8 for tensor in integers)
    assert not any(f"{module}.weight" in found.held for module in arrays)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("family", ["llama", pytest.param("deepseek_v3", marks=pytest.mark.soak)])
def test_every_kind_is_its_dequantised_self(family, spec, tmp_path):
    base = plain_folder(family, tmp_path / "base")
    folder, arrays = quantise(base, tmp_path / "quantised", spec)
    found, reference = engine_over(folder), with_dense(engine_over(base), arrays)
    batch = fields(found.config)
    one, other = (engine.logits(batch).numpy() for engine in (found, reference))
    # rounded activations cost something: then the two are near each other only
    assert np.abs(one - other).max() <= (1e-5 if spec.method != "w8a8" else 0.2) * np.abs(other).max()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("family", ["llama", pytest.param("deepseek_v3", marks=pytest.mark.soak)])
def test_ranks_read_their_parts_which_make_the_whole(family, spec, tmp_path):
    folder, arrays = quantise(plain_folder(family, tmp_path / "base"), tmp_path / "quantised", spec)
    found = find(str(folder))
    table = found.architecture.table(found.config)
    with Reader(folder, table) as reader:
        assert reader.check() == ()
        for module, array in arrays.items():
            for own, values in array.stored(spec).items():
                rule = table[f"{module}.{own}"]
                assert reader.dtype_of(rule.name) == rule.dtype
                for degree in (1, 2):
                    if not objection(rule, degree):
                        parts = [reader.read_local(rule.name, degree, rank) for rank in range(degree)]
                        assert np.array_equal(merge(parts, rule), values)


def test_projections_are_fused_as_they_are_read(tmp_path):
    base = plain_folder("llama", tmp_path / "base")
    folder, _ = quantise(base, tmp_path / "q", QuantSpec(bits=4, group_size=16, symmetric=False))
    found, fused = engine_over(folder), engine_over(folder, fuse_attention_qkv=True, fuse_attention_ffn=True)
    assert any(name.endswith("qkv_proj.quant_scale") for name in fused.held)
    batch = fields(found.config)
    np.testing.assert_allclose(fused.logits(batch).numpy(), found.logits(batch).numpy(), rtol=1e-4, atol=1e-5)


def test_from_pretrained_keeps_integers(tmp_path):
    folder, _ = quantise(plain_folder("llama", tmp_path / "base"), tmp_path / "q", QuantSpec())
    model, engine = from_pretrained(folder), engine_over(folder)
    batch = fields(engine.config)
    with paddle.no_grad():
        logits = model(Batch(paddle.to_tensor(batch["input_ids"]))).logits.numpy()
    np.testing.assert_allclose(logits, engine.logits(batch).numpy(), rtol=1e-5, atol=1e-6)
    assert sum(buffer.dtype == paddle.int8 for _, buffer in model.named_buffers()) == 14


def test_config_json_is_for_people_to_read(tmp_path):
    folder, _ = quantise(plain_folder("llama", tmp_path / "base"), tmp_path / "q", SPECS["gptq3"])
    written = json.loads((folder / "config.json").read_text())
    assert written["model_type"] == "llama"
    assert written["quantization_config"] == {
        "quant_method": "gptq", "checkpoint_format": "zoo", "bits": 3, "group_size": 16, "sym": True, "desc_act": False,
        "static_groups": True, "targets": [], "modules_to_not_convert": [],
    }  # fmt: skip
    sizes = [sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (tmp_path / "base", folder)]
    assert sizes[1] < sizes[0]


def test_nothing_is_left_when_writing_fails(tmp_path):
    base = plain_folder("llama", tmp_path / "base")
    architecture, config = tiny("llama")
    folder, arrays = quantise(base, tmp_path / "q", QuantSpec())
    with Reader(base, architecture.table(config)) as reader:
        with pytest.raises(CheckpointError, match="already exists"):
            write_quantised(folder, reader, architecture, config, QuantSpec(), arrays)
        left_out = dict(list(arrays.items())[1:])
        with pytest.raises(CheckpointError, match="is not quantised"):
            write_quantised(tmp_path / "new", reader, architecture, config, QuantSpec(), left_out)
        with pytest.raises(CheckpointError, match="q_proj is quantised"):
            write_quantised(tmp_path / "new", reader, architecture, config, QuantSpec(skip=("q_proj",)), arrays)
        with pytest.raises(CheckpointError, match="its row says"):
            spec = QuantSpec(group_size=16)
            write_quantised(tmp_path / "new", reader, architecture, config, spec, arrays)
        with pytest.raises(ValueError, match="integers of 4 bits are -8 to 7"):
            write_quantised(tmp_path / "new", reader, architecture, config, QuantSpec(bits=4), arrays)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "q"]


def test_a_damaged_or_foreign_folder_is_named(tmp_path):
    folder, _ = quantise(plain_folder("llama", tmp_path / "base"), tmp_path / "q", QuantSpec())
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    said = json.loads((other / "config.json").read_text())
    del said["quantization_config"]["checkpoint_format"]
    (other / "config.json").write_text(json.dumps(said))
    with pytest.raises(ConfigError, match="another tool's"):
        find(str(other))
    del said["quantization_config"]
    (other / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="q_proj.weight is missing"):
        engine_over(other)
