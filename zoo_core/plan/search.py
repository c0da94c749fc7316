"""Every legal plan of a world, ranked by predicted speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from zoo_core.arguments import Arguments
from zoo_core.errors import PlanError
from zoo_core.plan.counts import Counted
from zoo_core.plan.cut import cut
from zoo_core.plan.hardware import Hardware
from zoo_core.plan.memory import distinct_stages, predict_memory
from zoo_core.plan.plan import Plan
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.predict import Prediction, predict
from zoo_core.plan.request import Degrees, Recompute, Request
from zoo_core.plan.rules import Case, ModelFacts, verdicts
from zoo_core.plan.throughput import predict_speed
from zoo_core.registry import Architecture

__all__ = ["Free", "Ranked", "Search", "facts_of", "free_of", "search"]

_MICRO = (1, 2, 4, 8)
_VIRTUAL = (2, 4)


@dataclass(frozen=True)
class Free:
    """What a search may choose.

    Args:
        degrees: tensor, pipeline, sharding and data degrees, the sharding stage, virtual stages.
        sequence_parallel, recompute, micro_batch, expert: likewise, each by itself.
        global_batch: samples of a step that every plan keeps; 0 keeps the accumulation instead.
    """

    degrees: bool = True
    sequence_parallel: bool = True
    recompute: bool = True
    micro_batch: bool = True
    expert: bool = True
    global_batch: int = 0


_DEGREES = {
    "tensor_parallel_degree", "pipeline_parallel_degree", "sharding_parallel_degree", "data_parallel_degree",
    "sharding", "virtual_pp_degree", "pipeline_cuts",
}  # fmt: skip


def free_of(arguments: Arguments, request: Request) -> Free:
    """Return what the arguments leave open: whatever was not given.

    A step keeps its samples: `global_batch_size`, or what data parallelism alone would take with the arguments' micro
    batch and accumulation. A given accumulation stays, and then the samples of a step follow from the replicas.
    """
    given = set(arguments.given)
    chosen = {name for name in _DEGREES & given if arguments.value(name) not in (-1, "", None, ())}
    if request.virtual_stages == 1:
        chosen.discard("virtual_pp_degree")
    training = arguments.training
    fixed = "gradient_accumulation_steps" in given or training.local_batch_size is not None
    micro = "per_device_train_batch_size" in given or fixed
    total = training.global_batch_size or (0 if fixed else request.micro_batch * request.world)
    return Free(
        degrees=not chosen,
        sequence_parallel="sequence_parallel" not in given,
        recompute="recompute" not in given,
        micro_batch=not micro,
        expert="expert_parallel_degree" not in given or request.expert == 1,
        global_batch=total,
    )


@dataclass(frozen=True)
class Ranked:
    """A legal plan that fits, and what is predicted for it."""

    request: Request
    plan: Plan
    prediction: Prediction


@dataclass
class Search:
    """What a search found.

    Args:
        ranked: legal plans that fit, fastest first.
        tried: candidates that were judged.
        illegal: for each rule, how many candidates it refused first, and one of its reasons.
        least: for each legal way to split the model (tensor, pipeline, stage), the bytes of its smallest plan.
        limit: bytes that a rank may hold.
    """

    ranked: list[Ranked] = field(default_factory=list)
    tried: int = 0
    illegal: dict[str, tuple[int, str]] = field(default_factory=dict)
    least: dict[tuple[int, int, int], int] = field(default_factory=dict)
    limit: int = 0

    def best(self, model: str) -> Ranked:
        """Return the fastest plan.

        Raises:
            PlanError: no legal plan fits.
        """
        if self.ranked:
            return self.ranked[0]
        if not self.least:
            raise PlanError(f"no legal plan for {model}", "; ".join(why for _, why in self.illegal.values()), "")
        (tensor, pipeline, stage), size = min(self.least.items(), key=lambda pair: pair[1])
        raise PlanError(
            f"no legal plan for {model} fits",
            f"the smallest (tp {tensor}, pp {pipeline}, sharding stage {stage}) needs {size / 2**20:.0f} MB a rank, "
            f"and there are {self.limit / 2**20:.0f}",
            "give more processes, a smaller --per_device_train_batch_size or shorter samples",
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _ways(request: Request, free: Free, model: ModelFacts) -> Iterator[Request]:
    """Every way to split the model and the replicas; the rest of the request as it is."""
    if not free.degrees:
        yield request
        return
    world, heads, blocks = request.world, model.config.num_attention_heads, model.blocks
    experts = model.experts
    for tensor in _divisors(world):
        if heads % tensor:
            continue
        for pipeline in _divisors(world // tensor):
            if pipeline > blocks:
                break
            for sharding in _divisors(world // (tensor * pipeline)):
                data = world // (tensor * pipeline * sharding)
                spreads = [request.expert]
                if experts and free.expert:
                    spreads = [e for e in _divisors(data * sharding) if experts % e == 0]
                for stage in (1, 2, 3) if sharding > 1 else (0,):
                    for expert in spreads:
                        yield replace(
                            request, tensor=tensor, pipeline=pipeline, sharding=sharding, data=data,
                            sharding_stage=stage, expert=expert, virtual_stages=1, pipeline_cuts=(),
                            sequence_parallel=False, offload=request.offload and stage > 1, recompute="none",
                        )  # fmt: skip


def _batches(way: Request, free: Free) -> Iterator[tuple[int, int]]:
    """Micro batches and their number, for the samples that a replica gets."""
    replicas = (way.data or 1) * (way.sharding or 1)
    if not free.global_batch:
        yield way.micro_batch, way.accumulate
        return
    mine, rest = divmod(free.global_batch, replicas)
    if rest or not mine:
        return
    for micro in _MICRO if free.micro_batch else (way.micro_batch,):
        if mine % micro == 0:
            yield micro, mine // micro


def _sketch(degrees: Degrees, model: ModelFacts, is_block: tuple[bool, ...]) -> Plan:
    """The plan without its texts."""
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
        model=model.name,
        sequence=r.sequence,
    )


def search(
    request: Request,
    free: Free,
    architecture: Architecture,
    counts: Counted,
    name: str,
    numbers: Numbers,
    keeping: Keeping,
    device: Hardware,
    limit: int,
    most: int = 10,
) -> Search:
    """Return the legal plans that fit, fastest first; of ways that differ in the batches only, the best.

    Every way is judged by the rules of the composer. What makes a plan only slower (recompute) is tried only where it
    does not fit without.

    Args:
        request: what the arguments ask.
        free: what may be chosen.
        counts: the model, counted.
        limit: bytes that a rank may hold.
        most: plans to return.
    """
    model = facts_of(architecture, counts, name)
    is_block = tuple(layer.is_block for layer in counts.layers)
    found, candidates = Search(limit=limit), []
    trial = _Trial(free, model, counts, numbers, keeping, device, limit, is_block, found)
    for way in _ways(request, free, model):
        found.tried += 1
        broken = next((v for v in verdicts(Case(way.resolved(), model)) if not v.legal), None)
        if broken is not None:
            count, why = found.illegal.get(broken.rule.name, (0, broken.why))
            found.illegal[broken.rule.name] = (count + 1, why)
            continue
        best = trial.best(way)
        if best is not None:
            candidates.append(best)
    candidates.sort(key=_order)
    for ranked in candidates:
        made = predict(ranked.plan, counts, numbers, keeping, device, limit)
        legal = all(v.legal for v in verdicts(Case(ranked.request.resolved(), model)))
        if made.fits and legal:
            found.ranked.append(Ranked(ranked.request, ranked.plan, made))
        if len(found.ranked) == most:
            break
    return found


def _order(ranked: Ranked) -> tuple[float, int, int, int, int]:
    """Fastest first; of equally fast ones, the one that needs less of the mesh and of memory."""
    plan = ranked.plan
    return (-round(ranked.prediction.speed.tokens, 1), plan.pipeline, plan.tensor, plan.sharding_stage,
            ranked.prediction.fullest.total)  # fmt: skip


def facts_of(architecture: Architecture, counts: Counted, name: str) -> ModelFacts:
    """What the rules need to know, from the compact table: a row of experts stands for all of them."""
    return ModelFacts(name, architecture.capabilities, counts.config, counts.table, counts.layers)


@dataclass
class _Trial:
    """Finds the best batch, virtual stages and recompute of one way to split the model."""

    free: Free
    model: ModelFacts
    counts: Counted
    numbers: Numbers
    keeping: Keeping
    device: Hardware
    limit: int
    is_block: tuple[bool, ...]
    found: Search

    def best(self, way: Request) -> Ranked | None:
        """Return the fastest that fits; `None` if none does."""
        if not self.free.degrees:
            return self._try(way)
        least = self._states(way)
        if least > self.limit:
            self._note(way, least)
            return None
        split = way.tensor > 1 and self.free.sequence_parallel and (way.sequence or 0) % way.tensor == 0
        way = replace(way, sequence_parallel=split or (way.sequence_parallel and way.tensor > 1))
        best: Ranked | None = None
        for micro, accumulate in _batches(way, self.free):
            best = _faster(best, self._try(replace(way, micro_batch=micro, accumulate=accumulate)))
        if best is None:
            return None
        r = best.request
        for virtual in _VIRTUAL:
            if r.pipeline > 2 and r.accumulate >= 2 * r.pipeline and r.pipeline * virtual <= self.model.blocks:
                best = _faster(best, self._try(replace(r, virtual_stages=virtual)))
        return best

    def _states(self, way: Request) -> int:
        """What weights, gradients and states take at least, on the stage that has most blocks."""
        plan = _sketch(replace(way, micro_batch=1, accumulate=1).resolved(), self.model, self.is_block)
        stages = distinct_stages(plan, self.counts)
        memory = predict_memory(
            plan, self.counts, self.numbers, self.keeping, self.device.process, _mean(plan, self.counts), stages
        )
        return max(stage.weights + stage.gradients + stage.optimizer + stage.process for stage in memory)

    def _note(self, way: Request, size: int) -> None:
        key = (way.tensor, way.pipeline, way.sharding_stage)
        self.found.least[key] = min(self.found.least.get(key, size), size)

    def _try(self, candidate: Request) -> Ranked | None:
        free = self.free.recompute and self.free.degrees
        for recompute in _RECOMPUTE if free else (candidate.recompute,):
            chosen = replace(candidate, recompute=recompute)
            plan = _sketch(chosen.resolved(), self.model, self.is_block)
            stages, mean = distinct_stages(plan, self.counts), _mean(plan, self.counts)
            memory = predict_memory(plan, self.counts, self.numbers, self.keeping, self.device.process, mean, stages)
            size = max(stage.total for stage in memory)
            self._note(candidate, size)
            if size <= self.limit:
                speed = predict_speed(plan, self.counts, self.numbers, self.keeping, self.device)
                return Ranked(chosen, plan, Prediction(self.device, self.limit, self.numbers, memory, speed))
        return None


_RECOMPUTE: tuple[Recompute, ...] = ("none", "full")


def _faster(one: Ranked | None, other: Ranked | None) -> Ranked | None:
    if one is None or other is None:
        return one or other
    return other if other.prediction.speed.tokens > one.prediction.speed.tokens else one


def _mean(plan: Plan, counts: Counted) -> list[int]:
    """The elements whose states a rank holds, had every rank as many; the exact share is found for the best plans."""
    found = []
    for stage in range(plan.pipeline):
        dense, expert, _ = counts.elements(plan.tensor, plan.expert, plan.chunks(stage))
        mine = dense + (expert if plan.expert == 1 else 0)
        found.append(mine // plan.sharding if plan.sharding_stage else mine)
    return found
