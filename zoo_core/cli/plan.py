"""`zoo plan`: whether degrees are legal for a model, and who then holds what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from zoo_core.arguments import Arguments, load_arguments
from zoo_core.cli._names import argument_flags, model_names
from zoo_core.cli._plan import plan_dict, rank_table, stage_table
from zoo_core.cli._predict import (
    Aim,
    aim_at,
    as_flags,
    found_dict,
    memory_table,
    ranking,
    ranks_table,
    speed_lines,
)
from zoo_core.cli._text import count_text, print_json, table
from zoo_core.cli._words import misspelt, split_model, take_option, take_switch
from zoo_core.errors import ConfigError, PlanError
from zoo_core.plan import RULES, Plan, chosen_model, compose, from_arguments
from zoo_core.plan.explain import explain, rejections
from zoo_core.plan.hardware import hardware_names
from zoo_core.plan.predict import MB
from zoo_core.plan.published import PUBLISHED, predicted
from zoo_core.plan.search import Search, facts_of, free_of
from zoo_core.registry import Found

__all__ = ["complete", "main"]

_FEW_RANKS = 16

_OWN = {
    "--world": "processes, over all machines; empty is the fewest that the degrees need",
    "--memory": "memory of each device, 80G say; without degrees, legal plans that fit are ranked by speed",
    "--hardware": "description of the device: " + ", ".join(hardware_names()) + ", or a file of zoo calibrate",
    "--top": "how many plans to show [10]",
    "--explain": "say for each degree that is not possible which rule, whose, and what would make it so",
    "--published": "compare predictions with the published runs",
    "--task": "pretrain, sft, lora, prefix, dpo [pretrain]",
    "--ranks": "show every rank, however many",
    "--rules": "show the rules of legality, with their evidence",
    "--json": 'print JSON: {"plans": [...]}',
}

_HELP = """Usage: zoo plan MODEL|FILE [--world N] [--memory 80G] [--hardware NAME] [--tp N] [--pp N] ...

With --memory or --hardware and no degrees: rank the legal plans of MODEL on N devices by predicted speed.
With degrees: say whether they are legal, and show the plan: axes, batch, stages, ranks, memory, speed.

