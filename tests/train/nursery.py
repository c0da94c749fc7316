"""A process that has imported all of zoo and Paddle, and forks the ranks of one job after another.

Starting four processes takes longer than what a kill test does with them. Each job is `zoo run ...` in ranks with the
environment that Paddle's launcher gives, so they are workers like any others. One JSON object a line on standard input:
`words`, `world`, `log` (a prefix), `kill`: `null` or `{"rank", "kind", "nth", "delay", "alone"}`: rank `rank` dies by
signal 9, alone or with all others, `delay` seconds after its `nth` change of the disk of a kind ("" is any). Answer:
the status of each rank, and how many changes of each kind rank 0 made, if it lived.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

GRACE = 0.3
"""Seconds after which a job ends whose rank died alone, as the launcher would end it."""


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def environment(rank: int, ports: list[int]) -> dict[str, str]:
    ends = [f"127.0.0.1:{port}" for port in ports[1:]]
    return {
        "PADDLE_MASTER": f"127.0.0.1:{ports[0]}",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
        "PADDLE_CURRENT_ENDPOINT": ends[rank],
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_GLOBAL_RANK": str(rank),
        "PADDLE_LOCAL_RANK": str(rank),
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(ends)),
        "PADDLE_GLOBAL_SIZE": str(len(ends)),
        "PADDLE_LOCAL_SIZE": str(len(ends)),
        "PADDLE_NNODES": "1",
    }


def watch_disk(kill: dict[str, Any] | None, counts: dict[str, int]) -> None:
    """Count the changes of the disk that saves make in this process, and die at the one that was chosen."""
    from zoo_core.checkpoint.disk import Disk

    def die() -> None:
        if kill["alone"]:
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(0, signal.SIGKILL)

    def before(kind: str, path: Any) -> None:
        for name in (kind, ""):
            counts[name] = counts.get(name, 0) + 1
        if kill is not None and counts.get(kill["kind"], 0) == kill["nth"] and kind == (kill["kind"] or kind):
            if kill["delay"]:
                threading.Timer(kill["delay"], die).start()
            else:
                die()

    Disk.__init__.__defaults__ = (before,)


def work(rank: int, ports: list[int], job: dict[str, Any], told: int) -> int:
    """One rank, in a process of its own."""
    log = os.open(f"{job['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    if job["world"] > 1:
        os.environ.update(environment(rank, ports))
    counts: dict[str, int] = {}
    kill = job["kill"]
    watch_disk(kill if kill and kill["rank"] == rank else None, counts)
    from zoo_core.cli import main

    status = main(job["words"])
    if rank == 0:
        os.write(told, json.dumps(counts).encode())
    return status


def fork(do: Callable[[], int]) -> int:
    """Start a process that does it and ends with the status it gives, or with 1; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = do()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork the ranks, wait for them, and end those that are left when one has died."""
    ports = free_ports(job["world"] + 1)
    reading, writing = os.pipe()
    ranks: list[int] = []

    def start(rank: int) -> int:
        os.setpgid(0, ranks[0] if ranks else 0)
        os.close(reading)
        return work(rank, ports, job, writing)

    for rank in range(job["world"]):
        pid = fork(partial(start, rank))
        os.setpgid(pid, ranks[0] if ranks else pid)
        ranks.append(pid)
    os.close(writing)
    left, statuses, limit = dict.fromkeys(ranks), {}, time.monotonic() + job.get("limit", 120)
    while left:
        for pid in list(left):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = os.waitstatus_to_exitcode(status)
                left.pop(pid)
                if statuses[pid] < 0 and job.get("grace", GRACE) is not None:
                    limit = min(limit, time.monotonic() + job.get("grace", GRACE))
        if time.monotonic() > limit:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            limit = time.monotonic() + 60
        time.sleep(0.005)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    return {"statuses": [statuses[pid] for pid in ranks], "changes": json.loads(said) if said else {}}


def main() -> None:
    from zoo_core.engine.quiet import import_paddle, quiet_environment

    quiet_environment(os.environ)
    import_paddle("cpu")
    import zoo_core.cli.run
    import zoo_core.train.dpo
    import zoo_core.train.pretrain
    import zoo_core.train.sft  # noqa: F401  all of it now: files that change while a long test runs do not matter

    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
