"""Whole runs on one process: what they print, write, and how they go on."""

from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from zoo_core.checkpoint import checkpoints, read_state
from zoo_core.data import build_pretrain_datasets

LINE = re.compile(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[ {4}INFO\] - global step (\d+), epoch: ", re.MULTILINE)


def weights(folder: Path) -> dict[str, bytes]:
    """The files of tensors: weights and optimizer states."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.fixture
def straight(run, words, tmp_path):
    """A run of 8 steps with evaluations and checkpoints at 4 and 8."""
    flags = "--max_steps 8 --save_steps 4 --eval_steps 4 --logging_steps 2 --learning_rate 1e-2 --warmup_steps 3"
    more = f"{flags} --lr_scheduler_type cosine --gradient_accumulation_steps 2".split()
    return (*run(words(*more, out="straight")), more, tmp_path / "straight")


def test_a_run_learns_and_writes(straight, read_losses):
    status, out, err, _, folder = straight
    assert (status, err) == (0, "")
    assert "SCALE TINY" in out and "qwen/qwen-7b" in out
    assert LINE.findall(out) == ["2", "4", "6", "8"]
    assert out.count("validation at step") == 2 and "peak memory" in out
    assert f"wrote      {folder / 'checkpoint-8'}, {folder / 'loss.png'}, {folder / 'loss.csv'}" in out
    assert "--max_steps 16 --resume" in out and "zoo logits" in out and "zoo sample" in out
    rows = read_losses(folder)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.2
    assert float(rows[7]["eval_loss"]) < float(rows[3]["eval_loss"])
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "runs").glob("events.*"))
    state = read_state(folder / "checkpoint-4")
    assert (state["step"], state["consumed_samples"], state["seed"]) == (4, 32, 42)
    assert [saved.step for saved in checkpoints(folder)] == [8, 4]


def test_resume_is_exact(straight, run, words, tmp_path, read_losses):
    *_, more, folder = straight
    status, out, err = run(words(*more, "--resume", str(folder / "checkpoint-4"), out="resumed"))
    assert (status, err) == (0, "")
    assert f"weights    {folder / 'checkpoint-4'} (step 4)" in out
    assert read_losses(tmp_path / "resumed") == read_losses(folder)[4:]
    assert weights(tmp_path / "resumed" / "checkpoint-8") == weights(folder / "checkpoint-8")


def test_resume_goes_on_with_more_steps(straight, run, words, read_losses):
    *_, more, folder = straight
    before = read_losses(folder)
    status, out, err = run(words(*more, "--max_steps", "10", "--resume", out="straight"))
    assert (status, err) == (0, "")
    after = read_losses(folder)
    assert after[:8] == before and [row["step"] for row in after[8:]] == ["9", "10"]
    assert checkpoints(folder)[0].step == 10
    status, out, err = run(words(*more, "--max_steps", "10", "--resume", out="straight"))
    assert status == 0 and "nothing is left to train" in err


def test_logits_give_the_loss_of_the_evaluation(straight, run, corpus, tmp_path, read_losses):
    """The parity tool against the engine's own evaluation, with the cross entropy written out."""
    *_, folder = straight
    parts = build_pretrain_datasets(str(corpus), split="80,20,0", seq_length=32, num_samples=(0, None, 0), seed=42)
    samples = [parts.valid[i] for i in range(len(parts.valid))][:80]
    ids = np.stack([sample["input_ids"] for sample in samples])
    labels = np.stack([sample["labels"] for sample in samples])
    np.save(tmp_path / "ids.npy", ids)
    out = tmp_path / "logits.npy"
    status, said, err = run(["logits", str(folder), "--ids", str(tmp_path / "ids.npy"), "--out", str(out)])
    assert (status, err) == (0, "") and f"wrote {out}" in said
    logits = np.load(out)
    assert logits.dtype == np.float32 and logits.shape == (*ids.shape, 512)
    x = logits.astype(np.float64)
    top = x.max(-1, keepdims=True)
    log_z = np.log(np.exp(x - top).sum(-1)) + top[..., 0]
    loss = (log_z - np.take_along_axis(x, labels[..., None], -1)[..., 0]).mean()
    assert loss == pytest.approx(float(read_losses(folder)[7]["eval_loss"]), abs=1e-5)


def test_weights_of_hugging_face_go_in_and_stay(run, golden, golden_words, tmp_path):
    """A run at rate 0 keeps the weights; the logits of folder and checkpoint are those of transformers."""
    expected = load_file(golden / "golden.safetensors")
    np.save(tmp_path / "ids.npy", expected["input_ids"])
    still = "--max_steps 2 --learning_rate 0 --min_learning_rate 0 --weight_decay 0.1".split()
    status, out, err = run(golden_words(golden, *still))
    assert (status, err) == (0, "") and f"weights    {golden}" in out
    for folder in (golden, tmp_path / "out" / "checkpoint-2"):
        words = ["--ids", str(tmp_path / "ids.npy"), "--out", str(tmp_path / "logits.npy")]
        assert run(["logits", str(folder), *words, "--per_device_train_batch_size", "1"])[::2] == (0, "")
        np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected["logits"], atol=1e-5)


