"""The groups themselves: frozen, named once, documented, exactly written and read, cheap to import."""

from __future__ import annotations

import dataclasses
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zoo_core.arguments import Arguments, TrainingArguments, describe, help_text, load_arguments
from zoo_core.arguments._fleetx import COMPOSITES, RENAMED, SECTIONS, UNUSED
from zoo_core.arguments._registry import BY_ANY_NAME, GROUPS, OVERRIDES, SPECS, TASKS
from zoo_core.arguments._spec import Spec
from zoo_core.errors import ConfigError

ROOT = Path(__file__).parents[2]

PROMISED = """
model_name_or_path tokenizer_name_or_path lora lora_path lora_rank prefix_tuning num_prefix_tokens prefix_path
use_flash_attention use_fused_rms_norm use_fused_rope fuse_attention_qkv fuse_attention_ffn tensor_parallel_output
lm_shift_labels continue_training virtual_pp_degree sequence_parallel recompute recompute_granularity
pp_recompute_interval input_dir split max_seq_length share_folder data_cache dataset_name_or_path task_name src_length
tgt_length max_length eval_with_do_generation save_generation_output intokens intokens_max_length zero_padding
train_dataset_path dev_dataset_path max_seq_len max_prompt_len beta loss_type label_smoothing top_k top_p temperature
min_dec_len max_dec_len num_return_sequences decode_strategy output_dir per_device_train_batch_size
gradient_accumulation_steps per_device_eval_batch_size eval_accumulation_steps num_train_epochs max_steps learning_rate
min_learning_rate weight_decay warmup_steps warmup_ratio logging_steps logging_strategy evaluation_strategy eval_steps
save_strategy save_steps save_total_limit fp16 bf16 fp16_opt_level amp_master_grad max_grad_norm do_train do_eval
do_predict disable_tqdm load_best_model_at_end metric_for_best_model seed device to_static dataloader_num_workers
distributed_dataloader unified_checkpoint async_save sharding sharding_parallel_degree tensor_parallel_degree
pipeline_parallel_degree expert_parallel_degree sharding_parallel_config tensor_parallel_config
pipeline_parallel_config model_path scale nproc devices gpus master nnodes log_dir resume plan dry_run traceback
adam_beta1 adam_beta2 adam_epsilon lr_scheduler_type decay_steps sharding_offload fuse_flash_qkv engine max_restarts
batch_size data_file output_file dtype
""".split()

DEFAULTS = {
    "lora": False, "lora_rank": 8, "prefix_tuning": False, "num_prefix_tokens": 128, "src_length": 1024,
    "tgt_length": 1024, "zero_padding": False, "intokens_max_length": 2048, "top_k": 1, "top_p": 1.0,
    "temperature": 1.0, "min_dec_len": 1, "max_dec_len": 200, "num_return_sequences": 1,
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 8,
    "num_train_epochs": 3.0, "learning_rate": 5e-5, "warmup_steps": 0, "logging_steps": 500, "max_steps": -1,
    "evaluation_strategy": "no", "tensor_parallel_degree": -1, "pipeline_parallel_degree": -1, "seed": 42,
    "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
    "split": "949,50,1", "batch_size": 8, "output_file": "output.json", "fp16_opt_level": "O1",
}  # fmt: skip


@pytest.mark.parametrize("name", PROMISED)
def test_promised_names_are_known(name):
    assert name in BY_ANY_NAME


def test_promised_defaults():
    arguments = load_arguments("pretrain", [], ["--model", "m"])
    assert {name: arguments.value(name) for name in DEFAULTS} == DEFAULTS


def test_every_name_and_alias_is_one_argument():
    names = [name for spec in SPECS.values() for name in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names)) == len(BY_ANY_NAME)
    assert sum(len(dataclasses.fields(group)) for group in GROUPS.values()) == sum(
        spec.group != OVERRIDES for spec in SPECS.values()
    ), "a name stands in two groups"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_each_argument_is_documented_and_consistent(spec):
    assert spec.help.endswith(".") and spec.help[0].isupper() or spec.help[0] == "`" or spec.help.startswith("stage1")
    assert spec.effect.kind in ("works", "none", "gpu", "later")
    assert spec.effect.why or spec.effect.kind in ("works", "gpu")
    assert re.fullmatch(r"(int|float|bool|str)( \| None)?|tuple\[(int|str), \.\.\.\]", spec.kind)
    assert spec.default is not None or spec.optional
    assert not spec.choices or spec.default is None or spec.default in spec.choices


def test_fleetx_tables_name_known_arguments():
    assert set(RENAMED.values()) <= set(SPECS)
    assert {name for composite in COMPOSITES for name in composite.names} <= set(SPECS)
    keys = [*RENAMED, *UNUSED, *(key for composite in COMPOSITES for key in composite.keys)]
    assert len(keys) == len(set(keys)), "a FleetX key has two meanings"
    assert {key.split(".")[0] for key in keys} <= set(SECTIONS)


