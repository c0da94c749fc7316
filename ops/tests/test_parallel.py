"""Column, row and vocabulary-parallel layers, the sequence-parallel forms and the split loss, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_ops import parallel

WORKER = Path(__file__).with_name("parallel_worker.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    environ = {**os.environ, "PADDLE_DISTRI_BACKEND": "gloo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "4"]
    done = subprocess.run(
        [*command, "--log_dir", str(logs), str(WORKER)],
        env=environ, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    lines = [line for line in (logs / "workerlog.0").read_text().splitlines() if line.startswith("FOUND ")]
    assert done.returncode == 0 and lines, "\n".join(p.read_text()[-2000:] for p in sorted(logs.glob("workerlog.*")))
    return json.loads(lines[0].removeprefix("FOUND "))


@pytest.mark.parametrize("form", ("tensor", "sequence"))
def test_projections_equal_the_whole_layer(found, form):
    """float64, outputs and the gradients of the input and of every weight and bias."""
    assert max(found[f"{form} mlp"].values()) < 1e-12


@pytest.mark.parametrize("form", ("tensor", "sequence"))
@pytest.mark.parametrize("kind", ("", " gathered", " normalised", " gathered normalised"))
def test_vocabulary_equals_the_whole_layer(found, form, kind):
    """float32; rows of padding get no gradient at all."""
    values = found[f"{form} vocabulary{kind}"]
    assert values.pop("padding") == 0.0
    assert max(values.values()) < 1e-5


def test_every_rank_agrees(found):
    assert found["worst of all ranks"]["any"] < 1e-5


def test_nothing_is_parallel_until_told():
    assert parallel.tensor_axis() == parallel.Axis(1, 0, None)
    assert not parallel.sequence_parallel()
    assert parallel.sequence_shard(7) == (0, 7)
