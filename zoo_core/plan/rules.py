"""What may combine: named rules, each with its reason and the evidence for it.

A rule looks at a `Case` and returns "" or why the case breaks it. The composer, the search for the nearest legal plan
and the documents all read `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from zoo_core import layout
from zoo_core.capabilities import CELLS, Capabilities
from zoo_core.config import ModelConfig
from zoo_core.layout import Rule
from zoo_core.matrix import lacking
from zoo_core.pipeline import PipeLayer
from zoo_core.plan.request import Degrees
from zoo_core.quantized import split_objection, with_quantised

__all__ = ["RULES", "Case", "LegalityRule", "ModelFacts", "Verdict", "first_broken", "room_for_samples", "verdicts"]


_NO_MATTER = (("not applicable", "flash_attention"),)
"""A switch without effect: the model takes another kernel, and gives the same."""


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What the rules need to know of a model; compared by identity, so that a search asks each question once."""

    name: str
    capabilities: Capabilities
    config: ModelConfig
    table: Mapping[str, Rule]
    layers: Sequence[PipeLayer]

    @cached_property
    def blocks(self) -> int:
        """Decoder blocks, the unit in which the pipeline is cut."""
        return sum(layer.is_block for layer in self.layers)

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """Why the plugin does not do a cell of the matrix, for those that it does not."""
        said, found = self.capabilities, {}
        for name in CELLS:
            cell = said.support(name, self.name)
            if cell is not None and cell.state != "declared" and (cell.state, name) not in _NO_MATTER:
                verb = "refuses" if cell.state == "refused" else "has no"
                found[name] = f"{said.family} {verb} {name}: {cell.why}"
        return found

    @cached_property
    def experts(self) -> int:
        """Routed experts of a block; 0 for a dense model."""
        return max((len(rule.experts) for rule in self.table.values() if rule.experts is not None), default=0)


@dataclass(frozen=True)
class Case:
    """One request for one model."""

    degrees: Degrees
    model: ModelFacts


@dataclass(frozen=True)
class LegalityRule:
    """A named condition that a plan must meet.

    Args:
        name: what messages and documents call it.
        statement: what must hold, in one sentence.
        evidence: where that comes from: fleet's source, a measurement, a test.
        broken: why a case breaks it, with numbers; "" when it does not.
    """

    name: str
    statement: str
    evidence: str
    broken: Callable[[Case], str] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """A rule applied to a case; `why` is empty when the case is legal by it."""

    rule: LegalityRule
    why: str

    @property
    def legal(self) -> bool:
        """Whether the rule holds."""
        return not self.why


def _positive(case: Case) -> str:
    r = case.degrees.request
    values = {
        "world": r.world, "tensor_parallel_degree": r.tensor, "pipeline_parallel_degree": r.pipeline,
        "sharding_parallel_degree": case.degrees.sharding, "expert_parallel_degree": r.expert,
        "virtual_pp_degree": r.virtual_stages, "per_device_train_batch_size": r.micro_batch,
        "gradient_accumulation_steps": r.accumulate, "nnodes": r.nodes, "data_parallel_degree": r.data or 1,
    }  # fmt: skip
    bad = [f"{name} is {value}" for name, value in values.items() if value < 1]
    if not bad and r.sharding_stage not in (0, 1, 2, 3):
        bad = [f"the sharding stage is {r.sharding_stage}"]
    return ", ".join(bad)


def _world(case: Case) -> str:
    r, sharding = case.degrees.request, case.degrees.sharding
    product = r.tensor * r.pipeline * sharding
    if r.world % product == 0:
        return ""
    parts = f"tp {r.tensor} x pp {r.pipeline} x sharding {sharding} = {product}"
    if r.world < product:
        return f"{parts} processes are needed, and there {'is' if r.world == 1 else 'are'} {r.world}"
    return f"{r.world} processes are not a multiple of {parts}"


def _nodes(case: Case) -> str:
    r = case.degrees.request
    return f"{r.world} processes do not divide over {r.nodes} machines" if r.world % r.nodes else ""


def _data(case: Case) -> str:
    r, d = case.degrees.request, case.degrees
    if r.data is None or r.data == d.data:
        return ""
    made = f"world {r.world} / (tp {r.tensor} x pp {r.pipeline} x sharding {d.sharding})"
    return f"dp {r.data} was asked for, and {made} gives {d.data}"


def _sharding_stage(case: Case) -> str:
    d = case.degrees
    if d.sharding > 1 and not d.request.sharding_stage:
        return f"sharding_parallel_degree is {d.sharding}, and nothing says what is sharded: stage1, stage2 or stage3"
    return ""


def _heads(case: Case) -> str:
    heads, tensor = case.model.config.num_attention_heads, case.degrees.request.tensor
    return f"{heads} attention heads do not divide by tp {tensor}" if heads % tensor else ""


