"""Bytes that a rank of each stage holds at its peak, counted from the parameter table and the configuration.

Peak is the start of a backward pass: every micro batch in flight has its activations, the last stage its logits, and
gradients of earlier micro batches are there. With one micro batch a step there are none: they are made as activations
are let go, so that the larger of the two counts. What is counted follows Korthikanti et al. 2022 (arXiv 2205.05198),
with each width taken from the table instead of a formula in the hidden size; the number of micro batches in flight
follows Narayanan et al. 2021 (arXiv 2104.04473).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heapreplace
from typing import NamedTuple

from zoo_core.config import ModelConfig
from zoo_core.plan.counts import Counted, Kind, LayerSizes
from zoo_core.plan.plan import Plan
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.work import Setting, Work, setting_of, work_of

__all__ = [
    "UNRELEASED",
    "Kept",
    "StageMemory",
    "block_bytes",
    "distinct_stages",
    "owned_elements",
    "predict_memory",
    "stage_elements",
    "stage_kinds",
]

UNRELEASED = 0.5
"""Under sharding stage 2, bytes held beyond what is counted for each byte of this rank's weights.

Fitted once, on the published runs of llama-7b and llama-13b, which ask for 0.53 and 0.51: as if two thirds of the
gradients that were sent to other ranks were still held.
"""

_BUCKET = 128 * 2**20
"""Bytes that fleet joins before it reduces gradients (`fused_allreduce_gradients`)."""
_STORAGE = 2**23
"""Elements of stage 2's buffer of small gradients, for each rank of the axis (`buffer_max_size`)."""
_ROWS = 128
"""Queries that zoo's CPU attention takes at once; of the keys of a block it keeps all that any of them sees."""
_LOST = 200 * 2**20
"""Bytes at most that glibc's heap, which zoo tells to keep what is freed (`zoo_ops.cpu.memory`), loses between blocks.

Less where half of what a micro batch takes and lets go is less. Five runs of Llama of 340 MB to 2.1 GB lost 150 to 330.
"""
_WHOLE = 1024
"""Under stage 3, parameters of at most so many elements stay whole."""
_ALIGNED = {"cpu": 4096}
"""Under stage 3, bytes of which fleet makes every other parameter a multiple (`alignment`); 256 on other devices."""


class Kept(NamedTuple):
    """Bytes that a layer keeps of a micro batch.

    Args:
        whole: without recompute.
        again: of a block that the plan recomputes.
        widest: of its widest results together, whose gradients its backward pass makes at once.
    """

    whole: int
    again: int
    widest: int


