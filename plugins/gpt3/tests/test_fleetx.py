"""T0: the FleetX files that users have make a GPT of the sizes they state, and a legal plan."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_gpt3
from zoo_core.arguments import load_arguments
from zoo_core.plan import chosen_model, compose, from_arguments
from zoo_core.registry import Registry

FILES = Path(__file__).parents[3] / "tests" / "user-configs" / "fleetx"
PLUGINS = Registry({"zoo_gpt3": zoo_gpt3})
MODELS = {entry.name: entry.config for entry in zoo_gpt3.capabilities().models}
# hidden size, blocks, heads, vocabulary, processes that the degrees need
WANTED = {
    "pretrain_gpt_base.yaml": (768, 12, 12, 50304, 1),
    "pretrain_gpt_345M_single_card.yaml": (1024, 24, 16, 50304, 1),
    "generation_gpt_345M_single_card.yaml": (1024, 24, 16, 50304, 1),
    "pretrain_gpt_1.3B_dp8.yaml": (2048, 24, 16, 50304, 8),
    "pretrain_gpt_175B_mp8_pp16.yaml": (12288, 96, 96, 51200, 128),
}


def read(name, *words):
    return load_arguments("pretrain" if name.startswith("pretrain") else "predict", [FILES / name], words)


def test_every_file_is_covered():
    assert {file.name for file in FILES.glob("*.yaml")} == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_file_makes_the_model_it_states(name):
    found, config = chosen_model(read(name), PLUGINS)
    hidden, blocks, heads, vocab, _ = WANTED[name]
    assert found.architecture.family == "gpt3"
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (hidden, blocks, heads)
    assert (config.vocab_size, config.intermediate_size, config.max_position_embeddings) == (vocab, 4 * hidden, 1024)
    assert config.fuse_attention_qkv and config.scale_qk_by_layer_num
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1


@pytest.mark.parametrize("name", WANTED)
def test_file_makes_a_legal_plan(name):
    arguments = read(name)
    found, config = chosen_model(arguments, PLUGINS)
    wanted = from_arguments(arguments, 1, "gpu").wanted_world
    assert wanted == WANTED[name][-1]
    plan = compose(from_arguments(arguments, wanted, "gpu"), found.architecture, config, found.name)
    assert sum(plan.blocks) == config.num_hidden_layers


@pytest.mark.parametrize("size", ["345M", "1.3B", "175B"])
def test_named_model_has_the_sizes_of_the_file(size):
    file = next(name for name in WANTED if name.startswith(f"pretrain_gpt_{size}"))
    _, config = chosen_model(read(file), PLUGINS)
    assert config == MODELS[f"gpt3-{size}"].replace(fuse_attention_qkv=True, scale_qk_by_layer_num=True)


def test_dropouts_and_layouts_follow_overrides():
    words = ["-o", "Model.hidden_dropout_prob=0", "-o", "Model.attention_probs_dropout_prob=0.2"]
    words += [
        "-o",
        "Model.fuse_attn_qkv=False",
        "-o",
        "Model.scale_qk_by_layer_num=False",
        "-o",
        "Model.vocab_size=300",
    ]
    _, config = chosen_model(read("pretrain_gpt_345M_single_card.yaml", *words), PLUGINS)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.2)
    assert not config.fuse_attention_qkv and not config.scale_qk_by_layer_num
    assert config.vocab_size == 384, "the file rounds the vocabulary up to a multiple of 128"
