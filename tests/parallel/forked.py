"""Starts the ranks of a launch by forking: what a worker imports is imported once for all of them.

    forked.py WORLD LOGS WORKER.py WORDS ...

The ranks have the environment that Paddle's launcher gives, and write to `LOGS/workerlog.RANK`. When one fails the
others are ended, as the launcher ends them. `test_command.py` and two machines go through the launcher itself.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

from nursery import environment, fork, free_ports  # noqa: E402


def work(rank: int, ports: list[int], logs: Path, worker: str) -> int:
    """One rank, in a process of its own; gives 0, and raises what the worker raises."""
    log = os.open(logs / f"workerlog.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(environment(rank, ports))
    runpy.run_path(worker, run_name="__main__")
    return 0


def main(world: int, logs: Path, worker: str) -> int:
    """Fork the ranks and wait for them; gives 0, or the status of the first that failed."""
    runpy.run_path(worker, run_name="imported")  # under this name it only imports
    ports = free_ports(world + 1)
    ranks: set[int] = set()
    for rank in range(world):
        ranks.add(fork(partial(work, rank, ports, logs, worker)))
    first = 0
    while ranks:
        ended, status = os.wait()
        ranks.discard(ended)
        if status and not first:
            first = abs(os.waitstatus_to_exitcode(status))
            for pid in ranks:
                os.kill(pid, signal.SIGKILL)
    return first


if __name__ == "__main__":
    _, size, folder, *sys.argv = sys.argv
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    sys.exit(main(int(size), Path(folder), sys.argv[0]))
