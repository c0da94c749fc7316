"""`zoo run predict`: the model, the plan and the questions; then the engine answers them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core._counting import many
from zoo_core.arguments import Arguments, effect_line
from zoo_core.cli._plan import rank_table, stage_table
from zoo_core.cli._rehearsal import shapes_table
from zoo_core.cli._text import count_text
from zoo_core.engine.launch import in_worker, is_spawned, report_start, restart_changes
from zoo_core.engine.quiet import import_paddle, quiet_environment
from zoo_core.environment import apply_cpu_environment, device_of, require_paddle
from zoo_core.errors import ConfigError, ZooError
from zoo_core.plan import Plan, compose, from_arguments

if TYPE_CHECKING:
    from zoo_core.predict.ready import Ready
    from zoo_core.predict.record import State

__all__ = ["answer_file"]

_OF_STEPS = ("batch", "recompute")


def answer_file(arguments: Arguments, words: Sequence[str], world: Callable[[str], int]) -> int:
    """Check, plan, print, launch; return the exit status.

    Args:
        world: processes of the run on a kind of device.

    Raises:
        ZooError: the model, the questions or what is left of an earlier prediction do not allow it.
    """
    from zoo_core.predict.ready import find_model, make_ready  # read files with numpy
    from zoo_core.predict.record import State, part_of, standing
    from zoo_core.predict.restarts import keep_answering

    report_start()
    arguments = arguments.replace(**restart_changes())
    wanted, rehearsal = arguments.generation, arguments.launch.dry_run
    device = device_of(arguments.training.device)
    arguments = arguments.replace(device=device)
    speaks = not is_spawned() and os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    dtype = "float32" if device == "cpu" else wanted.dtype
    if speaks:
        _warn(arguments, device)
    model = find_model(arguments)
    found, config = model.found, model.config
    arguments = arguments.replace(
        max_seq_length=min(arguments.data.max_seq_length, model.room), per_device_train_batch_size=1,
        gradient_accumulation_steps=max(arguments.parallel.pp, 1), global_batch_size=None,
        num_prefix_tokens=model.virtual_tokens or 1, prefix_tuning=model.prefix is not None,
    )  # fmt: skip
    plan = compose(from_arguments(arguments, world(device), device), found.architecture, config, found.name)
    _check(plan, model.exported is not None)
    if not rehearsal:
        require_paddle(device)
    try:
        ready, shortened, longest = make_ready(arguments, model, dtype, not is_spawned())
    except ZooError as error:
        if not rehearsal:
            raise
        refused: ZooError | None = error
    else:
        refused, output = None, Path(wanted.output_file).expanduser()
        state = State(ready.settings, len(ready.prompts))
        if not in_worker():  # the first worker looks again, when nobody else writes any more
            state = standing(output, ready.settings, len(ready.prompts), wanted.overwrite_output)
    if speaks:
        count = count_text(found.architecture.parameter_count(config))
        print(f"model      {found.name}, {count} parameters")
        # what is left out is of training steps
        print("\n".join(line for line in plan.describe(stages=False).splitlines() if line.split()[0] not in _OF_STEPS))
    if rehearsal:
        parameters = found.architecture.table(config)
        print(f"\n{stage_table(plan, parameters)}\n\n{rank_table(plan, 16)}\n\n{shapes_table(plan, parameters)}")
        print(f"\nfiles it would write:\n  {wanted.output_file}, as it grows {wanted.output_file}.part and .state")
        if refused is not None:  # the plan was shown all the same: it may be meant for another machine
            print(flush=True)
            raise refused
        print(f"questions  {len(ready.prompts)}, {state.done} of them answered\n\ndry run: nothing was started")
        return 0
    if speaks:
        _introduce(ready, shortened, longest, state)
    if state.complete and not is_spawned():
        if speaks:
            if part_of(output).exists():
                _put_in_place(output, ready, state)
            print(f"{output} has all answers already; --overwrite_output answers anew")
        return 0
    quiet_environment(os.environ)
    launched = is_spawned() or "PADDLE_TRAINER_ID" in os.environ
    if not launched and (plan.world > 1 or arguments.launch.max_restarts):
        return keep_answering(arguments, plan, ready, words)
    if device == "cpu":
        apply_cpu_environment(plan.local_world, os.environ)
    import_paddle(device)
    from zoo_core.predict.run import run

    return run(arguments, plan, ready)


def _put_in_place(output: Path, ready: Ready, state: State) -> None:
    """Finish what was ended between the last answer and the end."""
    from zoo_core.predict.record import Record

    record = Record(output, ready.settings, state.total)
    record.finish()
    record.close()


def _check(plan: Plan, exported: bool) -> None:
    """Refuse layouts in which replicas would have to answer in step, and to split what was exported whole.

    Raises:
        ConfigError: it is one.
    """
    if exported and (plan.tensor > 1 or plan.pipeline > 1):
        raise ConfigError(
            f"tensor {plan.tensor} x pipeline {plan.pipeline} with an exported model",
            "its programs hold the whole model; processes can only answer questions of their own",
            "leave --tp and --pp out",
        )
    if plan.expert > 1 or plan.sharding_stage == 3:
        what = f"expert_parallel_degree {plan.expert}" if plan.expert > 1 else "sharding stage3"
        raise ConfigError(
            f"{what} does not combine with predict",
            "replicas would hold parts of each other's weights, and each answers questions of its own",
            "split the model by --tensor_parallel_degree or --pipeline_parallel_degree",
        )


def _introduce(ready: Ready, shortened: int, longest: int, state: State) -> None:
    """Say what is about to be answered."""
    from zoo_core.peft.bases import other_bases  # reads files with numpy

    prompts = ready.prompts
    lengths = prompts.lengths
    print(f"weights    {ready.weights}")
    beside = ready.model.adapter or ready.model.prefix
    if beside is not None:
        print(f"{'adapter' if ready.model.adapter else 'prefix':<11}{beside}")
    for note in other_bases(ready.weights, [ready.model.adapter] if ready.model.adapter else [], ready.model.prefix):
        print(f"warning: {note}", file=sys.stderr)
    form = "in the family's chat form" if prompts.encoder.form == "chat" else "as plain text"
    print(f"questions  {len(prompts)} of {prompts.lines.files[0]}, {form}; the longest has {many(longest, 'token')}")
    if shortened:
        print(f"shortened  {many(shortened, 'prompt')} cut to the last {many(lengths.prompt, 'token')}")
    if state.done and not state.complete:
        print(f"going on   after {many(state.done, 'question')} answered before")
    sys.stdout.flush()


def _warn(arguments: Arguments, device: str) -> None:
    """Print the arguments' warnings for the device, and that half precision stays out on CPU."""
    before, now = effect_line(arguments, arguments.training.device), effect_line(arguments, device)
    dtype = arguments.generation.dtype
    lines = [now, *(line for line in arguments.warnings if line != before)]
    if device == "cpu" and dtype not in (None, "float32"):
        lines.append(f"dtype {dtype} is float32 on CPU: Paddle has no such kernels there")
    drawing = [name for name in ("temperature", "top_k", "top_p", "min_p", "seed") if name in arguments.given]
    if arguments.generation.decode_strategy == "beam_search" and drawing:
        lines.append(f"{', '.join(drawing)}: beam search takes the likeliest texts and draws nothing")
    for line in dict.fromkeys(filter(None, lines)):
        print(f"warning: {line}", file=sys.stderr)
