"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_bloom
from zoo_bloom import BloomConfig
from zoo_core.errors import ConfigError
from zoo_core.testing import contract

ARCH = contract.architecture(zoo_bloom)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
COUNTS = {
    "bigscience/bloom-560m": 559_214_592,
    "bigscience/bloom-1b1": 1_065_314_304,
    "bigscience/bloom-1b7": 1_722_408_960,
    "bigscience/bloom-3b": 3_002_557_440,
    "bigscience/bloom-7b1": 7_069_016_064,
    "bigscience/bloomz-7b1-mt": 7_069_016_064,
    "bigscience/bloom": 176_247_271_424,
    "bigscience/bloomz": 176_247_271_424,
}
FIRST_560M = {
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "bloom",
    "n_embed": 1024,
    "n_inner": None,
    "n_layer": 24,
    "num_attention_heads": 16,
    "offset_alibi": 100,
    "pad_token_id": 3,
    "pretraining_tp": 1,
    "vocab_size": 250880,
}


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_bloom")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH, "bigscience/bloomz-560m", "bigscience/bloomz")


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


@pytest.mark.parametrize(
    "changes", [{"tie_word_embeddings": False}, {"apply_residual_connection_post_layernorm": True}]
)
def test_variants_survive_config_json(changes):
    contract.check_config(MODELS["bigscience/bloom-560m"].replace(**changes))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


def test_config_of_the_first_published_files():
    assert BloomConfig.from_hf(FIRST_560M) == MODELS["bigscience/bloom-560m"].replace(torch_dtype="float32")


def test_what_transformers_takes_for_granted_is_so_here():
    short = {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 250880, "seq_length": 512}
    config = BloomConfig.from_hf(short)
    assert (config.intermediate_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        256,
        1,
        2,
        None,
    )
    assert config.tie_word_embeddings and config.max_position_embeddings == 512
    # transformers lets n_embed win
    assert BloomConfig.from_hf({**short, "n_embed": 32}).hidden_size == 32


def test_what_the_code_does_not_do_is_refused():
    for change in (
        {"hidden_dropout": 0.1},
        {"attention_dropout": 0.1},
        {"slow_but_exact": True},
        {"n_inner": 2048},
        {"num_attention_heads": 15},
        {"num_key_value_heads": 4},
        {"head_dim": 32},
    ):
        with pytest.raises(ConfigError):
            BloomConfig.from_hf({**FIRST_560M, **change})


def test_a_width_that_the_mlp_does_not_follow_says_what_to_set():
    with pytest.raises(ConfigError, match="intermediate_size") as caught:
        MODELS["bigscience/bloom-560m"].replace(hidden_size=512)
    assert "2048" in caught.value.todo
