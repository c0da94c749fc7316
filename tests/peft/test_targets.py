"""Which layers have adapters, and their rows of the table. No paddle is needed, and none is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from zoo_core.errors import ConfigError  # noqa: E402
from zoo_core.layout import Column, FusedColumn, Replicate, Row, local_shape, merge, split  # noqa: E402
from zoo_core.peft import Adapter, LoraSpec, adapter_rows, chosen, linear_layers, with_adapters  # noqa: E402
from zoo_core.registry import registry  # noqa: E402

NAMES = {
    "llama": "meta-llama/Meta-Llama-3-8B", "qwen": "qwen/qwen-7b", "gpt3": "gpt3-345M", "bloom": "bigscience/bloom-7b1",
    "baichuan": "baichuan-inc/Baichuan2-13B-Base", "chatglm": "THUDM/chatglm-6b", "chatglm2": "THUDM/chatglm2-6b",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3", "opt": "facebook/opt-350m", "glm": "THUDM/glm-10b",
}  # fmt: skip


def table_of(family, **changes):
    found = registry().find(NAMES[family])
    tiny = found.architecture.capabilities.scales["tiny"]
    return found.architecture.table(found.config.replace(**{**tiny, "num_hidden_layers": 2, **changes}))


def test_importing_the_room_leaves_paddle_out():
    code = "import sys, zoo_core.peft.files, zoo_core.peft.merge, zoo_core.peft.export; print('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("family", NAMES)
def test_all_linear_layers_and_nothing_else(family):
    layers = linear_layers(table_of(family))
    assert layers
    for module in layers:
        assert not any(word in module for word in ("embed", "lm_head", "output_layer", "norm", "ln_")) or (
            module.endswith(("project_in", "project_out"))
        )
        assert not module.endswith("mlp.gate")  # the router


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("family", NAMES)
def test_rows_split_as_the_layers_do(family, degree):
    table = table_of(family)
    for name, row in adapter_rows(table, LoraSpec(rank=3)).items():
        base = table[name.rpartition(".")[0] + ".weight"]
        try:
            expected = local_shape(base, degree)
        except Exception:
            continue
        wide = name.endswith("lora_A")
        assert local_shape(row, degree)[0 if wide else 1] == expected[0 if wide else 1]
        assert row.shape[1 if wide else 0] == 3
        assert row.expert == base.expert and row.experts == base.experts
        values = np.random.default_rng(0).standard_normal(row.shape)
        np.testing.assert_array_equal(merge([split(values, row, degree, r) for r in range(degree)], row), values)


def test_what_is_whole_beside_a_split_matrix_has_partial_gradients():
    rows = adapter_rows(table_of("deepseek_v3"), LoraSpec())
    attention = "deepseek_v3.layers.0.self_attn."
    assert isinstance(rows[attention + "q_b_proj.lora_B"], Column)
    assert isinstance(rows[attention + "o_proj.lora_A"], Row)
    for name in ("q_b_proj.lora_A", "o_proj.lora_B"):
        row = rows[attention + name]
        assert isinstance(row, Replicate) and row.partial_grad and not row.sequence_parallel_grad
    for name in ("q_a_proj.lora_A", "q_a_proj.lora_B"):
        row = rows[attention + name]
        assert isinstance(row, Replicate) and row.sequence_parallel_grad and not row.partial_grad
    fused = adapter_rows(table_of("llama", fuse_attention_qkv=True), LoraSpec())
    assert isinstance(fused["llama.layers.0.self_attn.qkv_proj.lora_B"], FusedColumn)


@pytest.mark.parametrize(
    ("patterns", "ends"),
    [
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (["self_attn.o_proj"], {"o_proj"}),
        ([".*mlp.*"], {"gate_proj", "up_proj", "down_proj"}),
        ([r"llama\.layers\.1\.self_attn\.[qk]_proj"], {"q_proj", "k_proj"}),
        (["model.layers.0.mlp.up_proj"], {"up_proj"}),
        (["all-linear"], {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_patterns(patterns, ends):
    assert {module.rpartition(".")[2] for module in chosen(table_of("llama"), patterns)} == ends


def test_a_pattern_that_means_nothing_suggests_names():
    with pytest.raises(ConfigError, match="means no layer: q_prj") as error:
        chosen(table_of("llama"), ["q_prj"])
    assert "q_proj" in error.value.why and error.value.todo == "did you mean q_proj?"
    with pytest.raises(ConfigError, match="is no pattern"):
        chosen(table_of("llama"), ["q_proj("])


def test_a_part_of_a_fused_layer_cannot_be_meant():
    table = table_of("llama", fuse_attention_qkv=True)
    assert len(chosen(table, ["q_proj", "k_proj", "v_proj"])) == 2
    with pytest.raises(ConfigError, match="a part of .*qkv_proj only"):
        chosen(table, ["q_proj", "v_proj"])


def test_dropout_before_experts_is_refused():
    table = table_of("deepseek_v3")
    with pytest.raises(ConfigError, match="lora_dropout and an adapter of .*mlp"):
        adapter_rows(table, LoraSpec(dropout=0.1))
    assert adapter_rows(table, LoraSpec(dropout=0.1, targets=(".*self_attn.*",)))


def test_scale_and_ranks_of_single_layers():
    spec = LoraSpec(rank=4, alpha=8, modules={"a": Adapter(2, 6.0)})
    assert spec.scale("a") == 3.0 and LoraSpec(rank=4, alpha=8).scale("b") == 2.0
    assert LoraSpec(rank=4, alpha=8, rslora=True).scale("b") == 4.0
    assert LoraSpec.from_dict(spec.to_dict()) == spec
    table = table_of("llama")
    assert len(with_adapters(table, LoraSpec())) == len(table) + 2 * len(linear_layers(table))
