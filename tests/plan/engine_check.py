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
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet.base.topology import CommunicateTopology
from paddle.distributed.fleet.meta_parallel import LayerDesc, PipelineParallel
from paddle.distributed.fleet.meta_parallel.parallel_layers.pp_layers import SegmentLayers
from paddle.distributed.fleet.meta_parallel.pipeline_parallel import PipelineParallelWithInterleave

from zoo_core.engine.build import Stage, build_layer, from_seed
from zoo_core.layout import copied
from zoo_core.plan import Plan, Request
from zoo_core.registry import registry
from zoo_core.testing.turns import Turns
from zoo_ops import Batch

ORDER = fleet.DistributedStrategy().hybrid_parallel_order


@lru_cache
def model_of(name: str) -> tuple[Any, Any]:
    found = registry().find(name)
    return found.architecture, found.config.replace(**found.architecture.capabilities.scales["tiny"])


@cache
def runs(name: str, tensor: int, split: bool, sequence: int) -> str:
    """Why the ranks of a tensor axis cannot build the model, or run a sample through it."""
    architecture, config = model_of(name)
    table, elements = architecture.table(config), architecture.pipe_layers(config)
    ids = paddle.to_tensor(np.arange(sequence).reshape(1, -1) % config.vocab_size)

    def rank(number: int) -> None:
        stage = Stage(table, from_seed(1, config, tensor, number), tensor, number)
        layers, batch, x = [build_layer(element, stage) for element in elements], Batch(ids), None
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
    why = schedules(r.pipeline, r.virtual_stages, r.accumulate, sum(is_block)) or runs(
        name, r.tensor, r.sequence_parallel, r.sequence or blocks
    )
    if why:
        return why
    if r.sharding_stage >= 2 and r.pipeline > 1:
        try:
            PipelineParallel(nn.Layer(), None, None)  # as GroupShardedStage2 and 3 are: layers, but no PipelineLayer
        except TypeError as error:
            return str(error)
    table = architecture.table(config)
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