class StageMemory(NamedTuple):
    """What a rank of one stage holds at its peak, in bytes; of the ranks of a stage the one that holds most.

    Args:
        stage: number of the pipeline stage.
        weights: of the local parameters, a reference model's included.
        gradients: of the trained ones.
        optimizer: moments and master weights.
        activations: of the micro batches in flight, and what the backward pass of a block needs at once.
        logits: of one micro batch, with what the loss makes of them.
        buffers: of communication.
        process: held before there is a model (on CPU), and what its memory loses between blocks.
        elements: parameters on this rank.
        in_flight: micro batches whose activations are held at once, in whole stages.
        later: of the gradients, those that take the place of activations and logits that were let go.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    process: int = 0
    elements: int = 0
    in_flight: float = 1.0
    later: int = 0

    @property
    def total(self) -> int:
        """All of it that is there at once."""
        return (
            self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.buffers
            + self.process - self.later
        )  # fmt: skip


def stage_kinds(plan: Plan, counts: Counted, stage: int) -> tuple[Kind, ...]:
    """Return the layers of a stage by kind; stages that are alike have the same object."""
    return counts.kinds(plan.tensor, plan.chunks(stage), plan.recompute_interval if plan.recompute != "none" else 0)


def distinct_stages(plan: Plan, counts: Counted) -> tuple[int, ...]:
    """Return the first stage of each sort: no other is slower or, under 1F1B, holds more."""
    interval = plan.recompute_interval if plan.recompute != "none" else 0
    return _distinct(counts, plan.tensor, plan.stage_bounds, plan.pipeline, interval)


@lru_cache(maxsize=1024)
def _distinct(counts: Counted, tensor: int, bounds: tuple[int, ...], pipeline: int, interval: int) -> tuple[int, ...]:
    plan = Plan(pipeline=pipeline, stage_bounds=bounds)
    first: dict[int, int] = {}
    for stage in range(pipeline):
        first.setdefault(id(counts.kinds(tensor, plan.chunks(stage), interval)), stage)
    return tuple(first.values())


def stage_elements(plan: Plan, counts: Counted, stage: int) -> tuple[int, int, int]:
    """Return a rank's elements that are no experts', its experts', and its buffers', each exact."""
    return counts.elements(plan.tensor, plan.expert, plan.chunks(stage))


def owned_elements(plan: Plan, counts: Counted, stage: int, width: int = 4) -> tuple[int, ...]:
    """Return the elements whose optimizer states each rank of the sharding axis holds, experts' left out where spread.

    Stages 1 and 2 give whole parameters away, each to the rank that has least so far: stage 1 the largest first
    (`DygraphShardingOptimizer`), stage 2 in the model's order (`GroupShardedOptimizerStage2`). Stage 3 cuts every
    parameter that is not small, after filling it up.

    Args:
        width: bytes of an element of a parameter.
    """
    return _shared(plan, counts, stage, width, frozen=False)


def _shared(plan: Plan, counts: Counted, stage: int, width: int, frozen: bool) -> tuple[int, ...]:
    sizes = counts.parameter_sizes(plan.tensor, plan.chunks(stage), plan.expert > 1, frozen)
    return _owned(sizes, plan.sharding, plan.sharding_stage, _ALIGNED.get(plan.device, 256) // width)


@lru_cache(maxsize=256)
def _owned(sizes: tuple[int, ...], degree: int, stage: int, unit: int) -> tuple[int, ...]:
    if stage == 0 or degree == 1:
        return (sum(sizes),) * degree
    if stage == 3:
        whole = sum(size for size in sizes if size <= _WHOLE)
        filled = (-(-size // unit) * unit for size in sizes if size > _WHOLE)
        return (whole + sum(-(-size // degree) for size in filled),) * degree
    heap = [(0, rank) for rank in range(degree)]
    heapify(heap)
    for size in sorted(sizes, reverse=True) if stage == 1 else sizes:
        held, rank = heap[0]
        heapreplace(heap, (held + size, rank))
    return tuple(held for held, _ in sorted(heap, key=lambda pair: pair[1]))


@lru_cache(maxsize=8192)
def block_bytes(sizes: LayerSizes, work: Work, setting: Setting) -> Kept:
    """Return what one layer keeps of a micro batch for its backward pass."""
    config, numbers, keeping = setting.config, setting.numbers, setting.keeping
    width, shard = numbers.compute_bytes, work.shard
    heads = config.num_attention_heads // work.tensor
    scores: float = 0
    attention: float = width * (sizes.attention_outputs + sizes.attention_row)
    if sizes.attention_row:
        attention += 4 * heads
        scores = _scores(work, config, heads, width, keeping, setting.tuned.virtual_tokens)
        if keeping.rope == "float32" and config.rotary_positions:
            kv = max(config.kv_heads // work.tensor, 1)
            attention += keeping.rope_copies * 4 * (heads + kv) * config.head_size
    kept = attention + scores + width * (sizes.outputs + sizes.row_inputs)
    if not keeping.fused_gate:
        kept += width * sizes.gates
    for features, matrices in sizes.columns:
        kept += width * features * keeping.copies_of(matrices, work.tensor)
    kept += width * sum(sizes.whole_inputs) / shard
    # a norm without a kernel of its own keeps a float32 copy of its input and the normalised input
    norm = width if keeping.fused_norm else (width + 4 if width == 2 else 8)
    kept += norm * sum(sizes.norms) / shard
    if sizes.experts:
        features, outputs, row, gate = sizes.routed
        each = 2 * features + outputs + row + (0 if keeping.fused_gate else gate)
        kept += config.experts_per_token * width * each
    if setting.tuned.frozen:
        kept += _beside(sizes, work, setting)
    if sizes.vocabulary:
        kept += width * config.hidden_size
    boundary = width * config.hidden_size / shard
    again = {"none": kept, "full": boundary, "full_attn": kept - attention - scores, "core_attn": kept - scores}
    widest = max(sizes.outputs + sizes.row_inputs, sizes.attention_outputs + sizes.attention_row, *sizes.routed)
    tokens = work.tokens
    return Kept(int(tokens * kept), int(tokens * again[work.recompute]), tokens * widest * width)


def _beside(sizes: LayerSizes, work: Work, setting: Setting) -> float:
    """What adapters and a prefix keep, in bytes a token: what is between A and B, and virtual keys and values.

    Frozen matrices keep their inputs as trained ones do: Paddle's products hold on to both of their operands.
    """
    width, tuned = setting.numbers.compute_bytes, setting.tuned
    kept = 0.0
    for (_, rank, inputs), times in ((sizes.adapted, 1), (sizes.adapted_expert, setting.config.experts_per_token)):
        kept += times * width * rank
        if tuned.dropout:
            kept += times * 2 * width * inputs  # the mask, and what it left of the input
    made = work.samples * sizes.virtual + (sizes.virtual + 2 * tuned.projected if tuned.projected else 0)
    return kept + width * tuned.virtual_tokens * made / work.tokens


def _scores(work: Work, config: ModelConfig, heads: int, width: int, keeping: Keeping, virtual: int) -> float:
    """What attention keeps of its scores, in bytes a token."""
    each = heads * (work.sequence + virtual)
    if _drops(config):
        return each * (8 + width)  # no kernel drops weights: softmax, what the mask left of it, and what dropout did
    if not keeping.flash_attention:
        return each * (4 + width)
    if work.tokens * each * 4 <= keeping.scores:
        seen = min(0.5 + _ROWS / 2 / work.sequence, 1.0)
        return heads * 4 * (work.sequence * seen + virtual)
    return 0.0


def _drops(config: ModelConfig) -> bool:
    """Whether attention's weights are dropped out."""
    names = ("attention_probs_dropout_prob", "attention_dropout_prob", "attention_dropout")
    return any(getattr(config, name, 0.0) for name in names)


