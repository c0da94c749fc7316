"""What this machine has, and the environment that makes Paddle quick on its CPU. No paddle.

The variables act only if they are set before paddle is imported; what the user set is never overridden.
"""

from __future__ import annotations

import glob
import math
import os
import platform
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from zoo_core.errors import ConfigError, MachineError

__all__ = [
    "CPU_VARIABLES",
    "INSTALL_PAGE",
    "apply_cpu_environment",
    "cores",
    "cpu_environment",
    "cpu_vendor",
    "device_count",
    "device_of",
    "free_memory",
    "local_processes",
    "paddle_distribution",
    "ready_device",
    "require_paddle",
]

INSTALL_PAGE = "https://www.paddlepaddle.org.cn/install"

CPU_VARIABLES = {
    "OMP_NUM_THREADS": "threads of a process; Paddle's own default is 1",
    "MKL_DEBUG_CPU_TYPE": "makes Paddle's MKL take its fast path on AMD",
}

_DISTRIBUTIONS = {"paddlepaddle-gpu": "gpu", "paddlepaddle-xpu": "xpu", "paddlepaddle": "cpu"}


@lru_cache(maxsize=1)
def cpu_vendor() -> str:
    """Return "AMD", "Intel", or what the machine calls its processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("vendor_id"):
            vendor = line.partition(":")[2].strip()
            return {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}.get(vendor, vendor)
    return platform.machine()


def _quota() -> float:
    """The container's share of processors, in processors; infinite when there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def cores() -> int:
    """Return how many processors this process may use: its affinity, and its container's share."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, math.floor(min(_quota(), 1e9))))


def free_memory() -> int | None:
    """Return the bytes of memory that can still be used; `None` where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return available if limit == "max" else max(0, min(available, int(limit) - used))
    except (OSError, ValueError):
        return available


def local_processes(environ: Mapping[str, str]) -> int:
    """Return how many workers `paddle.distributed.launch` started on this machine; 1 outside of a launch."""
    for name in ("PADDLE_LOCAL_SIZE", "PADDLE_TRAINERS_NUM"):
        if environ.get(name, "").isdigit():
            return max(1, int(environ[name]))
    return 1


def cpu_environment(processes: int) -> dict[str, str]:
    """Return the variables that suit `processes` workers on this machine, whatever is set already."""
    wanted = {"OMP_NUM_THREADS": str(max(1, cores() // max(processes, 1)))}
    if cpu_vendor() == "AMD":
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    return wanted


def apply_cpu_environment(processes: int, environ: MutableMapping[str, str]) -> dict[str, str]:
    """Set the variables that the user did not set, before paddle is imported; return those.

    Measured on two cores of an AMD EPYC, fp32 matrix products: 40 GFLOP/s as Paddle installs, over 176 with both.

    Args:
        processes: workers on this machine, which share its processors.
        environ: `os.environ`, or the environment that workers will be started with.
    """
    found = {name: value for name, value in cpu_environment(processes).items() if name not in environ}
    environ.update(found)
    return found


def paddle_distribution() -> tuple[str, str] | None:
    """Return (distribution, version) of the installed Paddle without importing it; `None` when there is none."""
    for name in _DISTRIBUTIONS:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def require_paddle(device: str) -> None:
    """Check that the installed Paddle can run on `device`.

    Raises:
        MachineError: Paddle is missing, or built for another device; says how to install it.
    """
    found = paddle_distribution()
    gpu = f"a Paddle for {device if device != 'cpu' else 'GPU'} comes from Paddle's own index, see {INSTALL_PAGE}"
    if found is None:
        todo = "pip install 'zoo-core[cpu]'; " + gpu
        raise MachineError("PaddlePaddle is not installed", "training and inference need it; plans do not", todo)
    built = _DISTRIBUTIONS[found[0]]
    if device not in (built, "cpu"):
        raise MachineError(
            f"this Paddle cannot run on {device}",
            f"{found[0]} {found[1]} is built for {built}",
            f"--device {built}, or: {gpu}",
        )


def device_of(name: str) -> str:
    """Return what `--device NAME` means here: `auto` is what Paddle is built for, if the machine has one."""
    if name != "auto":
        return name
    found = paddle_distribution()
    built = _DISTRIBUTIONS[found[0]] if found else "cpu"
    return built if built != "cpu" and device_count(built, os.environ) else "cpu"


def device_count(device: str, environ: Mapping[str, str]) -> int:
    """Return the accelerators of this machine that the environment lets a process see; 1 for the CPU."""
    if device == "cpu":
        return 1
    variable, nodes = {
        "gpu": ("CUDA_VISIBLE_DEVICES", "/dev/nvidia[0-9]*"),
        "xpu": ("XPU_VISIBLE_DEVICES", "/dev/xpu[0-9]*"),
    }.get(device, ("", "/dev/davinci[0-9]*"))
    if variable in environ:
        return len([word for word in environ[variable].split(",") if word.strip() not in ("", "-1")])
    return len(glob.glob(nodes))


def ready_device(device: str, dtype: str) -> str:
    """Return the device that "auto" means, once Paddle is there and the environment makes it quick, on one process.

    Args:
        device: "auto", "cpu", "gpu" or "xpu".
        dtype: of the weights.

    Raises:
        ConfigError: a type that CPUs do not have.
        MachineError: Paddle is missing, or built for another device.
    """
    device = device_of(device)
    require_paddle(device)
    if device == "cpu":
        if dtype != "float32":
            raise ConfigError(
                f"dtype is {dtype}, which needs a GPU", "Paddle has no such kernels for CPUs", "leave it out"
            )
        apply_cpu_environment(1, os.environ)
    return device
