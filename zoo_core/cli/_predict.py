"""Predictions for people and for programs: what `zoo plan` and `zoo run --plan auto` show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.cli._text import table
from zoo_core.cli._tuned import tuned_of, tuned_text
from zoo_core.config import ModelConfig
from zoo_core.environment import device_of
from zoo_core.errors import ConfigError
from zoo_core.plan import Plan, Request
from zoo_core.plan.counts import Counted, counted
from zoo_core.plan.hardware import Hardware, default_hardware, hardware
from zoo_core.plan.precision import Keeping, Numbers, keeping_of, numbers_of
from zoo_core.plan.predict import MB, PARTS, Prediction, predict
from zoo_core.plan.search import Free, Ranked, Search, free_of, search
from zoo_core.registry import Found

__all__ = [
    "Aim",
    "aim_at",
    "as_arguments",
    "as_flags",
    "chosen",
    "found_dict",
    "memory_table",
    "parse_memory",
    "ranking",
    "ranks_table",
    "speed_lines",
]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Aim:
    """What predictions are made for.

    Args:
        device: description of the hardware.
        limit: bytes that a rank may hold: the device's memory, or what `--memory` says, without the reserve.
        numbers, keeping: of the run on it.
        counts: the model, counted.
    """

    device: Hardware
    limit: int
    numbers: Numbers
    keeping: Keeping
    counts: Counted

    @property
    def trains(self) -> str:
        """A line on what is trained, where that is not all of the model on plain samples."""
        said = tuned_text(self.counts.tuned, self.counts.added)
        return f"trains     {said}" if said else ""

    def predict(self, plan: Plan) -> Prediction:
        """Return the prediction of a plan."""
        return predict(plan, self.counts, self.numbers, self.keeping, self.device, self.limit)


def parse_memory(text: str) -> int:
    """Return the bytes of `80G`, `512M` or a plain number; G is 2**30 bytes, with or without a B.

    Raises:
        ConfigError: it is no size.
    """
    word = text.strip().upper().removesuffix("B").removesuffix("I")
    number, unit = (word[:-1], word[-1]) if word and word[-1] in _UNITS else (word, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ConfigError(f"--memory {text} is no size", "it is a number with K, M, G or T", "--memory 80G, say")
    return size


def aim_at(
    arguments: Arguments,
    found: Found,
    config: ModelConfig,
    name: str | None = None,
    memory: str | None = None,
    processes: int = 1,
) -> Aim:
    """Return what to predict for.

    Args:
        processes: of a machine; they share a CPU, and have a GPU each.
        name: of a hardware description, or a file; `None` is the first that suits `--device`, and the A100 where only
            `memory` is given.
        memory: as `parse_memory` reads it; `None` is the device's.

    Raises:
        ConfigError: there is no such hardware, or it does not compute in the run's element type.
    """
    if name is not None:
        device = hardware(name)
    elif memory is not None and arguments.training.device == "auto":
        device = default_hardware("gpu")
    else:
        device = default_hardware(device_of(arguments.training.device))
    device = device.shared_by(processes)
    limit = (parse_memory(memory) if memory is not None else device.memory) - device.reserve
    if limit <= 0:
        raise ConfigError(f"--memory {memory} leaves nothing", f"{device.reserve / MB:.0f} MB of it are reserved", "")
    numbers = numbers_of(arguments, device.device)
    device.peak(numbers.compute)
    keeping = keeping_of(arguments, device.device, config.fused_attention)
    return Aim(device, limit, numbers, keeping, counted(found.architecture, config, tuned_of(arguments, config)))


def ranking(aim: Aim, found: Found, request: Request, free: Free, most: int = 10, complete: bool = False) -> Search:
    """Search the plans of a request; `complete` as `search` has it."""
    return search(
        request,
        free,
        found.architecture,
        aim.counts,
        found.name,
        aim.numbers,
        aim.keeping,
        aim.device,
        aim.limit,
        most,
        complete,
    )


def chosen(arguments: Arguments, aim: Aim, found: Found, request: Request) -> Arguments:
    """Return the arguments with the degrees, batches and recompute of the fastest plan that fits.

    Raises:
        PlanError: no legal plan fits.
    """
    best = ranking(aim, found, request, free_of(arguments, request), 1).best(found.name)
    return arguments.replace(**as_arguments(best.request))


def as_arguments(request: Request) -> dict[str, Any]:
    """Return a found request as the arguments that ask for it."""
    return {
        "tensor_parallel_degree": request.tensor,
        "pipeline_parallel_degree": request.pipeline,
        "sharding": (f"stage{request.sharding_stage}" + (" offload" if request.offload else ""))
        if request.sharding_stage
        else "",
        "sharding_parallel_degree": request.sharding if request.sharding_stage else -1,
        "expert_parallel_degree": request.expert,
        "virtual_pp_degree": request.virtual_stages,
        "sequence_parallel": request.sequence_parallel,
        "recompute": request.recompute != "none",
        "recompute_granularity": request.recompute if request.recompute != "none" else "full",
        "per_device_train_batch_size": request.micro_batch,
        "gradient_accumulation_steps": request.accumulate,
    }


def as_flags(request: Request) -> str:
    """Return a found request as command-line flags, without what is the default."""
    usual = {
        "tensor_parallel_degree": 1, "pipeline_parallel_degree": 1, "sharding": "", "sharding_parallel_degree": -1,
        "expert_parallel_degree": 1, "virtual_pp_degree": 1, "sequence_parallel": False, "recompute": False,
        "recompute_granularity": "full",
    }  # fmt: skip
    words = []
    for name, value in as_arguments(request).items():
        if name in usual and usual[name] == value:
            continue
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words.append(f'--{name} "{text}"' if " " in text else f"--{name} {text}")
    return " ".join(words)


def ranks_table(ranked: Sequence[Ranked]) -> str:
    """Return a table of plans, best first."""
    head = ("#", "TP", "PP", "VPP", "SHARDING", "STAGE", "DP", "EP", "SP", "MICRO", "ACCUM", "RECOMPUTE", "MEMORY MB",
            "BUBBLE", "TOKENS/S/CARD", "MFU")  # fmt: skip
    rows = []
    for number, one in enumerate(ranked, 1):
        plan, made = one.plan, one.prediction
        cells = (number, plan.tensor, plan.pipeline, plan.virtual_stages, plan.sharding, plan.sharding_stage, plan.data,
                 plan.expert, "yes" if plan.sequence_parallel else "no", plan.micro_batch, plan.accumulate,
                 plan.recompute, f"{made.fullest.total / MB:.0f}", f"{made.speed.bubble:.1%}",
                 f"{made.speed.tokens:.4g}", f"{made.speed.mfu:.1%}")  # fmt: skip
        rows.append(tuple(map(str, cells)))
    return table(head, rows, right=[i for i in range(len(head)) if head[i] not in ("SP", "RECOMPUTE")])


def memory_table(made: Prediction) -> str:
    """Return a table of what a rank of each stage holds, in MB."""
    parts = [*PARTS, *(["process"] if any(stage.process for stage in made.stages) else [])]
    later = any(stage.later for stage in made.stages)  # gradients that take the place of activations
    rows = []
    for stage in made.stages:
        sizes = [getattr(stage, part) for part in parts] + ([-stage.later] if later else []) + [stage.total]
        rows.append((str(stage.stage), *(f"{size / MB:.0f}" for size in sizes)))
    head = ("STAGE", *(part.upper() for part in parts), *(("LATER",) if later else ()), "TOTAL MB")
    return table(head, rows, right=range(len(head)))


def speed_lines(made: Prediction) -> str:
    """Return memory and speed in words."""
    speed, full = made.speed, made.fullest
    fits = "fits" if made.fits else "DOES NOT FIT"
    step = speed.step
    parts = ", ".join(
        f"{what} {part / step:.0%}"
        for what, part in (
            ("matrix products", speed.compute),
            ("passes over memory", speed.memory),
            ("tensor collectives", speed.tensor),
            ("data and sharding collectives", speed.sharding),
            ("optimizer", speed.update),
            ("pipeline idle", speed.bubble * step),
        )
        if part > 0.005 * step
    )
    return "\n".join(
        (
            f"hardware   {made.hardware.name}, {made.numbers}",
            f"memory     {full.total / MB:.0f} MB on a rank of stage {full.stage}, of {made.limit / MB:.0f}: {fits}",
            f"speed      {speed.tokens:.4g} tokens/s/card, MFU {speed.mfu:.1%}, {step:.3g} s a step",
            f"time       {parts}",
        )
    )


def found_dict(one: Ranked) -> dict[str, Any]:
    """Return a found plan as plain data: its fields, its stages, its flags, its prediction."""
    plan = one.plan
    content = {
        key: value for key, value in plan.to_dict().items() if key not in ("layers", "labels", "blocks", "remarks")
    }
    stages = [
        {
            "stage": stage,
            "chunks": [list(chunk) for chunk in plan.chunks(stage)],
            "blocks": sum(plan.blocks[layer] for start, stop in plan.chunks(stage) for layer in range(start, stop)),
        }
        for stage in range(plan.pipeline)
    ]
    return {**content, "stages": stages, "flags": as_flags(one.request), "prediction": one.prediction.to_dict()}
