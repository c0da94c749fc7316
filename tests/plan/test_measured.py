"""Predictions against Paddle itself, in a process of its own: what is held, in which order, and how fleet shares it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo_core.arguments import load_arguments
from zoo_core.environment import cpu_environment
from zoo_core.plan import Request, compose
from zoo_core.plan.counts import counted
from zoo_core.plan.memory import owned_elements, predict_memory
from zoo_core.plan.precision import keeping_of, numbers_of
from zoo_core.registry import registry

MODELS = (
    "facebook/llama-7b", "qwen/qwen-7b", "gpt3-345M", "THUDM/chatglm-6b", "THUDM/chatglm2-6b", "bigscience/bloom-560m",
    "baichuan-inc/Baichuan2-7B-Base", "deepseek-ai/DeepSeek-V3", "facebook/opt-125m", "THUDM/glm-10b",
)  # fmt: skip

BUILT = """
import json, sys
from types import SimpleNamespace
import numpy as np, paddle
from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import DygraphShardingOptimizer
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_optimizer_stage2 import GroupShardedOptimizerStage2
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.plan import Request, compose
from zoo_core.registry import registry

def bytes_of(tensor):
    return tensor.size * tensor.element_size()

found = {}
for name in sys.argv[1:]:
    model = registry().find(name)
    architecture = model.architecture
    config = model.config.replace(**architecture.capabilities.scales["tiny"])
    plan = compose(Request(sequence=32, micro_batch=2), architecture, config)
    mesh = Mesh(plan)
    engine = Engine(mesh, architecture, config, from_seed(1, config, 1, 0), settings=OptimizerSettings())
    ids = np.arange(64).reshape(2, 32) % config.vocab_size
    engine.train_step([{"input_ids": ids, "labels": ids}], 1e-3)
    trained = [held.tensor for held in engine.held.values() if not held.rule.buffer]
    states = [state.tensor for state in engine.updater.states()]
    one = SimpleNamespace(_sharding_world_size=4, _parameter_list=trained)
    largest = DygraphShardingOptimizer._partition_parameters(one)
    two = SimpleNamespace(world_size=4, _local_params=trained, _GroupShardedOptimizerStage2__segment_params=[])
    in_order = GroupShardedOptimizerStage2._segment_params(two)
    count = lambda tensors: sum(int(t.size) for t in tensors)
    found[name] = {
        "weights": sum(bytes_of(held.tensor) for held in engine.held.values()),
        "states": sum(map(bytes_of, states)),
        "stage1": [count(largest[rank]) for rank in range(4)],
        "stage2": [count(tensors) for tensors in in_order],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def built():
    import os

    environ = {**os.environ, **cpu_environment(2)}
    done = subprocess.run([sys.executable, "-c", BUILT, *MODELS], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def tiny(name):
    found = registry().find(name)
    config = found.config.replace(**found.architecture.capabilities.scales["tiny"])
    return found.architecture, config, counted(found.architecture, config)


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_states_are_predicted_to_the_byte(built, name):
    architecture, config, counts = tiny(name)
    plan = compose(Request(sequence=32, micro_batch=2), architecture, config)
    arguments = load_arguments("pretrain", (), ["--model", name, "--scale", "tiny"])
    (stage,) = predict_memory(plan, counts, numbers_of(arguments, "cpu"), keeping_of(arguments, "cpu"))
    assert (stage.weights, stage.optimizer) == (built[name]["weights"], built[name]["states"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stage", [1, 2])
def test_states_are_shared_as_fleet_shares_them(built, name, stage):
    architecture, config, counts = tiny(name)
    plan = compose(Request(world=4, sharding_stage=stage), architecture, config)
    assert list(owned_elements(plan, counts, 0)) == built[name][f"stage{stage}"]
