"""Random requests judged by planner and engine; legal ones, and the nearest of illegal ones, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))

import parallel_cases as cases  # noqa: E402
from parallel_jobs import Results, environment  # noqa: E402

from zoo_core.plan import Request, facts, judge  # noqa: E402
from zoo_core.plan.nearest import nearest_legal  # noqa: E402
from zoo_core.registry import registry  # noqa: E402

pytestmark = pytest.mark.soak

MODELS = (
    "meta-llama/Meta-Llama-3-8B", "qwen/qwen-7b", "gpt3-345M", "THUDM/chatglm2-6b", "deepseek-ai/DeepSeek-V3",
    "bigscience/bloom-560m", "facebook/opt-125m", "baichuan-inc/Baichuan2-13B-Base",
)  # fmt: skip
REQUESTS = 1000
LEGAL, ILLEGAL = 30, 20
STEPS = 2
HERE = Path(__file__).parent


@lru_cache
def model_of(name, **changes):
    found = registry().find(name)
    config = found.config.replace(**found.architecture.capabilities.scales["tiny"])
    return facts(found.architecture, config, name)


def legal(name, request):
    return all(verdict.legal for verdict in judge(request, model_of(name)))


def drawn(random, worlds, sequences=(cases.SEQUENCE,), nodes=(1,)):
    """A model and a request, as likely illegal as not."""
    stage = random.choice((0, 0, 0, 1, 1, 2, 3))
    return random.choice(MODELS), Request(
        world=random.choice(worlds),
        tensor=random.choice((1, 1, 1, 2, 2, 3, 4, 5, 8)),
        pipeline=random.choice((1, 1, 1, 2, 2, 3, 4)),
        sharding=random.choice((None, None, 2, 4)) if stage else None,
        sharding_stage=stage,
        data=random.choice((None,) * 8 + (2,)),
        expert=random.choice((1,) * 8 + (2, 3, 4)),
        virtual_stages=random.choice((1, 1, 1, 1, 2)),
        micro_batch=random.choice((1, 2)),
        accumulate=random.choice((1, 2, 4, 8)),
        sequence_parallel=random.random() < 0.3,
        sequence=random.choice(sequences),
        recompute=random.choice(("none", "none", "full", "core_attn")),
        nodes=random.choice(nodes),
    )


def with_task(random, request):
    """The request for another task, as `zoo_core.plan.from_arguments` makes it."""
    task = random.choice(("pretrain", "pretrain", "sft", "lora", "prefix", "dpo"))
    tokens = random.choice((4, 4, 250)) if task == "prefix" else 0
    lora = task == "lora" or (task in ("pretrain", "dpo") and random.random() < 0.25)
    projects = tokens > 0 and random.random() < 0.3
    return replace(request, task=task, lora=lora, virtual_tokens=tokens, projects_prefix=projects)


def test_the_engine_agrees_with_the_verdicts(capsys):
    random = Random(5)
    asked = [drawn(random, (1, 2, 3, 4, 6, 8, 12, 16), (16, 16, 18, 300), (1,) * 8 + (2,)) for _ in range(REQUESTS)]
    asked = [(name, with_task(random, request)) for name, request in asked]
    words = json.dumps([{"model": name, "request": asdict(request)} for name, request in asked])
    done = subprocess.run(
        [sys.executable, str(HERE / "engine_check.py")], input=words, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    broken: Counter[str] = Counter()
    for (name, request), answer in zip(asked, answers, strict=True):
        refused = [verdict for verdict in judge(request, model_of(name)) if not verdict.legal]
        assert bool(refused) == bool(answer), (name, request, [v.why for v in refused], answer)
        broken[refused[0].rule.name if refused else f"legal {request.task}"] += 1
    with capsys.disabled():
        print(f"\n{len(asked)} requests judged alike: " + ", ".join(f"{n} {k}" for k, n in broken.most_common()))
    legal_ones = {task: broken[f"legal {task}"] for task in ("pretrain", "sft", "lora", "prefix", "dpo")}
    assert len(asked) >= 1000 and sum(legal_ones.values()) > 100 and min(legal_ones.values()) > 8
    assert len(broken) > 13


WORDS = {
    "pretrain": [], "lora": ["--lora", "true", "--lora_rank", "4"],
    "prefix": ["--prefix_tuning", "true", "--num_prefix_tokens", "4"],
}  # fmt: skip


def trained_in_turn(name, request, number):
    """The request for all weights, for adapters or for a prefix, whichever's turn it is and is legal."""
    task = tuple(WORDS)[number % 3]
    asked = replace(request, task=task, lora=task == "lora", virtual_tokens=4 if task == "prefix" else 0)
    return asked if legal(name, asked) else request


def single_of(name, task, samples):
    return f"single-{name.rpartition('/')[2]}-{task}-{samples}"


@lru_cache
def chosen():
    """Thirty legal requests, and the nearest legal ones of twenty that are not; of few samples a step."""
    random, found, counted = Random(11), {}, Counter()
    while counted["legal"] < LEGAL or counted["nearest"] < ILLEGAL:
        name, request = drawn(random, (2, 2, 3, 4, 4, 4, 6, 8))
        kind = "legal" if legal(name, request) else "nearest"
        plan = request if kind == "legal" else nearest_legal(request, model_of(name))
        if plan is None or counted[kind] == (LEGAL if kind == "legal" else ILLEGAL):
            continue
        degrees = plan.resolved()
        samples = plan.micro_batch * plan.accumulate * degrees.data * degrees.sharding
        if samples <= 32 and counted[kind, plan.world] < 10:
            task = f"{kind}-{counted[kind]}"
            found[task] = (name, trained_in_turn(name, replace(plan, data=None), counted[kind]), samples)
            counted[kind] += 1
            counted[kind, plan.world] += 1
    return found


TASKS = [*(f"legal-{n}" for n in range(LEGAL)), *(f"nearest-{n}" for n in range(ILLEGAL))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("ran"), HERE / "planned_worker.py")
    tasks = {}
    for task, (name, request, samples) in chosen().items():
        single = Request(micro_batch=samples if samples <= 8 else 8, accumulate=max(samples // 8, 1))
        if samples % 8 and samples > 8:
            single = Request(accumulate=samples)
        for key, asked in ((task, request), (single_of(name, request.task, samples), single)):
            tasks[key] = {"id": key, "model": name, "scale": "tiny", "config": {}, "steps": STEPS}
            tasks[key]["words"] = WORDS[request.task]
            tasks[key]["request"] = {k: v for k, v in asdict(asked).items() if k != "sequence"}
    for world in sorted({task["request"]["world"] for task in tasks.values()}):
        results.run([task for task in tasks.values() if task["request"]["world"] == world], world)
    return results


@pytest.mark.parametrize("task", TASKS)
def test_legal_plans_run_and_give_the_losses_of_one_process(ran, task):
    name, request, samples = chosen()[task]
    single = ran.of(single_of(name, request.task, samples))["ranks"][0]["losses"]
    assert len(single) == STEPS
    for rank in ran.of(task)["ranks"]:
        assert rank["losses"] == pytest.approx(single, rel=1e-5, abs=1e-5), (name, request)


def test_enough_was_run():
    assert sorted(chosen()) == sorted(TASKS)
    assert len({name for name, _, _ in chosen().values()}) >= 6
    assert Counter(request.task for _, request, _ in chosen().values()).keys() == WORDS.keys()
    assert {request.world for _, request, _ in chosen().values()} >= {2, 4, 8}
