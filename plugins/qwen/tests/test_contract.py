"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_qwen
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_ops import RopeScaling
from zoo_qwen import QwenConfig

ARCH = contract.architecture(zoo_qwen)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
COUNTS = {
    "qwen/qwen-7b": 7_721_324_544,
    "qwen/qwen-14b": 14_167_290_880,
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2-1.5B": 1_543_714_304,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2-72B": 72_706_203_648,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
}
NAMED = (
    *(f"qwen/qwen-{size}" for size in ("7b", "7b-chat", "14b", "14b-chat")),
    *(f"Qwen/Qwen2-{size}" for size in ("0.5B", "1.5B", "7B", "72B")),
    *(f"Qwen/Qwen2.5-{size}" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B")),
    *(f"Qwen/Qwen3-{size}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")),
)


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_qwen")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH, *NAMED)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


def test_fused_layout_survives_config_json():
    contract.check_config(MODELS["Qwen/Qwen2-7B"].replace(fuse_attention_qkv=True, fuse_attention_ffn=True))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_the_published_one(name):
    assert contract.count_parameters(ARCH, MODELS[name]) == COUNTS[name]


def test_config_of_v1_is_read_by_its_own_names():
    published = MODELS["qwen/qwen-7b"].to_hf()
    assert (published["layer_norm_epsilon"], published["rotary_emb_base"]) == (1e-6, 10000.0)
    assert not {"rms_norm_eps", "rope_theta", "num_key_value_heads", "head_dim"} & set(published)
    config = QwenConfig.from_hf({**published, "layer_norm_epsilon": 1e-5, "rotary_emb_base": 20000})
    assert (config.rms_norm_eps, config.rope_theta, config.mlp_width) == (1e-5, 20000, 11008)
    with pytest.raises(ConfigError, match="kv_channels"):
        QwenConfig.from_hf({**published, "kv_channels": 64})


def test_v1_scaled_has_no_grouped_heads():
    tiny = MODELS["qwen/qwen-7b"].replace(**ARCH.capabilities.scales["tiny"])
    assert (tiny.kv_heads, tiny.num_attention_heads, tiny.head_size) == (4, 4, 16)


def test_rope_scaling_is_read_from_a_mapping():
    config = MODELS["Qwen/Qwen2-7B"].replace(rope_scaling={"type": "linear", "factor": 2})
    assert config.rope_scaling == RopeScaling("linear", 2.0)
    assert QwenConfig.from_hf(config.to_hf()) == config


def test_what_the_code_does_not_do_is_refused():
    published = MODELS["Qwen/Qwen2-7B"].to_hf()
    refused = {"hidden_act": "gelu", "attention_dropout": 0.1, "use_sliding_window": True}
    for change in ({"rope_scaling": {"type": "magic"}}, *({name: value} for name, value in refused.items())):
        with pytest.raises(ConfigError):
            QwenConfig.from_hf({**published, **change})
    with pytest.raises(ConfigError, match="scale_attn_weights"):
        QwenConfig.from_hf({**MODELS["qwen/qwen-7b"].to_hf(), "scale_attn_weights": False})


@pytest.mark.parametrize("change", [{"num_key_value_heads": 5}, {"head_dim": 7}], ids=str)
def test_heads_that_do_not_fit_are_refused(change):
    with pytest.raises(ConfigError, match="key/value heads"):
        MODELS["Qwen/Qwen2-7B"].replace(**change)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "qwen.tiktoken")
