"""Predictions against Paddle itself, in a process of its own: what is held, in which order, and how fleet shares it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

from parallel_jobs import Results  # noqa: E402

from zoo_core.arguments import load_arguments  # noqa: E402
from zoo_core.cli._tuned import tuned_of  # noqa: E402
from zoo_core.environment import cpu_environment  # noqa: E402
from zoo_core.plan import Request, compose  # noqa: E402
from zoo_core.plan.counts import counted  # noqa: E402
from zoo_core.plan.memory import owned_elements, predict_memory  # noqa: E402
from zoo_core.plan.precision import keeping_of, numbers_of  # noqa: E402
from zoo_core.registry import registry  # noqa: E402

MODELS = (
    "facebook/llama-7b", "qwen/qwen-7b", "gpt3-345M", "THUDM/chatglm-6b", "THUDM/chatglm2-6b", "bigscience/bloom-560m",
    "baichuan-inc/Baichuan2-7B-Base", "deepseek-ai/DeepSeek-V3", "facebook/opt-125m", "THUDM/glm-10b",
)  # fmt: skip
TUNED = {
    "lora": ["--lora", "true", "--lora_rank", "4"],
    "some": ["--lora", "true", "--lora_rank", "16", "--lora_target_modules", ".*q_proj", ".*down_proj"],
    "prefix": ["--prefix_tuning", "true", "--num_prefix_tokens", "5"],
    "dpo": [],
    "dpo-lora": ["--lora", "true", "--lora_rank", "4"],
    "simpo": ["--loss_type", "simpo"],
    "projected": ["--prefix_tuning", "true", "--num_prefix_tokens", "5", "--prefix_projection", "true"],
}
TUNED_MODELS = [
    *((name, how) for name in ("facebook/llama-7b", "deepseek-ai/DeepSeek-V3") for how in TUNED),
    *((name, how) for name in ("facebook/llama-7b", "deepseek-ai/DeepSeek-V3") for how in ("dpo", "dpo-lora", "simpo")),
    ("THUDM/chatglm2-6b", "lora"), ("bigscience/bloom-560m", "prefix"), ("gpt3-345M", "lora"),
]  # fmt: skip


def task_of(how):
    return "dpo" if how in ("dpo", "dpo-lora", "simpo") else "pretrain"


BUILT = """
import gc, json, sys
from functools import partial
from types import SimpleNamespace
import numpy as np, paddle
from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import DygraphShardingOptimizer
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_optimizer_stage2 import GroupShardedOptimizerStage2
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.arguments import load_arguments
from zoo_core.train.dpo import objective_of
from zoo_core.train.dpo_engine import PairEngine
from zoo_core.peft import prefix_from_arguments, spec_from_arguments
from zoo_core.plan import Request, compose
from zoo_core.registry import registry

def bytes_of(tensor):
    return tensor.size * tensor.element_size()

