"""T0 and T1: the parameter table against the model, splitting, the fused layout, and the published tensors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import zoo_opt
from zoo_core.layout import local_shape, objection, remarks
from zoo_core.testing import contract, shards, tables
from zoo_opt import OptConfig

ARCH = contract.architecture(zoo_opt)
MODELS = [entry.name for entry in ARCH.capabilities.models]
TINY = OptConfig(vocab_size=101, hidden_size=48, intermediate_size=24, num_hidden_layers=2, num_attention_heads=8)
CONFIGS = {
    "norms first": TINY,
    "norms last, projected": TINY.replace(do_layer_norm_before=False, word_embed_proj_dim=20),
    "norms last": TINY.replace(do_layer_norm_before=False),
    "untied": TINY.replace(tie_word_embeddings=False),
    "no final norm": TINY.replace(remove_final_layer_norm=True),
    "bare": TINY.replace(enable_bias=False, layer_norm_elementwise_affine=False),
    "fused": TINY.replace(fuse_attention_qkv=True),
    "fused, bare": TINY.replace(fuse_attention_qkv=True, enable_bias=False),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_layout_is_sound(config):
    tables.check_layout(ARCH, config)


@pytest.mark.parametrize("config", [TINY, CONFIGS["bare"]], ids=["biases", "bare"])
def test_fused_layout_publishes_the_separate_tensors(config):
    tables.check_fusing(ARCH, config, fuse_attention_qkv=True)


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    tables.check_published(ARCH, name, Path(__file__).parent / "published")


def test_every_degree_up_to_the_heads_is_legal_or_says_why():
    table = ARCH.table(TINY)
    for degree in (2, 4, 8):
        assert not any(objection(rule, degree) for rule in table.values())
    assert "8 units" in objection(table["opt.decoder.layers.0.self_attn.q_proj.weight"], 3)


def test_padded_vocabulary_is_remarked_and_positions_stay_whole():
    table = ARCH.table(TINY)
    assert "padded to 104" in remarks(table["opt.embeddings.word_embeddings.weight"], 4)
    assert "padded to 104" in remarks(table["lm_head.weight"], 4)
    assert local_shape(table["opt.embeddings.position_embeddings.weight"], 4) == (2050, 48)


def test_what_reads_a_part_of_the_sequence_has_its_gradient_summed():
    """Norms, row biases, positions and the two projections lie between the parallel regions."""
    whole = [rule for rule in ARCH.table(CONFIGS["norms last, projected"]).values() if rule.dim is None]
    assert all(rule.sequence_parallel_grad for rule in whole)
    kinds = {re.sub(r"\d+", "*", rule.name) for rule in whole}
    assert kinds == {
        "opt.embeddings.project_in.weight",
        "opt.embeddings.position_embeddings.weight",
        "opt.decoder.project_out.weight",
        *(f"opt.decoder.layers.*.norm*.{kind}" for kind in ("weight", "bias")),
        "opt.decoder.layers.*.self_attn.out_proj.bias",
        "opt.decoder.layers.*.linear*.bias",
    }


@pytest.mark.parametrize("degree", [2, 8])
@pytest.mark.parametrize("config", [TINY, CONFIGS["fused"]], ids=["separate", "fused"])
def test_the_ranks_heads_add_up_to_the_whole_attention(config, degree):
    shards.check_parts(ARCH, config, "opt.decoder.layers.1.self_attn", degree)
