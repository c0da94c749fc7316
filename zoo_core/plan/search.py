"""Every legal plan of a world, ranked by predicted speed."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

from zoo_core.arguments import Arguments
from zoo_core.errors import PlanError
from zoo_core.plan.composer import sketch
from zoo_core.plan.counts import Counted
from zoo_core.plan.cut import cut
from zoo_core.plan.hardware import Hardware
from zoo_core.plan.memory import StageMemory, distinct_stages, predict_memory
from zoo_core.plan.plan import Plan
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.predict import Prediction, predict
from zoo_core.plan.request import Recompute, Request
from zoo_core.plan.rules import Case, ModelFacts, first_broken
from zoo_core.plan.throughput import Speed, most_tokens, predict_speed
from zoo_core.plan.work import setting_of
from zoo_core.registry import Architecture

__all__ = ["Free", "Ranked", "Search", "facts_of", "free_of", "search"]

_MICRO = (1, 2, 4, 8)
_VIRTUAL = (2, 4)


@dataclass(frozen=True)
class Free:
    """What a search may choose.

    Args:
        fixed: degrees that were given, by their names in `Request`; the others are free.
        sequence_parallel, recompute, micro_batch, expert: whether it may choose these.
        global_batch: samples of a step that every plan keeps; 0 keeps the accumulation instead.
    """

    fixed: tuple[tuple[str, int], ...] = ()
    sequence_parallel: bool = True
    recompute: bool = True
    micro_batch: bool = True
    expert: bool = True
    global_batch: int = 0

    @property
    def degrees(self) -> bool:
        """Whether every degree is free."""
        return not self.fixed

    def allows(self, **degrees: int) -> bool:
        """Whether degrees agree with those that were given."""
        return all(degrees.get(name, value) == value for name, value in self.fixed)


def free_of(arguments: Arguments, request: Request) -> Free:
    """Return what the arguments leave open: whatever was not given.

    A step keeps its samples: `global_batch_size`, or what data parallelism alone would take with the arguments' micro
    batch and accumulation. A given accumulation stays, and then the samples of a step follow from the replicas.
    """
    given, training, parallel = set(arguments.given), arguments.training, arguments.parallel
    degrees = {
        "tensor": parallel.tensor_parallel_degree,
        "pipeline": parallel.pipeline_parallel_degree,
        "sharding": parallel.sharding_parallel_degree,
        "data": parallel.data_parallel_degree,
    }
    fixed = {name: value for name, value in degrees.items() if value > 0}
    if parallel.sharding:
        fixed["sharding_stage"] = parallel.sharding_stage
    if request.virtual_stages > 1:
        fixed["virtual_stages"] = request.virtual_stages
    if request.pipeline_cuts:
        fixed |= {"pipeline": request.pipeline, "virtual_stages": request.virtual_stages}
    same = "gradient_accumulation_steps" in given or training.local_batch_size is not None
    micro = "per_device_train_batch_size" in given or same
    total = training.global_batch_size or (0 if same else request.micro_batch * request.world)
    return Free(
        fixed=tuple(fixed.items()),
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
        illegal: for each rule, how many candidates it refused first, and one of its reasons.
        least: for each legal way to split the model (tensor, pipeline, stage), the bytes of its smallest plan.
        limit: bytes that a rank may hold.
        ways: ways to split model and replicas that there are, of tensor degrees that were looked at.
        tried: those of which plans were predicted.
    """

    ranked: list[Ranked] = field(default_factory=list)
    illegal: dict[str, tuple[int, str]] = field(default_factory=dict)
    least: dict[tuple[int, int, int], int] = field(default_factory=dict)
    limit: int = 0
    ways: int = 0
    tried: int = 0

    def best(self, model: str) -> Ranked:
        """Return the fastest plan.

        Raises:
            PlanError: no legal plan fits.
        """
        if self.ranked:
            return self.ranked[0]
        if not self.least:
            raise PlanError(
                f"no legal plan for {model}",
                "; ".join(why for _, why in sorted(self.illegal.values(), reverse=True)),
                "",
            )
        (tensor, pipeline, stage), size = min(self.least.items(), key=lambda pair: pair[1])
        raise PlanError(
            f"no legal plan for {model} fits",
            f"the smallest (tp {tensor}, pp {pipeline}, sharding stage {stage}) needs {size / 2**20:.0f} MB a rank, "
            f"and there are {self.limit / 2**20:.0f}",
            "give more processes, a smaller --per_device_train_batch_size or shorter samples",
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


class _Way(NamedTuple):
    """A way to split model and replicas over the world."""

    tensor: int
    pipeline: int
    sharding: int
    data: int
    stage: int
    expert: int

    @property
    def key(self) -> tuple[int, int, int]:
        """What `Search.least` is counted by."""
        return self.tensor, self.pipeline, self.stage

    def split(self, request: Request, free: Free) -> bool:
        """Whether the sequence is split: as it was asked, or where it can be."""
        if not free.sequence_parallel:
            return request.sequence_parallel and self.tensor > 1
        return self.tensor > 1 and (request.sequence or 0) % self.tensor == 0

    def asked(self, request: Request, free: Free, split: bool) -> Request:
        """The way as a request; the rest of it as it was asked."""
        return replace(
            request,
            tensor=self.tensor,
            pipeline=self.pipeline,
            sharding=self.sharding,
            data=self.data,
            sharding_stage=self.stage,
            expert=self.expert,
            sequence_parallel=split,
            offload=request.offload and self.stage > 1,
            recompute="none" if free.recompute else request.recompute,
        )


def _ways(request: Request, free: Free, model: ModelFacts, tensors: Sequence[int]) -> Iterator[_Way]:
    """Every way that what was given allows with these tensor degrees; experts are the most spread first."""
    world, experts = request.world, model.experts
    for tensor in tensors:
        for pipeline in _divisors(world // tensor):
            if pipeline * request.virtual_stages > model.blocks:
                break
            for sharding in _divisors(world // (tensor * pipeline)):
                data = world // (tensor * pipeline * sharding)
                spreads = [request.expert]
                if experts and free.expert:
                    spreads = [e for e in reversed(_divisors(data * sharding)) if experts % e == 0]
                for stage in (1, 2, 3) if sharding > 1 else (0,):
                    if free.allows(
                        tensor=tensor, pipeline=pipeline, sharding=sharding, data=data,
                        # a stage over one process is off, whatever was asked for
                        **({"sharding_stage": stage} if sharding > 1 else {}),
                    ):  # fmt: skip
                        for expert in spreads:
                            yield _Way(tensor, pipeline, sharding, data, stage, expert)


def _batches(request: Request, way: _Way, free: Free) -> Iterator[tuple[int, int]]:
    """Micro batches and their number, for the samples that a replica gets; the smallest first."""
    replicas = way.data * way.sharding
    if not free.global_batch:
        yield request.micro_batch, request.accumulate
        return
    mine, rest = divmod(free.global_batch, replicas)
    if rest or not mine:
        return
    for micro in _MICRO if free.micro_batch else (request.micro_batch,):
        if mine % micro == 0:
            yield micro, mine // micro


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
    complete: bool = False,
) -> Search:
    """Return the legal plans that fit, fastest first; of ways that differ in the batches only, the best.

    Every way is judged by the rules of the composer. What makes a plan only slower is tried only where it does not fit
    without: recompute, and tensor parallelism across machines. A way that cannot be faster than the plans that were
    found already is left out.

    Args:
        request: what the arguments ask.
        free: what may be chosen.
        counts: the model, counted.
        limit: bytes that a rank may hold.
        most: plans to return.
        complete: try every way, so that what is said of illegal ones and of the smallest plans is of all.
    """
    trial = _Trial(request, free, facts_of(architecture, counts, name), counts, numbers, keeping, device, limit)
    found = trial.found
    small: dict[tuple[int, int, int], tuple[int, _Way]] = {}
    tensors = [d for d in _divisors(request.world) if counts.config.num_attention_heads % d == 0]
    machine = device.near(request.world, request.nodes)
    best: list[tuple[tuple[float, ...], Ranked]] = []  # in order
    for among in ([d for d in tensors if d <= machine], [d for d in tensors if d > machine]):
        ways: list[tuple[float, int, _Way]] = []
        for way in () if best else _ways(request, free, trial.model, among):
            found.ways += 1
            least = trial.states(way)
            if least <= limit:
                ways.append((-round(trial.bound(way), 1), len(ways), way))
            elif least < small.get(way.key, (least + 1, way))[0]:
                small[way.key] = (least, way)
        for bound, number, way in sorted(ways):
            if len(best) == most and bound > best[-1][0][0] and not complete:
                break
            asked = trial.legal(way)
            if asked is None:
                continue
            found.tried += 1
            ranked = trial.best(way, asked)
            if ranked is not None and (len(best) < most or _order(ranked, number) < best[-1][0]):
                if trial.fits(ranked.plan) and first_broken(Case(ranked.request.resolved(), trial.model)) is None:
                    insort(best, (_order(ranked, number), ranked), key=itemgetter(0))
                    del best[most:]
    for key, (least, way) in small.items():
        if key not in found.least and trial.legal(way) is not None:
            found.least[key] = least
    for _, ranked in best:
        made = predict(ranked.plan, counts, numbers, keeping, device, limit)
        found.ranked.append(replace(ranked, prediction=made))
    return found


def _order(ranked: Ranked, number: int) -> tuple[float, ...]:
    """Fastest first; of equally fast ones, the one that needs less of the mesh and of memory; then the first tried."""
    plan = ranked.plan
    return (-round(ranked.prediction.speed.tokens, 1), plan.pipeline, plan.tensor, plan.sharding_stage,
            ranked.prediction.fullest.total, number)  # fmt: skip


def facts_of(architecture: Architecture, counts: Counted, name: str) -> ModelFacts:
    """What the rules need to know, from the compact table: a row of experts stands for all of them."""
    return ModelFacts(name, architecture.capabilities, counts.config, counts.table, counts.layers)


class _Trial:
    """Finds the best batch, virtual stages and recompute of one way after the other."""

    def __init__(
        self,
        request: Request,
        free: Free,
        model: ModelFacts,
        counts: Counted,
        numbers: Numbers,
        keeping: Keeping,
        device: Hardware,
        limit: int,
    ) -> None:
        self.request, self.free, self.model, self.counts = request, free, model, counts
        self.numbers, self.keeping, self.device, self.limit = numbers, keeping, device, limit
        self.setting = setting_of(counts, numbers, keeping)
        self.is_block = tuple(layer.is_block for layer in counts.layers)
        self.found = Search(limit=limit)
        self._sizes: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}
        self._widths = numbers.weight_bytes, numbers.gradient_bytes, numbers.state_bytes
        self._first = Plan(world=request.world, nodes=request.nodes, sequence=request.sequence)

    def legal(self, way: _Way) -> Request | None:
        """Judge a way by the composer's rules; return it as a request, or remember why not and return `None`."""
        asked = way.asked(self.request, self.free, way.split(self.request, self.free))
        broken = first_broken(Case(asked.resolved(), self.model))
        if broken is not None and asked.sequence_parallel and self.free.sequence_parallel:
            asked = replace(asked, sequence_parallel=False)  # perhaps it is the only thing that is wrong
            broken = first_broken(Case(asked.resolved(), self.model))
        if broken is None:
            return asked
        count, why = self.found.illegal.get(broken.rule.name, (0, broken.why))
        self.found.illegal[broken.rule.name] = (count + 1, why)
        return None

    def states(self, way: _Way) -> int:
        """What weights, gradients and states take at least, on the stage that has most of them."""
        key = way.tensor, way.pipeline, way.expert
        if key not in self._sizes:
            chunks = way.pipeline * self.request.virtual_stages
            plan = Plan(
                tensor=way.tensor,
                pipeline=way.pipeline,
                stage_bounds=cut(self.is_block, chunks, self.request.pipeline_cuts),
            )
            stages = distinct_stages(plan, self.counts)
            split = way.tensor, way.expert
            sizes = {
                self.counts.elements(*split, chunk)[:2] + self.counts.trained(*split, chunk)
                for chunk in map(plan.chunks, stages)
            }
            # a stage that has less of everything than another never has most
            self._sizes[key] = [
                a for a in sizes if not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for b in sizes)
            ]
        weights, gradients, states = self._widths
        if self.request.offload and way.stage > 1:
            states = 0
        third, second, first = (way.sharding if way.stage >= at else 1 for at in (3, 2, 1))
        most = 0
        for dense, expert, trained, trained_expert in self._sizes[key]:
            held, whole = (dense, expert) if way.expert > 1 else (dense + expert, 0)
            shared, own = (trained, trained_expert) if way.expert > 1 else (trained + trained_expert, 0)
            size = (held // third + whole) * weights + (shared // second + own) * gradients
            if self.counts.tuned.reference == "copy":
                size += (dense + expert) * weights
            most = max(most, size + (shared // first + own) * states)
        return most + self.device.process

    def bound(self, way: _Way) -> float:
        """Tokens a second on each device that no plan of a way is above."""
        batches = tuple(_batches(self.request, way, self.free))
        if not batches:
            return 0.0
        split = way.split(self.request, self.free)
        virtual = max(*_VIRTUAL, self.request.virtual_stages) if way.pipeline > 2 else 1
        plan = _with(
            self._first, data=way.data, sharding=way.sharding, sharding_stage=way.stage, tensor=way.tensor,
            pipeline=way.pipeline, sequence_parallel=split, expert=way.expert,
        )  # fmt: skip
        return most_tokens(plan, batches, self.setting, self.device, virtual)

    def best(self, way: _Way, asked: Request) -> Ranked | None:
        """Return the fastest plan of a way, asked for so, that fits; `None` if none does."""
        plan = sketch(asked.resolved(), self.model, self.is_block)
        best: _Tried | None = None
        recompute = _RECOMPUTE if self.free.recompute else (asked.recompute,)
        for micro, accumulate in _batches(self.request, way, self.free):
            found = self._try(_with(plan, micro_batch=micro, accumulate=accumulate), recompute)
            if found is None:
                break  # a larger one needs more
            recompute = recompute[recompute.index(found.plan.recompute) :]
            if best is not None and found.speed.tokens <= best.speed.tokens:
                break  # fewer collectives, a longer wait for other stages: it only gets slower from here
            best = found
        if best is None:
            return None
        deep = way.pipeline > 2 and best.plan.accumulate >= 2 * way.pipeline
        # more virtual stages hold more, so what needs recompute without them needs it with them
        recompute = _RECOMPUTE[_RECOMPUTE.index(best.plan.recompute) :] if self.free.recompute else recompute
        for virtual in _VIRTUAL if deep and "virtual_stages" not in dict(self.free.fixed) else ():
            if way.pipeline * virtual <= self.model.blocks:
                bounds = cut(self.is_block, way.pipeline * virtual)
                deeper = _with(best.plan, virtual_stages=virtual, stage_bounds=bounds)
                best = _faster(best, self._try(deeper, recompute))
        plan, memory, speed = best
        chosen = replace(
            asked,
            micro_batch=plan.micro_batch,
            accumulate=plan.accumulate,
            virtual_stages=plan.virtual_stages,
            recompute=plan.recompute,
        )
        return Ranked(chosen, plan, Prediction(self.device, self.limit, self.numbers, memory, speed))

    def fits(self, plan: Plan) -> bool:
        """Whether the fullest rank of every stage fits, with the states that are given to it."""
        counts, stages = self.counts, distinct_stages(plan, self.counts)
        # whoever gives to the one that has least gives nobody more than the mean and one parameter
        largest = {
            s: max(counts.parameter_sizes(plan.tensor, plan.chunks(s), plan.expert > 1), default=0) for s in stages
        }
        for owned in ({s: _mean(plan, counts, s) + largest[s] for s in stages}, None):
            memory = predict_memory(plan, counts, self.numbers, self.keeping, self.device.process, owned, stages)
            if max(stage.total for stage in memory) <= self.limit:
                return True
        return False

    def _try(self, plan: Plan, recomputes: Sequence[Recompute]) -> _Tried | None:
        """The plan with the first sort of recompute that makes it fit."""
        for recompute in recomputes:
            plan = _with(plan, recompute=recompute) if recompute != plan.recompute else plan
            stages = distinct_stages(plan, self.counts)
            mean = {stage: _mean(plan, self.counts, stage) for stage in stages}
            memory = predict_memory(plan, self.counts, self.numbers, self.keeping, self.device.process, mean, stages)
            size, key = max(stage.total for stage in memory), (plan.tensor, plan.pipeline, plan.sharding_stage)
            self.found.least[key] = min(self.found.least.get(key, size), size)
            if size <= self.limit:
                return _Tried(plan, memory, predict_speed(plan, self.counts, self.numbers, self.keeping, self.device))
        return None


class _Tried(NamedTuple):
    plan: Plan
    memory: tuple[StageMemory, ...]
    speed: Speed


_RECOMPUTE: tuple[Recompute, ...] = ("none", "full")


def _with(plan: Plan, **changes: Any) -> Plan:
    """As `dataclasses.replace`, which takes ten times as long: a search does it thousands of times."""
    changed = object.__new__(Plan)
    changed.__dict__.update(plan.__dict__, **changes)
    return changed


def _faster(one: _Tried, other: _Tried | None) -> _Tried:
    return other if other is not None and other.speed.tokens > one.speed.tokens else one


def _mean(plan: Plan, counts: Counted, stage: int) -> int:
    """The elements whose states a rank holds, had every rank as many; the exact share is found for the best plans."""
    dense, expert = counts.trained(plan.tensor, plan.expert, plan.chunks(stage))
    mine = dense + (expert if plan.expert == 1 else 0)
    return mine // plan.sharding if plan.sharding_stage else mine
