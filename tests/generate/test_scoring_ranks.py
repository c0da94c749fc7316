"""T2: scores under tensor and pipeline parallelism are those of one process, on every rank."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

sys.path.insert(0, str(Path(__file__).parent))

import scoring_worker  # noqa: E402
from parallel_jobs import Results  # noqa: E402

WORKER = Path(__file__).with_name("scoring_worker.py")
MODELS = {"llama": "meta-llama/Meta-Llama-3-8B", "bloom": "bigscience/bloom-560m"}
PLANS = {
    "tp2": {"world": 2, "tensor": 2},
    "tp2+sp": {"world": 2, "tensor": 2, "sequence_parallel": True},
    "pp2": {"world": 2, "pipeline": 2},
}


def task(family, plan):
    return {"id": f"{family}-{plan}", "model": MODELS[family], "request": PLANS.get(plan, {})}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = Results(tmp_path_factory.mktemp("scores"), WORKER)
    scoring_worker.run([task(family, "single") for family in MODELS], found.folder)
    found.run([task(family, plan) for family in MODELS for plan in PLANS], 2)
    return found


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", MODELS)
def test_scores_equal_the_single_process(results, family, plan):
    (wanted,) = results.of(f"{family}-single")["ranks"]
    ranks = results.of(f"{family}-{plan}")["ranks"]
    assert len(ranks) == 2
    for told in ranks:
        for row, single in zip(told, wanted, strict=True):
            for values, expected in zip(row, single, strict=True):
                np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    spread = [abs(value) for value in wanted[0][0] if value]
    assert len(spread) == 23 and max(spread) > min(spread) + 1
