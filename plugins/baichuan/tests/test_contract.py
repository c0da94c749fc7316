"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_baichuan
from zoo_baichuan import BaichuanConfig
from zoo_core.errors import ConfigError
from zoo_core.testing import contract

ARCH = contract.architecture(zoo_baichuan)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
COUNTS = {
    "baichuan-inc/Baichuan-7B": 7_000_559_616,
    "baichuan-inc/Baichuan-13B-Base": 13_264_901_120,
    "baichuan-inc/Baichuan-13B-Chat": 13_264_901_120,
    "baichuan-inc/Baichuan2-7B-Base": 7_505_973_248,
    "baichuan-inc/Baichuan2-7B-Chat": 7_505_973_248,
    "baichuan-inc/Baichuan2-13B-Base": 13_896_668_160,
    "baichuan-inc/Baichuan2-13B-Chat": 13_896_668_160,
}
SIZES_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
SIZES_13B = {"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40}
OTHER_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_baichuan")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH, *COUNTS)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalize_head": False},
        {"position_embedding": "alibi"},
        {"vocab_size": 64000},
        {"fuse_attention_ffn": True, "rope_theta": 5e5, "tie_word_embeddings": True},
    ],
    ids=str,
)
def test_what_no_published_model_is_survives_too(changes):
    contract.check_config(MODELS["baichuan-inc/Baichuan2-7B-Base"].replace(**changes))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


@pytest.mark.parametrize(
    ("published", "positions", "normalised"),
    [
        ({**SIZES_7B, "vocab_size": 64000, "max_position_embeddings": 4096}, "rope", False),
        ({**SIZES_7B, "vocab_size": 64000}, "rope", False),
        ({**SIZES_13B, "vocab_size": 64000, "model_max_length": 4096}, "alibi", False),
        ({**SIZES_13B, "vocab_size": 64000, "max_position_embeddings": 4096}, "alibi", False),
        (
            {**SIZES_7B, "vocab_size": 125696, "max_position_embeddings": 4096, "model_max_length": 4096},
            "rope",
            True,
        ),
        ({**SIZES_13B, "vocab_size": 125696, "model_max_length": 4096, "z_loss_weight": 0}, "alibi", True),
        ({**SIZES_13B, "vocab_size": 125700, "model_max_length": 4096, "z_loss_weight": 0}, "alibi", True),
        ({**SIZES_13B, "vocab_size": 125696, "model_max_length": 4096, "normalize_head": False}, "alibi", False),
        ({**OTHER_SIZES, "vocab_size": 100, "max_position_embeddings": 64}, "rope", False),
        ({**OTHER_SIZES, "vocab_size": 100, "model_max_length": 64}, "alibi", False),
        ({**OTHER_SIZES, "vocab_size": 100, "position_embedding": "alibi"}, "alibi", False),
    ],
)
def test_published_configs_are_told_apart(published, positions, normalised):
    config = BaichuanConfig.from_hf({"model_type": "baichuan", **published})
    assert (config.position_embedding, config.normalize_head) == (positions, normalised)
    assert config.max_position_embeddings in (64, 4096)


@pytest.mark.parametrize("name", MODELS)
def test_config_json_has_the_published_keys_and_no_others(name):
    written = set(MODELS[name].to_hf())
    common = set(
        "architectures auto_map bos_token_id eos_token_id hidden_act hidden_size initializer_range intermediate_size "
        "model_type num_attention_heads num_hidden_layers pad_token_id rms_norm_eps tie_word_embeddings torch_dtype "
        "vocab_size".split()
    )
    lengths = {"max_position_embeddings"} if "7B" in name else {"model_max_length"}
    if "Baichuan2" in name:
        lengths |= {"model_max_length", "z_loss_weight"}
    assert written == common | lengths


def test_what_the_code_does_not_do_is_refused():
    published = MODELS["baichuan-inc/Baichuan2-7B-Base"].to_hf()
    for change in (
        {"hidden_act": "gelu"},
        {"z_loss_weight": 0.1},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"quantization_config": {"bits": 4}},
        {"num_key_value_heads": 8},
        {"position_embedding": "learned"},
    ):
        with pytest.raises(ConfigError, match=next(iter(change))):
            BaichuanConfig.from_hf({**published, **change})


def test_heads_that_do_not_fit_are_refused():
    for name, hidden in (("Baichuan-7B", 100), ("Baichuan-7B", 96), ("Baichuan-13B-Base", 100)):
        with pytest.raises(ConfigError, match="num_attention_heads"):
            MODELS[f"baichuan-inc/{name}"].replace(hidden_size=hidden)
    assert MODELS["baichuan-inc/Baichuan-13B-Base"].replace(hidden_size=120).head_size == 3


def test_positions_that_nothing_tells_are_asked_for():
    with pytest.raises(ConfigError, match="position_embedding"):
        BaichuanConfig.from_hf({"model_type": "baichuan", "vocab_size": 100, **OTHER_SIZES})


def test_heads_of_a_scale_for_all_are_left_out():
    config = MODELS["baichuan-inc/Baichuan-7B"].replace(num_key_value_heads=2, head_dim=7)
    assert (config.kv_heads, config.head_size) == (32, 128)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "tokenizer.model")
