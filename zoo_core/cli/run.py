"""`zoo run TASK`: arguments, model, plan; then the engine starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from zoo_core.arguments import TASKS, Arguments, effect_line, help_text, load_arguments
from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._names import argument_flags
from zoo_core.cli._plan import rank_table, stage_table
from zoo_core.cli._text import count_text
from zoo_core.engine.launch import is_spawned, report_end, report_failure, report_start, restart_changes
from zoo_core.engine.quiet import import_paddle, quiet_environment
from zoo_core.environment import apply_cpu_environment, device_count, device_of, require_paddle
from zoo_core.errors import ZooError, nearest
from zoo_core.plan import Plan, chosen_model, compose, from_arguments, world_size
from zoo_core.registry import Found
from zoo_core.train.prepared import Prepared

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
    traceback = ["--traceback"] if with_traceback else []
    arguments = load_arguments(task, (), [*words[1:], *traceback])
    try:
        return report_end(_run(arguments, ["run", *words, *traceback]))
    except ZooError as error:
        if is_spawned() and report_failure(error):
            return 2
        raise


def _no_task(task: str) -> UsageFailure:
    tasks = ", ".join(_READY)
    if task in TASKS:
        return UsageFailure(f"zoo run {task} is not in this version", f"it has {tasks}")
    near = nearest(task, _READY)
    todo = f"did you mean {near!r}?" if near else "zoo run --help says what there is"
    return UsageFailure(f"there is no task {task!r}", f"tasks: {tasks}", todo)


def _run(arguments: Arguments, words: Sequence[str]) -> int:
    report_start()
    arguments = arguments.replace(**restart_changes())
    device = device_of(arguments.training.device)
    speaks = not is_spawned() and os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    if speaks:
        _warn(arguments, device)
    arguments = arguments.replace(device=device)
    found, config = chosen_model(arguments)
    world = world_size(arguments, os.environ, device_count(device, os.environ))
    request = from_arguments(arguments, world, device)
    plan = compose(request, found.architecture, config, found.name)
    rehearsal = arguments.launch.dry_run
    if not rehearsal:
        require_paddle(device)
    prepared, refused = Prepared(config), None
    if not rehearsal or arguments.data.input_dir:
        from zoo_core.train.prepare import prepare  # reads corpora with numpy, which help and rehearsals do without

        try:
            prepared = prepare(arguments, found, config)
        except ZooError as error:
            if not rehearsal:
                raise
            refused = error
        plan = compose(request, found.architecture, prepared.config, found.name)
    if speaks:
        _introduce(arguments, found, prepared, plan)
    if rehearsal:
        parameters = found.architecture.table(prepared.config)
        print(f"{_arithmetic(arguments, plan)}\n\n{stage_table(plan, parameters)}\n\n{rank_table(plan, 16)}")
        if refused is not None:  # the plan was shown all the same: it may be meant for another machine
            print(flush=True)
            raise refused
        print("\ndry run: nothing was started")
        return 0
    quiet_environment(os.environ)
    launched = is_spawned() or "PADDLE_TRAINER_ID" in os.environ
    if not launched and (plan.world > 1 or arguments.launch.max_restarts):
        from zoo_core.engine.restart import keep_running  # reads checkpoints with numpy, as above

        if prepared.resume is not None:  # chosen once, for all workers
            words = [*words, "--resume", str(prepared.resume)]
        start = str(prepared.start or f"random, seed {arguments.training.seed}")
        return keep_running(arguments, plan, found, prepared.config, start, words)
    if device == "cpu":
        apply_cpu_environment(plan.local_world, os.environ)
    import_paddle(device)
    from zoo_core.train.pretrain import run

    return run(arguments, plan, found, prepared, words)


def _introduce(arguments: Arguments, found: Found, prepared: Prepared, plan: Plan) -> None:
    """Say what is about to run."""
    if arguments.model.scale:
        print(f"SCALE {arguments.model.scale.upper()}: the architecture of {found.name}, at small sizes")
    for line in prepared.said:
        print(f"SCALE {line}")
    count = count_text(found.architecture.parameter_count(prepared.config))
    print(f"model      {found.name}, {count} parameters\n{plan.describe(stages=False)}")
    weights = prepared.start or f"random, seed {arguments.training.seed}"
    step = f" (step {prepared.state['step']})" if prepared.resume else ""
    print(f"weights    {weights}{step}", flush=True)


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
