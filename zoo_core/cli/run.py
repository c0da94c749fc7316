"""`zoo run TASK`: arguments, model, plan; then the engine starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from zoo_core.arguments import TASKS, Arguments, effect_line, help_text, load_arguments
from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._names import argument_flags
from zoo_core.cli._plan import rank_table, stage_table
from zoo_core.environment import apply_cpu_environment, device_count, device_of, require_paddle
from zoo_core.errors import nearest
from zoo_core.plan import Plan, chosen_model, compose, from_arguments, world_size

__all__ = ["complete", "main"]

_READY = {"pretrain": "train a model on raw text"}

_HELP = """Usage: zoo run TASK [FILE.json|FILE.yaml ...] [--flag value ...] [-o Section.key=value ...]

Run a task:

  zoo run pretrain --model qwen/qwen-7b --scale tiny --input_dir data --max_steps 100
  zoo run pretrain pretrain.json --nproc 4 --tp 2 --pp 2
  zoo run pretrain pretrain.json --master 10.0.0.1:6070 --nnodes 2

zoo run TASK --help lists the arguments; --dry-run prints the plan and starts nothing.

Tasks:
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the words that may follow: a task, then flags."""
    if not words:
        return _READY
    return argument_flags() if incomplete.startswith("-") else {}


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Parse, plan, print, launch; return the exit status of the run.

    Raises:
        UsageFailure: there is no such task.
    """
    task = words[0] if words else "--help"
    if task in ("--help", "-h"):
        print(_HELP + "\n".join(f"  {name:<12}{text}" for name, text in _READY.items()))
        return 0 if words else 2
    if task not in _READY:
        raise _no_task(task)
    if {"--help", "-h"} & set(words):
        print(help_text(task), end="")
        return 0
    return _run(load_arguments(task, (), [*words[1:], *(["--traceback"] if with_traceback else [])]))


def _no_task(task: str) -> UsageFailure:
    tasks = ", ".join(_READY)
    if task in TASKS:
        return UsageFailure(f"zoo run {task} is not in this version", f"it has {tasks}")
    near = nearest(task, _READY)
    todo = f"did you mean {near!r}?" if near else "zoo run --help says what there is"
    return UsageFailure(f"there is no task {task!r}", f"tasks: {tasks}", todo)


def _run(arguments: Arguments) -> int:
    device = device_of(arguments.training.device)
    first = os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    if first:
        _warn(arguments, device)
    found, config = chosen_model(arguments)
    world = world_size(arguments, os.environ, device_count(device, os.environ))
    plan = compose(from_arguments(arguments, world, device), found.architecture, config, found.name)
    if first:
        if arguments.model.scale:
            print(f"SCALE {arguments.model.scale.upper()}: the architecture of {found.name}, at small sizes")
        print(f"model      {found.name}\n{plan.describe(stages=False)}", flush=True)
    if arguments.launch.dry_run:
        parameters = found.architecture.table(config)
        print(f"{_arithmetic(arguments, plan)}\n\n{stage_table(plan, parameters)}\n\n{rank_table(plan, 16)}")
        print("\ndry run: nothing was started")
        return 0
    require_paddle(device)
    if device == "cpu":
        apply_cpu_environment(plan.local_world, os.environ)
    from zoo_core.engine.launch import launch  # imports paddle

    return launch(arguments.replace(device=device), plan) or 0


def _warn(arguments: Arguments, device: str) -> None:
    """Print the arguments' warnings; `--device auto` is known only now, so the line on effects is made again."""
    before, now = effect_line(arguments, arguments.training.device), effect_line(arguments, device)
    for line in dict.fromkeys([now, *(line for line in arguments.warnings if line != before)]):
        if line:
            print(f"warning: {line}", file=sys.stderr)


def _arithmetic(arguments: Arguments, plan: Plan) -> str:
    """How long the run is, where the arguments alone say it."""
    steps = arguments.training.max_steps
    if steps <= 0:
        return f"steps      {arguments.training.num_train_epochs:g} epochs of the training part"
    samples = steps * plan.global_batch
    tokens = f", {samples * plan.sequence:,} tokens" if plan.sequence else ""
    return f"steps      {steps:,} of {plan.global_batch} samples = {samples:,} samples{tokens}"