def _kv_heads(case: Case) -> str:
    heads, tensor = case.model.config.kv_heads, case.degrees.request.tensor
    if heads % tensor and tensor % heads:
        return f"{heads} key/value heads neither divide by tp {tensor} nor divide it: neither split nor copied"
    return ""


@lru_cache(maxsize=256)
def _table_objection(model: ModelFacts, tensor: int) -> str:
    table, quantised = model.table, model.config.quantization_config
    if quantised is not None:
        table = with_quantised(table, quantised)
        if why := split_objection(table, quantised, tensor):
            return why
    for name, rule in table.items():
        why = layout.objection(rule, tensor)
        if why:
            return f"{name} does not split over tp {tensor}: {why}"
    return ""


def _splits(case: Case) -> str:
    tensor = case.degrees.request.tensor
    return _table_objection(case.model, tensor) if tensor > 1 else ""


def _blocks(case: Case) -> str:
    d = case.degrees
    if d.chunks > 1 and case.model.blocks < d.chunks:
        each = f"pp {d.request.pipeline} x virtual stages {d.request.virtual_stages}"
        return f"{case.model.blocks} blocks are fewer than {each} = {d.chunks} chunks"
    return ""


def _cuts(case: Case) -> str:
    cuts, chunks, blocks = case.degrees.request.pipeline_cuts, case.degrees.chunks, case.model.blocks
    if not cuts:
        return ""
    if len(cuts) != chunks - 1:
        return f"{chunks} chunks have {chunks - 1} cuts between them, and {len(cuts)} were given"
    if any(b <= a for a, b in zip((0, *cuts), (*cuts, blocks), strict=True)):
        return f"cuts {', '.join(map(str, cuts))} must rise, between 1 and {blocks - 1}"
    return ""


def _interleaved(case: Case) -> str:
    r = case.degrees.request
    if r.virtual_stages == 1:
        return ""
    if r.pipeline <= 2:
        return f"virtual_pp_degree {r.virtual_stages} needs more than 2 pipeline stages, and there are {r.pipeline}"
    if r.accumulate < 2 * r.pipeline:
        return f"gradient_accumulation_steps {r.accumulate} is less than 2 x pp {r.pipeline} = {2 * r.pipeline}"
    return ""


def _stage23_pipeline(case: Case) -> str:
    r = case.degrees.request
    if r.sharding_stage >= 2 and r.pipeline > 1 and not r.semi_auto:
        return (
            f"sharding stage{r.sharding_stage} with pp {r.pipeline}: the schedule drives the layers itself and never "
            "calls the wrapper that stages 2 and 3 put around the model; stage1 combines with pp"
        )
    return ""


def _stage3_tensor(case: Case) -> str:
    r, heads = case.degrees.request, case.model.config.kv_heads
    if r.sharding_stage == 3 and heads % r.tensor:
        return f"sharding stage3 with tp {r.tensor}: {heads} key/value heads are held by several ranks each"
    return ""


def _sequence(case: Case) -> str:
    r = case.degrees.request
    if r.sequence_parallel and r.sequence is not None and r.sequence % r.tensor:
        return f"a sequence of {r.sequence} tokens does not divide by tp {r.tensor}"
    return ""


def room_for_samples(config: ModelConfig, virtual_tokens: int) -> int:
    """Tokens that the positions of a model leave for a sample behind a prefix; none, or fewer, behind a long one."""
    return config.max_position_embeddings - (0 if config.own_positions else virtual_tokens)


def _positions(case: Case) -> str:
    r, config = case.degrees.request, case.model.config
    learned, room = config.max_position_embeddings, room_for_samples(config, r.virtual_tokens)
    if config.learned_positions and r.sequence is not None and r.sequence > room:
        behind = f" behind {r.virtual_tokens} virtual ones" if room < learned else ""
        return f"samples of {r.sequence} tokens{behind}, and the model has learned {learned} positions"
    return ""


def _experts(case: Case) -> str:
    r, d, experts = case.degrees.request, case.degrees, case.model.experts
    if r.expert == 1:
        return ""
    if not experts:
        return f"expert_parallel_degree is {r.expert}, and the model has no experts"
    if experts % r.expert:
        return f"{experts} experts do not divide by expert_parallel_degree {r.expert}"
    if (d.data * d.sharding) % r.expert:
        return f"expert_parallel_degree {r.expert} does not divide dp {d.data} x sharding {d.sharding}"
    return ""


def _experts_sharding(case: Case) -> str:
    r = case.degrees.request
    if r.expert > 1 and r.sharding_stage >= 2:
        return (
            f"expert_parallel_degree {r.expert} with sharding stage{r.sharding_stage}: replicas hold different "
            "experts, and stages 2 and 3 would average what is not the same"
        )
    return ""


