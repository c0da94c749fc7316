"""How long a step takes: matrix products, passes over memory, collectives, and the pipeline's idle time.

Nothing overlaps in the estimate, as nothing does in zoo's engine: a micro batch's products, its passes over activations
and its collectives follow each other, and gradients are reduced once a step (stages 2 and 3: once a micro batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

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

    6 for each element that a token multiplies, and 12 x layers x heads x head size x sequence for attention. Elements
    that are not trained need no gradient: 4. A reference model runs forwards: 2 more for each, 4 of attention.
    """
    config, tuned = counts.config, counts.tuned
    multiplied = added = 0.0
    for sizes in counts.sizes(1):
        multiplied += sizes.multiplied + sizes.multiplied_expert * config.experts_per_token
        added += sizes.adapted[0] + sizes.adapted_expert[0] * config.experts_per_token
    again = 0 if tuned.reference == "none" else 1
    seen = sequence + tuned.virtual_tokens
    attention = (12 + 4 * again) * config.num_hidden_layers * config.num_attention_heads * config.head_size * seen
    return ((4.0 if tuned.frozen else 6.0) + 2.0 * again) * multiplied + 6.0 * added + attention


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
    config, numbers, tuned = setting.config, setting.numbers, setting.tuned
    backward = 1.0 if tuned.frozen else 2.0  # frozen matrices have no gradients of their own
    reference = 0.0 if tuned.reference == "none" else 1.0
    speed = device.peak(numbers.compute) * device.matmul
    hidden = work.tokens * config.hidden_size * numbers.compute_bytes
    compute = memory = tensor = 0.0
    reduced = _ring(hidden, work.tensor, 1, machine, device, 2)
    for kind in kinds:
        flops, beside, attention, collectives = _layer(kind.sizes, work, setting)
        kept = block_bytes(kind.sizes, work, setting).whole
        forward = 1.0
        if kind.again and work.recompute == "full":
            forward = 2.0
        elif kind.again:
            compute += kind.times * attention * work.tokens / speed
        forward += reference
        products = (backward + forward) * flops + (2.0 + forward) * attention + (2.0 + forward - reference) * beside
        compute += kind.times * products * work.tokens / speed
        memory += kind.times * (PASSES / 2 * (forward + 1.0)) * kept / (device.bandwidth * device.stream)
        tensor += kind.times * (collectives + 2 * (forward - 1.0)) * reduced
        if kind.sizes.experts and work.expert > 1:
            routed = config.experts_per_token * hidden
            tensor += kind.times * 4 * _ring(routed, work.expert, work.tensor, machine, device)
    return _StageTime(compute, memory, tensor)


def _layer(sizes: LayerSizes, work: Work, setting: Setting) -> tuple[float, float, float, int]:
    """Operations a token forwards: of the model's matrices, of adapters and prefixes, of attention's core; and
    all-reduces of a hidden state."""
    config, keeping, tuned = setting.config, setting.keeping, setting.tuned
    flops = 2.0 * (sizes.multiplied + sizes.multiplied_expert * config.experts_per_token)
    beside = 2.0 * (sizes.adapted[0] + sizes.adapted_expert[0] * config.experts_per_token)
    if tuned.projected:
        beside += 2.0 * sizes.added * tuned.virtual_tokens / work.tokens  # the projection, once a micro batch
    core = 0.0
    if sizes.attention_row:
        # causal: on average half of the positions are seen, which only a flash kernel uses; virtual ones always
        seen = (work.sequence / 2 if keeping.flash_attention else work.sequence) + tuned.virtual_tokens
        core = 4.0 * config.num_attention_heads * config.head_size / work.tensor * seen
    collectives = sum(keeping.copies_of(matrices, work.tensor) for _, matrices in sizes.columns)
    collectives += bool(sizes.attention_row) + bool(sizes.row_inputs or sizes.experts) + bool(sizes.vocabulary)
    return flops, beside, core, collectives


def predict_speed(plan: Plan, counts: Counted, numbers: Numbers, keeping: Keeping, device: Hardware) -> Speed:
    """Return how fast a plan is on a device.

    Raises:
        ConfigError: the device does not compute in the run's element type.
    """
    work, machine = work_of(plan, counts), device.near(plan.world, plan.nodes)
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
    trained = max(sum(counts.trained(plan.tensor, plan.expert, plan.chunks(stage))) for stage in stages)
    exchange, update = _once(plan, plan.accumulate, most, trained, numbers, device, machine)
    step = busy + bubble + exchange + update
    tokens = plan.global_batch * counts.tuned.rows * work.sequence / step / plan.world
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
    kinds, work = counts.kinds(plan.tensor, everything, 0), work_of(plan, counts)
    most = sum(counts.elements(plan.tensor, plan.expert, everything)[:2]) / plan.pipeline
    trained = sum(counts.trained(plan.tensor, plan.expert, everything)) / plan.pipeline
    fewest, waiting = min(number for _, number in batches), (plan.pipeline - 1) / virtual
    exchange, update = _once(plan, fewest, most, trained, setting.numbers, device, machine)
    step = float("inf")
    for samples, number in batches:
        rows = work._replace(samples=samples * counts.tuned.rows)
        whole = _stage_time(kinds, rows, machine, setting, device).total
        step = min(step, (number + waiting) * whole / plan.pipeline + exchange + update)
    samples, number = batches[0]
    return samples * number * plan.replicas * counts.tuned.rows * work.sequence / step / plan.world


def _once(
    plan: Plan, batches: int, most: float, trained: float, numbers: Numbers, device: Hardware, machine: int
) -> tuple[float, float]:
    """Seconds of reducing gradients and handing out weights, and of the update, on a stage of so many elements, so
    many of them trained, that runs so many micro batches."""
    gradients, weights = trained * numbers.gradient_bytes, trained * numbers.weight_bytes
    across, along = plan.tensor, plan.tensor * plan.sharding * plan.pipeline
    seconds = 0.0
    if plan.sharding_stage == 3:
        seconds += batches * 2 * _ring(most * numbers.weight_bytes, plan.sharding, across, machine, device)
        seconds += batches * _ring(gradients, plan.sharding, across, machine, device)
    elif plan.sharding_stage == 2:
        seconds += batches * _ring(gradients, plan.sharding, across, machine, device)
        seconds += _ring(weights, plan.sharding, across, machine, device)
    else:
        seconds += _ring(gradients, plan.sharding, across, machine, device)
        seconds += _ring(weights, plan.sharding, across, machine, device) if plan.sharding_stage else 0.0
    data = gradients / (plan.sharding if plan.sharding_stage >= 2 else 1)
    seconds += _ring(data, plan.data, along, machine, device, 2)
    owned = trained / (plan.sharding if plan.sharding_stage else 1)
    return seconds, owned * _UPDATE / (device.bandwidth * device.stream)
