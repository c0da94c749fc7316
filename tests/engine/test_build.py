"""Building a rank's stage: the same values under every layout, nothing more than the shard, and errors by name."""

from __future__ import annotations

import numpy as np
import pytest
from paddle import nn

from zoo_core.engine.build import Stage, build_layer, from_seed, initial_values
from zoo_core.errors import LayoutError
from zoo_core.layout import Column, FusedColumn, Init, Replicate, Row, Vocab, merge
from zoo_core.pipeline import PipeLayer
from zoo_core.registry import find
from zoo_ops.linear import ColumnLinear, Linear, LMHead, RowLinear, VocabEmbedding, VocabHead

TINY = {"vocab_size": 37, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 40}  # fmt: skip


def held(model, degree, rank, seed=3, **changes):
    found = find(model)
    config = found.config.replace(**{**TINY, **changes})
    table = found.architecture.table(config)
    stage = Stage(table, from_seed(seed, config, degree, rank), degree, rank)
    layers = [build_layer(element, stage) for element in found.architecture.pipe_layers(config)]
    return stage.held, table, layers


@pytest.mark.parametrize("degree", (2, 4))
@pytest.mark.parametrize("changes", ({}, {"fuse_attention_qkv": True, "fuse_attention_ffn": True},
                                     {"tie_word_embeddings": True}))  # fmt: skip
def test_random_weights_do_not_depend_on_the_layout(degree, changes):
    whole, table, _ = held("meta-llama/Meta-Llama-3-8B", 1, 0, **changes)
    ranks = [held("meta-llama/Meta-Llama-3-8B", degree, rank, **changes)[0] for rank in range(degree)]
    for name, one in whole.items():
        merged = merge([shard[name].tensor.numpy() for shard in ranks], table[name])
        np.testing.assert_array_equal(merged, one.tensor.numpy(), err_msg=name)


def test_random_weights_depend_on_seed_and_name():
    first, again, other = (held("facebook/llama-7b", 1, 0, seed, num_key_value_heads=4)[0] for seed in (3, 3, 4))
    q = "llama.layers.{}.self_attn.q_proj.weight"
    np.testing.assert_array_equal(first[q.format(0)].tensor.numpy(), again[q.format(0)].tensor.numpy())
    assert np.abs(first[q.format(0)].tensor.numpy() - first[q.format(1)].tensor.numpy()).max() > 0.01
    assert np.abs(first[q.format(0)].tensor.numpy() - other[q.format(0)].tensor.numpy()).max() > 0.01
    values = first["llama.layers.0.mlp.gate_proj.weight"].tensor.numpy()
    assert abs(values.std() - 0.02) < 0.002 and abs(values.mean()) < 0.002


def test_layers_are_swapped_as_their_rows_say():
    _, _, layers = held("meta-llama/Meta-Llama-3-8B", 2, 1)
    embedding, block, head = layers[0], layers[1], layers[-1]
    assert isinstance(embedding.embed_tokens, VocabEmbedding) and embedding.embed_tokens.start == 19
    assert isinstance(block.self_attn.q_proj, ColumnLinear) and isinstance(block.self_attn.o_proj, RowLinear)
    assert isinstance(head.lm_head, VocabHead) and head.lm_head.vocab_size == 37
    _, _, plain = held("meta-llama/Meta-Llama-3-8B", 1, 0)
    assert type(plain[1].self_attn.q_proj) is Linear and type(plain[-1].lm_head) is LMHead


def test_padding_rows_start_and_stay_zero():
    last, _, _ = held("meta-llama/Meta-Llama-3-8B", 4, 3)
    rows = last["llama.embed_tokens.weight"].tensor.numpy()
    assert rows.shape == (10, 24) and not rows[7:].any() and rows[:7].any()


def test_a_tied_head_is_the_embedding_itself():
    whole, _, layers = held("meta-llama/Meta-Llama-3-8B", 1, 0, tie_word_embeddings=True)
    assert layers[0].embed_tokens.weight is layers[-1].lm_head.weight
    assert "lm_head.weight" not in whole


def test_initial_values_follow_from_the_row():
    config = find("facebook/llama-7b").config
    assert initial_values(Replicate("x.norm.weight", (4,)), config) == Init("ones")
    assert initial_values(Column("x.bias", (4,)), config) == Init("zeros")
    assert initial_values(Row("x.weight", (4, 4)), config) == Init("normal", config.initializer_range)
    assert initial_values(Row("x.weight", (4, 4), init=Init("normal", 0.5)), config) == Init("normal", 0.5)


class Lonely(nn.Layer):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 6, bias_attr=False)
        self.norm = nn.LayerNorm(4)


def build(table, degree=1):
    return build_layer(PipeLayer(Lonely, "m"), Stage(table, lambda rule: np.zeros(rule.shape, np.float32), degree))


def test_a_parameter_without_a_row_is_named():
    with pytest.raises(LayoutError, match="parameter m.norm.weight has no row"):
        build({"m.proj.weight": Column("m.proj.weight", (4, 6))})


def test_a_layer_that_cannot_be_split_as_stated_is_named():
    norms = {f"m.norm.{n}": Replicate(f"m.norm.{n}", (4,)) for n in ("weight", "bias")}
    with pytest.raises(LayoutError, match="m.proj.weight cannot be split as Vocab") as caught:
        build({**norms, "m.proj.weight": Vocab("m.proj.weight", (4, 6))}, degree=2)
    assert "Linear" in caught.value.why


def test_every_kind_of_row_reaches_a_fused_layer():
    _, table, layers = held("qwen/qwen-7b", 2, 0, num_key_value_heads=None)
    assert isinstance(table["qwen.h.0.attn.c_attn.weight"], FusedColumn)
    assert layers[1].attn.c_attn.weight.shape == [24, 36]