def _prefix_tuning(case: Case) -> str:
    r = case.degrees.request
    return (
        f"prefix tuning with pp {r.pipeline}: the prefix enters every layer's cache from one place"
        if (r.task == "prefix" or r.virtual_tokens) and r.pipeline > 1
        else ""
    )


def _projected_prefix(case: Case) -> str:
    r = case.degrees.request
    if r.projects_prefix and r.sharding_stage >= 2:
        return (
            f"prefix_projection with sharding stage{r.sharding_stage}: each layer gives a part of the projection's "
            "gradient, and stages 2 and 3 reduce a gradient when its first part is there"
        )
    return ""


def _generation(case: Case) -> str:
    r = case.degrees.request
    on = r.generation_evaluation and r.pipeline > 1
    return f"generation-evaluation with pp {r.pipeline}: generating needs the whole model in each step" if on else ""


def _semi_auto(case: Case) -> str:
    r = case.degrees.request
    if not r.semi_auto:
        return ""
    parts = {
        f"virtual_pp_degree {r.virtual_stages}: a stage is one run of layers there": r.virtual_stages > 1,
        f"sharding stage3 and pp {r.pipeline}: shared parameters are gathered anew in each micro batch": (
            r.sharding_stage == 3 and r.pipeline > 1
        ),
        f"expert_parallel_degree {r.expert}: experts are whole on every replica there": r.expert > 1,
        "prefix tuning: a prefix enters every layer from outside": r.task == "prefix" or r.virtual_tokens > 0,
        "a quantised model: no placement cuts packed integers": case.model.config.quantization_config is not None,
        "evaluation by generating: placed tensors have no cache": r.generation_evaluation,
        "offload: the states stay where the parameters are": r.offload,
    }
    return "; ".join(f"the semi-automatic engine with {what}" for what, on in parts.items() if on)


_TRACED = ("pretrain", "sft", "lora", "prefix", "dpo")
"""Tasks that train, and so may train a traced graph."""


def _to_static(case: Case) -> str:
    r = case.degrees.request
    if not r.to_static:
        return ""
    if r.task not in _TRACED:
        return f"to_static with {r.task}: nothing is trained"
    if r.recompute != "none":
        return f"to_static with recompute ({r.recompute}): a traced graph keeps for its gradient what it has computed"
    if r.world == 1:
        return ""
    static = {
        f"pp {r.pipeline}: a program of Paddle's static engine holds the whole model": r.pipeline > 1,
        f"{case.model.experts} experts: Paddle's static engine places no loops over those that have rows": (
            case.model.experts > 0
        ),
        "dpo: its loss is computed outside the program": r.task == "dpo",
    }
    outside = {
        f"tp {r.tensor}": r.tensor > 1,
        f"pp {r.pipeline}": r.pipeline > 1,
        f"expert_parallel_degree {r.expert}": r.expert > 1,
        "sharding stage3": r.sharding_stage == 3,
    }
    if r.semi_auto:
        return "; ".join(f"to_static and the semi-automatic engine with {why}" for why, on in static.items() if on)
    found = ", ".join(what for what, on in outside.items() if on)
    return found and f"to_static with {found}: a graph holds no exchange that Python makes; --engine auto has its own"


def _lacking(case: Case) -> str:
    return next((why for name in case.degrees.strategies if (why := lacking(name))), "")


def _refused_cell(case: Case) -> str:
    refused = case.model.refused
    return "; ".join(refused[name] for name in case.degrees.strategies if name in refused) if refused else ""


def _exclusion(case: Case) -> str:
    if not case.model.capabilities.exclusions:
        return ""
    on = case.degrees.strategies
    for pair in case.model.capabilities.exclusions:
        if pair.first in on and pair.second in on:
            return f"{case.model.capabilities.family} excludes {pair.first} with {pair.second}: {pair.why}"
    return ""


_FLEET = "paddle.distributed.fleet 3.3.1"

