"""One run for one folder, and a lock that a dead run does not keep."""

from __future__ import annotations

import os
import signal

import pytest

from zoo_core.checkpoint import FolderLock, check_unlocked
from zoo_core.checkpoint.lock import LOCK
from zoo_core.errors import CheckpointError


def test_a_second_run_is_refused_and_told_by_whom(tmp_path):
    root = tmp_path / "out"
    check_unlocked(root)
    lock = FolderLock(root)
    for refused in (FolderLock, check_unlocked):
        with pytest.raises(CheckpointError, match="is in use by another run") as caught:
            refused(root)
        assert f"process {os.getpid()} on " in caught.value.why
    lock.release()
    assert not root.exists()  # it was made for the lock, and nothing came into it
    root.mkdir()
    (root / LOCK).write_text("left by a run that was killed")
    check_unlocked(root)
    lock = FolderLock(root)
    (root / "loss.csv").write_text("")
    lock.release()
    lock.release()
    assert [path.name for path in root.iterdir()] == ["loss.csv"]


def test_a_killed_run_does_not_keep_it(tmp_path):
    told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            FolderLock(tmp_path)
            os.write(told[1], b"x")
            signal.pause()
        finally:
            os._exit(0)
    os.read(told[0], 1)
    with pytest.raises(CheckpointError, match="in use by another run") as caught:
        check_unlocked(tmp_path)
    assert f"process {child} on " in caught.value.why
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    check_unlocked(tmp_path)
    FolderLock(tmp_path).release()


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(handle, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    FolderLock(tmp_path).release()
    assert "a second run there would not be noticed" in caplog.text
