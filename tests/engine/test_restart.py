"""When a worker dies the run goes on from its last good checkpoint, with fewer workers if need be."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

from parallel_jobs import descendants, end, environment  # noqa: E402

from zoo_core.arguments import load_arguments
from zoo_core.checkpoint import Saved
from zoo_core.cli import main
from zoo_core.data.indexed import bin_path, idx_path, index_bytes
from zoo_core.engine import restart
from zoo_core.engine.launch import Died
from zoo_core.errors import CheckpointError, ConfigError, ZooError
from zoo_core.plan import chosen_model, compose, from_arguments

LIMIT = 240
STEPS, EVERY = 12, 3


class Keeper:
    """`keep_running` with launches that end as they are told to, and checkpoints that only have names."""

    def __init__(self, monkeypatch, out):
        self.out, self.launches, self.saved, self.damaged = out, [], [], set()
        monkeypatch.setattr(restart, "spawn", self._spawn)
        monkeypatch.setattr(restart, "checkpoints", lambda root: sorted(self.saved, key=lambda s: -s.saved_at))
        monkeypatch.setattr(restart, "verify", self._verify)

    def _verify(self, folder):
        if folder.name in self.damaged:
            raise CheckpointError(f"{folder} is damaged", "a bit fell over")

    def save(self, step):
        self.saved.append(Saved(self.out / f"checkpoint-{step}", step, float(len(self.saved))))

    def _spawn(self, launch, plan, words, changes=None):
        self.launches.append((launch, plan, dict(changes or {})))
        return self._ends.pop(0)(plan)

    def run(self, ends, *more):
        self._ends = ends
        words = [
            "--model",
            "qwen/qwen-7b",
            "--scale",
            "tiny",
            "--output_dir",
            str(self.out),
            "--nproc",
            "4",
            "--tp",
            "2",
        ]
        words += ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"]
        arguments = load_arguments("pretrain", (), [*words, *more])
        arguments = arguments.replace(device="cpu")
        found, config = chosen_model(arguments)
        plan = compose(from_arguments(arguments, 4, "cpu"), found.architecture, config)
        return restart.keep_running(arguments, plan, found, config, "random, seed 42", ["run", "pretrain", *words])


@pytest.fixture
def keeper(monkeypatch, tmp_path):
    return Keeper(monkeypatch, tmp_path)


def dies(worker, how="was killed by signal 9", then=lambda: None):
    def launch(plan):
        then()
        raise Died(worker, plan.world, how, "log")

    return launch


def test_goes_on_from_the_last_good_checkpoint(keeper, capsys):
    def save():
        keeper.save(2)
        keeper.save(4)
        keeper.damaged.add("checkpoint-4")

    assert keeper.run([dies(1, then=save), lambda plan: 0], "--max_restarts", "3") == 0
    assert [plan.world for _, plan, _ in keeper.launches] == [4, 4]
    assert keeper.launches[0][2] == {}
    assert keeper.launches[1][2]["resume_from_checkpoint"] == str(keeper.out / "checkpoint-2")
    said = capsys.readouterr().out
    assert "restart    1 of 3: worker 1 of 4 was killed by signal 9" in said
    assert f"warning: {keeper.out / 'checkpoint-4'} is damaged and is passed over: a bit fell over" in said
    assert f"weights    {keeper.out / 'checkpoint-2'}" in said


def test_a_run_that_has_saved_nothing_begins_again(keeper, capsys):
    """Checkpoints of an earlier run in the folder, which this one overwrites, are none of its own."""
    keeper.save(100)
    assert keeper.run([dies(0), lambda plan: 0], "--max_restarts", "1", "--overwrite_output_dir") == 0
    assert keeper.launches[1][2] == {}
    assert "weights    random, seed 42" in capsys.readouterr().out


def test_a_worker_that_dies_twice_is_left_out(keeper, capsys):
    keeper.save(1)
    ends = [dies(2, then=lambda: keeper.save(2)), dies(2), dies(1, then=lambda: keeper.save(4)), lambda plan: 0]
    assert keeper.run(ends, "--max_restarts", "3") == 0
    assert [plan.world for _, plan, _ in keeper.launches] == [4, 4, 2, 2]
    _, plan, changes = keeper.launches[2]
    assert (plan.tensor, plan.data, plan.micro_batch, plan.accumulate) == (2, 1, 1, 4)
    assert changes["resume_from_checkpoint"] == str(keeper.out / "checkpoint-2")
    assert changes["gradient_accumulation_steps"] == 4 and changes["tensor_parallel_degree"] == 2
    assert keeper.launches[3][2]["gradient_accumulation_steps"] == 4
    assert keeper.launches[3][2]["resume_from_checkpoint"] == str(keeper.out / "checkpoint-4")
    said = capsys.readouterr().out
    assert "left out   worker 2: it died twice without a new checkpoint between" in said
    assert "processes  2 instead of 4, of 3 that are left" in said
    assert "the global batch stays: was micro 1 x accumulate 2 x replicas 2" in said


def test_progress_forgives_a_death(keeper):
    ends = [dies(2, then=lambda: keeper.save(2)), dies(2, then=lambda: keeper.save(4)), dies(1), lambda plan: 0]
    assert keeper.run(ends, "--max_restarts", "3") == 0
    assert [plan.world for _, plan, _ in keeper.launches] == [4, 4, 4, 4]


def test_the_changes_make_the_workers_plan(keeper):
    """A worker that loads the command line and takes the changes composes the plan that the launch was made for."""
    keeper.run([dies(0), dies(0), lambda plan: 0], "--max_restarts", "2", "--dp", "2", "--global_batch_size", "4")
    _, plan, changes = keeper.launches[2]
    words = ["--model", "qwen/qwen-7b", "--scale", "tiny", "--tp", "2", "--dp", "2", "--global_batch_size", "4"]
    words += ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2"]
    arguments = load_arguments("pretrain", (), words).replace(**changes)
    found, config = chosen_model(arguments)
    made = compose(from_arguments(arguments, plan.world, "cpu"), found.architecture, config)
    assert (made.tensor, made.data, made.accumulate, made.global_batch) == (2, 1, 4, 4)


def test_a_lost_device_is_left_out(keeper, monkeypatch):
    monkeypatch.setattr(restart, "device_count", lambda device, environ: 2)
    real = restart._Run.__init__

    def on_gpu(run, arguments, plan, found, config, start):
        object.__setattr__(plan, "device", "gpu")
        real(run, arguments, plan, found, config, start)

    monkeypatch.setattr(restart._Run, "__init__", on_gpu)
    assert keeper.run([dies(3), lambda plan: 0], "--max_restarts", "1") == 0
    assert keeper.launches[1][1].world == 2


def test_restarts_are_used_up(keeper):
    with pytest.raises(ZooError) as caught:
        keeper.run([dies(1, then=lambda: keeper.save(2)), dies(3, "ended with status 1")], "--max_restarts", "1")
    error = caught.value
    assert error.what == "worker 3 of 4 ended with status 1 after 1 restart, as many as max_restarts allows"
    assert error.todo == f"see log/workerlog.3; --resume goes on from {keeper.out / 'checkpoint-2'}"


def test_without_restarts_a_death_is_told(keeper):
    with pytest.raises(ZooError) as caught:
        keeper.run([dies(1, then=lambda: keeper.save(2))])
    assert caught.value.what == "worker 1 of 4 was killed by signal 9"
    assert "--resume goes on from" in caught.value.todo


def test_an_error_that_a_worker_reports_is_not_tried_again(keeper):
    def fails(plan):
        raise ZooError("the loss is nan at step 3")

    with pytest.raises(ZooError, match="the loss is nan"):
        keeper.run([fails], "--max_restarts", "5")
    assert len(keeper.launches) == 1


def test_several_machines_are_refused(keeper):
    with pytest.raises(ConfigError, match="max_restarts is for one machine"):
        keeper.run([], "--max_restarts", "1", "--nnodes", "2", "--master", "127.0.0.1:1")


class Job:
    """`zoo run pretrain` in real processes whose workers can be killed."""

    def __init__(self, folder):
        self.folder, self.corpus = folder, folder / "corpus" / "words"
        self.corpus.parent.mkdir()
        lengths = np.full(200, 50)
        tokens = np.random.default_rng(0).integers(0, 500, lengths.sum()).astype("<u2")
        bin_path(self.corpus).write_bytes(tokens.tobytes())
        idx_path(self.corpus).write_bytes(index_bytes(lengths, np.arange(201), "<u2"))

    def run(self, name, *more, kill=lambda job, out: None):
        """Run it, calling `kill` over and over; return the exit status and what was said."""
        out = self.folder / name
        words = self.words(name, *more)
        with open(self.folder / f"{name}.said", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zoo_core", *words], env=environment(), stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + LIMIT
        try:
            while self.process.poll() is None and time.monotonic() < until:
                kill(self, out)
                time.sleep(0.01)
            below = descendants(self.process.pid)
        finally:
            end(self.process)
        said = (self.folder / f"{name}.said").read_text()
        assert not below, said
        return self.process.returncode, said

    def words(self, name, *more):
        """The command line after `zoo`."""
        out = self.folder / name
        return [
            *("run", "pretrain", "--model", "qwen/qwen-7b", "--scale", "tiny", "--device", "cpu"),
            *("--input_dir", str(self.corpus.parent), "--max_seq_length", "32", "--max_steps", str(STEPS)),
            *("--save_steps", str(EVERY), "--per_device_train_batch_size", "1", "--disable_tqdm", "true"),
            *("--split", "90,10,0", "--output_dir", str(out), "--log_dir", str(out) + "-log", *more),
        ]

    def worker(self, number):
        """The process of a worker that has told the command that it is there; `None` before."""
        for pid in descendants(self.process.pid):
            try:
                variables = dict(
                    pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in pair
                )
                told = Path(variables["ZOO_LAUNCH_NOTES"], f"worker-{number}").read_text()
            except (OSError, KeyError):
                continue
            if variables.get("PADDLE_LOCAL_RANK") == str(number) and told.split()[0] == str(pid):
                return pid
        return None


@pytest.fixture
def job(tmp_path):
    """A run in this process leaves handlers of signals behind."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield Job(tmp_path)
    for number, handler in handlers:
        signal.signal(number, handler)