def test_groups_are_frozen_values():
    one, two = TrainingArguments(max_steps=3), TrainingArguments(max_steps=3)
    assert one == two and hash(one) == hash(two) and one != TrainingArguments() and "max_steps=3" in repr(one)
    assert dataclasses.replace(one, seed=7).max_steps == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.max_steps = 4  # type: ignore[misc]
    with pytest.raises(TypeError, match="no argument 'max_step'"):
        TrainingArguments(max_step=3)


def test_replace_and_value_go_by_name():
    arguments = load_arguments("pretrain", [], ["--model", "m"]).replace(max_steps=4, tp=2, hidden_size=8)
    assert (arguments.training.max_steps, arguments.parallel.tp, arguments.overrides["hidden_size"]) == (4, 2, 8)
    assert arguments.value("mp_degree") == 2 and arguments.value("hidden_size") == 8
    with pytest.raises(KeyError):
        arguments.value("no_such_name")


def _random_value(spec: Spec, chance: random.Random) -> Any:
    """A legal value as a user would write it in JSON."""
    if spec.name in ("sharding", "split", "input_dir"):
        options = {"sharding": ["stage1", "stage2 offload", ""], "split": ["8,1,1", "949,50,1"]}
        return chance.choice(options.get(spec.name, ["d", "1 a"]))
    if spec.choices:
        return chance.choice(spec.choices)
    if spec.base == "bool":
        return chance.random() < 0.5
    if spec.base == "tuple[str, ...]":
        return [chance.choice("abc") for _ in range(chance.randrange(1, 3))]
    low = max(spec.minimum or 0, (spec.above or 0) + (1e-3 if spec.above is not None else 0))
    high = min(bound for bound in (spec.maximum, spec.below and spec.below * 0.999, low + 50) if bound is not None)
    if spec.base == "tuple[int, ...]":
        return [chance.randint(int(low) + 1, int(high) + 1) for _ in range(chance.randrange(1, 4))]
    if spec.base == "int":
        return chance.randint(int(low), int(high))
    if spec.base == "float":
        return chance.uniform(low, high)
    return "".join(chance.choice("abc/ é'\"\\") for _ in range(5)) + "x"


@pytest.mark.parametrize("seed", range(60))
def test_random_arguments_survive_every_way_in_and_out(seed, tmp_path):
    import json

    chance = random.Random(seed)
    # Arguments that constrain each other are covered by test_derived; here each stands for itself.
    bound = {"fp16", "bf16", "local_batch_size", "global_batch_size", "load_best_model_at_end", "zero_padding",
             "min_learning_rate", "learning_rate", "warmup_ratio", "warmup_steps", "do_eval", "eval_steps",
             "save_steps", "save_strategy", "evaluation_strategy", "max_steps", "num_train_epochs"}  # fmt: skip
    names = chance.sample([name for name in SPECS if name not in bound], 25)
    wanted = {name: _random_value(SPECS[name], chance) for name in names}
    wanted["model_name_or_path"] = "m"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(wanted))
    from_file = load_arguments("pretrain", [path])

    def typed(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    from_flags = load_arguments("pretrain", [], [f"--{name}={typed(value)}" for name, value in wanted.items()])
    for name, value in wanted.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert from_file.value(name) == expected and from_flags.value(name) == expected, name
    assert set(from_file.given) == set(from_flags.given) == set(wanted)
    again = Arguments.from_json(from_file.to_json())
    assert again == from_file and again.to_json() == from_file.to_json()


def test_what_was_handed_over_is_checked():
    text = load_arguments("pretrain", [], ["--model", "m"]).to_json()
    for damaged in ("", "{}", "[]", text.replace('"format": 1', '"format": 2'), text.replace('"seed"', '"sed"')):
        with pytest.raises(ConfigError, match="cannot be read"):
            Arguments.from_json(damaged)


def test_reference_document_is_current():
    path = ROOT / "docs/en/arguments.md"
    assert path.read_text(encoding="utf-8") == describe(), "run `python docs/generate.py`"


def test_reference_document_has_every_argument_once():
    rows = re.findall(r"^\| `(\w+)` \|", describe(), flags=re.M)
    assert sorted(rows) == sorted(SPECS)


@pytest.mark.parametrize("task", TASKS)
def test_help_lists_what_works(task):
    text = help_text(task)
    flags = set(re.findall(r"^  --(\w+)", text, flags=re.M))
    assert {"max_steps", "tensor_parallel_degree", "nproc", "hidden_size"} <= flags <= set(SPECS)
    assert not {name for name in flags if SPECS[name].effect.kind == "none"}
    assert ("lora_rank" in flags) == (task in ("sft", "lora", "prefix", "dpo", "compress"))


def test_import_is_light():
    code = "import sys, zoo_core.arguments; print(*[m for m in ('paddle', 'numpy', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
