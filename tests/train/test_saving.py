"""Saving in runs of one process: beside training, to a full disk, from damaged files, two runs at once, the best."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from zoo_core.arguments import load_arguments
from zoo_core.checkpoint import FolderLock, checkpoints, read_state
from zoo_core.checkpoint.disk import Disk
from zoo_core.checkpoint.manifest import read_manifest
from zoo_core.engine import state
from zoo_core.errors import CheckpointError

SMALL = "--max_seq_length 16 --num_hidden_layers 1 --report_to none".split()


@pytest.fixture
def before(monkeypatch):
    """Give it what is to happen before each change of the disk that a save makes."""

    def install(act) -> None:
        monkeypatch.setattr(Disk.__init__, "__defaults__", (act,))

    return install


def sums(folder: Path) -> dict[int, dict[str, tuple[int, int]]]:
    return {
        saved.step: {n: f for n, f in read_manifest(saved.path).files.items() if n.endswith(".safetensors")}
        for saved in checkpoints(folder)
    }


def test_training_goes_on_beside_a_save_of_one_copy(run, words, before, tmp_path, monkeypatch):
    """The files are those of a synchronous save, though parameters change while they are written."""
    flags = [*SMALL, "--max_steps", "12", "--save_steps", "3", "--logging_steps", "1", "--learning_rate", "1e-2"]
    assert run(words(*flags, out="sync"))[0] == 0
    held: list[deque] = []
    drained = state._drained

    def watched(copies):
        assert all(not copy for copy in held), "two copies at a time"
        held.append(copies)
        return drained(copies)

    monkeypatch.setattr(state, "_drained", watched)
    threads = set()

    def slow(kind, path):
        threads.add(threading.current_thread().name)
        if kind == "create":
            time.sleep(0.05)

    before(slow)
    status, out, err = run(words(*flags, "--async_save", out="async"))
    assert (status, err) == (0, "") and threads == {"zoo-save"} and len(held) == 4
    assert sums(tmp_path / "async") == sums(tmp_path / "sync") and len(sums(tmp_path / "sync")) == 4
    between = re.search(r"saving step 3 while training goes on(.*?)saved \S+/checkpoint-3 in", out, re.DOTALL)
    assert between and "global step 4," in between[1]
    assert out.index("saved " + str(tmp_path / "async" / "checkpoint-12")) < out.index("done       12 steps")


@pytest.mark.parametrize("kind", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_is_no_full_disk(run, words, before, tmp_path, kind):
    def refuse(change, path):
        if "checkpoint-2" in str(path):
            raise OSError(kind, os.strerror(kind), str(path))

    before(refuse)
    status, out, err = run(words(*SMALL, "--max_steps", "2", "--save_steps", "2"))
    assert status == 2 and os.strerror(kind) in err and "have this one made writable" in err and "free space" not in err


@pytest.mark.parametrize("mode", ["--async_save", "--unified_checkpoint_config=async_save", "--async_save=false"])
def test_a_failure_is_reported_at_the_next_step(run, words, before, tmp_path, mode):
    """The disk is full from the second checkpoint on."""

    def full(kind, path):
        if "checkpoint-8" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before(full)
    flags = [*SMALL, "--max_steps", "500", "--save_steps", "4", "--logging_steps", "1"]
    status, out, err = run(words(*flags, mode))
    assert status == 2 and err.count("error:") == 1 and "Traceback" not in err
    assert "error: could not save" in err and "checkpoint-8" in err and "No space left on device" in err
    assert f"{tmp_path / 'out' / 'checkpoint-4'} is whole: --resume goes on from it" in err
    steps = [int(step) for step in re.findall(r"global step (\d+),", out)]
    # the thread has at most the time of a step to fail in; what it did is known at the end of the next
    assert steps[-1] in ((8,) if mode.endswith("false") else (9, 10, 11))
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-4"}


def test_the_last_save_is_waited_for_and_its_failure_told(run, words, before, tmp_path):
    def full(kind, path):
        if kind == "sync":
            time.sleep(0.2)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before(full)
    status, out, err = run(words(*SMALL, "--max_steps", "2", "--async_save"))
    assert status == 2 and "could not save" in err and "no checkpoint was saved before" in err
    assert "done  " not in out and not list((tmp_path / "out").glob("checkpoint*"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_refused_and_another_offered(run, words, tmp_path):
    flags = [*SMALL, "--max_steps", "3", "--save_steps", "1"]
    assert run(words(*flags))[0] == 0
    root = tmp_path / "out"
    shutil.rmtree(root / "checkpoint-1")
    newest = root / "checkpoint-3"
    files = sorted(path for path in newest.iterdir() if path.is_file())
    assert {path.name.split("-")[0] for path in files} >= {"model", "optimizer", "config.json", "manifest.json"}
    for path in files:
        kept = path.read_bytes()
        flip(path)
        before = sorted(root.rglob("*"))
        for resume in (["--resume"], ["--resume", str(newest)]):
            status, out, err = run(words(*flags, "--max_steps", "4", *resume))
            assert status == 2 and err.count("error:") == 1 and "Traceback" not in err
            assert f"{newest} is damaged" in err and str(path) in err and f"--resume {root / 'checkpoint-2'}" in err
        assert sorted(root.rglob("*")) == before
        path.write_bytes(kept)
    flip(newest / "optimizer-00001-of-00001.safetensors")
    status, out, err = run(words(*flags, "--max_steps", "4", "--resume", "last_good"))
    assert status == 0 and f"weights    {root / 'checkpoint-2'} (step 2)" in out and "is passed over" in err
    assert [saved.step for saved in checkpoints(root)] == [4, 3, 2]


def test_a_flip_in_the_weights_is_found_by_what_reads_them(run, words, tmp_path):
    assert run(words(*SMALL, "--max_steps", "1"))[0] == 0
    folder = tmp_path / "out" / "checkpoint-1"
    flip(folder / "model-00001-of-00001.safetensors")
    import numpy as np

    np.save(tmp_path / "ids.npy", np.zeros((1, 4), np.int64))
    ids = ["--ids", str(tmp_path / "ids.npy"), "--out", str(tmp_path / "logits.npy")]
    status, _, err = run(["logits", str(folder), *ids])
    assert status == 2 and "model-00001-of-00001.safetensors does not hold the bytes" in err
    assert not (tmp_path / "logits.npy").exists()


def test_two_runs_on_one_folder(run, words, tmp_path):
    lock = FolderLock(tmp_path / "out")
    for more in ([], ["--overwrite_output_dir"], ["--resume"]):
        status, out, err = run(words(*SMALL, "--max_steps", "1", *more))
        assert status == 2 and f"{tmp_path / 'out'} is in use by another run" in err and f"process {os.getpid()}" in err
        assert "global step" not in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".zoo-lock"]
    lock.release()
    assert run(words(*SMALL, "--max_steps", "1"))[0] == 0
    assert not (tmp_path / "out" / ".zoo-lock").exists()


def test_a_run_ends_with_its_best_model(run, words, tmp_path):
    """The rate makes later steps worse; the test part is then evaluated with the weights of the best step."""
    flags = [*SMALL, "--max_steps", "6", "--save_steps", "1", "--eval_steps", "1", "--learning_rate", "0.3"]
    flags += ["--lr_scheduler_type", "constant", "--do_predict", "--split", "80,10,10"]
    best = ["--load_best_model_at_end", "--save_total_limit", "2", "--metric_for_best_model", "eval_ppl"]
    status, out, err = run(words(*flags, *best))
    assert (status, err) == (0, "")
    step = int(re.search(r"best       \S+/checkpoint-(\d+),", out)[1])
    assert 0 < step < 6 and (tmp_path / "out" / "best").read_text() == f"checkpoint-{step}\n"
    values = [float(ppl) for ppl in re.findall(r"validation at step \d+, loss: \S+ ppl: ([^,]+),", out)]
    assert min(values) == values[step - 1]  # lower is better, also for eval_ppl
    tested = re.search(r"test at step 6, loss: (\S+),", out)[1]
    status, out, err = run(
        words(*flags, "--resume", str(tmp_path / "out" / f"checkpoint-{step}"), "--do_train", "false", out="again")
    )
    assert status == 0 and re.search(r"test at step \d+, loss: (\S+),", out)[1] == tested


def test_weights_alone_can_be_saved(run, words, tmp_path):
    flags = [*SMALL, "--ignore_save_lr_and_optim", "--max_steps"]
    assert run(words(*flags, "1"))[0] == 0
    folder = tmp_path / "out" / "checkpoint-1"
    assert not list(folder.glob("optimizer*")) and read_state(folder)["beta_powers"] is None
    status, _, err = run(words(*flags, "2", "--resume"))
    assert status == 2 and "has no optimizer states" in err and "--ignore_load_lr_and_optim" in err
    assert run(words(*flags, "2", "--resume", "--ignore_load_lr_and_optim"))[0] == 0


def test_spellings_of_asynchronous_saving():
    def given(*flags: str):
        return load_arguments("pretrain", (), ["--model", "qwen/qwen-7b", *flags])

    assert not given().training.async_save
    for flags in (["--async_save"], ["--use_async_save", "true"], ["--unified_checkpoint_config", "async_save"]):
        found = given(*flags)
        assert found.training.async_save and found.warnings == ()
    found = given("--unified_checkpoint_config", "async_save skip_save_model_weight", "--async_save", "false")
    assert not found.training.async_save and "skip_save_model_weight without effect" in found.warnings[0]
    assert not given("--load_best_model_at_end", "--do_eval", "--eval_steps", "500").training.greater_is_better
    for metric, higher in (("eval_ppl", False), ("eval_loss", False), ("accuracy", True)):
        flags = ["--load_best_model_at_end", "--do_eval", "--eval_steps", "500", "--metric_for_best_model", metric]
        assert given(*flags).training.greater_is_better is higher


def test_a_flip_in_the_weights_is_found_by_from_pretrained(run, words, tmp_path):
    from zoo_core import from_pretrained

    assert run(words(*SMALL, "--max_steps", "1"))[0] == 0
    folder = tmp_path / "out" / "checkpoint-1"
    from_pretrained(folder)
    flip(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        from_pretrained(folder)