found, core = {}, paddle.base.core
for number, (task, name, words) in enumerate(json.loads(sys.argv[1])):
    engine = trained = states = one = two = largest = in_order = None
    gc.collect()  # or the model before this one goes while this one is measured
    model = registry().find(name)
    architecture = model.architecture
    config = model.config.replace(**architecture.capabilities.scales["tiny"])
    accumulate = 1 + number % 2
    plan = compose(Request(sequence=64, micro_batch=2, accumulate=accumulate), architecture, config)
    mesh = Mesh(plan)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    before = core.host_memory_stat_current_value("Allocated", 0)
    arguments = load_arguments(task, (), ["--model", name, *words])
    added = {"lora": spec_from_arguments(arguments), "prefix": prefix_from_arguments(arguments, config)}
    make, rows = Engine, 2
    if task == "dpo":
        free = arguments.finetune.reference_free
        make, rows = partial(PairEngine, objective=objective_of(arguments), has_reference=not free), 4
    make = partial(make, mesh, architecture, config, from_seed(1, config, 1, 0))
    engine = make(settings=OptimizerSettings(), **added)
    if task == "dpo" and not free and engine.lora is None:
        engine.reference = make()
    ids = np.arange(rows * 64).reshape(rows, 64) % config.vocab_size
    for _ in range(2):  # the first finds no optimizer states yet
        engine.train_step([{"input_ids": ids, "labels": ids}] * accumulate, 1e-3)
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    trained = [h.tensor for h in engine.held.values() if not h.rule.buffer and not h.tensor.stop_gradient]
    states = [state.tensor for state in engine.updater.states()]
    one = SimpleNamespace(_sharding_world_size=4, _parameter_list=trained)
    largest = DygraphShardingOptimizer._partition_parameters(one)
    two = SimpleNamespace(world_size=4, _local_params=trained, _GroupShardedOptimizerStage2__segment_params=[])
    in_order = GroupShardedOptimizerStage2._segment_params(two)
    count = lambda tensors: sum(int(t.size) for t in tensors)
    whole = [*engine.held.values(), *(engine.reference.held.values() if getattr(engine, "reference", None) else ())]
    found[" ".join([task, name, *words])] = {
        "trained": count(trained),
        "accumulate": accumulate,
        "peak": peak,
        "weights": sum(bytes_of(held.tensor) for held in whole),
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
    tuned = [(task_of(how), name, TUNED[how]) for name, how in TUNED_MODELS]
    asked = json.dumps([*(("pretrain", name, []) for name in MODELS), *tuned])
    done = subprocess.run([sys.executable, "-c", BUILT, asked], capture_output=True, text=True, env=environ)
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
    assert (stage.weights, stage.optimizer) == (
        built[f"pretrain {name}"]["weights"],
        built[f"pretrain {name}"]["states"],
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_peak_of_what_is_allocated_is_predicted_to_a_tenth(built, name):
    """By Paddle's own record; the process adds what Python, Paddle and the heap take (`benchmarks/plan_memory.py`)."""
    architecture, config, counts = tiny(name)
    plan = compose(
        Request(sequence=64, micro_batch=2, accumulate=built[f"pretrain {name}"]["accumulate"]), architecture, config
    )
    arguments = load_arguments("pretrain", (), ["--model", name, "--scale", "tiny"])
    (stage,) = predict_memory(plan, counts, numbers_of(arguments, "cpu"), keeping_of(arguments, "cpu"))
    assert stage.total == pytest.approx(built[f"pretrain {name}"]["peak"], rel=0.1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stage", [1, 2])
def test_states_are_shared_as_fleet_shares_them(built, name, stage):
    architecture, config, counts = tiny(name)
    plan = compose(Request(world=4, sharding_stage=stage), architecture, config)
    assert list(owned_elements(plan, counts, 0)) == built[f"pretrain {name}"][f"stage{stage}"]


@pytest.mark.parametrize(("name", "how"), TUNED_MODELS)
def test_only_what_is_trained_has_gradients_and_states(built, name, how):
    """Weights, a reference model's included, and states to the byte, the peak to a tenth."""
    architecture, config, _ = tiny(name)
    seen, task = built[" ".join([task_of(how), name, *TUNED[how]])], task_of(how)
    plan = compose(Request(sequence=64, micro_batch=2, accumulate=seen["accumulate"]), architecture, config)
    arguments = load_arguments(task, (), ["--model", name, "--scale", "tiny", *TUNED[how]])
    counts = counted(architecture, config, tuned_of(arguments, config))
    (stage,) = predict_memory(plan, counts, numbers_of(arguments, "cpu"), keeping_of(arguments, "cpu"))
    assert (stage.weights, stage.gradients, stage.optimizer) == (seen["weights"], 4 * seen["trained"], seen["states"])
    assert seen["trained"] == owned_elements(plan, counts, 0)[0]
    assert seen["trained"] == (counts.added if counts.tuned.frozen else counts.parameters)
    for sharding in (1, 2):
        shared = compose(Request(world=4, sharding_stage=sharding), architecture, config)
        assert list(owned_elements(shared, counts, 0)) == seen[f"stage{sharding}"]
    assert stage.total == pytest.approx(seen["peak"], rel=0.1)


LAYOUTS = {
    "tp2": {"world": 2, "tensor": 2},
    "pp2": {"world": 2, "pipeline": 2},
    "stage1": {"world": 2, "sharding_stage": 1},
    "stage2": {"world": 2, "sharding_stage": 2},
    "stage3": {"world": 2, "sharding_stage": 3},
    "tp2xpp2": {"world": 4, "tensor": 2, "pipeline": 2},
    "tp2xstage2": {"world": 4, "tensor": 2, "sharding_stage": 2},
    "ep2xpp2": {"world": 4, "expert": 2, "pipeline": 2},
}
QUICK = ("meta-llama/Meta-Llama-3-8B", "bigscience/bloom-560m")
"""Two key/value heads, and a head that is the embedding; the others are for `make soak`."""


def _cases():
    for layout, how in (("tp2", "lora"), ("pp2", "lora"), ("stage2", "some"), ("stage3", "lora"), ("tp2", "prefix"),
                        ("stage3", "prefix"), ("tp2xpp2", "lora")):  # fmt: skip
        yield pytest.param(layout, QUICK[0], how, id=f"{QUICK[0].rpartition('/')[2]}-{how}@{layout}")
    yield pytest.param("ep2xpp2", "deepseek-ai/DeepSeek-V3", "lora", id="DeepSeek-V3-lora@ep2xpp2")
    for layout in LAYOUTS:
        for name in MODELS + QUICK[:1]:
            if "expert" not in LAYOUTS[layout] or "DeepSeek" in name:
                marks = [] if name in QUICK else [pytest.mark.soak]
                yield pytest.param(layout, name, "", id=f"{name.rpartition('/')[2]}@{layout}", marks=marks)


@pytest.fixture(scope="module")
def held(request, tmp_path_factory):
    """What each rank of the chosen cases held; the cases of as many processes share a launch."""
    chosen = {
        tuple(item.callspec.params[of] for of in ("layout", "name", "how"))
        for item in request.session.items
        if "held" in getattr(item, "fixturenames", ())
    }
    results = Results(tmp_path_factory.mktemp("held"), Path(__file__).with_name("planned_worker.py"))
    tasks = [
        {"id": f"{name.rpartition('/')[2]}{how}@{layout}", "model": name, "scale": "tiny", "config": {}, "steps": 1,
         "words": TUNED[how] if how else [], "request": {"micro_batch": 2, "accumulate": 2, **LAYOUTS[layout]}}
        for layout, name, how in sorted(chosen)
    ]  # fmt: skip
    for world in (2, 4):
        results.run([task for task in tasks if task["request"]["world"] == world], world)
    return results


@pytest.mark.parametrize(("layout", "name", "how"), _cases())
def test_every_rank_holds_the_bytes_that_are_predicted(held, layout, name, how):
    """Weights, gradients before the update, optimizer states: of every rank, to the byte."""
    architecture, config, _ = tiny(name)
    plan = compose(Request(sequence=16, micro_batch=2, accumulate=2, **LAYOUTS[layout]), architecture, config)
    ranks = held.of(f"{name.rpartition('/')[2]}{how}@{layout}")["ranks"]
    arguments = load_arguments("pretrain", (), ["--model", name, *(TUNED[how] if how else ())])
    counts = counted(architecture, config, tuned_of(arguments, config))
    numbers, keeping = numbers_of(arguments, "cpu"), keeping_of(arguments, "cpu")
    assert len(ranks) == plan.world
    for rank, seen in enumerate(ranks):
        place = plan.coordinates(rank)
        owned = [owned_elements(plan, counts, stage)[place.sharding] for stage in range(plan.pipeline)]
        stage = predict_memory(plan, counts, numbers, keeping, owned=owned)[place.pipe]
        predicted = {part: getattr(stage, part) for part in ("weights", "gradients", "optimizer")}
        assert predicted == {part: seen[part] for part in predicted}
