"""Why degrees are not possible: which rule, whose it is, and what would make them so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from zoo_core.plan.request import Request
from zoo_core.plan.rules import Case, LegalityRule, ModelFacts, first_broken, verdicts
from zoo_core.plan.search import Search

__all__ = ["Rejection", "explain", "rejections"]

_MOST = 64

_REMEDY = {
    "heads divide": "a tensor degree that divides the attention heads",
    "key/value heads divide or copy": "a tensor degree that divides the key/value heads or is a multiple of them",
    "parameters split": "a tensor degree that divides the row named",
    "a block for every chunk": "fewer stages or virtual stages than there are blocks",
    "interleaving needs depth": "pp above 2, and gradient_accumulation_steps of 2 x pp or more",
    "stages 2 and 3 without pipeline": "sharding stage1 with pp, or pp 1",
    "stage 3 without copied heads": "a tensor degree that divides the key/value heads, or another stage",
    "sequence divides": "a max_seq_length that is a multiple of the tensor degree",
    "positions were learned": "a shorter max_seq_length",
    "experts divide": "an expert degree that divides the experts and the replicas",
    "experts without stages 2 and 3": "sharding stage1, or expert_parallel_degree 1",
    "prefix tuning without pipeline": "pp 1",
    "projected prefix without stages 2 and 3": "sharding stage1, or prefix_projection false",
    "generation-evaluation without pipeline": "pp 1, or eval_with_do_generation false",
    "degrees fill the world": "degrees whose product divides the number of processes",
    "data-parallel degree agrees": "leaving data_parallel_degree out",
    "sharding has a stage": "--sharding stage1, stage2 or stage3",
    "machines are equal": "as many processes on every machine",
    "the core has it": "nothing but another version of zoo-core",
    "the family supports it": "nothing but another version of the plugin",
    "the family combines them": "one of the two without the other",
}

_OF_DEGREES = (
    "heads divide", "key/value heads divide or copy", "parameters split", "a block for every chunk", "experts divide",
    "degrees fill the world",
)  # fmt: skip
"""Rules that another degree of the same axis may keep: those that do are named."""


@dataclass(frozen=True)
class Rejection:
    """A degree that is not possible.

    Args:
        degree: what was tried, by itself: "tp 3".
        rule: name of the rule that refuses it, or "memory".
        owner: whose the rule is: "framework", or the plugin's family.
        why: the reason, with numbers.
        remedy: what would make it possible.
    """

    degree: str
    rule: str
    owner: str
    why: str
    remedy: str


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, min(number, _MOST) + 1) if number % d == 0]


def _probes(request: Request, model: ModelFacts) -> Iterator[tuple[str, Request]]:
    """Each degree that the world allows, by itself, and the combinations that users ask for most."""
    base = replace(
        request, tensor=1, pipeline=1, sharding=None, sharding_stage=0, data=None, expert=1, virtual_stages=1,
        sequence_parallel=False, pipeline_cuts=(), offload=False, recompute="none",
    )  # fmt: skip
    divisors = _divisors(request.world)
    for degree in sorted({request.tensor, *divisors} - {1}):
        yield f"tp {degree}", replace(base, tensor=degree)
    for degree in sorted({request.pipeline, *divisors} - {1}):
        yield f"pp {degree}", replace(base, pipeline=degree)
    for stage in (1, 2, 3):
        yield f"sharding stage{stage}", replace(base, sharding_stage=stage)
    for degree in sorted({request.expert, *(divisors if model.experts else ())} - {1}):
        yield f"ep {degree}", replace(base, expert=degree)
    inner = [degree for degree in divisors if 1 < degree < request.world]
    splits = next((d for d in inner if _legal(replace(base, tensor=d), model)), None)
    for stage in (2, 3) if inner else ():
        yield f"sharding stage{stage} with pp {inner[0]}", replace(base, sharding_stage=stage, pipeline=inner[0])
        if splits:
            yield f"sharding stage{stage} with tp {splits}", replace(base, sharding_stage=stage, tensor=splits)
    for degree in divisors:
        if degree > 1 and _legal(replace(base, tensor=degree), model):
            yield f"sequence_parallel with tp {degree}", replace(base, tensor=degree, sequence_parallel=True)
    for degree in divisors:
        if degree > 1 and _legal(replace(base, pipeline=degree), model):
            yield f"vpp 2 with pp {degree}", replace(base, pipeline=degree, virtual_stages=2)


def _legal(probe: Request, model: ModelFacts) -> bool:
    return first_broken(Case(probe.resolved(), model)) is None


def _owner(rule: LegalityRule, model: ModelFacts) -> str:
    return f"plugin {model.capabilities.family}" if rule.evidence == "the plugin" else "framework"


def rejections(request: Request, model: ModelFacts, limit: int, found: Search | None) -> list[Rejection]:
    """Return every degree that is not possible by itself, and those of which no plan fits.

    Args:
        request: what was asked; its world, samples and task are kept.
        limit: bytes that a rank may hold.
        found: of a search, which knows what fits; `None` says nothing of memory.
    """
    refused: list[Rejection] = []
    possible: dict[str, list[str]] = {}
    for degree, probe in _probes(request, model):
        broken = [verdict for verdict in verdicts(Case(probe.resolved(), model)) if not verdict.legal]
        axis, _, number = degree.partition(" ")
        if not broken:
            possible.setdefault(axis, []).append(number)
        else:
            rule = broken[0].rule
            also = f" (also: {', '.join(verdict.rule.name for verdict in broken[1:])})" if broken[1:] else ""
            why, remedy = broken[0].why + also, _REMEDY.get(rule.name, "")
            refused.append(Rejection(degree, rule.name, _owner(rule, model), why, remedy))
    for place, one in enumerate(refused):
        axis = one.degree.partition(" ")[0]
        if axis in ("tp", "pp", "ep") and one.rule in _OF_DEGREES:
            legal = f"{axis} {', '.join(['1', *possible.get(axis, [])])} on these processes"
            refused[place] = replace(one, remedy=f"{one.remedy}: {legal}" if one.remedy else legal)
    if found is not None:
        refused += _too_big(found, limit)
    return refused


def _too_big(found: Search, limit: int) -> Iterator[Rejection]:
    names = (("tp", 0), ("pp", 1), ("sharding stage", 2))
    for name, place in names:
        least: dict[int, tuple[int, tuple[int, int, int]]] = {}
        for key, size in found.least.items():
            least[key[place]] = min(least.get(key[place], (size, key)), (size, key))
        for degree, (size, key) in sorted(least.items()):
            if size > limit:
                why = (
                    f"the smallest plan of it (tp {key[0]}, pp {key[1]}, sharding stage {key[2]}) needs "
                    f"{size / 2**20:.0f} MB a rank, and there are {limit / 2**20:.0f}"
                )
                remedy = "more processes, more memory, a smaller micro batch or shorter samples"
                yield Rejection(f"{name} {degree}".replace("stage ", "stage"), "memory", "framework", why, remedy)


def explain(request: Request, model: ModelFacts, limit: int, found: Search | None) -> str:
    """Return the rejections as text, one after the other."""
    lines = [f"on {request.world} processes these are not possible for {model.name}:"]
    for one in rejections(request, model, limit, found):
        lines.append(f"  {one.degree}: {one.rule} ({one.owner})\n    why: {one.why}\n    possible with: {one.remedy}")
    if len(lines) == 1:
        return f"on {request.world} processes every degree by itself is possible for {model.name}"
    return "\n".join(lines)