def losses(out):
    with open(out / "loss.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


class Killer:
    """Kills worker 2 as soon as there is a checkpoint, once in every launch, `times` times."""

    def __init__(self, times):
        self.left, self.killed = times, set()

    def __call__(self, job, out):
        if not self.left or not (out / "latest").exists():
            return
        pid = job.worker(2)
        if pid is not None and pid not in self.killed:
            self.killed.add(pid)
            self.left -= 1
            os.kill(pid, signal.SIGKILL)


FOUR = ("--nproc", "4", "--tp", "2", "--gradient_accumulation_steps", "2")


@pytest.mark.t2
def test_a_killed_worker_does_not_stop_the_run(job, tmp_path):
    assert main(job.words("alone", "--gradient_accumulation_steps", "4")) == 0
    status, said = job.run("four", *FOUR, "--max_restarts", "2", kill=Killer(1))
    assert status == 0, said
    assert "restart    1 of 2: worker 2 of 4 was killed by signal 9" in said
    assert "restart    2" not in said and f"weights from {tmp_path / 'four' / 'checkpoint-3'}" in said
    straight = losses(tmp_path / "alone")
    assert len(straight) == STEPS
    np.testing.assert_allclose(losses(tmp_path / "four"), straight, rtol=1e-5, atol=1e-5)


@pytest.mark.soak
def test_a_worker_killed_twice_is_left_out(job, tmp_path):
    status, said = job.run("alone", "--gradient_accumulation_steps", "4")
    assert status == 0, said
    status, said = job.run("four", *FOUR, "--max_restarts", "2", kill=Killer(2))
    assert status == 0, said
    assert "left out   worker 2" in said and "processes  2 instead of 4" in said
    np.testing.assert_allclose(losses(tmp_path / "four"), losses(tmp_path / "alone"), rtol=1e-5, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("more", [(), ("--async_save", "true")], ids=["synchronous", "asynchronous"])
def test_restarts_end(more, job, tmp_path):
    status, said = job.run("four", *FOUR, "--max_restarts", "1", *more, kill=Killer(2))
    assert status == 2, said
    assert "was killed by signal 9 after 1 restart, as many as max_restarts allows" in said
    assert "--resume goes on from" in said and "Traceback" not in said
    status, said = job.run("four", *FOUR, "--resume", *more)
    assert status == 0, said
    assert len(losses(tmp_path / "four")) == STEPS
