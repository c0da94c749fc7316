"""`zoo run TASK`: arguments, model, plan; then the engine starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from zoo_core.arguments import TASKS, TUNING, Arguments, effect_line, help_text, load_arguments
from zoo_core.cli._answering import answer_file
from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._names import argument_flags
from zoo_core.cli._plan import rank_table, stage_table
from zoo_core.cli._predict import aim_at, chosen, memory_table, speed_lines
from zoo_core.cli._rehearsal import arithmetic, files_lines, shapes_table
from zoo_core.cli._text import count_text
from zoo_core.cli._words import misspelt, take_option
from zoo_core.config import ModelConfig
from zoo_core.engine.launch import is_spawned, report_end, report_failure, report_start, restart_changes
from zoo_core.engine.quiet import import_paddle, quiet_environment
from zoo_core.environment import apply_cpu_environment, device_count, device_of, require_paddle
from zoo_core.errors import ConfigError, ZooError, nearest
from zoo_core.plan import Plan, chosen_model, compose, from_arguments, world_size
from zoo_core.plan.hardware import hardware
from zoo_core.plan.rules import room_for_samples
from zoo_core.registry import Found
from zoo_core.train.prepared import Prepared

__all__ = ["complete", "main"]

_READY = {
    "pretrain": "train a model on raw text",
    "sft": "fine-tune a model on questions and answers",
    "lora": "fine-tune low-rank adapters of a model",
    "prefix": "fine-tune a prefix of virtual tokens in every layer",
    "dpo": "learn which of two answers is better",
    "predict": "answer the questions of a file",
}

_HELP = """Usage: zoo run TASK [FILE.json|FILE.yaml ...] [--flag value ...] [-o Section.key=value ...]

Run a task:

  zoo run pretrain --model qwen/qwen-7b --scale tiny --input_dir data --max_steps 100
  zoo run pretrain pretrain.json --nproc 4 --tp 2 --pp 2
  zoo run pretrain pretrain.json --master 10.0.0.1:6070 --nnodes 2
  zoo run sft --model qwen/qwen-7b --scale tiny --tokenizer tokenizer --dataset_name_or_path sample --max_steps 100
  zoo run predict --model ./output --data_file dev.json --output_file output.json

zoo run TASK --help lists the arguments. --plan auto chooses the fastest plan that fits. --dry-run prints the plan and
starts nothing; --world N makes it that of another machine, --hardware NAME and --memory 80G say which (see zoo plan).

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
    aimed, rest = _take_aim(words[1:])
    arguments = load_arguments(task, (), [*rest, *traceback])
    words = ["run", *words, *traceback]
    try:
        if task == "predict":
            return report_end(answer_file(arguments, words, lambda device: _world(arguments, aimed, device)))
        return report_end(_run(arguments, words, aimed))
    except ZooError as error:
        if is_spawned() and report_failure(error):
            return 2
        raise


@dataclass(frozen=True)
class _Aimed:
    """What the command line says of the machine: a rehearsal's processes, a description, a limit of memory."""

    world: str | None
    hardware: str | None
    memory: str | None


def _take_aim(words: Sequence[str]) -> tuple[_Aimed, list[str]]:
    world, rest = take_option(words, "--world")
    hardware, rest = take_option(rest, "--hardware")
    memory, rest = take_option(rest, "--memory")
    misspelt(rest, ("--world", "--hardware", "--memory"))
    return _Aimed(world, hardware, memory), rest


def _no_task(task: str) -> UsageFailure:
    tasks = ", ".join(_READY)
    if task in TASKS:
        return UsageFailure(f"zoo run has no task {task}", f"tasks: {tasks}", f"zoo {task} does it; zoo {task} --help")
    near = nearest(task, _READY)
    todo = f"did you mean {near!r}?" if near else "zoo run --help says what there is"
    return UsageFailure(f"there is no task {task!r}", f"tasks: {tasks}", todo)