RULES: tuple[LegalityRule, ...] = (
    LegalityRule("degrees are positive", "Every degree and batch size is at least 1.", "arithmetic", _positive),
    LegalityRule(
        "degrees fill the world",
        "The number of processes is a multiple of tp x pp x sharding; the rest is data parallel.",
        f"{_FLEET}: base/topology.py places every rank once",
        _world,
    ),
    LegalityRule("machines are equal", "Processes divide evenly over machines.", "paddle.distributed.launch", _nodes),
    LegalityRule(
        "data-parallel degree agrees",
        "A data_parallel_degree that is given equals the derived one.",
        "arithmetic",
        _data,
    ),
    LegalityRule(
        "sharding has a stage",
        "A sharding degree above 1 says what is sharded: stage1, stage2 or stage3.",
        "PaddleNLP's `sharding`",
        _sharding_stage,
    ),
    LegalityRule("heads divide", "A rank holds whole attention heads.", "the attention itself", _heads),
    LegalityRule(
        "key/value heads divide or copy",
        "Key/value heads are split, or each is held by a whole number of ranks.",
        "zoo_core.layout: replication",
        _kv_heads,
    ),
    LegalityRule("parameters split", "Every row of the parameter table splits.", "zoo_core.layout.pieces", _splits),
    LegalityRule(
        "a block for every chunk",
        "Every stage, and every virtual stage of it, has at least one decoder block.",
        f"{_FLEET}: pp_layers.py SegmentLayers",
        _blocks,
    ),
    LegalityRule("cuts fit", "Pipeline cuts rise and give every chunk a block.", "zoo_core.plan.cut", _cuts),
    LegalityRule(
        "interleaving needs depth",
        "virtual_pp_degree above 1 needs pp above 2 and gradient accumulation of at least 2 x pp.",
        f"{_FLEET}: PipelineParallelWithInterleave._check_sanity",
        _interleaved,
    ),
    LegalityRule(
        "stages 2 and 3 without pipeline",
        "Sharding stages 2 and 3 do not combine with pp under the manual engine; stage1 does.",
        f"{_FLEET}: PipelineParallel asserts a PipelineLayer; PaddleFleetX's table of combinations",
        _stage23_pipeline,
    ),
    LegalityRule(
        "stage 3 without copied heads",
        "Stage 3 combines with tensor parallelism where no key/value head is held by several ranks.",
        "stage 3 keeps flat slices of a gradient, in which the copies of a head cannot be found to be summed",
        _stage3_tensor,
    ),
    LegalityRule(
        "sequence divides",
        "Under sequence parallelism each rank of the tensor axis has an equal part of the sequence.",
        "reduce-scatter of equal shards",
        _sequence,
    ),
    LegalityRule(
        "positions were learned",
        "A sample is no longer than the table of a model that learns its positions.",
        "the model: there is no row for the position after the last",
        _positions,
    ),
    LegalityRule(
        "experts divide",
        "Experts are spread evenly over an axis inside data x sharding.",
        "the design: expert parallelism lives inside the sharding x data axis",
        _experts,
    ),
    LegalityRule(
        "experts without stages 2 and 3",
        "Expert parallelism combines with sharding stage 1, not with stages 2 and 3.",
        f"{_FLEET}: GroupShardedStage2 and 3 reduce every parameter over the sharding axis",
        _experts_sharding,
    ),
    LegalityRule(
        "prefix tuning without pipeline",
        "Prefix tuning does not combine with pp.",
        "PaddleNLP's prefix tuning",
        _prefix_tuning,
    ),
    LegalityRule(
        "projected prefix without stages 2 and 3",
        "A prefix with a projection combines with sharding stage 1, not with stages 2 and 3.",
        f"{_FLEET}: GroupShardedStage2's hooks; under recompute 20 steps of a tiny Llama had norms 8% off",
        _projected_prefix,
    ),
    LegalityRule(
        "generation-evaluation without pipeline",
        "Evaluation by generating does not combine with pp.",
        "PaddleNLP's eval_with_do_generation",
        _generation,
    ),
    LegalityRule(
        "the semi-automatic engine can",
        "Virtual stages, spread experts, prefixes, integers, generating and offload are for the manual engine alone.",
        "PaddlePaddle 3.3.1: DistTensor; tests/parallel/test_equality.py",
        _semi_auto,
    ),
    LegalityRule(
        "what a traced graph holds",
        "`--to_static` goes without recompute; on several processes with data parallelism and sharding stages 1 and 2, "
        "or with `--engine auto`, there without pipeline stages, experts and DPO.",
        "PaddlePaddle 3.3.1: dist.to_static; tests/train/test_to_static.py, tests/parallel",
        _to_static,
    ),
    LegalityRule(
        "the core has it", "The task or strategy is in this version of zoo-core.", "zoo_core.matrix.LIMITS", _lacking
    ),
    LegalityRule(
        "the family supports it",
        "The task or strategy applies to the model, and the plugin does not refuse it.",
        "the plugin",
        _refused_cell,
    ),
    LegalityRule("the family combines them", "The plugin does not exclude the pair.", "the plugin", _exclusion),
)


def verdicts(case: Case) -> tuple[Verdict, ...]:
    """Apply every rule; degrees below 1 are judged by the first alone, as the others would divide by them."""
    first = Verdict(RULES[0], _positive(case))
    if not first.legal:
        return (first,)
    return (first, *(Verdict(rule, rule.broken(case)) for rule in RULES[1:]))


def first_broken(case: Case) -> Verdict | None:
    """Return the verdict of the first rule that a case breaks, without judging by the rest; `None` for a legal one."""
    for rule in RULES:
        why = rule.broken(case)
        if why:
            return Verdict(rule, why)
    return None
