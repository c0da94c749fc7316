"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_chatglm
from zoo_chatglm import ChatGLMConfig
from zoo_core.errors import ConfigError
from zoo_core.testing import contract

ARCH = contract.architecture(zoo_chatglm)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
V1, V2 = MODELS["THUDM/chatglm-6b"], MODELS["THUDM/chatglm2-6b"]
COUNTS = {
    "THUDM/chatglm-6b": 6_173_286_400,
    "THUDM/chatglm-6b-v1.1": 6_173_286_400,
    "THUDM/chatglm2-6b": 6_243_584_000,
}


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_chatglm")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH, *COUNTS)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


@pytest.mark.parametrize(
    "config",
    [
        V1.replace(tie_word_embeddings=False),
        V1.replace(position_encoding_2d=False),
        V2.replace(add_bias_linear=True, head_dim=64, tie_word_embeddings=True),
    ],
    ids=["untied", "plain positions", "biases"],
)
def test_variants_survive_config_json(config):
    contract.check_config(config)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    """A tied head counts once, as in the 6.2 billion that the authors name."""
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


def test_generations_are_told_apart_by_their_keys():
    first, second = V1.to_hf(), V2.to_hf()
    assert first["model_type"] == second["model_type"] == "chatglm"
    assert (first["num_layers"], first["inner_hidden_size"], first["max_sequence_length"]) == (28, 16384, 2048)
    assert {"multi_query_attention", "padded_vocab_size", "kv_channels", "tie_word_embeddings"}.isdisjoint(first)
    assert (second["padded_vocab_size"], second["kv_channels"], second["multi_query_group_num"]) == (65024, 128, 2)
    assert {"vocab_size", "position_encoding_2d", "gmask_token_id", "bos"}.isdisjoint(second)
    assert ChatGLMConfig.from_hf(first).is_v1 and not ChatGLMConfig.from_hf(second).is_v1


def test_v1_is_tied_unless_its_file_says_otherwise():
    assert ChatGLMConfig.from_hf(V1.to_hf()).tie_word_embeddings
    assert not ChatGLMConfig.from_hf({**V1.to_hf(), "tie_word_embeddings": False}).tie_word_embeddings


def test_v1_scaled_has_no_grouped_heads():
    tiny = V1.replace(**ARCH.capabilities.scales["tiny"])
    assert (tiny.kv_heads, tiny.num_attention_heads, tiny.head_size) == (4, 4, 16)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (V1, {"quantization_bit": 4}),
        (V1, {"pre_seq_len": 128}),
        (V2, {"quantization_bit": 8}),
        (V2, {"multi_query_attention": False}),
        (V2, {"rmsnorm": False}),
        (V2, {"post_layer_norm": False}),
        (V2, {"apply_residual_connection_post_layernorm": True}),
        (V2, {"hidden_dropout": 0.1}),
        (V2, {"rope_ratio": 50}),
    ],
    ids=str,
)
def test_what_the_code_does_not_do_is_refused(config, change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ChatGLMConfig.from_hf({**config.to_hf(), **change})


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="multiple of 4"):
        V1.replace(hidden_size=66, num_attention_heads=11)
    with pytest.raises(ConfigError, match="32 heads do not divide over 5 groups"):
        V2.replace(num_key_value_heads=5)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "ice_text.model")
