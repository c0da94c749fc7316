"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_glm
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_glm import GLMConfig

ARCH = contract.architecture(zoo_glm)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
SCALES = ARCH.capabilities.scales
COUNTS = {
    "THUDM/glm-10b": 9_880_682_496,
    "THUDM/glm-10b-chinese": 9_879_633_920,
    "THUDM/glm-130b": 128_697_794_560,
}


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_glm")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH, *COUNTS)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


def test_the_published_config_is_read_by_its_own_names():
    """As PaddleNLP and Hugging Face have it for THUDM/glm-10b-chinese: no ids of special tokens, no MLP width."""
    published = {
        "attention_dropout_prob": 0.1,
        "attention_scale": 1.0,
        "block_position_encoding": True,
        "checkpoint_num_layers": 1,
        "embedding_dropout_prob": 0.1,
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "max_sequence_length": 1024,
        "model_type": "glm",
        "num_attention_heads": 64,
        "num_layers": 48,
        "output_dropout_prob": 0.1,
        "output_predict": True,
        "parallel_output": True,
        "pool_token": "cls",
        "relative_encoding": False,
        "spell_func": "lstm",
        "spell_length": None,
        "vocab_size": 50048,
        "torch_dtype": "float16",
    }
    assert GLMConfig.from_hf(published) == MODELS["THUDM/glm-10b-chinese"]
    written = MODELS["THUDM/glm-10b-chinese"].to_hf()
    assert {name: written[name] for name in published} == published
    smaller = GLMConfig.from_hf({**published, "hidden_size": 1024, "num_attention_heads": 16, "num_layers": 24})
    assert (smaller.intermediate_size, smaller.head_size, smaller.start_token_id) == (4096, 64, 50006)


def test_glm_130b_is_another_architecture():
    config = MODELS["THUDM/glm-130b"]
    assert config.is_130b and not MODELS["THUDM/glm-10b"].is_130b
    assert config.to_hf()["inner_hidden_size"] == 32768
    assert "inner_hidden_size" not in MODELS["THUDM/glm-10b"].to_hf()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("THUDM/glm-10b", {"attention_scale": 8.0}),
        ("THUDM/glm-10b", {"block_position_encoding": False}),
        ("THUDM/glm-10b", {"relative_encoding": True}),
        ("THUDM/glm-10b", {"spell_length": 4}),
        ("THUDM/glm-10b", {"tie_word_embeddings": False}),
        ("THUDM/glm-130b", {"position_encoding_2d": True}),
        ("THUDM/glm-130b", {"no_glu": True}),
        ("THUDM/glm-130b", {"layernorm_order": "pre"}),
        ("THUDM/glm-130b", {"num_key_value_heads": 8}),
    ],
    ids=str,
)
def test_what_the_code_does_not_do_is_refused(name, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        GLMConfig.from_hf({**MODELS[name].to_hf(), **change})


def test_glm_4_is_refused_though_it_calls_itself_glm():
    with pytest.raises(ConfigError, match="GLM-4"):
        GLMConfig.from_hf(
            {"model_type": "glm", "hidden_size": 4096, "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.5}
        )


@pytest.mark.parametrize(
    "change",
    [
        {"start_token_id": None},
        {"mask_token_ids": ()},
        {"mask_token_ids": (1, 2)},
        {"vocab_size": 50000},
        {"hidden_size": 4097},
        {"head_dim": 128},
    ],
    ids=str,
)
def test_sizes_and_ids_that_do_not_fit_are_refused(change):
    with pytest.raises(ConfigError):
        MODELS["THUDM/glm-10b"].replace(**change)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "cog-pretrain.model")
