"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_llama
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_llama import LlamaConfig
from zoo_ops import RopeScaling

ARCH = contract.architecture(zoo_llama)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
COUNTS = {
    "facebook/llama-7b": 6_738_415_616,
    "facebook/llama-13b": 13_015_864_320,
    "facebook/llama-30b": 32_528_943_616,
    "facebook/llama-65b": 65_285_660_672,
    "meta-llama/Llama-2-7b-chat": 6_738_415_616,
    "meta-llama/Llama-2-13b": 13_015_864_320,
    "meta-llama/Llama-2-70b": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": 8_030_261_248,
}


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_llama")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


def test_fused_layout_survives_config_json():
    contract.check_config(MODELS["facebook/llama-7b"].replace(fuse_attention_qkv=True, fuse_attention_ffn=True))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


def test_config_of_llama_1_has_no_keys_for_later_features():
    config = LlamaConfig.from_hf(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "vocab_size": 32000,
            "rms_norm_eps": 1e-06,
        }
    )
    assert (config.kv_heads, config.rope_theta, config.rope_scaling.kind) == (32, 10000.0, "none")


def test_rope_scaling_is_read_from_a_mapping():
    config = MODELS["facebook/llama-7b"].replace(rope_scaling={"type": "linear", "factor": 2})
    assert config.rope_scaling == RopeScaling("linear", 2.0)
    assert LlamaConfig.from_hf(config.to_hf()) == config


def test_what_the_code_does_not_do_is_refused():
    published = MODELS["facebook/llama-7b"].to_hf()
    for change in ({"hidden_act": "gelu"}, {"attention_dropout": 0.1}, {"rope_scaling": {"type": "magic"}}):
        with pytest.raises(ConfigError):
            LlamaConfig.from_hf({**published, **change})


@pytest.mark.parametrize("change", [{"num_key_value_heads": 5}, {"head_dim": 7}], ids=str)
def test_heads_that_do_not_fit_are_refused(change):
    with pytest.raises(ConfigError, match="key/value heads"):
        MODELS["facebook/llama-7b"].replace(**change)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "tokenizer.model")
