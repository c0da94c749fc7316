"""What the engine itself makes of requests, without the planner's rules: `engine_check.py < REQUESTS > ANSWERS`.

Reads a list of `{"model", "request"}` and prints a list of reasons, "" where the engine takes the request. Layers are
built and run by the engine's own code, every rank of the tensor axis as a thread; groups, chunks and schedules are put
to fleet's own classes.
"""

from __future__ import annotations

import json
import sys
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet.base.topology import CommunicateTopology
from paddle.distributed.fleet.meta_parallel import LayerDesc, PipelineParallel
from paddle.distributed.fleet.meta_parallel.parallel_layers.pp_layers import SegmentLayers
from paddle.distributed.fleet.meta_parallel.pipeline_parallel import PipelineParallelWithInterleave

from zoo_core.engine.build import Stage, build_layer, from_seed
from zoo_core.layout import Rule, copied
from zoo_core.peft import LoraSpec, PrefixSpec, is_adapter, with_adapters, with_prefix
from zoo_core.plan import Plan, Request
from zoo_core.registry import registry
from zoo_core.testing.turns import Turns
from zoo_ops import Batch, after_prefix

ORDER = fleet.DistributedStrategy().hybrid_parallel_order


@lru_cache
def model_of(name: str) -> tuple[Any, Any]:
    found = registry().find(name)
    return found.architecture, found.config.replace(**found.architecture.capabilities.scales["tiny"])


class Beside(NamedTuple):
    """What is trained in the model's place: adapters, or a prefix."""

    lora: bool = False
    tokens: int = 0
    projects: bool = False

    def specs(self, name: str) -> dict[str, Any]:
        hidden = model_of(name)[1].hidden_size if self.projects else 0
        return {
            "lora": LoraSpec(rank=4) if self.lora else None,
            "prefix": PrefixSpec(self.tokens, hidden) if self.tokens else None,
        }


def rows_of(name: str, beside: Beside) -> dict[str, Rule]:
    architecture, config = model_of(name)
    table, (lora, prefix) = architecture.table(config), beside.specs(name).values()
    if lora is not None:
        table = with_adapters(table, lora)
    return with_prefix(table, architecture.pipe_layers(config), config, prefix) if prefix is not None else table


def built(name: str, beside: Beside, tensor: int = 1, rank: int = 0) -> list[Any]:
    """The layers of a rank, as the engine builds them."""
    architecture, config = model_of(name)
    elements = architecture.pipe_layers(config)
    stage = Stage(
        rows_of(name, beside), from_seed(1, config, tensor, rank), tensor, rank, **beside.specs(name),
        shared=elements[0].prefix, cached=config.cached_sizes[1:],
    )  # fmt: skip
    return [build_layer(element, stage) for element in elements]


@cache
def shared_by_blocks(name: str, beside: Beside) -> int:
    """How many trained tensors several blocks use, each of which gives a part of the gradient."""
    architecture, _ = model_of(name)
    held: dict[int, int] = {}
    for element, layer in zip(architecture.pipe_layers(model_of(name)[1]), built(name, beside), strict=True):
        if element.is_block:
            for one in {id(p) for p in layer.parameters() if not p.stop_gradient}:
                held[one] = held.get(one, 0) + 1
    return sum(count > 1 for count in held.values())


@cache
def runs(name: str, tensor: int, split: bool, sequence: int, beside: Beside) -> str:
    """Why the ranks of a tensor axis cannot build the model, or run a sample through it."""
    _, config = model_of(name)
    ids = paddle.to_tensor(np.arange(sequence).reshape(1, -1) % config.vocab_size)

    def rank(number: int) -> None:
        layers, batch, x = built(name, beside, tensor, number), Batch(ids), None
        if beside.tokens:
            batch = after_prefix(batch, beside.tokens)
        with paddle.no_grad():
            for layer in layers:
                x = layer(x, batch, None)

    try:
        Turns(tensor, split).run(rank)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


