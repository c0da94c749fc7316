"""Start the workers of a plan through `paddle.distributed.launch`, and bring back how they ended. No paddle here.

The workers run this same command again (`zoo_core/__main__.py` with the same words); what makes them workers is the
environment that the launcher sets. Starting `python -m paddle.distributed.launch ... zoo_core/__main__.py run ...` by
hand is therefore the same thing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import zoo_core
from zoo_core.arguments import LaunchArguments
from zoo_core.environment import apply_cpu_environment
from zoo_core.errors import ZooError
from zoo_core.plan import Plan

__all__ = [
    "Died",
    "handle_stop_signals",
    "in_worker",
    "is_spawned",
    "report_end",
    "report_failure",
    "report_start",
    "restart_changes",
    "spawn",
    "stop_requested",
]

_NOTES = "ZOO_LAUNCH_NOTES"
"""Names the folder through which a launch and its workers on one machine leave each other word."""

_CHANGES = "ZOO_RESTART"
"""Holds, for the workers of a restart, the arguments that differ from the command line's, by name."""

_POLL = 0.05
"""Seconds between looks at the workers: short, so that the first to end is seen before those that it draws along."""

_STOPPING = "\nstopping: saving at the end of this step (once more to end at once)"

_stop = False


class Died(ZooError):
    """A worker ended without a word: it was killed, or crashed.

    Args:
        worker: its number on its machine; `None` when it is not known.
        workers: how many there were.
        how: what became of it: "was killed by signal 9".
        log_dir: where the logs are.
    """

    def __init__(self, worker: int | None, workers: int, how: str, log_dir: str) -> None:
        self.worker, self.how = worker, how
        who = "a worker" if worker is None else f"worker {worker} of {workers}"
        log = "*" if worker is None else str(worker)
        why = _last_words(Path(log_dir, f"workerlog.{worker}")) if "status" in how else ""
        if not why:
            killed = "somebody ended it, or the system did when memory ran out (its own log would tell)"
            why = killed if "signal" in how else "it was killed, or met an error that is in its log"
        super().__init__(f"{who} {how}", why, f"see {log_dir}/workerlog.{log}")


def _last_words(log: Path) -> str:
    """The error with which a log ends; empty when it ends otherwise."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")


def in_worker() -> bool:
    """Whether this process was started as one of several by `paddle.distributed.launch`."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1")) > 1


def is_spawned() -> bool:
    """Whether `spawn` of another process of zoo on this machine, which has said what runs, started this one."""
    return _NOTES in os.environ