MODEL is a name or a folder; it may also come from an argument file. Every argument of `zoo run` is taken and means the
same here, so that what is planned is what would run.

  zoo plan qwen/qwen-7b --world 8 --memory 80G --bf16 --fp16_opt_level O2 --use_flash_attention --max_seq_length 4096
  zoo plan qwen/qwen-7b --world 8 --tp 2 --pp 2 --sharding stage1 --hardware a100-40g
  zoo plan qwen/qwen-7b --world 4 --pp 2 --pp_cuts 10 --micro_batch_size 1
  zoo plan pretrain.json --world 16 --nnodes 2
  zoo plan qwen/qwen-7b --task lora --lora_rank 16 --world 2 --memory 40G --bf16 --fp16_opt_level O2

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
    """Parse, search or compose, print; return 0.

    Raises:
        PlanError: the degrees are not legal, or no legal plan fits.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    as_json, rest = take_switch(rest, "--json")
    all_ranks, rest = take_switch(rest, "--ranks")
    show_rules, rest = take_switch(rest, "--rules")
    published, rest = take_switch(rest, "--published")
    explained, rest = take_switch(rest, "--explain")
    world, rest = take_option(rest, "--world")
    memory, rest = take_option(rest, "--memory")
    device, rest = take_option(rest, "--hardware")
    top, rest = take_option(rest, "--top")
    task, rest = take_option(rest, "--task")
    if wants_help or not (words):
        print(_HELP + "\n".join(f"  {name:<21}{text}" for name, text in {**_OWN, **_DEGREES}.items()))
        return 0 if wants_help else 2
    if show_rules:
        print("\n".join(f"{rule.name}\n  {rule.statement}\n  evidence: {rule.evidence}" for rule in RULES))
        if not rest:
            return 0
    if published:
        return _published(as_json)
    model, rest = split_model(rest)
    misspelt(rest, _OWN)
    arguments = load_arguments(task or "pretrain", (), [*(["--model", model] if model else []), *rest])
    found, config = chosen_model(arguments)
    nodes = arguments.launch.nnodes
    world = _world(world, arguments)
    aim = aim_at(arguments, found, config, device, memory, _count(world) // nodes)
    request = from_arguments(arguments, _count(world), aim.device.device)
    free = free_of(arguments, request)
    automatic = arguments.parallel.plan == "auto"
    if free.degrees and (automatic or memory or device or top or (explained and world)):
        found_plans = ranking(aim, found, request, free, _count(top or "10"), complete=explained)
        if explained and not as_json:
            print(explain(request, facts_of(found.architecture, aim.counts, found.name), aim.limit, found_plans) + "\n")
        beside: dict[str, Any] = {}
        if explained:
            model_facts = facts_of(found.architecture, aim.counts, found.name)
            beside["rejections"] = [asdict(one) for one in rejections(request, model_facts, aim.limit, found_plans)]
        return _show_ranking(aim, found, found_plans, beside if as_json else None, arguments.model.scale)
    if world is None:
        request = from_arguments(arguments, request.wanted_world * request.nodes, request.device)
        aim = aim_at(arguments, found, config, device, memory, request.world // nodes)
    if explained and not as_json:
        print(explain(request, facts_of(found.architecture, aim.counts, found.name), aim.limit, None) + "\n")
    try:
        plan = compose(request, found.architecture, config, found.name)
    except PlanError as error:
        if as_json:
            print_json({"plans": [], "error": {"what": error.what, "why": error.why, "todo": error.todo}})
        raise
    parameters = found.architecture.table(config)
    made = aim.predict(plan)
    if as_json:
        print_json({"plans": [{**plan_dict(plan, parameters), "prediction": made.to_dict()}]})
        return 0
    print(_head(plan, count_text(aim.counts.parameters), arguments.model.scale))
    print(plan.describe(stages=False, task=request.task))
    print(f"legal      all {len(RULES)} rules hold")
    if aim.trains:
        print(aim.trains)
    print(speed_lines(made) + "\n")
    print(stage_table(plan, parameters))
    print("\n" + memory_table(made))
    print("\n" + rank_table(plan, 0 if all_ranks else _FEW_RANKS))
    return 0


def _show_ranking(aim: Aim, found: Found, plans: Search, as_json: Mapping[str, Any] | None, scale: str | None) -> int:
    """Print the plans: as a table, or as JSON beside what is in `as_json`."""
    try:
        best = plans.best(found.name)
    except PlanError as error:
        if as_json is not None:
            said = {"what": error.what, "why": error.why, "todo": error.todo}
            print_json({"plans": [], "error": said, **as_json})
        raise
    if as_json is not None:
        print_json({"plans": [found_dict(one) for one in plans.ranked], **as_json})
        return 0
    print(_head(best.plan, count_text(aim.counts.parameters), scale))
    reserve = f" ({aim.device.reserve / MB:.0f} of its memory in reserve)" if aim.device.reserve else ""
    limit = f"{aim.limit / MB:.0f} MB on each of {best.plan.world} devices{reserve}"
    print(f"hardware   {aim.device.name}, {limit}; {aim.numbers}")
    if aim.trains:
        print(aim.trains)
    for remark in _remarks(aim):
        print(f"remark     {remark}")
    print(f"\n{ranks_table(plans.ranked)}\n\nthe first of them, MB on a rank of each stage:")
    print(memory_table(best.prediction))
    print(f"\nrun it with {as_flags(best.request)}")
    return 0


def _remarks(aim: Aim) -> list[str]:
    """What of the arguments costs most and is perhaps not meant."""
    said = []
    if aim.device.device != "cpu":
        if aim.numbers.compute == "float32":
            half = "bf16" if "bfloat16" in aim.device.flops else "fp16"
            said.append(f"everything is float32; --{half} --fp16_opt_level O2 is half of it and quicker")
        if not aim.keeping.flash_attention:
            said.append(
                "attention keeps its scores; --use_flash_attention in half precision does not"
                if aim.counts.config.fused_attention
                else "attention keeps its scores: flash kernels cannot do this model's"
            )
    return said


def _published(as_json: bool) -> int:
    rows = [(row, *predicted(row)) for row in PUBLISHED]
    if as_json:
        print_json(
            {
                "published": [
                    {
                        "model": row.model,
                        "fitted": row.fitted,
                        "memory_mb": row.memory,
                        "tokens_per_second_per_card": row.tokens,
                        "memory_error": round(memory, 4),
                        "speed_error": round(speed, 4),
                        "prediction": made.to_dict(),
                    }
                    for row, made, memory, speed in rows
                ]
            }
        )
        return 0
    print("8 x A100 80 GB, tp2 sharding4 stage2, sequence 4096, bfloat16, flash attention, no recompute")
    head = ("MODEL", "MICRO", "ACCUM", "MEMORY MB", "PREDICTED", "", "TOKENS/S/CARD", "PREDICTED", "", "MFU",
            "FITTED ON IT")  # fmt: skip
    lines = [
        (
            row.model, str(row.micro_batch), str(row.accumulate), str(row.memory), f"{made.fullest.total / MB:.0f}",
            f"{memory:+.1%}", f"{row.tokens:.0f}", f"{made.speed.tokens:.0f}", f"{speed:+.1%}",
            f"{made.speed.mfu:.1%}", "yes" if row.fitted else "no",
        )
        for row, made, memory, speed in rows
    ]  # fmt: skip
    print(table(head, lines, right=range(1, 10)))
    return 0


def _head(plan: Plan, size: str, scale: str | None) -> str:
    blocks = sum(plan.blocks)
    return f"model      {plan.model}{f' at scale {scale}' if scale else ''}, {size} parameters, {blocks} blocks"


def _world(world: str | None, arguments: Arguments) -> str | None:
    """The processes over all machines: as `--world` has them, or as `--nproc` or `--devices` have those of a machine.

    Raises:
        ConfigError: both are given and differ.
    """
    launch = arguments.launch
    local = launch.nproc or len(launch.devices)
    if not local:
        return world
    total = local * launch.nnodes
    if world is not None and _count(world) != total:
        raise ConfigError(
            f"--world {world}, and --nproc {local} on {launch.nnodes} machine{'s' if launch.nnodes > 1 else ''}",
            f"the second is {total} processes in all",
            "give one of them: --world counts the processes of all machines, --nproc those of one",
        )
    return str(total)


def _count(world: str | None) -> int:
    if world is None:
        return 1
    if not world.isdigit() or int(world) < 1:
        raise ConfigError(f"--world {world} is not a number of processes", "it must be 1 or more", "--world 8, say")
    return int(world)