@cache
def spreads(name: str, expert: int) -> str:
    """Why experts cannot be spread: what the ranks of the axis build is not all of them, in equal parts."""
    architecture, config = model_of(name)
    table = architecture.table(config)
    wanted = {n for n, rule in table.items() if rule.expert is not None and not rule.buffer}
    built = []
    for rank in range(expert):
        stage = Stage(table, from_seed(1, config, 1, 0), 1, 0, experts=(expert, rank))
        for element in architecture.pipe_layers(config):
            build_layer(element, stage)
        built.append({n for n in stage.held if n in wanted})
    if not wanted or set().union(*built) != wanted or len({len(part) for part in built}) > 1:
        return f"ranks hold {[len(part) for part in built]} of {len(wanted)} parameters of experts"
    return ""


@cache
def schedules(pipeline: int, virtual: int, accumulate: int, blocks: int) -> str:
    """Why fleet cannot cut the blocks, or run the schedule."""
    try:
        if pipeline * virtual > 1:
            SegmentLayers([LayerDesc(nn.Layer)] * blocks, pipeline * virtual, "uniform")
        if virtual > 1:
            asked = SimpleNamespace(num_stages=pipeline, accumulate_steps=accumulate)
            PipelineParallelWithInterleave._check_sanity(asked)
    except AssertionError as error:
        return str(error)
    return ""


def objection(name: str, request: Request) -> str:
    """Why the engine cannot do a request; empty when it can."""
    architecture, config = model_of(name)
    degrees = request.resolved()
    r, sharding, blocks = degrees.request, degrees.sharding, config.num_hidden_layers
    places = {"dp": degrees.data, "pp": r.pipeline, "sharding": sharding, "mp": r.tensor}
    if CommunicateTopology(ORDER, [places.get(axis, 1) for axis in ORDER]).world_size() != request.world:
        return f"{places} are not {request.world} processes"
    if request.world % request.nodes:
        return "machines have unequal numbers of processes"
    if request.data is not None and request.data != degrees.data:
        return f"{degrees.data} replicas, not {request.data}"
    is_block = [element.is_block for element in architecture.pipe_layers(config)]
    beside = Beside(r.lora, r.virtual_tokens, r.projects_prefix)
    why = schedules(r.pipeline, r.virtual_stages, r.accumulate, sum(is_block)) or runs(
        name, r.tensor, r.sequence_parallel, r.sequence or blocks, beside
    )
    if why:
        return why
    if beside.tokens and r.pipeline > 1:
        return "`Engine` takes no prefix for pipeline stages"
    if beside.tokens and r.sharding_stage >= 2 and shared_by_blocks(name, beside):
        return "fleet's hooks reduce a gradient at the first of its parts"
    if r.sharding_stage >= 2 and r.pipeline > 1:
        try:
            PipelineParallel(nn.Layer(), None, None)  # as GroupShardedStage2 and 3 are: layers, but no PipelineLayer
        except TypeError as error:
            return str(error)
    table = rows_of(name, beside)
    if any(beside):  # nothing else has a gradient
        table = {n: rule for n, rule in table.items() if is_adapter(n)}
    if r.sharding_stage == 3 and r.tensor > 1:
        held_twice = [n for n, rule in table.items() if rule.dim is not None and list(copied(rule, r.tensor, 0))]
        if held_twice:
            return f"copies of {held_twice[0]} are not found in flat slices"
    if r.expert > 1:
        plan = Plan(
            world=r.world, data=degrees.data, sharding=sharding, tensor=r.tensor, pipeline=r.pipeline, expert=r.expert
        )
        if plan.replicas % r.expert or any(len(set(plan.expert_group(k))) != r.expert for k in range(plan.world)):
            return f"groups of {r.expert} replicas do not make {plan.replicas}"
        if r.sharding_stage >= 2:
            return "fleet would average experts that are not the same"
        return spreads(name, r.expert)
    return ""


if __name__ == "__main__":
    asked = [(one["model"], Request(**one["request"])) for one in json.load(sys.stdin)]
    print("\n" + json.dumps([objection(*one) for one in asked]))
