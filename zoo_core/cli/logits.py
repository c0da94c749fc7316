"""`zoo logits`: the logits of given ids under any plan, so that anyone can compare zoo with something else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zoo_core.arguments import load_arguments
from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._names import argument_flags
from zoo_core.cli._words import split_model, take_option, take_switch
from zoo_core.environment import apply_cpu_environment, device_of, require_paddle
from zoo_core.errors import ConfigError, DataError
from zoo_core.plan import chosen_model, compose, from_arguments, world_size

__all__ = ["complete", "main"]

_OWN = {"--ids": ".npy, int64 [batch, sequence]", "--out": ".npy to write, float32 [batch, sequence, vocabulary]"}

_HELP = """Usage: zoo logits PATH --ids FILE --out FILE [--nproc N] [--tp N] ...

Compute the logits of the ids in a file, with the weights in PATH, under any plan.
PATH is a Hugging Face folder or a zoo checkpoint.

  zoo logits ./qwen-7b --ids ids.npy --out logits.npy
  zoo logits ./checkpoint-100 --ids ids.npy --out logits.npy --nproc 4 --tp 2 --pp 2

Options:
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the flags; every other word is a file."""
    return {**_OWN, **argument_flags()} if incomplete.startswith("-") else {}


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Parse, compose, hand over; return the exit status.

    Raises:
        UsageFailure: something needed is missing.
        DataError: there is no file of ids.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    if wants_help or not words:
        print(_HELP + "\n".join(f"  {name:<8}{text}" for name, text in _OWN.items()))
        print("  --nproc, --tp, --pp, --sharding, --device, ... as in zoo run")
        return 0 if wants_help else 2
    ids, rest = take_option(rest, "--ids")
    out, rest = take_option(rest, "--out")
    path, rest = split_model(rest)
    if not (path and ids and out):
        missing = [name for name, value in (("PATH", path), ("--ids", ids), ("--out", out)) if not value]
        raise UsageFailure(f"{' and '.join(missing)} missing", "", "zoo logits PATH --ids ids.npy --out logits.npy")
    if not Path(ids).is_file():
        raise DataError(f"there is no file {ids}", "--ids needs an .npy of int64 [batch, sequence]")
    if not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"cannot write {out}", f"there is no folder {Path(out).parent}", "make it, or change --out")
    arguments = load_arguments("predict", (), ["--model", path, *rest])
    device = device_of(arguments.training.device)
    found, config = chosen_model(arguments)
    world = world_size(arguments, os.environ)
    plan = compose(from_arguments(arguments, world, device), found.architecture, config, found.name)
    require_paddle(device)
    if device == "cpu":
        apply_cpu_environment(plan.local_world, os.environ)
    from zoo_core.train.logits import main as compute  # imports paddle

    return compute(arguments.replace(device=device), plan, Path(path), Path(ids), Path(out)) or 0
