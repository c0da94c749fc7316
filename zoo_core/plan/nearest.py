"""The legal plan that is nearest to an illegal request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import log2

from zoo_core.plan.request import Request
from zoo_core.plan.rules import Case, ModelFacts, verdicts

__all__ = ["as_flags", "candidates", "distance", "nearest_legal"]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def candidates(request: Request) -> Iterator[Request]:
    """Every way to fill the same world, with what else was asked for kept or given up."""
    stages = [request.sharding_stage, *(s for s in (1, 2, 3, 0) if s != request.sharding_stage)]
    world = max(request.world, 1)
    base = replace(
        request,
        world=world,
        nodes=request.nodes if 1 <= request.nodes and world % request.nodes == 0 else 1,
        micro_batch=max(request.micro_batch, 1),
        accumulate=max(request.accumulate, 1),
    )
    experts = sorted({1, *(_divisors(max(request.expert, 1)))})
    for tensor in _divisors(world):
        for pipeline in _divisors(world // tensor):
            for sharding in _divisors(world // (tensor * pipeline)):
                data = world // (tensor * pipeline * sharding)
                for stage in stages if sharding > 1 else [0]:
                    for virtual in sorted({1, max(request.virtual_stages, 1)}):
                        for accumulate in sorted({base.accumulate, max(base.accumulate, 2 * pipeline)}):
                            for sequence_parallel in sorted({False, request.sequence_parallel}):
                                for expert, cuts in product(experts, _cuts(request, pipeline * virtual)):
                                    yield replace(
                                        base,
                                        tensor=tensor,
                                        pipeline=pipeline,
                                        sharding=sharding,
                                        sharding_stage=stage,
                                        data=data,
                                        virtual_stages=virtual,
                                        accumulate=accumulate,
                                        sequence_parallel=sequence_parallel and tensor > 1,
                                        expert=expert,
                                        pipeline_cuts=cuts,
                                        offload=request.offload and stage > 0,
                                    )


def _cuts(request: Request, chunks: int) -> set[tuple[int, ...]]:
    return {(), request.pipeline_cuts} if len(request.pipeline_cuts) == chunks - 1 else {()}


def _ratio(a: int, b: int) -> float:
    return abs(log2(max(a, 1)) - log2(max(b, 1)))


def distance(asked: Request, found: Request) -> float:
    """How far a candidate is from what was asked: doublings of each axis, and what was given up.

    Axes that place the model count full. What becomes of the data axis counts little, unless it was asked for.
    """
    wanted, r = asked.resolved(), asked
    cost = _ratio(r.tensor, found.tensor) + _ratio(r.pipeline, found.pipeline)
    cost += (0.3 if r.sharding is None else 0.9) * _ratio(wanted.sharding, found.sharding or 1)
    cost += (0.8 if r.data else 0.1) * _ratio(r.data or wanted.data, found.data or 1)
    if found.sharding_stage != r.sharding_stage:
        cost += 0.6 + 0.2 * abs(found.sharding_stage - r.sharding_stage)
    cost += 0.7 * (found.virtual_stages != r.virtual_stages)
    cost += 0.6 * _ratio(r.accumulate, found.accumulate)
    cost += 0.7 * (found.sequence_parallel != r.sequence_parallel)
    cost += 0.9 * _ratio(r.expert, found.expert)
    cost += 0.3 * (found.pipeline_cuts != r.pipeline_cuts)
    return cost


def nearest_legal(request: Request, model: ModelFacts) -> Request | None:
    """Return the legal request on the same number of processes with the least distance; `None` if there is none.

    Every candidate is judged by the same rules as a request, in order of distance.
    """
    ranked = sorted(
        {c: distance(request, c) for c in candidates(request)}.items(),
        key=lambda pair: (pair[1], -pair[0].tensor, -(pair[0].sharding or 1)),
    )
    for candidate, _ in ranked:
        if all(verdict.legal for verdict in verdicts(Case(candidate.resolved(), model))):
            return candidate
    return None


def as_flags(found: Request, asked: Request) -> str:
    """Return command-line flags that turn what was asked into what was found."""
    stage = f"stage{found.sharding_stage}" + (" offload" if found.offload else "")
    asked_sharding = asked.resolved().sharding
    flags = {
        "--tensor_parallel_degree": (found.tensor, asked.tensor, 1),
        "--pipeline_parallel_degree": (found.pipeline, asked.pipeline, 1),
        "--sharding_parallel_degree": (found.sharding, asked_sharding, 1),
        "--data_parallel_degree": (found.data if asked.data else 1, asked.data or 1, 1),
        "--virtual_pp_degree": (found.virtual_stages, asked.virtual_stages, 1),
        "--expert_parallel_degree": (found.expert, asked.expert, 1),
        "--gradient_accumulation_steps": (found.accumulate, asked.accumulate, found.accumulate),
        "--per_device_train_batch_size": (found.micro_batch, asked.micro_batch, found.micro_batch),
        "--nnodes": (found.nodes, asked.nodes, found.nodes),
    }
    parts = [f"{flag} {value}" for flag, (value, was, usual) in flags.items() if value != was or value != usual]
    if found.sharding_stage:
        parts.append(f'--sharding "{stage}"' if found.offload else f"--sharding {stage}")
    elif asked.sharding_stage:
        parts.append("--sharding none")
    if found.sequence_parallel != asked.sequence_parallel:
        parts.append(f"--sequence_parallel {str(found.sequence_parallel).lower()}")
    if asked.pipeline_cuts and not found.pipeline_cuts:
        parts.append('--pipeline_cuts ""')
    return " ".join(parts) or "--tensor_parallel_degree 1"
