"""Files as users have them load unchanged, and mean what they meant in the system they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoo_core.arguments import Arguments, load_arguments

CONFIGS = Path(__file__).parents[1] / "user-configs"

LLAMA_PRETRAIN = {
    "tensor_parallel_degree": 2, "pipeline_parallel_degree": 1, "sharding": "stage2", "sharding_parallel_degree": -1,
    "learning_rate": 3e-5, "min_learning_rate": 3e-6, "warmup_steps": 30, "warmup_ratio": 0.01, "max_steps": 10000,
    "save_steps": 5000, "save_strategy": "steps", "eval_steps": 1000, "evaluation_strategy": "steps", "bf16": True,
    "fp16_opt_level": "O2", "split": "949,50,1", "max_seq_length": 4096, "sequence_parallel": False,
    "use_flash_attention": True, "lr_scheduler_type": "linear", "do_predict": True, "save_total_limit": 2,
}  # fmt: skip
FINETUNE = {
    "dataset_name_or_path": "./data", "evaluation_strategy": "epoch", "save_strategy": "epoch", "fp16": True,
    "load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": True, "recompute": True,
    "continue_training": True, "min_learning_rate": 0.0, "max_length": 2048, "num_train_epochs": 3.0,
}  # fmt: skip
FLEETX = {
    "model_name_or_path": "gpt3", "device": "gpu", "seed": 1024, "max_steps": 500000, "num_train_epochs": 1.0,
    "logging_steps": 1, "eval_steps": 500, "evaluation_strategy": "steps", "eval_iters": 10, "test_iters": None,
    "fp16": True, "bf16": False, "fp16_opt_level": "O2", "scale_loss": 32768.0, "save_steps": 1000,
    "amp_custom_white_list": ("lookup_table", "lookup_table_v2"), "output_dir": "./output",
    "resume_from_checkpoint": None, "fuse_attention_qkv": True, "use_flash_attention": False, "input_dir": "./data/",
    "split": "969,30,1", "max_seq_length": 1024, "dataloader_num_workers": 1, "weight_decay": 0.01,
    "adam_beta2": 0.999, "adam_epsilon": 1e-8, "lr_scheduler_type": "cosine", "decay_steps": 360000,
    "warmup_steps": 3600, "warmup_ratio": 0.0, "learning_rate": 5e-5, "min_learning_rate": 1e-5, "max_grad_norm": 1.0,
    "sharding": "", "sharding_parallel_degree": -1, "vocab_size_divisible_unit": 128, "type_vocab_size": 16,
    "scale_qk_by_layer_num": True, "hidden_dropout_prob": 0.1,
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "paddlenlp/auto_parallel-llama-pretrain_argument.json": ("pretrain", {
        "model_name_or_path": "facebook/llama-7b", "tokenizer_name_or_path": "facebook/llama-7b", "seed": 1234,
        "pipeline_parallel_degree": 2, "sharding_parallel_degree": 2, "tensor_parallel_degree": 2, "bf16": True,
        "sharding": "stage1", "do_eval": False, "evaluation_strategy": "no", "eval_steps": 10000, "save_steps": 2000,
        "continue_training": False, "enable_auto_parallel": True, "gradient_accumulation_steps": 8,
        "amp_master_grad": True, "fuse_attention_qkv": True, "fuse_attention_ffn": False, "pp_recompute_interval": 0,
        "sequence_parallel": True, "sharding_parallel_config": "enable_tensor_fusion enable_overlap",
        "disable_tqdm": True, "to_static": False, "model_type": "llama_network",
    }),
    "paddlenlp/config-chatglm2-pt_argument.json": ("prefix", {
        **FINETUNE, "model_name_or_path": "THUDM/chatglm2-6b", "prefix_tuning": True, "learning_rate": 0.03,
        "warmup_steps": 30, "gradient_accumulation_steps": 4, "lora": False,
    }),
    "paddlenlp/config-gpt-3-pretrain_argument.json": ("pretrain", {
        "model_name_or_path": "gpt2-medium-en", "continue_training": True, "tensor_parallel_degree": 1,
        "sharding": "stage2", "fp16": True, "bf16": False, "max_seq_length": 1024, "unified_checkpoint": True,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "distributed_dataloader": True,
    }),
    "paddlenlp/config-llama-dpo_argument.json": ("dpo", {
        "model_name_or_path": "meta-llama/Meta-Llama-3-8B", "train_dataset_path": "./data/train.jsonl",
        "learning_rate": 1e-6, "min_learning_rate": 0.0, "beta": 0.1, "loss_type": "sigmoid", "max_prompt_len": 2048,
        "max_seq_len": 4096, "tensor_parallel_degree": 8, "sharding": "stage1", "flash_mask": True, "eval_steps": 100,
        "save_steps": 500, "metric_for_best_model": "loss", "greater_is_better": False, "max_steps": 100,
    }),
    "paddlenlp/config-llama-pretrain_argument.json": ("pretrain", {
        **LLAMA_PRETRAIN, "model_name_or_path": "meta-llama/Meta-Llama-3-8B", "continue_training": False,
        "gradient_accumulation_steps": 16, "use_fused_rms_norm": True, "unified_checkpoint": True,
    }),
    "paddlenlp/llama-lora_argument.json": ("lora", {
        **FINETUNE, "lora": True, "lora_rank": 8, "learning_rate": 3e-4, "tensor_parallel_degree": 1,
    }),
    "paddlenlp/llama-pretrain-llama2_13b-tp2sd4_stage2.json": ("pretrain", {
        **LLAMA_PRETRAIN, "model_name_or_path": "meta-llama/Llama-2-13b", "continue_training": True,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16,
    }),
    "paddlenlp/llama-pretrain-llama2_7b-tp2sd4_stage2.json": ("pretrain", {
        **LLAMA_PRETRAIN, "model_name_or_path": "meta-llama/Llama-2-7b-chat", "use_fused_rms_norm": False,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8,
    }),
    "paddlenlp/llama-sft_argument.json": ("sft", {
        **FINETUNE, "zero_padding": True, "flash_mask": True, "tensor_parallel_degree": 4, "learning_rate": 3e-5,
    }),
    "paddlenlp/qwen-pretrain-qwen_7b-tp2sd4_stage2.json": ("pretrain", {
        **LLAMA_PRETRAIN, "model_name_or_path": "qwen/qwen-7b", "continue_training": True, "use_fused_rope": True,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8,
    }),
    "paddlenlp/qwen-pretrain_argument_tp2pp4.json": ("pretrain", {
        **LLAMA_PRETRAIN, "pipeline_parallel_degree": 4, "sharding": "stage1", "recompute": True,
        "recompute_granularity": "full", "per_device_eval_batch_size": 16,
    }),
    "fleetx/pretrain_gpt_345M_single_card.yaml": ("pretrain", {
        **FLEETX, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "vocab_size": 50304, "local_batch_size": 8, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
        "recompute": False, "data_parallel_degree": 1, "tensor_parallel_degree": 1,
    }),
    "fleetx/pretrain_gpt_1.3B_dp8.yaml": ("pretrain", {
        **FLEETX, "hidden_size": 2048, "intermediate_size": 8192, "data_parallel_degree": 8, "recompute": True,
        "recompute_granularity": "full", "global_batch_size": None, "num_hidden_layers": 24,
    }),
    "fleetx/pretrain_gpt_175B_mp8_pp16.yaml": ("pretrain", {
        **FLEETX, "hidden_size": 12288, "intermediate_size": 49152, "num_hidden_layers": 96, "vocab_size": 51200,
        "tensor_parallel_degree": 8, "pipeline_parallel_degree": 16, "data_parallel_degree": -1,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1536, "recompute_granularity": "core_attn",
        "sequence_parallel": True, "virtual_pp_degree": 1, "fused_linear": True,
    }),
    "fleetx/generation_gpt_345M_single_card.yaml": ("predict", {
        **FLEETX, "hidden_size": 1024, "top_k": 50, "top_p": 0.75, "temperature": 1.0, "min_dec_len": 1,
        "max_dec_len": 200, "num_return_sequences": 1, "decode_strategy": "sampling",
    }),
}  # fmt: skip


def load(name: str, *argv: str) -> Arguments:
    task = CASES[name][0] if name in CASES else "pretrain"
    return load_arguments(task, [CONFIGS / name], argv)


@pytest.mark.parametrize("name", CASES)
def test_file_means_what_it_meant(name):
    arguments = load(name)
    wanted = CASES[name][1]
    assert {key: arguments.value(key) for key in wanted} == wanted
    assert set(arguments.given.values()) == {f"file {CONFIGS / name}"}


def test_every_file_is_covered():
    files = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*") if path.is_file()}
    # The base describes no model size of its own, only what its children share.
    assert files == {*CASES, "fleetx/pretrain_gpt_base.yaml"}
    base = load("fleetx/pretrain_gpt_base.yaml")
    assert base.model.model_name_or_path == "gpt3"
    assert dict(base.overrides) == {"scale_qk_by_layer_num": True, "vocab_size_divisible_unit": 128}


def test_keys_without_effect_are_named_in_one_line():
    arguments = load("paddlenlp/auto_parallel-llama-pretrain_argument.json")
    (line,) = arguments.warnings
    for key in ("use_intermediate_api", "model_type", "skip_profile_timer", "tensor_parallel_config",
                "recompute_use_reentrant"):  # fmt: skip
        assert key in line
    for key in ("learning_rate", "enable_auto_parallel", "to_static", "bf16"):
        assert key not in line
    assert "use_sparse_mask" in load("paddlenlp/llama-sft_argument.json").warnings[0]


def test_fleetx_warning_names_what_differs_and_not_what_fits():
    (line,) = load("fleetx/pretrain_gpt_345M_single_card.yaml").warnings
    assert "Data.Train.sampler.shuffle" in line and "Optimizer.lr.use_increments" in line
    assert "return_list" not in line and "Data.Eval" not in line and "Profiler" not in line


def test_flag_wins_over_file_and_override_over_flag():
    name = "fleetx/pretrain_gpt_1.3B_dp8.yaml"
    arguments = load(name, "-o", "Model.hidden_size=1024", "--model", "gpt3-tiny", "--tp", "2", "--max_steps", "7",
                     "-o", "Engine.max_steps=9", "-o", "Distributed.dp_degree=1")  # fmt: skip
    assert arguments.overrides["hidden_size"] == 1024
    assert arguments.overrides["intermediate_size"] == 4096, "an empty ffn_hidden_size follows hidden_size"
    assert arguments.model.model_name_or_path == "gpt3-tiny"
    assert arguments.parallel.tp == 2 and arguments.parallel.data_parallel_degree == 1
    assert arguments.training.max_steps == 9
    assert arguments.given["max_steps"] == "-o"
    assert arguments.given["model_name_or_path"] == "--model"
    assert arguments.given["hidden_size"] == "-o"
    assert arguments.given["seed"] == f"file {CONFIGS / name}"


def test_flag_for_hidden_size_also_widens_the_mlp():
    arguments = load("fleetx/pretrain_gpt_1.3B_dp8.yaml", "--hidden-size", "64")
    assert arguments.overrides["intermediate_size"] == 256


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["Distributed.sharding.sharding_degree=4"], ("stage1", 4)),
        (["Distributed.sharding.sharding_degree=2", "Distributed.sharding.sharding_stage=3"], ("stage3", 2)),
        (["Distributed.sharding.sharding_degree=2", "Distributed.sharding.sharding_stage=2",
          "Distributed.sharding.sharding_offload=True"], ("stage2 offload", 2)),
        (["Distributed.sharding.sharding_stage=3"], ("", -1)),
    ],
)  # fmt: skip
def test_fleetx_sharding(words, wanted):
    argv = [part for word in words for part in ("-o", word)]
    parallel = load("fleetx/pretrain_gpt_345M_single_card.yaml", *argv).parallel
    assert (parallel.sharding, parallel.sharding_parallel_degree) == wanted


def test_sharding_flag_over_a_fleetx_file():
    parallel = load("fleetx/pretrain_gpt_345M_single_card.yaml", "--sharding", "stage2").parallel
    assert (parallel.sharding, parallel.sharding_parallel_degree) == ("stage2", -1)


def test_override_of_a_paddlenlp_file():
    name = "paddlenlp/qwen-pretrain_argument_tp2pp4.json"
    arguments = load(name, "-o", "Model.hidden_size=64", "-o", "Distributed.sharding.sharding_stage=2",
                     "-o", "Optimizer.lr.warmup_rate=0.1", "--intermediate_size", "96")  # fmt: skip
    assert dict(arguments.overrides) == {"hidden_size": 64, "intermediate_size": 96}
    assert (arguments.parallel.sharding, arguments.parallel.sharding_parallel_degree) == ("stage2", -1)
    assert (arguments.training.warmup_steps, arguments.training.warmup_ratio) == (0, 0.1)
    assert any("warmup_ratio" in line and "warmup_steps" in line for line in arguments.warnings)
