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
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import zoo_core
from zoo_core.arguments import LaunchArguments
from zoo_core.environment import apply_cpu_environment
from zoo_core.errors import ZooError
from zoo_core.plan import Plan

__all__ = ["handle_stop_signals", "in_worker", "is_spawned", "report_failure", "spawn", "stop_requested"]

_NOTES = "ZOO_LAUNCH_NOTES"
"""Names the folder through which a launch and its workers on one machine leave each other word."""

_STOPPING = "\nstopping: saving at the end of this step (once more to end at once)"

_stop = False


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


def spawn(launch: LaunchArguments, plan: Plan, words: Sequence[str]) -> int:
    """Run this command in `plan.local_world` workers on this machine and return their exit status.

    Ctrl-C asks the workers to stop at the end of their step, to save, and to leave; a second one ends them at once.

    Args:
        launch: logs, machines, devices.
        plan: says how many workers and on what device.
        words: the command line without the program's name.

    Raises:
        ZooError: what a worker ended with, of the lowest rank that said so.
    """
    environ = dict(os.environ)
    if plan.device == "cpu":
        environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        apply_cpu_environment(plan.local_world, environ)
    with tempfile.TemporaryDirectory(prefix="zoo-launch-") as notes:
        environ[_NOTES] = notes
        # a session of its own, so that Ctrl-C reaches only this process, which passes it on in its own way
        launcher = subprocess.Popen(_command(launch, plan, words), env=environ, start_new_session=True)
        status = _wait(launcher, Path(notes))
        failures = sorted(Path(notes).glob("failure-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        if failures:
            raise ZooError(*json.loads(failures[0].read_text(encoding="utf-8")))
        if status not in (0, 130) and (Path(notes) / "stop").exists():
            return 130
    if status not in (0, 130):
        raise ZooError(
            f"a worker ended with status {status}",
            "it was killed, or met an error that is in its log",
            f"see {launch.log_dir}/workerlog.*",
        )
    return status


def _wait(launcher: subprocess.Popen[bytes], notes: Path) -> int:
    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        while True:
            try:
                return launcher.wait()
            except KeyboardInterrupt:
                if (notes / "stop").exists():
                    launcher.terminate()
                else:
                    (notes / "stop").touch()
                    print(_STOPPING, file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        if launcher.poll() is None:
            launcher.terminate()
