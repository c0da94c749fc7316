"""T0: the contract, without paddle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo_opt
from zoo_core.errors import ConfigError, TokenizerError
from zoo_core.testing import contract, tables
from zoo_opt import OptConfig

ARCH = contract.architecture(zoo_opt)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
PUBLISHED = json.loads((Path(__file__).parent / "published" / "opt.json").read_text())
NAMED = tuple(f"facebook/opt-{size}" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b"))


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_opt")


def test_every_promised_model_is_there():
    assert set(NAMED) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_config_survives_config_json(name):
    contract.check_config(MODELS[name])


@pytest.mark.parametrize("scale", ARCH.capabilities.scales)
@pytest.mark.parametrize("name", MODELS)
def test_scaled_config_survives_config_json(name, scale):
    contract.check_config(MODELS[name].replace(**ARCH.capabilities.scales[scale]))


@pytest.mark.parametrize(
    "changes",
    [
        {"fuse_attention_qkv": True},
        {"tie_word_embeddings": False},
        {"remove_final_layer_norm": True},
        {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"},
        {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.1},
    ],
    ids=str,
)
def test_every_switch_survives_config_json(changes):
    changed = MODELS["facebook/opt-125m"].replace(**changes)
    assert changed != MODELS["facebook/opt-125m"]
    contract.check_config(changed)


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == PUBLISHED[name]["parameters"]


@pytest.mark.parametrize("name", MODELS)
def test_small_scale_has_between_10_and_20_million_parameters(name):
    small = MODELS[name].replace(**ARCH.capabilities.scales["small"])
    assert 10e6 < contract.count_parameters(ARCH, small) < 20e6


@pytest.mark.parametrize("name", MODELS)
def test_table_expands(name):
    tables.check_table(ARCH, MODELS[name])


def test_published_config_json_is_read_and_written_in_its_own_spelling():
    published = {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": False,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 4096,
        "hidden_size": 1024,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 1,
        "torch_dtype": "float16",
        "vocab_size": 50272,
        "word_embed_proj_dim": 512,
    }
    config = OptConfig.from_hf(published)
    assert config == MODELS["facebook/opt-350m"]
    assert config.to_hf() == published


def test_width_of_the_word_embeddings_follows_the_hidden_size_where_it_is_the_same():
    config = MODELS["facebook/opt-125m"]
    assert config.to_hf()["word_embed_proj_dim"] == 768
    assert OptConfig.from_hf(config.to_hf()).replace(hidden_size=96).embedding_size == 96
    assert MODELS["facebook/opt-350m"].replace(hidden_size=96).embedding_size == 512


@pytest.mark.parametrize(
    "change",
    [
        {"layerdrop": 0.1},
        {"activation_dropout": 0.1},
        {"activation_function": "magic"},
        {"dropout": 1.0},
        {"num_attention_heads": 7},
        {"num_key_value_heads": 2},
        {"head_dim": 32},
    ],
    ids=str,
)
def test_what_the_code_does_not_do_is_refused(change):
    published = MODELS["facebook/opt-125m"].to_hf()
    with pytest.raises(ConfigError, match=next(iter(change)).split("_")[-1]):
        OptConfig.from_hf({**published, **change})


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(TokenizerError, match="vocab.json"):
        ARCH.tokenizer(MODELS["facebook/opt-125m"], None)
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        ARCH.tokenizer(MODELS["facebook/opt-125m"], tmp_path)
