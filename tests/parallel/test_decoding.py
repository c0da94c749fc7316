"""Decoding on several cards gives the tokens of one: tensor and pipeline stages, greedy, drawn and by beams.

The models are random, so that an answer hangs on every part; all processes choose for themselves and must agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import parallel_cases as cases
import pytest
from parallel_jobs import Results

from zoo_core.registry import registry

WORKER = Path(__file__).with_name("decoding_worker.py")
QUICK = {"tp2": ("llama", "chatglm", "deepseek_v3"), "pp2": ("llama", "bloom", "chatglm")}
SOAK = {
    "tp2": ("gpt3", "qwen", "bloom", "chatglm2", "glm", "opt", "baichuan"),
    "pp2": ("qwen", "gpt3", "deepseek_v3", "opt"),
    "tp2xpp2": ("llama", "qwen", "gpt3", "bloom", "chatglm", "deepseek_v3"),
    "tp4": ("llama",),
    "pp4-interleaved": ("llama-8",),
}


def listed(chosen: dict[str, tuple[str, ...]], *marks: Any) -> list[Any]:
    return [
        pytest.param(model, layout, id=f"{model}-{layout}", marks=marks)
        for layout, models in chosen.items()
        for model in models
    ]


def task_of(model: str, layout: str) -> dict[str, Any]:
    return {"id": f"decoding-{model}@{layout}", "model": model, "layout": layout}


@pytest.fixture(scope="module")
def decoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of the cases that tests to be run name, in one launch for each number of processes."""
    results = Results(tmp_path_factory.mktemp("decoding"), WORKER)
    chosen = set()
    for item in request.session.items:
        if "decoded" in getattr(item, "fixturenames", ()):
            model, layout = item.callspec.params["model"], item.callspec.params["layout"]
            chosen |= {(model, "single"), (model, layout)}
    order = list(cases.LAYOUTS)
    tasks = sorted(chosen, key=lambda case: (order.index(case[1]), case[0]))
    for world in (1, 2, 4):
        results.run([task_of(*case) for case in tasks if cases.LAYOUTS[case[1]].world == world], world)
    return results


@pytest.mark.parametrize(("model", "layout"), listed(QUICK) + listed(SOAK, pytest.mark.soak))
def test_tokens_equal_those_of_the_single_process(decoded, model, layout, zoo_evidence):
    family = registry().find(cases.MODELS[model][0]).architecture.family
    zoo_evidence(family, "generation", tier="T2", model=cases.MODELS[model][0])
    single, found = (decoded.of(task_of(model, at)["id"]) for at in ("single", layout))
    tokens = single["tokens"]
    for kind in ("varied", "drawn", "beams"):
        said = {token for row in tokens[kind] for token in row}
        assert len(said) > 9, f"the model says {said}: nothing is tested"
    assert tokens["in pieces"] == tokens["joined late"] == tokens["varied"]
    assert sum(map(len, tokens["ended"])) < sum(map(len, tokens["drawn"]))
    assert found["tokens"] == tokens
    np.testing.assert_allclose(found["scores"], single["scores"], rtol=1e-5)
