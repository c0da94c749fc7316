"""What people type on the command line."""

from __future__ import annotations

import pytest

from zoo_core.arguments import Arguments, load_arguments
from zoo_core.errors import ConfigError


def run(*argv: str, task: str = "pretrain") -> Arguments:
    return load_arguments(task, [], ["--model", "qwen/qwen-7b", *argv])


@pytest.mark.parametrize(
    "argv",
    [["--max_steps", "20"], ["--max-steps", "20"], ["--max_steps=20"], ["--max-steps=2e1"],
     ["-o", "Engine.max_steps=20"], ["-oEngine.max_steps=20"],
     ["--override", "Engine.max_steps=20"], ["-o", "max_steps=20"],
     ["--max_steps", "3", "--max_steps", "20"]],
)  # fmt: skip
def test_one_number_many_spellings(argv):
    assert run(*argv).training.max_steps == 20


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [(["--recompute"], True), (["--recompute", "true"], True), (["--recompute", "1"], True),
     (["--recompute=yes"], True), (["--recompute", "--bf16"], True), (["--recompute", "0"], False),
     (["--no_recompute"], False), (["--no-recompute"], False), (["--recompute", "False"], False),
     (["--recompute", "--no_recompute"], False), (["--gradient_checkpointing"], True)],
)  # fmt: skip
def test_yes_or_no(argv, wanted):
    assert run(*argv).parallel.recompute is wanted


def test_names_that_begin_with_no_are_not_negations():
    assert run("--no_recompute_layers", "1,2").parallel.no_recompute_layers == (1, 2)
    assert run("--no_cuda").training.no_cuda is True


@pytest.mark.parametrize("argv", [["--devices", "0,1"], ["--gpus", "0,1"], ["--devices", "0", "1"], ["--gpus=0,1"]])
def test_devices(argv):
    assert run(*argv, "--nproc", "2").launch.devices == (0, 1)


def test_launch_words():
    launch = run("--nproc", "4", "--master", "10.0.0.1:6070", "--nnodes", "2", "--node_rank", "1", "--log_dir", "l",
                 "--dry-run", "--traceback").launch  # fmt: skip
    assert (launch.nproc, launch.master, launch.nnodes, launch.rank, launch.log_dir) == (4, "10.0.0.1:6070", 2, 1, "l")
    assert launch.dry_run and launch.traceback


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [([], None), (["--resume"], "latest"), (["--resume", "out/checkpoint-5"], "out/checkpoint-5"),
     (["--resume", "--bf16"], "latest"), (["--resume_from_checkpoint", "x"], "x"), (["--resume=x"], "x"),
     (["--resume", "none"], None)],
)  # fmt: skip
def test_resume(argv, wanted):
    assert run(*argv).training.resume_from_checkpoint == wanted


def test_a_file_may_stand_among_the_words(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"max_steps": 5, "seed": 3}')
    arguments = load_arguments("pretrain", [], ["--resume", str(path), "--model", "m", "--seed", "4"])
    assert (arguments.training.max_steps, arguments.training.seed) == (5, 4)
    assert arguments.training.resume_from_checkpoint == "latest"
    assert arguments.given == {
        "max_steps": f"file {path}", "seed": "--seed", "model_name_or_path": "--model",
        "resume_from_checkpoint": "--resume",
    }  # fmt: skip


def test_the_last_file_wins(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.yaml"
    first.write_text('{"model": "m", "max_steps": 5, "seed": 3}')
    second.write_text("max_steps: 6\nGlobal:\n  seed: 7\n")
    arguments = load_arguments("pretrain", [first, second])
    assert (arguments.training.max_steps, arguments.training.seed) == (6, 7)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("stage2 offload", "stage2 offload"), ("", ""), ("stage1", "stage1"), ("true", "stage1"), ("false", ""),
     ("STAGE3", "stage3"), ("offload stage3", "stage3 offload")],
)  # fmt: skip
def test_sharding_text(text, wanted):
    parallel = run("--sharding", text).parallel
    assert parallel.sharding == wanted
    assert parallel.sharding_stage == (int(wanted[5]) if wanted else 0)
    assert parallel.offload == wanted.endswith("offload")


def test_several_words_of_one_flag():
    assert run("--sharding", "stage2", "offload", "--bf16").parallel.sharding == "stage2 offload"
    assert run("--input_dir", "0.3", "a", "0.7", "b").data.input_dir == "0.3 a 0.7 b"
    assert run("--split", "8", "1", "1").data.split == "8,1,1"
    assert run("--amp_custom_black_list", "a", "b").training.amp_custom_black_list == ("a", "b")
    assert run("--report_to", "none").training.report_to == ()


