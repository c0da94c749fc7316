"""Arguments about starting processes."""

from __future__ import annotations

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import argument, no_effect

__all__ = ["LaunchArguments"]


@group
class LaunchArguments(Group):
    """How many processes, on which devices and machines, and what the command prints."""

    nproc: int | None = argument(
        None, "Processes on this machine; empty is one for each device.", aliases=("nproc_per_node",), minimum=1
    )
    devices: tuple[int, ...] = argument(
        (), "Device numbers to use, such as 0,1,2,3.", aliases=("gpus", "xpus", "npus"), minimum=0
    )
    master: str | None = argument(None, "IP:PORT of the first machine, for more than one machine.")
    nnodes: int = argument(1, "Number of machines.", minimum=1)
    rank: int = argument(-1, "Number of this machine; -1 lets the launcher agree on it.", aliases=("node_rank",),
                         minimum=-1)  # fmt: skip
    host: str | None = argument(None, "Address of this machine as the others see it.")
    job_id: str = argument("default", "Name of the job; part of the log file names.")
    log_dir: str = argument("log", "Folder of the worker logs (workerlog.N).")
    max_restarts: int = argument(
        0,
        "When a worker dies, go on from the last good checkpoint, at most so often; one that dies twice without a "
        "new checkpoint is left out. On one machine.",
        aliases=("max_restart",),
        minimum=0,
    )
    local_rank: int = argument(
        -1, "PaddleNLP: this process's number on its machine.", effect=no_effect("the launcher's environment says it")
    )
    dry_run: bool = argument(False, "Print the plan and what would be done, and stop.")
    traceback: bool = argument(False, "Show the full traceback of an expected failure.")