class _Held(NamedTuple):
    """Activations of a stage, of one micro batch: of the blocks, of the other layers, of the block that is recomputed,
    of a block's backward pass, and of the loss."""

    blocks: int
    others: int
    again: int
    step: int
    logits: int


@lru_cache(maxsize=8192)
def _held(kinds: tuple[Kind, ...], work: Work, setting: Setting) -> _Held:
    blocks = others = again = step = vocabulary = 0
    for kind in kinds:
        kept = block_bytes(kind.sizes, work, setting)
        if kind.again:
            again = max(again, kept.whole)
        if kind.is_block:
            blocks += (kept.again if kind.again else kept.whole) * kind.times
        else:
            others += kept.whole * kind.times
        step = max(step, kept.widest)
        vocabulary = max(vocabulary, kind.sizes.vocabulary)
    return _Held(blocks, others, again, step, vocabulary * work.tokens * setting.keeping.logits)


def _in_flight(plan: Plan, stage: int) -> float:
    """Micro batches, in whole stages, whose activations are held at once under 1F1B or its interleaved form."""
    if plan.pipeline == 1:
        return 1.0
    if plan.virtual_stages == 1:
        return float(min(plan.accumulate, plan.pipeline - stage))
    warm = 2 * (plan.pipeline - stage - 1) + (plan.virtual_stages - 1) * plan.pipeline + 1
    return min(plan.accumulate * plan.virtual_stages, warm) / plan.virtual_stages


