"""Which worker ended first, and how, as the command that launched them sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from zoo_core.engine import launch
from zoo_core.engine.launch import Died, _Notes, _Process
from zoo_core.errors import ZooError

SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """Start processes that leave word as workers do; their parent is this process, which does not reap them."""
    running = []

    def start(number, code=SLEEPS):
        process = subprocess.Popen([sys.executable, "-c", code])
        running.append(process)
        told = (process.pid, _Process(process.pid).started, number)
        (tmp_path / f"worker-{number}").write_text(" ".join(map(str, told)))
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()


def until(notes, found):
    for _ in range(400):
        notes.look()
        if found():
            return
        time.sleep(0.02)
    pytest.fail("nothing was seen")


def fail(folder, rank, what):
    (folder / f"failure-{rank}").write_text(json.dumps([what, "", ""]))


def test_a_killed_worker_is_the_first(workers, tmp_path):
    notes = _Notes(tmp_path, 2)
    started = [workers(number) for number in range(2)]
    notes.look()
    assert notes.first is None and notes.failure() is None
    fail(tmp_path, 0, "another process has ended")
    started[1].kill()
    until(notes, lambda: notes.first)
    assert notes.first == (1, "was killed by signal 9") and notes.failure() is None
    notes.kill()
    until(notes, lambda: notes.workers[0].ended())
    assert notes.first[0] == 1


def test_a_worker_that_says_why_has_not_died(workers, tmp_path):
    notes = _Notes(tmp_path, 2)
    fail(tmp_path, 1, "the disk is full")
    workers(0)
    workers(1, "raise SystemExit(2)")
    until(notes, lambda: notes.first)
    assert notes.first == (1, "ended with status 2") and notes.failure().what == "the disk is full"


def test_of_several_the_one_without_a_word_is_first(workers, tmp_path):
    notes = _Notes(tmp_path, 3)
    for number in (0, 2):
        fail(tmp_path, number, "another process has ended")
    for number in range(3):
        workers(number, "raise SystemExit(1)")
    time.sleep(0.5)
    until(notes, lambda: notes.first)
    assert notes.first[0] == 1


def test_a_worker_whose_work_is_done_has_not_died(workers, tmp_path):
    notes = _Notes(tmp_path, 1)
    (tmp_path / "done-0").touch()
    workers(0, "pass").wait()
    notes.look()
    assert notes.workers[0].ended() == "died" and notes.first is None


def test_errors_that_no_worker_was_seen_with(tmp_path):
    notes = _Notes(tmp_path, 2)
    fail(tmp_path, 10, "ten")
    fail(tmp_path, 2, "two")
    assert notes.failure().what == "two"


def test_the_end_of_a_worker_is_left_word_of(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "3")
    assert launch.report_end(130) == 130
    monkeypatch.setenv("ZOO_LAUNCH_NOTES", str(tmp_path))
    assert launch.report_end(2) == 2 and not list(tmp_path.iterdir())
    assert launch.report_end(0) == 0 and [path.name for path in tmp_path.iterdir()] == ["done-3"]
    assert launch.report_end(130) == 0 and (tmp_path / "stopped").exists()


def test_changes_come_back_as_they_were(monkeypatch):
    monkeypatch.setenv("ZOO_RESTART", json.dumps({"pipeline_cuts": [1, 2], "sharding": "stage1", "seed": 3}))
    assert launch.restart_changes() == {"pipeline_cuts": (1, 2), "sharding": "stage1", "seed": 3}
    monkeypatch.delenv("ZOO_RESTART")
    assert launch.restart_changes() == {}


def test_what_is_said_of_a_death(tmp_path):
    (tmp_path / "workerlog.1").write_text("step 1\nerror: RuntimeError: no more\n  why: this is a bug\n")
    error = Died(1, 4, "ended with status 1", str(tmp_path))
    assert isinstance(error, ZooError) and error.what == "worker 1 of 4 ended with status 1"
    assert error.why == "RuntimeError: no more" and error.todo == f"see {tmp_path}/workerlog.1"
    assert "memory" in Died(1, 4, "was killed by signal 9", str(tmp_path)).why
    assert Died(None, 4, "ended with status 5", str(tmp_path)).todo == f"see {tmp_path}/workerlog.*"
