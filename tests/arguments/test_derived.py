"""What follows from what the user said, and what cannot go together."""

from __future__ import annotations

import pytest

from zoo_core.arguments import Arguments, accumulation_steps, effect_line, load_arguments
from zoo_core.errors import ConfigError


def run(*argv: str, task: str = "pretrain") -> Arguments:
    return load_arguments(task, [], ["--model", "m", *argv])


@pytest.mark.parametrize(
    ("argv", "strategy", "steps", "do_eval"),
    [
        ([], "no", None, False),
        (["--eval_steps", "7"], "steps", 7, True),
        (["--do_eval"], "steps", 500, True),
        (["--do_eval", "--logging_steps", "3"], "steps", 3, True),
        (["--evaluation_strategy", "epoch"], "epoch", None, True),
        (["--evaluation_strategy", "steps"], "steps", 500, True),
        (["--eval_steps", "7", "--do_eval", "false"], "no", 7, False),
        (["--eval_steps", "7", "--evaluation_strategy", "no"], "no", 7, False),
        (["--evaluation_strategy", "epoch", "--no_do_eval"], "no", None, False),
    ],
)
def test_when_to_evaluate(argv, strategy, steps, do_eval):
    training = run(*argv).training
    assert (training.evaluation_strategy, training.eval_steps, training.do_eval) == (strategy, steps, do_eval)


@pytest.mark.parametrize("argv", [["--save_strategy", "epoch"], ["--save_steps", "5", "--save_strategy", "epoch"],
                                  ["--save_strategy", "epoch", "--save_steps", "5"]])  # fmt: skip
def test_the_order_of_flags_does_not_matter(argv):
    assert run(*argv).training.save_strategy == "epoch"


def test_the_later_of_step_count_and_strategy_decides(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"model": "m", "save_strategy": "no", "save_steps": 9, "warmup_steps": 5, "max_steps": 50}')
    assert load_arguments("pretrain", [path]).training.save_strategy == "no"
    assert load_arguments("pretrain", [path], ["--save_steps", "5"]).training.save_strategy == "steps"
    by_epoch = load_arguments("pretrain", [path], ["--num_train_epochs", "2"])
    assert by_epoch.training.max_steps == -1 and "max_steps" in by_epoch.warnings[0]


def test_precision_later_wins_and_both_at_once_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"model": "m", "fp16": true}')
    training = load_arguments("pretrain", [path], ["--bf16"]).training
    assert training.bf16 and not training.fp16
    path.write_text('{"model": "m", "fp16": true, "bf16": true}')
    with pytest.raises(ConfigError, match=r"(?s)fp16.*bf16.*contradict.*fp16 in file .*a\.json, line 1"):
        load_arguments("pretrain", [path])


@pytest.mark.parametrize(
    ("argv", "accumulation", "local"),
    [
        (["--micro_batch_size", "2", "--local_batch_size", "6"], 3, 6),
        (["-o", "Engine.accumulate_steps=4", "--local_batch_size", "6", "--micro_batch_size", "3"], 4, 12),
        (["--gradient_accumulation_steps", "4", "--local_batch_size", "8", "--micro_batch_size", "2"], 4, 8),
        (["--gradient_accumulation_steps", "4"], 4, None),
    ],
)
def test_local_batch(argv, accumulation, local):
    training = run(*argv).training
    assert (training.gradient_accumulation_steps, training.local_batch_size) == (accumulation, local)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--micro_batch_size", "4", "--local_batch_size", "6"], ["local_batch_size", "multiple of 4"]),
        (["--accumulate_steps", "4", "--micro_batch_size", "2", "--local_batch_size", "16"], ["local / micro"]),
        (["--local_batch_size", "16", "--micro_batch_size", "2", "--accumulate_steps", "4"], ["local / micro"]),
        (["--local_batch_size", "8", "--global_batch_size", "9", "--dp", "2"], ["2 replicas is 16"]),
        (["--fp16", "--bf16"], ["fp16", "bf16", "set one of them"]),
        (["--learning_rate", "1e-5", "--min_learning_rate", "1e-4"], ["min_learning_rate", "learning_rate"]),
        (["--load_best_model_at_end", "--eval_steps", "3", "--save_steps", "4"], ["multiple of eval_steps"]),
        (["--load_best_model_at_end"], ["evaluation_strategy", "save_strategy"]),
        (["--zero_padding", "--eval_with_do_generation"], ["zero_padding", "eval_with_do_generation"]),
    ],
)  # fmt: skip
def test_contradictions(argv, words):
    with pytest.raises(ConfigError) as caught:
        run(*argv)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_default_minimum_rate_never_exceeds_the_rate():
    arguments = run("--learning_rate", "1e-6")
    assert arguments.training.min_learning_rate == pytest.approx(1e-7, rel=1e-12)
    assert "min_learning_rate" in arguments.warnings[0]
    assert run("--learning_rate", "1e-6", task="sft").training.min_learning_rate == 0.0


def test_home_is_expanded_in_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    training = run("-o", "output_dir=~/out", "--logging_dir=~/runs").training
    assert (training.output_dir, training.logging_dir) == ("/home/me/out", "/home/me/runs")


def test_task_defaults():
    assert run().model.continue_training is False
    assert run(task="sft").model.continue_training is True
    assert run("--continue_training", "0", task="sft").model.continue_training is False


@pytest.mark.parametrize(
    ("argv", "replicas", "wanted"),
    [([], 4, 1), (["--gradient_accumulation_steps", "3"], 4, 3), (["--global_batch_size", "64"], 2, 4),
     (["--global_batch_size", "64", "--gradient_accumulation_steps", "2"], 4, 2)],
)  # fmt: skip
def test_accumulation(argv, replicas, wanted):
    assert accumulation_steps(run(*argv), replicas) == wanted


@pytest.mark.parametrize("argv", [["--global_batch_size", "60"],
                                  ["--global_batch_size", "64", "--gradient_accumulation_steps", "3"]])  # fmt: skip
def test_accumulation_that_does_not_fit(argv):
    with pytest.raises(ConfigError, match="global_batch_size"):
        accumulation_steps(run(*argv), 2)


def test_a_later_global_batch_replaces_the_file_s_accumulation(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"model": "m", "gradient_accumulation_steps": 3, "micro_batch_size": 2, "local_batch_size": 6}')
    assert accumulation_steps(load_arguments("pretrain", [path]), 4) == 3
    arguments = load_arguments("pretrain", [path], ["--global_batch_size", "32"])
    assert accumulation_steps(arguments, 4) == 4
    assert "gradient_accumulation_steps" not in arguments.given and len(arguments.warnings) == 2


def test_gpu_only_arguments_are_named_on_cpu():
    arguments = run("--bf16", "--fp16_opt_level", "O2", "--scale_loss", "32768")
    assert arguments.warnings == ()
    line = effect_line(arguments, "cpu")
    assert "bf16 (fp32 on CPU)" in line and "fp16_opt_level" in line
    assert "scale_loss" not in line, "it was set to what it is anyway"
    assert effect_line(arguments, "gpu") == ""
    assert run("--bf16", "--device", "cpu").warnings == ("arguments that work on a GPU only: bf16 (fp32 on CPU)",)