def test_minus_one_is_a_value_and_means_one():
    parallel = run("--tensor_parallel_degree", "-1", "--max_steps", "-1").parallel
    assert parallel.tensor_parallel_degree == -1 and parallel.tp == 1 and parallel.pp == 1


def test_architecture_settings_are_overrides():
    arguments = run("--num_layers", "2", "--hidden_size=64", "-o", "Model.rope_theta=5e5", "-o", "Model.kv_lora_rank=8",
                    "-o", "Model.name_only_a_plugin_knows=[1,2]")  # fmt: skip
    assert dict(arguments.overrides) == {
        "num_hidden_layers": 2, "hidden_size": 64, "rope_theta": 5e5, "kv_lora_rank": 8,
        "name_only_a_plugin_knows": (1, 2),
    }  # fmt: skip
    assert run().overrides == {}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--max_step", "3"], ["unknown argument --max_step", "command line", "--max_steps"]),
        (["--tensor_paralel_degree=2"], ["--tensor_paralel_degree", "--tensor_parallel_degree"]),
        (["--zzzqqq", "3"], ["--zzzqqq", "--help"]),
        (["--max_steps"], ["--max_steps needs a value"]),
        (["--max_steps", "--bf16"], ["--max_steps needs a value"]),
        (["--max_steps", "many"], ["max_steps", "'many'", "a whole number", "--max_steps"]),
        (["--max_steps", "2.5"], ["max_steps", "'2.5'", "a whole number"]),
        (["--per_device_train_batch_size", "-4"], ["per_device_train_batch_size", "'-4'", "at least 1"]),
        (["--warmup_ratio", "1.5"], ["warmup_ratio", "'1.5'", "at most 1"]),
        (["--learning_rate", "nan"], ["learning_rate", "'nan'", "a number"]),
        (["--loss_type", "sigmoyd"], ["loss_type", "'sigmoyd'", "sigmoid", "hinge", "ipo"]),
        (["--bf16", "maybe"], ["unexpected word 'maybe'"]),
        (["--bf16=maybe"], ["bf16", "'maybe'", "true or false"]),
        (["--device", "0,1"], ["device", "--devices 0,1"]),
        (["--sharding", "offload"], ["sharding", "stage2 offload"]),
        (["--sharding", "stage4"], ["sharding", "'stage4'"]),
        (["--sharding", "stage1 stage2"], ["sharding"]),
        (["--split", "a,b"], ["split", "949,50,1"]),
        (["--split", "0,0,0"], ["split"]),
        (["--recompute_granularity", "half"], ["recompute_granularity", "core_attn"]),
        (["--devices", "0,x"], ["devices", "0,1,2"]),
        (["--context_parallel_degree", "2"], ["context_parallel_degree", "at most 1"]),
        (["stray"], ["unexpected word 'stray'"]),
        (["max_steps=3"], ["unexpected word", "--max_steps"]),
        (["-max_steps", "3"], ["unexpected word", "--max_steps"]),
        (["-o"], ["-o stands alone"]),
        (["-o", "Model.hidden_size"], ["not key=value"]),
        (["-o", "Modl.hidden_size=3"], ["unknown key Modl.hidden_size", "Model"]),
        (["-o", "Engine.max_step=3"], ["unknown key Engine.max_step", "Engine.max_steps"]),
        (["-o", "Distributed.sharding.sharding_degre=3"], ["Distributed.sharding.sharding_degree"]),
        (["-o", "Optimizer.hidden_size=3"], ["unknown key Optimizer.hidden_size"]),
        (["-o", "Model.hidden_size=wide"], ["hidden_size", "'wide'", "-o Model.hidden_size"]),
        (["-o", "Optimizer.name=SGD"], ["Optimizer.name", "'SGD'", "AdamW", "-o Optimizer.name"]),
        (["-o", "Optimizer.grad_clip.name=ClipGradByValue"], ["ClipGradByGlobalNorm"]),
        (["-o", "Model.name=ViT"], ["Model.name", "GPT"]),
        (["-o", "Engine.mix_precision.dtype=int8"], ["Engine.mix_precision.dtype", "bfloat16"]),
        (["--fp16", "--bf16=true", "--scale", "huge"], ["scale", "tiny"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(argv, words):
    with pytest.raises(ConfigError) as caught:
        run(*argv)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.count("\n") <= 2, "what, why, what to do: one line each"


def test_no_model_and_unknown_task():
    with pytest.raises(ConfigError, match="no model is named"):
        load_arguments("pretrain", [], ["--max_steps", "3"])
    with pytest.raises(ConfigError, match="(?s)unknown task 'pretrian'.*pretrain"):
        load_arguments("pretrian", [], ["--model", "m"])
