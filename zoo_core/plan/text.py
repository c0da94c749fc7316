"""A plan in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core._counting import many
from zoo_core.arguments import TUNING

if TYPE_CHECKING:
    from zoo_core.plan.plan import Plan

__all__ = ["describe", "sample_name", "span", "tokens_text"]


def span(plan: Plan, start: int, stop: int) -> str:
    """A run of layers as people say it: what stands before the blocks, the blocks by number, what stands after."""
    numbers = {layer: n for n, layer in enumerate(i for i, block in enumerate(plan.blocks) if block)}
    parts: list[str] = []
    run: list[int] = []
    for layer in range(start, stop):
        if plan.blocks[layer]:
            run.append(numbers[layer])
            continue
        if run:
            parts.append(_numbers(run))
            run = []
        parts.append(plan.labels[layer])
    if run:
        parts.append(_numbers(run))
    return ", ".join(parts)


def _numbers(run: list[int]) -> str:
    return f"block {run[0]}" if len(run) == 1 else f"blocks {run[0]}-{run[-1]}"


def sample_name(task: str) -> str:
    """What one of the global batch is called."""
    return "pair" if task == "dpo" else "sample"


def tokens_text(plan: Plan, task: str, samples: int) -> str:
    """The tokens of so many samples, or the most that they may have where their lengths differ; begins with a comma."""
    if not plan.sequence:
        return ""
    rows = samples * (2 if task == "dpo" else 1)
    return f", {'up to ' if task in TUNING else ''}{many(rows * plan.sequence, 'token')}"


def describe(plan: Plan, stages: bool = True, task: str = "pretrain") -> str:
    """Return the plan in lines: axes, batch, memory choices, stages if wanted, remarks."""
    sharding = f"{plan.sharding}" + (
        f" (stage {plan.sharding_stage}{', offload' if plan.offload else ''})" if plan.sharding_stage else ""
    )
    axes = f"data {plan.data} x pipeline {plan.pipeline} x sharding {sharding} x tensor {plan.tensor}"
    processes = f"{many(plan.world, 'process')} on {plan.device}"
    machines = f", {plan.nodes} machines" if plan.nodes > 1 else ""
    lines = [f"plan       {axes} = {processes}{machines}"]
    extra = [f"virtual stages {plan.virtual_stages}"] if plan.virtual_stages > 1 else []
    extra += ["semi-automatic engine"] if plan.semi_auto else []
    extra += ["traced graph"] if plan.to_static else []
    extra += ["sequence parallel"] if plan.sequence_parallel else []
    extra += [f"expert {plan.expert}"] if plan.expert > 1 else []
    if extra:
        lines.append("also       " + ", ".join(extra))
    made = f"micro {plan.micro_batch} x accumulate {plan.accumulate} x replicas {plan.replicas}"
    tokens = tokens_text(plan, task, plan.global_batch)
    lines.append(f"batch      {made} = {many(plan.global_batch, sample_name(task))} a step{tokens}")
    every = f" every {plan.recompute_interval} blocks" if plan.recompute_interval > 1 else ""
    lines.append("recompute  " + plan.recompute + (every if plan.recompute != "none" else ""))
    if plan.pipeline > 1 and stages:
        for pipe in range(plan.pipeline):
            held = " | ".join(span(plan, start, stop) for start, stop in plan.chunks(pipe))
            lines.append(f"stage {pipe:<4} {held}")
    lines += [f"remark     {remark}" for remark in plan.remarks]
    return "\n".join(lines)