def test_save_total_limit_and_epochs(run, words, tmp_path):
    flags = "--num_train_epochs 1 --save_strategy epoch --evaluation_strategy epoch --logging_strategy epoch"
    status, out, err = run(words(*flags.split(), "--per_device_train_batch_size", "64"))
    steps = checkpoints(tmp_path / "out")[0].step
    assert (status, err) == (0, "") and out.count("validation at step") == 1
    assert steps == read_state(tmp_path / "out" / f"checkpoint-{steps}")["max_steps"] > 1
    status, out, err = run(
        words("--max_steps", "4", "--save_steps", "1", "--save_total_limit", "2", "--lm_shift_labels", out="few")
    )
    assert (status, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "few").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize("every", (1, 3))
def test_best_checkpoint_is_kept_and_named(run, words, tmp_path, read_losses, every):
    """The best is among the evaluations that have a checkpoint."""
    flags = f"--max_steps 6 --save_steps {every} --eval_steps 1 --save_total_limit 2 --load_best_model_at_end"
    more = ["--learning_rate", "0.3", "--lr_scheduler_type", "constant"]
    status, out, _ = run(words(*flags.split(), *more))
    values = {int(row["step"]): float(row["eval_loss"]) for row in read_losses(tmp_path / "out")}
    best = min((step for step in values if step % every == 0), key=lambda step: values[step])
    assert status == 0 and f"best       {tmp_path / 'out' / f'checkpoint-{best}'}" in out
    assert (tmp_path / "out" / "best").read_text() == f"checkpoint-{best}\n"
    assert best in [saved.step for saved in checkpoints(tmp_path / "out")]


def test_interrupt_saves_and_says_how_to_resume(start, run, words, tmp_path):
    given = words("--max_steps", "100000", "--logging_steps", "1", "--lr_scheduler_type", "constant")
    process = start(given)
    for line in process.stdout:
        if "global step 3," in line:
            process.send_signal(signal.SIGINT)
            break
    rest, err = process.communicate(timeout=400)
    assert process.returncode == 130, err
    stopped = checkpoints(tmp_path / "out")[0]
    assert f"stopped at step {stopped.step} of 100000, saved {stopped.path}" in rest
    command = rest.split("resume     zoo ")[1].strip()
    assert command.endswith("--resume") and str(tmp_path / "out") in command
    status, out, err = run([*command.split(), "--max_steps", str(stopped.step + 2)])
    assert (status, err) == (0, "")
    assert [int(step) for step in LINE.findall(out)] == [stopped.step + 1, stopped.step + 2]


def test_full_disk_leaves_the_last_checkpoint(start, run, words, tmp_path):
    """No file may grow beyond 100 kB once the first checkpoint is there: writes fail as on a full disk."""
    assert run(words("--max_steps", "2", "--save_steps", "2"))[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "checkpoint-2").iterdir()}

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    second = start(words("--max_steps", "4", "--save_steps", "4", "--resume"), preexec_fn=limit)
    _, err = second.communicate(timeout=400)
    assert second.returncode == 2
    assert err.count("error:") == 1 and "error: could not save" in err
    assert "File too large" in err and "free space" in err and "Traceback" not in err
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "checkpoint-2").iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint*")) == ["checkpoint-2"]


def test_diverging_run_saves_nothing(run, words, tmp_path):
    flags = "--max_steps 50 --learning_rate 1e30 --min_learning_rate 1e30 --save_steps 1000 --logging_steps 1"
    status, out, err = run(words(*flags.split(), "--max_grad_norm", "0"))
    assert (
        status == 2
        and re.search(r"error: the (loss|gradient norm) is (nan|inf) at step \d", err)
        and "learning rate 1e+30" in err
    )
    assert not list((tmp_path / "out").glob("checkpoint*"))
    assert os.path.isfile(tmp_path / "out" / "loss.csv")
