"""The generated parts of the page on errors: the kinds of failure, and the rules of legality with an example each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe

import zoo_core as zoo
from zoo_core.plan.composer import facts, judge
from zoo_core.plan.rules import RULES

__all__ = ["blocks"]

ROOT = Path(__file__).parents[1]

EXAMPLES: dict[str, tuple[str, zoo.Request]] = {
    "degrees are positive": ("qwen/qwen-7b", zoo.Request(tensor=0)),
    "degrees fill the world": ("qwen/qwen-7b", zoo.Request(world=4, tensor=8)),
    "machines are equal": ("qwen/qwen-7b", zoo.Request(world=6, nodes=4)),
    "data-parallel degree agrees": ("qwen/qwen-7b", zoo.Request(world=8, tensor=2, data=8)),
    "sharding has a stage": ("qwen/qwen-7b", zoo.Request(world=8, sharding=4)),
    "heads divide": ("Qwen/Qwen2-0.5B", zoo.Request(world=4, tensor=4)),
    "key/value heads divide or copy": ("Qwen/Qwen2-7B", zoo.Request(world=7, tensor=7)),
    "parameters split": ("facebook/llama-13b", zoo.Request(world=5, tensor=5)),
    "a block for every chunk": ("qwen/qwen-7b", zoo.Request(world=64, pipeline=64)),
    "cuts fit": ("qwen/qwen-7b", zoo.Request(world=2, pipeline=2, pipeline_cuts=(40,))),
    "interleaving needs depth": ("qwen/qwen-7b", zoo.Request(world=2, pipeline=2, virtual_stages=2)),
    "stages 2 and 3 without pipeline": ("qwen/qwen-7b", zoo.Request(world=4, pipeline=2, sharding_stage=2)),
    "stage 3 without copied heads": ("meta-llama/Meta-Llama-3-8B", zoo.Request(world=32, tensor=16, sharding_stage=3)),
    "sequence divides": ("qwen/qwen-7b", zoo.Request(world=4, tensor=4, sequence_parallel=True, sequence=1023)),
    "positions were learned": ("gpt3-345M", zoo.Request(sequence=2048)),
    "experts divide": ("deepseek-ai/DeepSeek-V3-demo", zoo.Request(world=4, expert=8)),
    "experts without stages 2 and 3": (
        "deepseek-ai/DeepSeek-V3-demo",
        zoo.Request(world=4, expert=2, sharding_stage=2),
    ),
    "prefix tuning without pipeline": ("qwen/qwen-7b", zoo.Request(world=2, pipeline=2, task="prefix")),
    "projected prefix without stages 2 and 3": (
        "qwen/qwen-7b",
        zoo.Request(world=2, sharding_stage=2, task="prefix", virtual_tokens=128, projects_prefix=True),
    ),
    "generation-evaluation without pipeline": (
        "qwen/qwen-7b",
        zoo.Request(world=2, pipeline=2, generation_evaluation=True),
    ),
    "the semi-automatic engine can": ("qwen/qwen-7b", zoo.Request(world=2, task="prefix", semi_auto=True)),
    "what a traced graph holds": ("qwen/qwen-7b", zoo.Request(world=2, tensor=2, to_static=True)),
}
"""Name of a rule -> a model and a request that breaks it; a rule without one is shown without an example."""


def _subclasses(module: griffe.Module, names: set[str]) -> Iterator[griffe.Class]:
    for member in module.members.values():
        if isinstance(member, griffe.Class) and any(str(base) in names for base in member.bases):
            yield member
        elif isinstance(member, griffe.Module):
            yield from _subclasses(member, names)


def _errors() -> str:
    """The kinds of expected failure, wherever they are defined; griffe reads the sources, nothing is imported."""
    package = griffe.GriffeLoader(search_paths=[ROOT]).load("zoo_core")
    assert isinstance(package, griffe.Module)
    kinds: dict[str, griffe.Class] = {}
    while more := [found for found in _subclasses(package, {"ZooError", *kinds}) if found.name not in kinds]:
        kinds |= {found.name: found for found in more}
    lines = ["| error | when | status |", "|---|---|---|"]
    for name, found in sorted(kinds.items()):
        said = found.docstring.value.split("\n\n")[0] if found.docstring else ""
        lines.append(f"| `{name}` | {' '.join(said.split())} | 2 |")
    return "\n".join(lines)


def _rules() -> str:
    parts = []
    for rule in RULES:
        evidence = f"Evidence: {rule.evidence}."
        parts.append(f"### {rule.name}\n\n{rule.statement} {evidence}")
        if rule.name in EXAMPLES:
            name, request = EXAMPLES[rule.name]
            found = zoo.find(name)
            broken = {v.rule.name: v.why for v in judge(request, facts(found.architecture, found.config, name))}
            assert broken.get(rule.name), f"the example of {rule.name!r} does not break it"
            parts.append(f"> `{name}`: {broken[rule.name]}")
    return "\n\n".join(parts)


def blocks(language: str) -> dict[str, str]:
    """Return the generated parts by name; the page is in English only."""
    return {"errors": _errors(), "rules": _rules()}
