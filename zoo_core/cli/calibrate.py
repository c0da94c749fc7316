"""`zoo calibrate`: measure the device of this machine, and write a description that `--hardware` reads."""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_core._atomic import written_beside
from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._words import nothing_left, take_option, take_switch
from zoo_core.engine.quiet import import_paddle, quiet_environment
from zoo_core.environment import apply_cpu_environment, cores, device_of, free_memory, require_paddle
from zoo_core.plan.hardware import Hardware, default_hardware, hardware

__all__ = ["complete", "main"]

_OWN = {
    "--output": "file to write [NAME.json]",
    "--name": "what to call the device [here]",
    "--device": "cpu or gpu; auto is what Paddle is built for [auto]",
    "--like": "description to take from what is not measured here: links to other devices and machines",
    "--seconds": "time for each measurement [2]",
    "--json": "print the description, and write no file",
}

_HELP = """Usage: zoo calibrate [--output FILE.json] [--device cpu|gpu] [--like NAME]

Measure matrix products and passes over memory on the device of this machine, and write a description of it:

  zoo calibrate --output here.json
  zoo plan qwen/qwen-7b --world 8 --hardware here.json

Links between devices take several of them to measure, and are taken from --like (a100-80g for a GPU).

Options:
"""

_PRODUCTS = ((2048, 4096, 4096), (2048, 4096, 11008), (2048, 11008, 4096))
_SMALL_PRODUCTS = ((1024, 512, 512), (1024, 512, 1376), (1024, 1376, 512))
"""(tokens, in, out) of the matrix products of blocks, for a GPU and for a CPU."""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the words that may follow."""
    return _OWN


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Measure, write, print; return 0.

    Raises:
        MachineError: there is no Paddle for the device.
        ConfigError: `--like` names no description.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    output, rest = take_option(rest, "--output")
    name, rest = take_option(rest, "--name")
    device, rest = take_option(rest, "--device")
    like, rest = take_option(rest, "--like")
    seconds, rest = take_option(rest, "--seconds")
    if wants_help:
        print(_HELP + "\n".join(f"  {flag:<21}{text}" for flag, text in _OWN.items()))
        return 0
    nothing_left(rest, "calibrate", _OWN)
    kind = device_of(device or "auto")
    try:
        budget = float(seconds or 2)
    except ValueError:
        budget = 0.0
    if not 0 < budget < 600:
        raise UsageFailure(f"--seconds {seconds} is no time", "it is a number of seconds, above 0 and below 600")
    base = hardware(like) if like else default_hardware(kind)
    require_paddle(kind)
    quiet_environment(os.environ)
    if kind == "cpu":
        apply_cpu_environment(1, os.environ)
    import_paddle(kind)
    found = replace(_measured(kind, base, budget), name=name or "here")
    content = found.to_dict()
    if as_json:
        print(json.dumps(content, indent=2))
        return 0
    path = Path(output or f"{found.name}.json")
    with written_beside(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
    for dtype, peak in found.flops.items():
        print(f"{dtype:<10} {peak / 1e12:.4g} TFLOP/s, {found.matmul:.0%} of it in a block's products")
    print(f"memory     {found.memory / 2**30:.4g} GiB, {found.bandwidth / 1e9:.4g} GB/s")
    print(f"wrote      {path}; use it with --hardware {path}")
    return 0


def _measured(kind: str, base: Hardware, seconds: float) -> Hardware:
    import paddle

    held = _most_resident() + _RUN
    flops, share = {}, 1.0
    large, products = (4096, _PRODUCTS) if kind != "cpu" else (1024, _SMALL_PRODUCTS)
    for dtype in ("float32", "bfloat16", "float16") if kind != "cpu" else ("float32",):
        try:
            flops[dtype] = _product_rate((large, large, large), dtype, kind, seconds)
        except (RuntimeError, ValueError, OSError):
            continue  # this device does not compute in it
        reached = statistics.mean(_product_rate(sizes, dtype, kind, seconds / len(products)) for sizes in products)
        share = min(reached / flops[dtype], 1.0)
    x = paddle.ones([(1 << 26) if kind != "cpu" else (1 << 24)], dtype="float32")
    passed = 2 * 4 * x.size / _seconds(lambda: x * 1.5, kind, seconds)
    if kind == "cpu":
        note = f"{cores()} processors, which the processes share; measured by zoo calibrate"
        memory = free_memory() or base.memory
    else:
        note = f"{paddle.device.cuda.get_device_name()}, measured by zoo calibrate; links as {base.name} has them"
        memory = int(paddle.device.cuda.get_device_properties().total_memory)
    return replace(
        base,
        device=kind,
        memory=memory,
        flops=flops,
        bandwidth=passed,
        matmul=share * _LOADED,
        stream=_LOADED,
        devices=1 if kind == "cpu" else paddle.device.cuda.device_count(),
        process=held if kind == "cpu" else 0,
        note=note,
    )


_RUN = 48 << 20
"""Bytes that a run holds besides Paddle: its own modules, data, tokenizer, threads."""
_LOADED = 0.9
"""What is left of a rate measured alone when one operation follows another."""


def _product_rate(sizes: tuple[int, int, int], dtype: str, kind: str, seconds: float) -> float:
    """FLOP/s of a matrix product."""
    import paddle

    rows, inner, columns = sizes
    x, w = paddle.ones([rows, inner], dtype=dtype), paddle.ones([inner, columns], dtype=dtype)
    return 2.0 * rows * inner * columns / _seconds(lambda: paddle.matmul(x, w), kind, seconds)


def _seconds(operation: Callable[[], Any], kind: str, budget: float) -> float:
    """The median time of an operation, in seconds."""
    import paddle

    def once() -> float:
        start = time.perf_counter()
        operation()
        if kind != "cpu":
            paddle.device.synchronize()
        return time.perf_counter() - start

    once(), once()
    times, end = [once()], time.perf_counter() + budget
    while time.perf_counter() < end and len(times) < 1000:
        times.append(once())
    return statistics.median(times)


def _most_resident() -> int:
    """The most bytes that this process has held at once.

    `ru_maxrss` counts what the parent held before it started this program, so the kernel's own record comes first.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
