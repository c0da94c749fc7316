"""How long a step takes: matrix products, passes over memory, collectives, and the pipeline's idle time.

Nothing overlaps in the estimate, as nothing does in zoo's engine: a micro batch's products, its passes over activations
and its collectives follow each other, and gradients are reduced once a step (stages 2 and 3: once a micro batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from zoo_core.config import ModelConfig
from zoo_core.plan.counts import Counted, Kind, LayerSizes
from zoo_core.plan.hardware import Hardware
from zoo_core.plan.memory import block_bytes, distinct_stages, stage_elements, stage_kinds
from zoo_core.plan.plan import Plan
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.work import Setting, Work, setting_of, work_of

__all__ = ["PASSES", "Speed", "flops_of_token", "most_tokens", "predict_speed"]

PASSES = 4
"""Times a byte that a block keeps is read or written by other than matrix products: made and read forwards, read and
its gradient made backwards."""

_UPDATE = 28
"""Bytes an element that the optimizer reads and writes: gradient, two moments, master weight, weight."""


class Speed(NamedTuple):
    """How fast a plan is.

    Args:
        step: seconds of an optimizer step.
        tokens: tokens a second on each device.
        mfu: part of the device's peak that the model's own operations use (recomputed ones do not count).
        bubble: part of the step in which a stage waits for others.
        compute, memory, tensor, sharding, update: seconds of a step in matrix products, passes over memory,
            collectives of the tensor axis, of the data and sharding axes, and the optimizer.
    """

    step: float
    tokens: float
    mfu: float
    bubble: float
    compute: float
    memory: float
    tensor: float
    sharding: float
    update: float


@lru_cache(maxsize=64)
def flops_of_token(counts: Counted, sequence: int) -> float:
    """Return the operations of training on one token (Chowdhery et al. 2022, PaLM, appendix B).

    6 for each element that a token multiplies, and 12 x layers x heads x head size x sequence for attention.
    """
    config, multiplied = counts.config, 0.0
    for sizes in counts.sizes(1):
        multiplied += sizes.multiplied + sizes.multiplied_expert * config.experts_per_token
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_size * sequence
    return 6.0 * multiplied + attention


def _ring(size: float, degree: int, stride: int, machine: int, device: Hardware, passes: int = 1) -> float:
    """Seconds of a ring collective over ranks `stride` apart; 2 passes reduce and gather, 1 does one of them."""
    if degree == 1 or not size:
        return 0.0
    wire = device.link if stride * degree <= machine else device.network
    return passes * (degree - 1) / degree * size / (wire * device.links) + device.latency


class _StageTime(NamedTuple):
    compute: float
    memory: float
    tensor: float

    @property
    def total(self) -> float:
        return self.compute + self.memory + self.tensor


@lru_cache(maxsize=8192)
def _stage_time(kinds: tuple[Kind, ...], work: Work, machine: int, setting: Setting, device: Hardware) -> _StageTime:
    """Seconds of one micro batch, forwards and backwards, on one stage; without what it sends to other stages."""
    config, numbers, keeping = setting.config, setting.numbers, setting.keeping
    speed = device.peak(numbers.compute) * device.matmul
    hidden = work.tokens * config.hidden_size * numbers.compute_bytes
    compute = memory = tensor = 0.0
    reduced = _ring(hidden, work.tensor, 1, machine, device, 2)
    for kind in kinds:
        flops, attention, collectives = _layer(kind.sizes, work, config, keeping)
        kept = block_bytes(kind.sizes, work, setting).whole
        forward = 1.0
        if kind.again and work.recompute == "full":
            forward = 2.0
        elif kind.again:
            compute += kind.times * attention * work.tokens / speed
        compute += kind.times * (2.0 + forward) * flops * work.tokens / speed
        memory += kind.times * (PASSES / 2 * (forward + 1.0)) * kept / (device.bandwidth * device.stream)
        tensor += kind.times * (collectives + 2 * (forward - 1.0)) * reduced
        if kind.sizes.experts and work.expert > 1:
            routed = config.experts_per_token * hidden
            tensor += kind.times * 4 * _ring(routed, work.expert, work.tensor, machine, device)
    return _StageTime(compute, memory, tensor)


def _layer(sizes: LayerSizes, work: Work, config: ModelConfig, keeping: Keeping) -> tuple[float, float, int]:
    """Operations a token forwards, of which attention's core, and all-reduces of a hidden state."""
    flops = 2.0 * (sizes.multiplied + sizes.multiplied_expert * config.experts_per_token)
    core = 0.0
    if sizes.attention_row:
        # causal: on average half of the positions are seen, which only a flash kernel uses
        seen = work.sequence / 2 if keeping.flash_attention else work.sequence
        core = 4.0 * config.num_attention_heads * config.head_size / work.tensor * seen
    collectives = sum(keeping.copies_of(matrices, work.tensor) for _, matrices in sizes.columns)
    collectives += bool(sizes.attention_row) + bool(sizes.row_inputs or sizes.experts) + bool(sizes.vocabulary)
    return flops + core, core, collectives


