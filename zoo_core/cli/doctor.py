"""`zoo doctor`: what this machine has, what zoo sets, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from zoo_core.cli._text import bytes_text, print_json
from zoo_core.environment import (
    CPU_VARIABLES,
    INSTALL_PAGE,
    apply_cpu_environment,
    cores,
    cpu_environment,
    cpu_vendor,
    device_count,
    free_memory,
    paddle_distribution,
)
from zoo_core.registry import registry

__all__ = ["command"]


_PROBE = """
import paddle
gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
xpus = paddle.device.xpu.device_count() if paddle.is_compiled_with_xpu() else 0
print(", ".join(["cpu", *(f"gpu:{n}" for n in range(gpus)), *(f"xpu:{n}" for n in range(xpus))]))
"""


class _Findings:
    """Lines to show, and what ought to be put right."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.problems: list[tuple[str, str]] = []

    def add(self, label: str, text: str) -> None:
        self.lines.append((label, text))

    def problem(self, what: str, todo: str) -> None:
        self.problems.append((what, todo))


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Say what this machine has and what is missing; exit 1 if something ought to be put right."""
    found = _Findings()
    _software(found)
    _processor(found)
    _paddle(found)
    _storage(found)
    _plugins(found)
    if as_json:
        problems: list[dict[str, Any]] = [{"what": what, "do": todo} for what, todo in found.problems]
        print_json({"found": [{"name": label, "value": text} for label, text in found.lines], "problems": problems})
        return 1 if problems else 0
    previous = ""
    for label, text in found.lines:
        click.echo(f"{label if label != previous else '':<13}{text}")
        previous = label
    for what, todo in found.problems:
        click.echo(f"\nproblem: {what}\n    do:  {todo}")
    click.echo("\nall is well" if not found.problems else "")
    return 1 if found.problems else 0


def _software(found: _Findings) -> None:
    version = platform.python_version()
    found.add("python", f"{version}  {sys.executable}")
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        found.problem(f"Python {version} is not supported", "use Python 3.10, 3.11 or 3.12")
    found.add("zoo", f"zoo-core {_version('zoo-core')}, zoo-ops {_version('zoo-ops')}")
    numpy = _version("numpy")
    found.add("numpy", numpy)
    numbers = [int(word) for word in numpy.split(".")[:2] if word.isdigit()]
    if len(numbers) == 2 and tuple(numbers) >= (2, 4):
        found.problem(f"numpy {numpy} breaks Paddle 3.3 (float() of a one-element tensor)", "pip install 'numpy<2.4'")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor(found: _Findings) -> None:
    found.add("cpu", f"{cpu_vendor()}, {cores()} processors for this process")
    memory = free_memory()
    if memory is not None:
        found.add("memory", f"{bytes_text(memory)} free")
    applied = apply_cpu_environment(1, dict(os.environ))
    for name, meaning in CPU_VARIABLES.items():
        wanted = cpu_environment(1).get(name)
        if name in applied:
            text = f"{name}={applied[name]}, set by zoo for one process: {meaning}"
        elif name in os.environ:
            other = f"; zoo would set {wanted}" if wanted not in (None, os.environ[name]) else ""
            text = f"{name}={os.environ[name]}, set by you and kept{other}"
        else:
            text = f"{name} not set: not needed on {cpu_vendor()}"
        found.add("environment", text)


def _paddle(found: _Findings) -> None:
    installed = paddle_distribution()
    gpus = device_count("gpu", {})
    found.add(
        "accelerators",
        f"{gpus} NVIDIA device{'s' if gpus != 1 else ''} in /dev" if gpus else "no NVIDIA device in /dev",
    )
    gpu_todo = f"GPU: paddlepaddle-gpu 3.x comes from Paddle's own index, see {INSTALL_PAGE}"
    if installed is None:
        found.add("paddle", "not installed: plans work, training does not")
        found.problem("PaddlePaddle is not installed", f"CPU: pip install 'zoo-core[cpu]'; {gpu_todo}")
        return
    name, version = installed
    if gpus and name == "paddlepaddle":
        found.problem(f"this machine has {gpus} GPUs, and {name} {version} is built for the CPU", gpu_todo)
    if not version.startswith("3."):
        found.problem(
            f"{name} {version} is not supported: zoo needs 3.3", f"CPU: pip install 'zoo-core[cpu]'; {gpu_todo}"
        )
    # In a process of its own: a Paddle that crashes as it loads is what the doctor is asked to find.
    tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if tried.returncode:
        said = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
        found.add("paddle", f"{name} {version}, cannot be imported")
        found.problem(f"paddle cannot be imported: {said[-1]}", f"pip install --force-reinstall {name}")
        return
    devices = tried.stdout.strip().splitlines()[-1]
    found.add("paddle", f"{name} {version}")
    found.add("paddle", f"devices: {devices}" + (" (training in fp32)" if devices == "cpu" else ""))


def _storage(found: _Findings) -> None:
    found.add("disk", f"{bytes_text(shutil.disk_usage('.').free)} free in {Path.cwd()}")
    home = os.environ.get("ZOO_HOME", "")
    if not home:
        found.add("ZOO_HOME", "not set; weights are looked for in --model_path and the current folder")
        return
    exists = Path(home).expanduser().is_dir()
    found.add("ZOO_HOME", home if exists else f"{home}, which is no folder")
    if not exists:
        found.problem(f"ZOO_HOME is {home}, which is no folder", "make it, or unset ZOO_HOME")


def _plugins(found: _Findings) -> None:
    plugins = registry()
    for a in plugins.architectures:
        found.add("plugins", f"{a.name} ({a.distribution} {a.version}): {len(a.capabilities.models)} models")
    for broken in plugins.broken:
        found.add("plugins", f"{broken.name} is broken")
        found.problem(f"plugin {broken.name}: {broken.reason}", broken.todo)
    if not plugins.architectures and not plugins.broken:
        found.add("plugins", "none")
        found.problem("no plugin is installed", "pip install zoo-llama, say")
