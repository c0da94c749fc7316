"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_gpt3
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_gpt3 import GPTConfig

ARCH = contract.architecture(zoo_gpt3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
COUNTS = {
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-medium": 354_823_168,
    "openai-community/gpt2-large": 774_030_080,
    "openai-community/gpt2-xl": 1_557_611_200,
    "gpt2-medium-en": 354_871_296,
    "gpt3-345M": 354_871_296,
}


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_gpt3")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


def test_settings_of_zoo_and_fleetx_survive_config_json():
    changes = {"fuse_attention_qkv": True, "scale_qk_by_layer_num": True, "type_vocab_size": 2}
    contract.check_config(MODELS["gpt3-345M"].replace(**changes, hidden_dropout_prob=0.0, intermediate_size=100))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "billions"), [("gpt3-1.3B", 1.3), ("gpt3-6.7B", 6.7), ("gpt3-13B", 13), ("gpt3-175B", 175)]
)
def test_size_is_the_one_in_the_name(name, billions):
    assert contract.count_parameters(ARCH, MODELS[name]) / 1e9 == pytest.approx(billions, rel=0.02)


def test_published_config_of_gpt2_medium():
    config = GPTConfig.from_hf(
        {
            "activation_function": "gelu_new",
            "architectures": ["GPT2LMHeadModel"],
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "model_type": "gpt2",
            "n_ctx": 1024,
            "n_embd": 1024,
            "n_head": 16,
            "n_layer": 24,
            "n_positions": 1024,
            "n_special": 0,
            "predict_special_tokens": True,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "vocab_size": 50257,
        }
    )
    assert config == MODELS["openai-community/gpt2-medium"]


def test_config_of_paddlenlp():
    """Its "gelu" is the tanh form, and its sizes have the long names."""
    config = GPTConfig.from_hf(
        {
            "model_type": "gpt",
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "vocab_size": 50304,
            "type_vocab_size": 1,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
        }
    )
    assert config == MODELS["gpt2-medium-en"].replace(type_vocab_size=1)


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "tanh"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"add_cross_attention": True},
        {"normalize_before": False},
        {"embd_pdrop": 0.2},
        {"n_ctx": 512},
        {"n_head": 7},
        {"resid_pdrop": 1.0, "embd_pdrop": 1.0},
    ],
    ids=str,
)
def test_what_the_code_does_not_do_is_refused(change):
    with pytest.raises(ConfigError):
        GPTConfig.from_hf({**MODELS["gpt2-medium-en"].to_hf(), **change})


@pytest.mark.parametrize("change", [{"num_key_value_heads": 2}, {"head_dim": 32}], ids=str)
def test_keys_have_the_heads_of_queries(change):
    with pytest.raises(ConfigError, match="leave both out"):
        MODELS["gpt2-medium-en"].replace(**change)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "merges.txt")
