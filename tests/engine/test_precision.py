"""A checkpoint goes on in another precision: fp32 copies become the weights, and weights the copies, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core.checkpoint import Reader, convert
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.engine.state import from_checkpoint, load_states, save
from zoo_core.plan import Request, compose
from zoo_core.registry import find

TINY = {"vocab_size": 37, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
        "intermediate_size": 24}  # fmt: skip


def engine(dtype, folder=None):
    """From the seed, or from a checkpoint with its states."""
    found = find("meta-llama/Meta-Llama-3-8B")
    config = found.config.replace(**TINY)
    mesh = make_mesh(compose(Request(micro_batch=2), found.architecture, config))
    settings = OptimizerSettings(master_weights=dtype != "float32")
    if folder is None:
        return Engine(mesh, found.architecture, config, from_seed(5, config, 1, 0), dtype, settings)
    with Reader(folder, found.architecture.table(config)) as reader:
        made = Engine(mesh, found.architecture, config, from_checkpoint(reader, mesh, dtype), dtype, settings)
        load_states(made, reader)
    return made


def step(made):
    ids = np.random.default_rng(0).integers(0, 37, (2, 9))
    made.train_step([{"input_ids": ids[:, :-1], "labels": ids[:, 1:].copy()}], 1e-2)


def held(made):
    """Every weight and state, by (role, name)."""
    found = {("weight", name): h.tensor.numpy().copy() for name, h in made.held.items()}
    return found | {(state.role, state.name): state.tensor.numpy().copy() for state in made.updater.states()}


def rounded(array, dtype):
    out = np.empty(array.shape, np.uint16 if dtype == "bfloat16" else np.float16)
    convert(array, "float32", out, dtype)
    return out


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_to_half_precision_and_back(dtype, tmp_path):
    wide = engine("float32")
    step(wide)
    before = held(wide)
    half = engine(dtype, save(wide, tmp_path / "wide", 1, state={}))
    now = held(half)
    names = [name for role, name in before if role == "weight"]
    assert {role for role, _ in now} == {"weight", "moment1", "moment2", "master"}
    for name in names:
        exact = before["weight", name]
        assert np.array_equal(now["master", name], exact)
        assert now["weight", name].tobytes() == rounded(exact, dtype).tobytes() != exact.tobytes()
        for role in ("moment1", "moment2"):
            assert now[role, name].any() and np.array_equal(now[role, name], before[role, name])
    again = held(engine("float32", save(half, tmp_path / "half", 1, state={})))
    assert again.keys() == before.keys()
    assert all(np.array_equal(again[key], before[key]) for key in before)


def test_from_one_half_precision_to_the_other(tmp_path):
    """Rounded once, from the fp32 copies, not from values that were rounded before."""
    wide = engine("float32")
    step(wide)
    exact = held(wide)
    first = engine("bfloat16", save(wide, tmp_path / "wide", 1, state={}))
    other = held(engine("float16", save(first, tmp_path / "first", 1, state={})))
    for (role, name), values in exact.items():
        expected = rounded(values, "float16") if role == "weight" else values
        assert other[role, name].tobytes() == expected.tobytes(), (role, name)
