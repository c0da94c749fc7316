"""From a request to a plan, or to a refusal that names the rule and the nearest legal plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from zoo_core import layout
from zoo_core.arguments import TUNING
from zoo_core.config import ModelConfig
from zoo_core.errors import PlanError
from zoo_core.plan.cut import cut
from zoo_core.plan.nearest import as_flags, nearest_legal
from zoo_core.plan.owner import labels, owners
from zoo_core.plan.plan import Plan
from zoo_core.plan.request import Degrees, Request
from zoo_core.plan.rules import Case, ModelFacts, Verdict, room_for_samples, verdicts
from zoo_core.registry import Architecture

__all__ = ["compose", "facts", "judge", "sketch"]


def facts(architecture: Architecture, config: ModelConfig, name: str = "") -> ModelFacts:
    """Gather what the rules need to know of a model."""
    table, layers = architecture.table(config), architecture.pipe_layers(config)
    return ModelFacts(name or architecture.family, architecture.capabilities, config, table, layers)


def judge(request: Request, model: ModelFacts) -> tuple[Verdict, ...]:
    """Return the verdict of every rule on a request."""
    return verdicts(Case(request.resolved(), model))


def compose(request: Request, architecture: Architecture, config: ModelConfig, name: str = "") -> Plan:
    """Return the plan for `request`.

    Args:
        name: what to call the model in messages; the family when empty.

    Raises:
        PlanError: the request breaks a rule; names it, says why, and gives the nearest legal plan as flags.
    """
    model = facts(architecture, config, name)
    broken = [verdict for verdict in judge(request, model) if not verdict.legal]
    if broken:
        raise _refusal(request, model, broken)
    degrees = request.resolved()
    return _plan(degrees, model)


def _plan(degrees: Degrees, model: ModelFacts) -> Plan:
    is_block = tuple(layer.is_block for layer in model.layers)
    prefixes = tuple(layer.prefix for layer in model.layers)
    return replace(
        sketch(degrees, model, is_block),
        layers=prefixes,
        labels=labels(owners(model.table, prefixes, is_block), prefixes),
        remarks=(
            *degrees.remarks,
            *_layout_remarks(model, degrees.request.tensor),
            *_schedule_remarks(degrees),
            *_flash_remarks(degrees, model),
        ),
    )


def sketch(degrees: Degrees, model: ModelFacts, is_block: tuple[bool, ...]) -> Plan:
    """The plan without its texts: no names of layers, no remarks; a search makes many of them.

    Args:
        is_block: for each pipeline layer, whether it is a decoder block.
    """
    r = degrees.request
    return Plan(
        world=r.world,
        data=degrees.data,
        sharding=degrees.sharding,
        sharding_stage=r.sharding_stage,
        tensor=r.tensor,
        pipeline=r.pipeline,
        virtual_stages=r.virtual_stages,
        sequence_parallel=r.sequence_parallel,
        expert=r.expert,
        micro_batch=r.micro_batch,
        accumulate=r.accumulate,
        recompute=r.recompute,
        recompute_interval=r.recompute_interval,
        offload=r.offload,
        stage_bounds=cut(is_block, degrees.chunks, r.pipeline_cuts),
        blocks=is_block,
        nodes=r.nodes,
        device=r.device,
        to_static=r.to_static,
        model=model.name,
        sequence=r.sequence,
        semi_auto=r.semi_auto,
    )


def _layout_remarks(model: ModelFacts, tensor: int) -> tuple[str, ...]:
    """Padding and replication, one line for all layers of a row of the table."""
    if tensor == 1:
        return ()
    said: Counter[tuple[str, str]] = Counter()
    for name, rule in model.table.items():
        note = layout.remarks(rule, tensor)
        if note:
            said[".".join("*" if word.isdigit() else word for word in name.split(".")), note] += 1
    return tuple(
        f"{name}: {note}" + (f" ({count} parameters)" if count > 1 else "") for (name, note), count in said.items()
    )


def _schedule_remarks(degrees: Degrees) -> tuple[str, ...]:
    r, said = degrees.request, []
    if r.pipeline > 1 and r.accumulate < r.pipeline:
        said.append(
            f"gradient_accumulation_steps {r.accumulate} is less than pp {r.pipeline}: "
            f"stages are idle {(r.pipeline - 1) / (r.accumulate + r.pipeline - 1):.0%} of the time"
        )
    local = r.world // r.nodes
    if r.nodes > 1 and local % r.tensor:
        said.append(
            f"tp {r.tensor} does not divide the {local} processes of a machine: its collectives cross the network"
        )
    return tuple(said)


def _flash_remarks(degrees: Degrees, model: ModelFacts) -> tuple[str, ...]:
    """That flash attention was asked for and does not apply: no fault, as the model takes another kernel."""
    cell = model.capabilities.support("flash_attention", model.name)
    if not degrees.request.flash_attention or cell is None or cell.state != "not applicable":
        return ()
    return (f"use_flash_attention has no effect on {model.name}: {cell.why}",)


def _refusal(request: Request, model: ModelFacts, broken: list[Verdict]) -> PlanError:
    first = broken[0]
    others = f" (and {len(broken) - 1} more: {', '.join(v.rule.name for v in broken[1:])})" if len(broken) > 1 else ""
    what = f"illegal plan for {model.name}: {first.rule.name}{others}"
    return PlanError(what, first.why, _todo(request, model, broken))


def _todo(request: Request, model: ModelFacts, broken: list[Verdict]) -> str:
    if any(v.rule.name == "the core has it" for v in broken):
        return f"`zoo capabilities {model.name}` shows what there is"
    advice = []
    wanted = request.wanted_world
    if 0 < request.world != wanted and any(v.rule.name in _WORLD_RULES for v in broken):
        enough = replace(request, world=wanted)
        if all(verdict.legal for verdict in judge(enough, model)):
            machines = f" on each of {request.nodes} machines" if request.nodes > 1 else ""
            advice.append(f"start {wanted // request.nodes} processes{machines}: --nproc {wanted // request.nodes}")
    if any(v.rule.name == "positions were learned" for v in broken):
        room = room_for_samples(model.config, request.virtual_tokens)
        if room < 1:
            return f"give a shorter prefix: --num_prefix_tokens {model.config.max_position_embeddings // 2}, say"
        advice.append(f"give shorter samples: --{'max_length' if request.task in TUNING else 'max_seq_length'} {room}")
        request = replace(request, sequence=room)
    near = None if all(v.legal for v in judge(request, model)) else nearest_legal(request, model)
    if near is not None:
        plural = "process" if near.world == 1 else "processes"
        advice.append(f"nearest legal plan on {near.world} {plural}: {as_flags(near, request)}")
    return "; or ".join(advice) or f"no degrees on {request.world} processes are legal for this model"


_WORLD_RULES = ("degrees fill the world", "data-parallel degree agrees")