def _run(arguments: Arguments, words: Sequence[str], aimed: _Aimed) -> int:
    report_start()
    changes = restart_changes()
    arguments = arguments.replace(**changes)
    device = _device(arguments, aimed)
    speaks = not is_spawned() and os.environ.get("PADDLE_TRAINER_ID", "0") == "0"
    if speaks:
        _warn(arguments, device)
    arguments = _as_prefix_is(arguments.replace(device=device))
    found, config = chosen_model(arguments)
    arguments, shorter = _within_positions(arguments, config)
    rehearsal = arguments.launch.dry_run
    world = _world(arguments, aimed, device)
    if arguments.parallel.plan == "auto" and not _DEGREES & set(changes):
        aim = aim_at(arguments, found, config, aimed.hardware, aimed.memory, world // arguments.launch.nnodes)
        arguments = chosen(arguments, aim, found, from_arguments(arguments, world, device))
    request = from_arguments(arguments, world, device)
    plan = compose(request, found.architecture, config, found.name)
    if not rehearsal:
        require_paddle(device)
    prepared, refused = Prepared(config), None
    data = arguments.data
    if not rehearsal or data.input_dir or data.dataset_name_or_path or data.train_dataset_path:
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
        print(shorter, end="", flush=True)
    if rehearsal:
        aim = aim_at(arguments, found, prepared.config, aimed.hardware, aimed.memory, plan.local_world)
        parameters, made = found.architecture.table(prepared.config), aim.predict(plan)
        trained = aim.counts.tuned.added
        rows = {**parameters, **(trained(parameters, aim.counts.layers) if trained is not None else {})}
        print(aim.trains, end="\n" if aim.trains else "")
        print(f"{arithmetic(arguments, plan)}\n{speed_lines(made)}\n\n{stage_table(plan, parameters)}")
        print(f"\n{memory_table(made)}\n\n{rank_table(plan, 16)}\n\n{shapes_table(plan, rows)}")
        print(f"\n{files_lines(arguments, plan, aim.counts, aim.numbers)}")
        if refused is not None:  # the plan was shown all the same: it may be meant for another machine
            print(flush=True)
            raise refused
        print("\ndry run: nothing was started")
        return 0
    quiet_environment(os.environ, traced=plan.to_static)
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
    if arguments.task == "dpo":
        from zoo_core.train.dpo import run
    elif arguments.task in TUNING:
        from zoo_core.train.sft import run
    else:
        from zoo_core.train.pretrain import run

    return run(arguments, plan, found, prepared, words)


_DEGREES = {"tensor_parallel_degree", "pipeline_parallel_degree", "sharding", "sharding_parallel_degree"}


def _device(arguments: Arguments, aimed: _Aimed) -> str:
    """Where the run takes place: a rehearsal for a machine that is described, on that."""
    if arguments.launch.dry_run and arguments.training.device == "auto" and (aimed.hardware or aimed.memory):
        return hardware(aimed.hardware).device if aimed.hardware else "gpu"
    return device_of(arguments.training.device)


def _as_prefix_is(arguments: Arguments) -> Arguments:
    """Take the length of the prefix that training begins with from its files, unless arguments say it."""
    wanted = arguments.finetune
    said = {"num_prefix_tokens", "prefix_projection"} & set(arguments.given)
    if not (wanted.prefix_tuning and wanted.prefix_path) or said:
        return arguments
    from zoo_core.peft.prefix_files import prefix_folder, prefix_spec  # reads files with numpy, as above

    there = prefix_spec(prefix_folder(wanted.prefix_path))
    return arguments.replace(num_prefix_tokens=there.tokens, prefix_projection=there.hidden > 0)


def _within_positions(arguments: Arguments, config: ModelConfig) -> tuple[Arguments, str]:
    """Let the default max_length of fine-tuning be no more than a model that learns its positions can take."""
    wanted = arguments.finetune
    room = room_for_samples(config, wanted.num_prefix_tokens if wanted.prefix_tuning else 0)
    name, part = ("max_seq_len", "max_prompt_len") if arguments.task == "dpo" else ("max_length", "src_length")
    before, tunes = arguments.value(name), arguments.task in TUNING and config.learned_positions
    if not tunes or name in arguments.given or before <= room or room < 2:
        return arguments, ""
    behind = f" behind {wanted.num_prefix_tokens} virtual tokens" if room < config.max_position_embeddings else ""
    said = f"lengths    {name} {room} instead of {before}: the model has learned so many positions{behind}\n"
    return arguments.replace(**{name: room, part: min(arguments.value(part), room)}), said


def _world(arguments: Arguments, aimed: _Aimed, device: str) -> int:
    """The processes of the run; a rehearsal may be for another machine.

    Raises:
        UsageFailure: `--world` for a run that starts.
        ConfigError: `--world` is no number of processes.
    """
    if aimed.world is None:
        return world_size(arguments, os.environ, device_count(device, os.environ))
    if not arguments.launch.dry_run:
        raise UsageFailure("--world is for --dry-run", "a run has the processes that it starts", "give --nproc")
    if not aimed.world.isdigit() or int(aimed.world) < 1:
        raise ConfigError(
            f"--world {aimed.world} is not a number of processes", "it must be 1 or more", "--world 8, say"
        )
    return int(aimed.world)


def _introduce(arguments: Arguments, found: Found, prepared: Prepared, plan: Plan) -> None:
    """Say what is about to run."""
    if arguments.model.scale:
        print(f"SCALE {arguments.model.scale.upper()}: the architecture of {found.name}, at small sizes")
    for line in prepared.said:
        print(f"SCALE {line}")
    count = count_text(found.architecture.parameter_count(prepared.config))
    print(f"model      {found.name}, {count} parameters\n{plan.describe(stages=False, task=arguments.task)}")
    weights = prepared.start or f"random, seed {arguments.training.seed}"
    step = f" (step {prepared.state['step']})" if prepared.resume else ""
    print(f"weights    {weights}{step}")
    if prepared.trained:
        print(f"trained    {prepared.trained}")
    sys.stdout.flush()


def _warn(arguments: Arguments, device: str) -> None:
    """Print the arguments' warnings; `--device auto` is known only now, so the line on effects is made again."""
    before, now = effect_line(arguments, arguments.training.device), effect_line(arguments, device)
    for line in dict.fromkeys([now, *(line for line in arguments.warnings if line != before)]):
        if line:
            print(f"warning: {line}", file=sys.stderr)
