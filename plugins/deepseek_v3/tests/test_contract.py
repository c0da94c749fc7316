"""T0: the contract, without paddle."""

from __future__ import annotations

import pytest

import zoo_deepseek_v3
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_deepseek_v3 import DeepseekV3Config
from zoo_ops import RopeScaling

ARCH = contract.architecture(zoo_deepseek_v3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
V3 = MODELS["deepseek-ai/DeepSeek-V3"]
TINY = V3.replace(**ARCH.capabilities.scales["tiny"])


def test_importing_and_listing_leave_paddle_out():
    contract.check_paddle_free("zoo_deepseek_v3")


def test_every_promised_model_is_there():
    contract.check_promised(ARCH, "deepseek-ai/DeepSeek-V3-demo")


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_keeps_the_contract(name):
    contract.check_model(ARCH, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"q_lora_rank": None, "n_shared_experts": None},
        {"n_routed_experts": None, "num_nextn_predict_layers": 0},
        {"rope_interleave": False, "num_nextn_predict_lambda": 0.1, "bias_update_rate": 0.0},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": True},
    ],
    ids=str,
)
def test_unusual_config_survives_config_json(changes):
    contract.check_config(V3.replace(**changes))


def test_parameter_counts_are_the_published_ones():
    """671B, and 11.6B more for multi-token prediction, without its copies of embedding and head."""
    assert contract.count_parameters(ARCH, V3.replace(num_nextn_predict_layers=0)) == 671_026_404_352
    assert contract.count_parameters(ARCH, V3) == 682_636_472_320


def test_demo_fits_eight_cards():
    """16 bytes a parameter in mixed precision with AdamW, of 8 x 80 GB."""
    assert 16 * contract.count_parameters(ARCH, MODELS["deepseek-ai/DeepSeek-V3-demo"]) < 8 * 80e9 / 2


def test_the_published_config_json_is_the_named_model():
    """What `config.json` has besides: fp8 weights, which are read as what they stand for, and names of code files."""
    found = DeepseekV3Config.from_hf(
        {
            **V3.to_hf(),
            "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
            "ep_size": 1,
            "quantization_config": {
                "activation_scheme": "dynamic",
                "fmt": "e4m3",
                "quant_method": "fp8",
                "weight_block_size": [128, 128],
            },
            "rope_scaling": {
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 40,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        }
    )
    assert found == V3
    assert "quantization_config" not in found.to_hf()


def test_transformers_5_names_are_read():
    hf = TINY.to_hf()
    del hf["num_nextn_predict_layers"]
    assert DeepseekV3Config.from_hf({**hf, "num_mtp_layers": 1, "head_dim": TINY.qk_rope_head_dim}) == TINY


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"attention_dropout": 0.1},
        {"attention_bias": True},
        {"scoring_func": "softmax"},
        {"topk_method": "group_limited_greedy"},
        {"quantization_config": {"quant_method": "awq"}},
        {"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}},
        {"quantization_config": ["fp8"]},
        {"num_key_value_heads": 1},
        {"num_nextn_predict_layers": 2},
        {"n_group": 0},
        {"n_group": 3},
        {"n_group": 8},
        {"topk_group": 5},
        {"moe_layer_freq": 0},
        {"num_experts_per_tok": 5},
        {"qk_rope_head_dim": 7},
        {"rope_scaling": {"type": "magic", "factor": 2}},
    ],
    ids=str,
)
def test_what_the_code_does_not_do_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change)).removesuffix("ization_config")):
        DeepseekV3Config.from_hf({**TINY.to_hf(), **change})


def test_a_head_has_three_widths_and_no_head_dim():
    with pytest.raises(ConfigError, match="qk_nope_head_dim"):
        V3.replace(head_dim=128)


def test_dense_and_expert_layers():
    assert [V3.has_experts(layer) for layer in (0, 2, 3, 60, 61)] == [False, False, True, True, True]
    every_other = TINY.replace(moe_layer_freq=2, num_hidden_layers=6)
    assert [every_other.has_experts(layer) for layer in range(7)] == [False, False, True, False, True, False, True]


def test_mscale_and_rope_scaling_are_read_from_a_mapping():
    scaling = {"type": "yarn", "factor": 4, "mscale_all_dim": 0.5, "original_max_position_embeddings": 64}
    assert V3.replace(rope_scaling=scaling).rope_scaling == RopeScaling(
        "yarn", 4.0, mscale_all_dim=0.5, original_max_position_embeddings=64
    )


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    contract.check_missing_tokenizer(ARCH, tmp_path, "tokenizer.json")
