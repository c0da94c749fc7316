"""Quantised weights as arrays and as rows of the table. No paddle is needed, and none is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from zoo_core.errors import ConfigError
from zoo_core.layout import Column, Row, local_shape, merge, objection, split
from zoo_core.peft import LoraSpec, adapter_rows, linear_layers
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import packed_rows, quantised_layers, split_objection, with_quantised
from zoo_core.quantized.pack import QuantisedWeight, dequantise, pack, quantise_rtn, unpack
from zoo_core.registry import registry

NAMES = {
    "llama": "meta-llama/Meta-Llama-3-8B", "qwen": "qwen/qwen-7b", "gpt3": "gpt3-345M", "bloom": "bigscience/bloom-7b1",
    "baichuan": "baichuan-inc/Baichuan2-13B-Base", "chatglm": "THUDM/chatglm-6b", "chatglm2": "THUDM/chatglm2-6b",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3", "opt": "facebook/opt-350m", "glm": "THUDM/glm-10b",
}  # fmt: skip
SPECS = {
    "int8": QuantSpec(),
    "int4": QuantSpec(bits=4, group_size=8, symmetric=False),
    "int3": QuantSpec("gptq", bits=3, group_size=16),
    "act_order": QuantSpec("gptq", bits=4, group_size=8, act_order=True, static_groups=False),
    "w8a8": QuantSpec("w8a8", activations="static", smooth=True),
}


def config_of(family):
    found = registry().find(NAMES[family])
    tiny = found.architecture.capabilities.scales["tiny"]
    return found.architecture, found.config.replace(**{**tiny, "num_hidden_layers": 2})


def table_of(family):
    architecture, config = config_of(family)
    return architecture.table(config)


def test_importing_leaves_paddle_out_and_the_rows_numpy():
    code = "import sys, zoo_core.quantized; print('numpy' in sys.modules); import zoo_core.quantized.pack"
    told = subprocess.run(
        [sys.executable, "-c", code + "; print('paddle' in sys.modules)"], capture_output=True, text=True
    )
    assert told.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("features", [1, 2, 7, 8, 9, 24, 33])
def test_packing_keeps_every_bit(bits, features):
    rng = np.random.default_rng(features)
    q_IO = rng.integers(-(1 << bits - 1), 1 << bits - 1, (features, 5)).astype(np.int8)
    packed = pack(q_IO, bits)
    assert packed.shape == (packed_rows(features, bits), 5) and packed.dtype == (np.int8 if bits == 8 else np.uint8)
    assert np.array_equal(unpack(packed, bits, features), q_IO)


def test_the_layout_of_the_bits_is_as_written():
    low_high = np.array([[1], [-8]], np.int8)
    assert pack(low_high, 4).tolist() == [[(1 + 8) | (0 << 4)]]
    eight = np.array([[-4], [-3], [-2], [-1], [0], [1], [2], [3]], np.int8)  # stored as 0 to 7
    number = sum(value << 3 * place for place, value in enumerate(range(8)))
    assert pack(eight, 3)[:, 0].tolist() == [number & 255, number >> 8 & 255, number >> 16]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(8, -1), (4, 16), (3, 8), (4, 32)])
def test_rounding_is_to_the_nearest(bits, group, symmetric):
    weight = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    weight[:, 0] = 0.0
    q_IO, scale_GO, zero_GO = quantise_rtn(weight, bits, group, symmetric)
    assert (zero_GO is None) == symmetric and q_IO.dtype == np.int8 and scale_GO.dtype == np.float32
    assert len(scale_GO) == QuantSpec("gptq", bits, group).groups(40)
    back = dequantise(q_IO, scale_GO, zero_GO, group)
    of_I = np.arange(40) // (40 if group < 0 else group)
    # half a step; a zero point that is rounded itself moves the ends by half a step more
    allowed = scale_GO[of_I] * (0.5 if symmetric else 1.0) * (1 + 1e-5)
    assert (np.abs(back - weight) <= allowed).all() and (back[:, 0] == 0).all()
    if symmetric:  # the largest value of each group is kept
        for g in range(len(scale_GO)):
            rows = of_I == g
            assert np.allclose(np.abs(back[rows]).max(0), np.abs(weight[rows]).max(0), rtol=1e-6)


def test_a_smoothed_weight_stands_for_the_one_before():
    weight = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    smooth = np.linspace(0.5, 2, 16, dtype=np.float32)
    q_IO, scale_GO, _ = quantise_rtn(weight * smooth[:, None], 8)
    dense = QuantisedWeight(q_IO, scale_GO, smooth_I=smooth).dense()
    assert np.abs(dense - weight).max() < 0.03


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("family", NAMES)
def test_rows_split_and_merge_bit_for_bit_at_every_legal_degree(family, spec):
    plain = table_of(family)
    table = with_quantised(plain, spec)
    layers = quantised_layers(plain, spec)
    rows = {name: rule for name, rule in table.items() if name not in plain}
    assert len(rows) == len(layers) * len(rows) // len(layers) and not any(f"{m}.weight" in table for m in layers)
    assert list(linear_layers(table)) == list(linear_layers(plain))
    rng = np.random.default_rng(1)
    tried = 0
    for degree in (1, 2, 4):
        for name, rule in rows.items():
            if objection(rule, degree):
                continue
            if rule.dtype == "float32":
                whole = rng.standard_normal(rule.shape).astype(np.float32)
            else:
                low, high = (0, 255) if rule.dtype == "uint8" else (-128, 127)
                whole = rng.integers(low, high, rule.shape).astype(rule.dtype)
            shards = [split(whole, rule, degree, rank) for rank in range(degree)]
            assert all(shard.shape == local_shape(rule, degree) for shard in shards), name
            merged = merge(shards, rule)
            assert merged.dtype == whole.dtype and np.array_equal(merged, whole), name
            tried += degree > 1
    assert tried


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("family", ["llama", "qwen", "deepseek_v3"])
def test_a_ranks_arrays_stand_for_its_part_of_the_weight(family, spec):
    """Splitting what is packed, and then unpacking, gives the same numbers as splitting the weight."""
    plain = table_of(family)
    table = with_quantised(plain, spec)
    rng = np.random.default_rng(2)
    kinds = set()
    for module, rule in quantised_layers(plain, spec).items():
        if type(rule) in kinds:
            continue
        weight = rng.standard_normal(rule.shape).astype(np.float32)
        features = rule.shape[0]
        q_IO, scale_GO, zero_GO = quantise_rtn(weight, spec.bits, spec.group_size, spec.symmetric)
        group_I = rng.integers(0, len(scale_GO), features).astype(np.int32) if spec.ordered else None
        whole = QuantisedWeight(q_IO, scale_GO, spec.group_size, zero_GO, group_I, np.ones(features), 0.5)
        dense = dequantise(q_IO, scale_GO, zero_GO, spec.group_size, group_I)
        stored = whole.stored(spec)
        assert {f"{module}.{own}" for own in stored} == {
            n for n in table if n.startswith(f"{module}.") and n not in plain
        }
        if any(objection(table[f"{module}.{own}"], 2) for own in stored):
            continue
        kinds.add(type(rule))
        for rank in range(2):
            own = {key: split(value, table[f"{module}.{key}"], 2, rank) for key, value in stored.items()}
            expected = split(dense, rule, 2, rank)
            found = dequantise(
                unpack(own["quant_weight"], spec.bits, len(expected)), own["quant_scale"], own.get("quant_zero"),
                spec.group_size, own.get("g_idx"),
            )  # fmt: skip
            assert np.array_equal(found, expected), (module, rank)
    assert {Row} <= kinds and len(kinds) > 1


def test_a_degree_that_cuts_groups_or_packed_blocks_is_named():
    row = Row("m.layers.0.down.weight", (24, 8))
    spec = QuantSpec("gptq", 4, 8)
    table = with_quantised({row.name: row}, spec)
    assert not split_objection(table, spec, 3)
    assert objection(table["m.layers.0.down.quant_weight"], 2)
    assert split_objection(table, spec, 2) == (
        "m.layers.0.down has 3 groups of 8 input features, which 2 ranks would cut"
    )
    spec = QuantSpec(bits=3)
    table = with_quantised({row.name: row}, spec)
    assert "3 bits are packed by 8 input features" in split_objection(table, spec, 2)
    column = Column("m.layers.0.up.weight", (24, 8))
    assert not split_objection(with_quantised({column.name: column}, spec), spec, 2)


def test_adapters_have_the_same_rows_beside_a_quantised_weight():
    plain = table_of("qwen")
    assert adapter_rows(with_quantised(plain, QuantSpec()), LoraSpec()) == adapter_rows(plain, LoraSpec())


def test_patterns_choose_layers():
    table = table_of("llama")
    chosen = quantised_layers(table, QuantSpec(targets=("q_proj", r".*layers\.1\.mlp\..*"), skip=("down_proj",)))
    assert sorted({name.rpartition(".")[2] for name in chosen}) == ["gate_proj", "q_proj", "up_proj"]
    with pytest.raises(ConfigError, match="did you mean q_proj"):
        quantised_layers(table, QuantSpec(targets=("q_prj",)))
    with pytest.raises(ConfigError, match="no layer is left"):
        quantised_layers(table, QuantSpec(targets=("q_proj",), skip=("q_proj",)))
    with pytest.raises(ConfigError, match="is no pattern"):
        quantised_layers(table, QuantSpec(targets=("(",)))
    projections = [name for name in linear_layers(table_of("opt")) if "project_" in name]
    assert projections and not set(projections) & set(quantised_layers(table_of("opt"), QuantSpec()))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("family", NAMES)
def test_config_json_carries_the_spec(family, spec):
    _, config = config_of(family)
    config = config.replace(quantization_config=spec)
    written = json.loads(json.dumps(config.to_hf()))
    assert written["quantization_config"]["checkpoint_format"] == "zoo"
    assert type(config).from_hf(written) == config
    assert "quantization_config" not in config.replace(quantization_config=None).to_hf()


def test_foreign_quantisation_is_refused_and_fp8_passes():
    assert QuantSpec.from_hf({"quant_method": "fp8", "weight_block_size": [128, 128]}) is None
    with pytest.raises(ConfigError, match="another tool's"):
        QuantSpec.from_hf({"quant_method": "gptq", "bits": 4, "group_size": 128})


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 5}, {"group_size": 12}, {"method": "awq"}, {"method": "w8a8", "bits": 4}, {"smooth": True},
        {"method": "gptq", "act_order": True, "static_groups": False}, {"method": "w8a8", "activations": "sometimes"},
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ConfigError):
        QuantSpec(**wrong)
