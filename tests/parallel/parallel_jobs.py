"""Start workers, wait for them with a limit, and read what they found. No paddle in this process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

WORKER = Path(__file__).with_name("parallel_worker.py")
FORKED = Path(__file__).with_name("forked.py")
STALLED = 240.0
"""Seconds without a new result after which a launch is ended; generous, for a loaded machine."""


def environment() -> dict[str, str]:
    """One thread a process, and nothing of a launch that this process may be part of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE_", "ZOO_LAUNCH"))}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5", "PADDLE_DISTRI_BACKEND": "gloo"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`; the launcher puts its workers in sessions of their own, so a group is not enough."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(entry.parent.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def end(process: subprocess.Popen[Any]) -> None:
    """End a launcher and everything it started, and wait for it."""
    below = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def commands(processes: int, nodes: int, logs: Path, words: Sequence[str], forked: bool) -> list[list[str]]:
    """The command of each machine's launcher: Paddle's, or for one machine ours, which imports once for all ranks."""
    if processes == 1:
        return [[sys.executable, *words]]
    if nodes == 1 and forked:
        return [[sys.executable, str(FORKED), str(processes), str(logs), *words]]
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes // nodes)]
    launcher += ["--log_level", "WARNING", "--max_restart", "0"]
    if nodes == 1:
        return [[*launcher, "--log_dir", str(logs), *words]]
    several = ["--master", f"127.0.0.1:{free_port()}", "--nnodes", str(nodes)]
    return [
        [*launcher, *several, "--rank", str(node), "--log_dir", str(logs / f"node{node}"), *words]
        for node in range(nodes)
    ]


def tail(logs: Path, lines: int = 25) -> str:
    """The ends of all logs below a folder."""
    texts = []
    for path in sorted(path for path in logs.rglob("*") if path.is_file()):
        kept = [line for line in path.read_text(errors="replace").splitlines() if line.strip()][-lines:]
        texts.append("\n".join([f"--- {path.relative_to(logs)}", *kept]))
    return "\n".join(texts)


class Results:
    """Runs tasks once, in as few launches as there are different worlds, and keeps what they found."""

    def __init__(self, folder: Path, worker: Path = WORKER, forked: bool = True) -> None:
        self.folder, self._worker, self._forked = folder, worker, forked
        self._launches = count(1)
        self._failed: dict[str, str] = {}

    def run(self, tasks: Iterable[dict[str, Any]], processes: int, nodes: int = 1) -> None:
        """Run the tasks that have not been run yet. After a failure the rest goes to a fresh launch.

        Those of one process run beside one another on two cores; the tasks of a model stay together and in order.
        """
        parts = [list(tasks)]
        if processes == 1:
            models = list(dict.fromkeys(task["model"] for task in parts[0]))
            parts = [[task for task in parts[0] if task["model"] in half] for half in (models[0::2], models[1::2])]
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: self._run(part, processes, nodes), parts))

    def _run(self, tasks: list[dict[str, Any]], processes: int, nodes: int) -> None:
        left = [task for task in tasks if not self._known(task["id"])]
        while left:
            why = self._launch(left, processes, nodes)
            left = [task for task in left if not self._known(task["id"])]
            if left:
                self._failed[left.pop(0)["id"]] = why or "the workers ended without a result"

    def _known(self, name: str) -> bool:
        return name in self._failed or (self.folder / name / "result.json").exists()

    def _launch(self, tasks: list[dict[str, Any]], processes: int, nodes: int) -> str:
        place = self.folder / f"launch{next(self._launches)}"
        logs = place / "logs"
        logs.mkdir(parents=True)
        listed = place / "tasks.json"
        listed.write_text(json.dumps(tasks), encoding="utf-8")
        words = [str(self._worker), str(listed), str(self.folder)]
        running = []
        for number, command in enumerate(commands(processes, nodes, logs, words, self._forked)):
            with open(logs / f"launcher{number}", "wb") as log:
                running.append(
                    subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
                )
        try:
            why = self._wait(running, tasks)
        finally:
            for process in running:
                end(process)
        return why and f"{why}\n{tail(logs)}"

    def _wait(self, running: list[subprocess.Popen[Any]], tasks: list[dict[str, Any]]) -> str:
        done, since = 0, time.monotonic()
        while True:
            statuses = [process.poll() for process in running]
            if any(status not in (None, 0) for status in statuses):
                return f"a launcher ended with status {statuses}"
            if None not in statuses:
                return ""
            now = sum(self._known(task["id"]) for task in tasks)
            if now > done:
                done, since = now, time.monotonic()
            if time.monotonic() - since > STALLED:
                return f"no result for {STALLED:.0f} s"
            time.sleep(0.05)

    def failure(self, name: str) -> str:
        """Why a task has no result, with the ends of its logs; empty when it has one."""
        return self._failed.get(name, "")

    def path(self, name: str) -> Path:
        """The folder of a task's results; fails the test that asks, with the logs, if there are none."""
        assert name not in self._failed, self.failure(name)
        return self.folder / name

    def of(self, name: str) -> dict[str, Any]:
        """What a task found."""
        return json.loads((self.path(name) / "result.json").read_text(encoding="utf-8"))


def tensors(folder: Path, group: str) -> dict[str, np.ndarray]:
    """Every tensor of one group of files of a checkpoint."""
    listed = json.loads((folder / f"{group}.safetensors.index.json").read_text())["weight_map"]
    found = {}
    for file in sorted(set(listed.values())):
        with safe_open(folder / file, "np") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})
    return found
