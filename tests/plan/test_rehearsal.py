"""`zoo run --plan auto` and `--dry-run` for this machine and for another; nothing is started here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo_core.cli import main

HALF = ("--bf16", "--fp16_opt_level", "O2", "--use_flash_attention", "--max_seq_length", "4096")


def zoo(capsys, *words):
    status = main(words)
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_best_plan_is_the_first_of_the_ranking(capsys):
    words = ("--model", "facebook/llama-13b", *HALF)
    _, out, _ = zoo(capsys, "plan", *words, "--world", "8", "--hardware", "a100-40g", "--json")
    best = json.loads(out)["plans"][0]
    status, out, _ = zoo(
        capsys, "run", "pretrain", *words, "--dry-run", "--world", "8", "--hardware", "a100-40g", "--plan", "auto"
    )
    assert status == 0
    sharding = f"{best['sharding']}" + (f" (stage {best['sharding_stage']})" if best["sharding_stage"] else "")
    axes = f"data {best['data']} x pipeline {best['pipeline']} x sharding {sharding} x tensor {best['tensor']}"
    assert f"{axes} = 8 processes on gpu" in out
    assert f"micro {best['micro_batch']} x accumulate {best['accumulate']} x" in out
    assert f"{best['prediction']['memory_mb']:.0f} MB on a rank" in out


def test_what_is_given_is_kept_by_the_automatic_plan(capsys):
    words = ("run", "pretrain", "--model", "facebook/llama-13b", *HALF, "--dry-run", "--world", "16", "--memory", "40G")
    _, out, _ = zoo(capsys, *words, "--plan", "auto", "--pp", "4", "--micro_batch_size", "1")
    assert "x pipeline 4 x" in out and "batch      micro 1 x" in out and "not in this version" not in out


def test_the_automatic_plan_is_for_this_machine_too(capsys):
    words = ("run", "pretrain", "--model", "qwen/qwen-7b", "--scale", "tiny", "--nproc", "4", "--dry-run")
    status, out, _ = zoo(capsys, *words, "--plan", "auto", "--max_seq_length", "64", "--device", "cpu")
    assert status == 0 and "= 4 processes on cpu" in out and "hardware   cpu, float32" in out
    assert "= 32 samples a step" in out  # what four data-parallel processes of 8 take


def test_a_model_that_fits_nowhere_is_refused(capsys):
    words = ("run", "pretrain", "--model", "facebook/llama-65b", *HALF, "--dry-run", "--world", "2", "--memory", "16G")
    status, _, err = zoo(capsys, *words, "--plan", "auto")
    assert status == 2 and "no legal plan for facebook/llama-65b fits" in err and "MB a rank" in err


def test_a_rehearsal_shows_shapes_batches_and_files(capsys, tmp_path):
    words = ("run", "pretrain", "--model", "Qwen/Qwen2.5-1.5B", "--dry-run", "--world", "8", "--tp", "4", "--pp", "2")
    status, out, _ = zoo(
        capsys, *words, *HALF, "--hardware", "h100", "--micro_batch_size", "2", "--accumulate_steps", "4",
        "--max_steps", "1200", "--save_steps", "500", "--output_dir", str(tmp_path / "out"),
    )  # fmt: skip
    assert status == 0 and not (tmp_path / "out").exists()
    assert "micro 2 x accumulate 4 x replicas 1 = 8 samples a step" in out
    assert "1,200 of 8 samples = 9,600 samples" in out
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.startswith("qwen2.")}
    assert rows["qwen2.layers.*.mlp.up_proj.weight"] == "1536 x 8960 1536 x 2240 14 on stages 0-1"
    assert rows["qwen2.layers.*.self_attn.k_proj.weight"] == "1536 x 256 1536 x 128 14 on stages 0-1"
    assert rows["qwen2.norm.weight"] == "1536 whole 1 on stage 1"
    assert f"{tmp_path / 'out' / 'checkpoint-STEP'} every 500 steps and at the end, 3 in all" in out
    assert "master_weights-*" in out and "workerlog.0 to 7" in out and "hardware   h100" in out
    assert out.rstrip().endswith("nothing was started")


def test_another_world_is_for_rehearsals_only(capsys):
    words = ("run", "pretrain", "--model", "qwen/qwen-7b", "--scale", "tiny", "--world")
    status, _, err = zoo(capsys, *words, "8")
    assert status == 2 and "--world is for --dry-run" in err
    status, _, err = zoo(capsys, *words, "many", "--dry-run")
    assert status == 2 and "not a number of processes" in err


@pytest.mark.parametrize(
    ("task", "more"),
    [("sft", ()), ("lora", ("--lora_rank", "16")), ("prefix", ()), ("dpo", ()), ("dpo", ("--lora", "true")),
     ("pretrain", ("--lora", "true"))],
)  # fmt: skip
def test_a_task_is_planned_as_it_would_run(capsys, task, more):
    """`zoo plan --task` and `zoo run TASK --dry-run --plan auto`: the same plan, memory and speed."""
    words = ("facebook/llama-7b", "--world", "8", "--memory", "80G", *HALF, *more)
    status, out, _ = zoo(capsys, "plan", *words, "--task", task, "--json")
    assert status == 0
    best = json.loads(out)["plans"][0]
    status, out, err = zoo(capsys, "run", task, "--model", *words, "--plan", "auto", "--dry-run")
    assert status == 0, err
    said = {line[:10].strip(): line[11:] for line in out.splitlines() if line[10:11] == " "}
    made = best["prediction"]
    assert int(said["memory"].split()[0]) == pytest.approx(made["memory_mb"], abs=0.6)
    assert said["speed"].startswith(f"{made['tokens_per_second_per_card']:.4g} tokens")
    assert f"tensor {best['tensor']} = 8 processes" in said["plan"]
    assert f"micro {best['micro_batch']} x accumulate {best['accumulate']}" in said["batch"]
    assert ("trains" in said) is (task not in ("sft", "pretrain") or bool(more))
    frozen = "lora" in (task, *(word.strip("-") for word in more)) or task == "prefix"
    assert ("model-*-of-*" in out) is not frozen


@pytest.mark.parametrize("how", [["--plan", "auto"], ["--tp", "2"]])
def test_rehearsals_need_no_paddle(how):
    words = [
        "run",
        "pretrain",
        "--model",
        "llama-7b",
        "--dry-run",
        "--world",
        "8",
        "--hardware",
        "a100-80g",
        *HALF,
        *how,
    ]
    script = "import sys; from zoo_core.cli import main; s = main(sys.argv[1:]); sys.exit(s or 'paddle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