def predict_memory(
    plan: Plan,
    counts: Counted,
    numbers: Numbers,
    keeping: Keeping,
    process: int = 0,
    owned: Sequence[int] | Mapping[int, int] | None = None,
    stages: Sequence[int] | None = None,
) -> tuple[StageMemory, ...]:
    """Return what a rank of each stage holds.

    Args:
        owned: for each stage, the elements whose states the rank holds; `None` counts the rank that has most.
        stages: those that are wanted; `None` is all.
    """
    setting, work = setting_of(counts, numbers, keeping), work_of(plan, counts)
    found = []
    for stage in range(plan.pipeline) if stages is None else stages:
        mine = owned[stage] if owned is not None else max(owned_elements(plan, counts, stage, numbers.weight_bytes))
        found.append(_stage(plan, setting, work, process, stage, mine))
    return tuple(found)


def _stage(plan: Plan, setting: Setting, work: Work, process: int, stage: int, mine: int) -> StageMemory:
    counts, numbers = setting.counts, setting.numbers
    kinds = stage_kinds(plan, counts, stage)
    dense, expert, buffers = stage_elements(plan, counts, stage)
    trained, trained_expert = counts.trained(plan.tensor, plan.expert, plan.chunks(stage))
    # experts that are spread keep their states whole: fleet's sharding never sees them
    spread = trained_expert if plan.expert > 1 else 0
    local = dense + expert
    weights, gradients = local, trained + trained_expert
    if plan.sharding_stage == 3:
        weights = gradients = mine + spread
        if counts.tuned.frozen:
            weights = _shared(plan, counts, stage, numbers.weight_bytes, frozen=True)[0]
    elif plan.sharding_stage == 2:
        gradients = mine + spread
    states = 0 if plan.offload else (mine + spread) * numbers.state_bytes
    held = _held(kinds, work, setting)
    many = _in_flight(plan, stage)
    # a block's backward pass makes gradients of its widest results before it lets go of them; the loss comes before
    activations = int(many * held.blocks) + held.others + held.again + (0 if held.logits > held.step else held.step)
    made = gradients * numbers.gradient_bytes
    # gradients of earlier micro batches are whole; those of a single one come as activations go
    later = min(made, max(activations + held.logits - held.step, 0)) if plan.accumulate == 1 else 0
    lost = min(_LOST, (activations + held.logits + made - later) // 2) if process else 0
    saved = counts.saved_bytes(plan.tensor, plan.expert, plan.chunks(stage), numbers.weight_bytes)
    whole = local * numbers.weight_bytes + buffers * 4 - saved
    copy = whole if counts.tuned.reference == "copy" else 0  # never sharded
    own = weights * numbers.weight_bytes + buffers * 4 - (0 if plan.sharding_stage == 3 else saved)
    return StageMemory(
        stage,
        own + copy,
        made,
        states,
        activations,
        held.logits,
        _communication(plan, work, counts, numbers, trained, kinds),
        process + lost,
        local,
        many,
        later,
    )


def _communication(
    plan: Plan, work: Work, counts: Counted, numbers: Numbers, trained: int, kinds: Sequence[Kind]
) -> int:
    hidden = work.tokens * counts.config.hidden_size * numbers.compute_bytes
    total = 0
    if plan.tensor > 1:
        total += 2 * hidden if plan.sequence_parallel else hidden
    if plan.pipeline > 1:
        total += 2 * hidden
    if plan.sharding_stage == 2:
        total += int(UNRELEASED * trained * numbers.weight_bytes)
        total += min(_STORAGE * plan.sharding, trained) * numbers.gradient_bytes
    elif plan.sharding_stage == 3:
        # a block is gathered while it runs, and its gradient is whole until it is reduced
        whole = max(k.sizes.dense + k.sizes.expert * k.sizes.experts for k in kinds)
        if counts.tuned.frozen:
            whole += max(k.sizes.added + k.sizes.added_expert * k.sizes.experts for k in kinds)
        else:
            whole *= 2
        total += whole * numbers.weight_bytes
    elif plan.replicas > 1:
        total += min(_BUCKET, trained * numbers.gradient_bytes)
    return total
