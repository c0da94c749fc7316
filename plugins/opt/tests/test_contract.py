"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_opt
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_opt import OptConfig

ARCH = contract.architecture(zoo_opt)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
COUNTS = {
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-350m": 331_196_416,
    "facebook/opt-1.3b": 1_315_758_080,
    "facebook/opt-2.7b": 2_651_596_800,
    "facebook/opt-6.7b": 6_658_473_984,
    "facebook/opt-13b": 12_853_473_280,
    "facebook/opt-30b": 29_974_540_288,
    "facebook/opt-66b": 65_719_701_504,
}


def test_every_promised_model_is_there():
    contract.check_promised(ARCH)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


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


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


def test_config_of_paddlenlp():
    paddlenlp = {"hidden_act": "relu", "normalize_before": False, "word_embed_proj_dim": 512, "vocab_size": 50272}
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    rest = {"max_position_embeddings": 2048, "torch_dtype": "float16", "bos_token_id": 2, "eos_token_id": 2}
    config = OptConfig.from_hf({"model_type": "opt", **paddlenlp, **sizes, **rest, "pad_token_id": 1})
    assert config == MODELS["facebook/opt-350m"]


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
    contract.check_missing_tokenizer(ARCH, tmp_path, "vocab.json")