def predict_speed(plan: Plan, counts: Counted, numbers: Numbers, keeping: Keeping, device: Hardware) -> Speed:
    """Return how fast a plan is on a device.

    Raises:
        ConfigError: the device does not compute in the run's element type.
    """
    work, machine = work_of(plan, counts.config), device.near(plan.world, plan.nodes)
    setting, stages = setting_of(counts, numbers, keeping), distinct_stages(plan, counts)
    times = [_stage_time(stage_kinds(plan, counts, stage), work, machine, setting, device) for stage in stages]
    slowest = max(times, key=lambda time: time.total)
    if plan.pipeline > 1:
        hidden = work.tokens * counts.config.hidden_size * numbers.compute_bytes
        sent = 2 * plan.virtual_stages * _ring(hidden, 2, plan.tensor * plan.sharding, machine, device)
        slowest = _StageTime(slowest.compute, slowest.memory, slowest.tensor + sent)
    waiting = (plan.pipeline - 1) / plan.virtual_stages
    busy = plan.accumulate * slowest.total
    bubble = waiting * slowest.total
    most = max(sum(stage_elements(plan, counts, stage)[:2]) for stage in stages)
    exchange, update = _once(plan, plan.accumulate, most, numbers, device, machine)
    step = busy + bubble + exchange + update
    tokens = plan.global_batch * work.sequence / step / plan.world
    mfu = tokens * flops_of_token(counts, work.sequence) / device.peak(numbers.compute)
    return Speed(
        step,
        tokens,
        mfu,
        bubble / step,
        plan.accumulate * slowest.compute,
        plan.accumulate * slowest.memory,
        plan.accumulate * slowest.tensor,
        exchange,
        update,
    )


def most_tokens(
    plan: Plan, batches: Sequence[tuple[int, int]], setting: Setting, device: Hardware, virtual: int
) -> float:
    """Return tokens a second on each device that no way to cut the layers, with recompute or without, gets above.

    The slowest stage takes at least what the stages take on average, and has at least as many elements.

    Args:
        plan: its cuts, batches and virtual stages do not matter.
        batches: micro batches that may be chosen, each with their number.
        virtual: most virtual stages.
    """
    counts, machine = setting.counts, device.near(plan.world, plan.nodes)
    everything = ((0, len(counts.layers)),)
    kinds, work = counts.kinds(plan.tensor, everything, 0), work_of(plan, counts.config)
    dense, expert, _ = counts.elements(plan.tensor, plan.expert, everything)
    fewest, waiting = min(number for _, number in batches), (plan.pipeline - 1) / virtual
    exchange, update = _once(plan, fewest, (dense + expert) / plan.pipeline, setting.numbers, device, machine)
    step = float("inf")
    for samples, number in batches:
        whole = _stage_time(kinds, work._replace(samples=samples), machine, setting, device).total
        step = min(step, (number + waiting) * whole / plan.pipeline + exchange + update)
    samples, number = batches[0]
    return samples * number * plan.replicas * work.sequence / step / plan.world


def _once(
    plan: Plan, batches: int, most: float, numbers: Numbers, device: Hardware, machine: int
) -> tuple[float, float]:
    """Seconds of reducing gradients and handing out weights, and of the update, on a stage of so many elements
    that runs so many micro batches."""
    gradients, weights = most * numbers.gradient_bytes, most * numbers.weight_bytes
    across, along = plan.tensor, plan.tensor * plan.sharding * plan.pipeline
    seconds = 0.0
    if plan.sharding_stage == 3:
        seconds += batches * 2 * _ring(weights, plan.sharding, across, machine, device)
        seconds += batches * _ring(gradients, plan.sharding, across, machine, device)
    elif plan.sharding_stage == 2:
        seconds += batches * _ring(gradients, plan.sharding, across, machine, device)
        seconds += _ring(weights, plan.sharding, across, machine, device)
    else:
        seconds += _ring(gradients, plan.sharding, across, machine, device)
        seconds += _ring(weights, plan.sharding, across, machine, device) if plan.sharding_stage else 0.0
    data = gradients / (plan.sharding if plan.sharding_stage >= 2 else 1)
    seconds += _ring(data, plan.data, along, machine, device, 2)
    owned = most / (plan.sharding if plan.sharding_stage else 1)
    return seconds, owned * _UPDATE / (device.bandwidth * device.stream)