def handle_stop_signals() -> None:
    """From now on SIGINT and SIGTERM ask this process to stop at the end of the step instead of ending it at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        global _stop
        if _stop:
            raise KeyboardInterrupt
        _stop = True
        if not is_spawned():
            print(_STOPPING, file=sys.stderr)

    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)


def stop_requested() -> bool:
    """Whether a signal, or the command that launched this worker, asked to stop."""
    notes = os.environ.get(_NOTES)
    return _stop or (notes is not None and os.path.exists(os.path.join(notes, "stop")))


def report_start() -> None:
    """Tell the launching command which process is this worker, so that it sees which one ends first."""
    notes = os.environ.get(_NOTES)
    if notes is not None and Path("/proc/self/stat").exists():
        path = Path(notes) / f"worker-{os.environ.get('PADDLE_LOCAL_RANK', '0')}"
        told = (os.getpid(), _Process(os.getpid()).started, os.environ.get("PADDLE_TRAINER_ID", "0"))
        path.with_suffix(".part").write_text(" ".join(map(str, told)), encoding="utf-8")
        path.with_suffix(".part").rename(path)


def report_end(status: int) -> int:
    """Leave word for the launching command that this worker's work is done; the status to end with.

    A worker that was asked to stop ends with 0 too: the launcher takes any other status for a failure, and would print
    the end of the worker's log once more.
    """
    notes = os.environ.get(_NOTES)
    if notes is None or status not in (0, 130):
        return status
    if status == 130:
        (Path(notes) / "stopped").touch()
    (Path(notes) / f"done-{os.environ.get('PADDLE_TRAINER_ID', '0')}").touch()
    return 0


def restart_changes() -> dict[str, Any]:
    """The arguments that a restart has changed, by name; empty for a command that was not restarted."""
    changes: dict[str, Any] = json.loads(os.environ.get(_CHANGES, "{}"))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}


def report_failure(error: ZooError) -> bool:
    """Leave word for the launching command of why this worker ends; whether nothing more is to be said.

    The launcher shows the output of the first worker of a machine, where the message would stand a second time; the
    other workers have it in their logs.
    """
    notes = os.environ.get(_NOTES)
    if notes is None:
        return False
    path = Path(notes) / f"failure-{os.environ.get('PADDLE_TRAINER_ID', '0')}"
    path.write_text(json.dumps([error.what, error.why, error.todo]), encoding="utf-8")
    return os.environ.get("PADDLE_LOCAL_RANK", "0") == "0"


def _command(launch: LaunchArguments, plan: Plan, words: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "paddle.distributed.launch"]
    command += ["--nproc_per_node", str(plan.local_world), "--log_dir", launch.log_dir, "--job_id", launch.job_id]
    # how a worker failed is said by `spawn`, once; the launcher's own report of it is the worker's whole command line
    command += ["--log_level", "CRITICAL", "--max_restart", "0"]
    if launch.master is not None:
        command += ["--master", launch.master, "--nnodes", str(launch.nnodes)]
    if launch.rank >= 0:
        command += ["--rank", str(launch.rank)]
    if launch.host is not None:
        command += ["--host", launch.host]
    if launch.devices and plan.device != "cpu":
        command += ["--devices", ",".join(str(number) for number in launch.devices)]
    return [*command, str(Path(zoo_core.__file__).with_name("__main__.py")), *words]


class _Process:
    """A process by its number and its start, as the kernel counts it: a number may be given again."""

    def __init__(self, pid: int, started: int | None = None) -> None:
        self.pid = pid
        self.started = int(self._fields()[19]) if started is None else started

    def _fields(self) -> list[str]:
        """The fields of `/proc/PID/stat` after the command's name, the state first; none when there is no process."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return []

    def ended(self) -> str:
        """How the process ended, in words; empty while it runs."""
        fields = self._fields()
        if not fields or int(fields[19]) != self.started:
            return "died"
        if fields[0] not in "ZX":
            return ""
        code = int(fields[-1])
        return f"was killed by signal {code & 127}" if code & 127 else f"ended with status {code >> 8}"

    def kill(self) -> None:
        """End it, whatever it does."""
        if not self.ended():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class _Notes:
    """The folder in which the workers of this machine leave word."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self._missing = {worker: folder / f"worker-{worker}" for worker in range(workers)}
        self._ranks: dict[int, str] = {}
        self.workers: dict[int, _Process] = {}
        self.first: tuple[int, str] | None = None

    @property
    def stop(self) -> Path:
        """Exists once the workers are asked to stop."""
        return self.folder / "stop"

    def look(self) -> None:
        """See which workers there are, and remember the first to end before its work was done.

        Where several ended since the last look, it is one that left no word: those that lost it say so.
        """
        for worker, path in list(self._missing.items()):
            if path.exists():
                pid, started, rank = path.read_text(encoding="utf-8").split()
                self.workers[worker] = _Process(int(pid), int(started))
                self._ranks[worker] = rank
                del self._missing[worker]
        if self.first is None:
            ends = [(worker, process.ended()) for worker, process in self.workers.items()]
            early = [(worker, how) for worker, how in ends if how and not self._left("done", worker).exists()]
            self.first = min(early, key=lambda end: self._left("failure", end[0]).exists(), default=None)

    def _left(self, word: str, worker: int) -> Path:
        return self.folder / f"{word}-{self._ranks[worker]}"

    def kill(self) -> None:
        """End every worker that is left."""
        for process in self.workers.values():
            process.kill()

    def failure(self) -> ZooError | None:
        """What the first worker to end said it ends with, or any worker where that is not known; `None`: it died."""
        if self.first is not None:
            told = [path for path in [self._left("failure", self.first[0])] if path.exists()]
        else:
            told = sorted(self.folder.glob("failure-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        return ZooError(*json.loads(told[0].read_text(encoding="utf-8"))) if told else None


def spawn(launch: LaunchArguments, plan: Plan, words: Sequence[str], changes: Mapping[str, Any] | None = None) -> int:
    """Run this command in `plan.local_world` workers on this machine and return their exit status.

    Ctrl-C asks the workers to stop at the end of their step, to save, and to leave; a second one ends them at once.
    No worker is left when this returns.

    Args:
        launch: logs, machines, devices.
        plan: says how many workers and on what device.
        words: the command line without the program's name.
        changes: arguments that the workers have instead of the command line's, by name.

    Raises:
        Died: a worker ended without a word.
        ZooError: what a worker ended with.
    """
    environ = dict(os.environ)
    if changes:
        environ[_CHANGES] = json.dumps(dict(changes))
    if plan.device == "cpu":
        environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        apply_cpu_environment(plan.local_world, environ)
    with tempfile.TemporaryDirectory(prefix="zoo-launch-") as folder:
        notes = _Notes(Path(folder), plan.local_world)
        environ[_NOTES] = folder
        # a session of its own, so that Ctrl-C reaches only this process, which passes it on in its own way
        launcher = subprocess.Popen(_command(launch, plan, words), env=environ, start_new_session=True)
        try:
            status = _wait(launcher, notes)
        finally:
            notes.look()
            notes.kill()
        failure = notes.failure()
        if failure is not None:
            raise failure
        if status == 0 and not (notes.folder / "stopped").exists():
            return 0
        if status in (0, 130) or notes.stop.exists():
            return 130
    worker, how = notes.first or (None, f"ended with status {status}")
    raise Died(worker, plan.local_world, how, launch.log_dir)


def _wait(launcher: subprocess.Popen[bytes], notes: _Notes) -> int:
    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before, ending = signal.signal(signal.SIGTERM, end), False
    try:
        while True:
            try:
                while launcher.poll() is None:
                    notes.look()
                    if notes.first is not None and notes.failure() is None and not ending:
                        # nothing is left to wait for; the launcher would, and show the end of the first log once more
                        ending = True
                        notes.kill()
                        launcher.terminate()
                    time.sleep(_POLL)
                return launcher.wait()
            except KeyboardInterrupt:
                if notes.stop.exists():
                    launcher.terminate()
                else:
                    notes.stop.touch()
                    print(_STOPPING, file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        if launcher.poll() is None:
            launcher.terminate()
