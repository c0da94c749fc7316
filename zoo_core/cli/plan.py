"""`zoo plan`: whether degrees are legal for a model, and who then holds what."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.arguments import load_arguments
from zoo_core.cli._names import argument_flags, model_names
from zoo_core.cli._plan import plan_dict, rank_table, stage_table
from zoo_core.cli._text import count_text, print_json
from zoo_core.cli._words import split_model, take_option, take_switch
from zoo_core.environment import device_of
from zoo_core.errors import ConfigError, PlanError
from zoo_core.plan import RULES, Plan, chosen_model, compose, from_arguments

__all__ = ["complete", "main"]

_FEW_RANKS = 16

_OWN = {
    "--world": "processes, over all machines; empty is the fewest that the degrees need",
    "--task": "pretrain, sft, lora, prefix, dpo [pretrain]",
    "--ranks": "show every rank, however many",
    "--rules": "show the rules of legality, with their evidence",
    "--json": 'print JSON: {"plans": [...]}',
}

_HELP = """Usage: zoo plan MODEL|FILE [--world N] [--tp N] [--pp N] ...

Say whether degrees are legal for MODEL, and show the plan: axes, batch, stages, ranks.

MODEL is a name or a folder; it may also come from an argument file. Every argument of `zoo run` is taken and means the
same here, so that what is planned is what would run.

  zoo plan qwen/qwen-7b --world 8 --tp 2 --pp 2 --sharding stage1
  zoo plan qwen/qwen-7b --world 4 --pp 2 --pp_cuts 10 --micro_batch_size 1
  zoo plan pretrain.json --world 16 --nnodes 2

Options:
"""

_DEGREES = {
    "--tp, --pp, --dp": "tensor, pipeline, data-parallel degree",
    "--sharding": "stage1, stage2 or stage3, and --sharding_degree N",
    "--vpp": "chunks of layers for each stage (interleaved schedule)",
    "--pp_cuts": "block numbers at which the later stages begin",
    "--sequence_parallel": "split the sequence over the tensor axis",
}


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the words that may follow: a model first, then options."""
    return {**_OWN, **argument_flags()} if incomplete.startswith("-") else model_names()


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Parse, compose, print; return 0.

    Raises:
        PlanError: the degrees are not legal.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    all_ranks, rest = take_switch(rest, "--ranks")
    show_rules, rest = take_switch(rest, "--rules")
    world, rest = take_option(rest, "--world")
    task, rest = take_option(rest, "--task")
    if wants_help or not (words):
        print(_HELP + "\n".join(f"  {name:<21}{text}" for name, text in {**_OWN, **_DEGREES}.items()))
        return 0 if wants_help else 2
    if show_rules:
        print("\n".join(f"{rule.name}\n  {rule.statement}\n  evidence: {rule.evidence}" for rule in RULES))
        if not rest:
            return 0
    model, rest = split_model(rest)
    arguments = load_arguments(task or "pretrain", (), [*(["--model", model] if model else []), *rest])
    found, config = chosen_model(arguments)
    request = from_arguments(arguments, _count(world), device_of(arguments.training.device))
    if world is None:
        request = from_arguments(arguments, request.wanted_world * request.nodes, request.device)
    try:
        plan = compose(request, found.architecture, config, found.name)
    except PlanError as error:
        if as_json:
            print_json({"plans": [], "error": {"what": error.what, "why": error.why, "todo": error.todo}})
        raise
    parameters = found.architecture.table(config)
    if as_json:
        print_json({"plans": [plan_dict(plan, parameters)]})
        return 0
    print(_head(plan, count_text(found.architecture.parameter_count(config)), arguments.model.scale))
    print(plan.describe(stages=False))
    print(f"legal      all {len(RULES)} rules hold\n")
    print(stage_table(plan, parameters))
    print("\n" + rank_table(plan, 0 if all_ranks else _FEW_RANKS))
    return 0


def _head(plan: Plan, size: str, scale: str | None) -> str:
    blocks = sum(plan.blocks)
    return f"model      {plan.model}{f' at scale {scale}' if scale else ''}, {size} parameters, {blocks} blocks"


def _count(world: str | None) -> int:
    if world is None:
        return 1
    if not world.isdigit() or int(world) < 1:
        raise ConfigError(f"--world {world} is not a number of processes", "it must be 1 or more", "--world 8, say")
    return int(world)
