"""`--to_static`: the traced graph trains as the model does, in all that a step leaves behind; and what it refuses."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from zoo_core import ZooError
from zoo_core.checkpoint import Reader
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.engine.state import from_checkpoint, load_states, save
from zoo_core.peft import LoraSpec, PrefixSpec
from zoo_core.plan import Request, compose
from zoo_core.registry import find
from zoo_ops import Dropout, Router
from zoo_ops.dropout import set_dropout_state

SETTINGS = OptimizerSettings(weight_decay=0.1, max_grad_norm=0.5, epsilon=1e-6)
STEPS, SEED, ROWS, LENGTH, LEARNING_RATE = 5, 3, 2, 8, 1e-3
DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
FAMILIES = {
    "llama": ("meta-llama/Meta-Llama-3-8B", {}),
    "qwen": ("qwen/qwen-7b", {}),
    "gpt3": ("gpt3-345M", DROPS),
    "bloom": ("bigscience/bloom-560m", {}),
    "baichuan": ("baichuan-inc/Baichuan2-13B-Base", {}),
    "chatglm": ("THUDM/chatglm-6b", {}),
    "deepseek_v3": ("deepseek-ai/DeepSeek-V3", {}),
    "opt": ("facebook/opt-125m", DROPS),
    "glm": ("THUDM/glm-10b", {"output_dropout_prob": 0.1, "attention_dropout_prob": 0.1}),
}


def built(family, to_static, source=None, **settings):
    name, changes = FAMILIES[family]
    found = find(name)
    tiny = {**found.architecture.capabilities.scales["tiny"], "num_hidden_layers": 2, **changes}
    config = found.config.replace(**tiny)
    plan = compose(Request(micro_batch=ROWS, accumulate=2, to_static=to_static), found.architecture, config)
    mesh = make_mesh(plan)
    made = source(mesh) if source else from_seed(SEED, config, 1, 0)
    return Engine(mesh, found.architecture, config, made, settings=SETTINGS, **settings)


def micro_batches(family, step, length=LENGTH, paddings=(2, 2)):
    """Two of them, each with so many tokens of padding, which have no loss; a graph for each set of fields."""
    dice, made = np.random.default_rng(step), []
    for padding in paddings:
        ids = dice.integers(3, 290, (ROWS, length + 1))
        if family in ("chatglm", "glm"):  # where a prompt is read both ways up to these
            ids[:, 3:5] = [301, 302]
        labels = ids[:, 1:].copy()
        fields = {"input_ids": ids[:, :-1], "labels": labels}
        if padding:
            labels[0, -padding:] = -100
            fields["attention_mask"] = np.ones((ROWS, length), np.int64)
            fields["attention_mask"][0, -padding:] = 0
        made.append(fields)
    return made


def train(engine, family, steps=range(STEPS), **shape):
    """What each step told."""
    found = []
    for step in steps:
        set_dropout_state(SEED, step)
        result = engine.train_step(micro_batches(family, step, **shape), LEARNING_RATE)
        found.append((result.loss, result.grad_norm))
    return np.array(found)


def weights(engine):
    return {name: held.tensor.numpy().copy() for name, held in engine.held.items()}


def same(family, **settings):
    """Hold a traced run against the plain one; returns its engine."""
    plain, traced = (built(family, to_static, **settings) for to_static in (False, True))
    before, wanted = weights(plain), train(plain, family)
    found = train(traced, family)
    np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], wanted[:, 1], rtol=1e-5)
    moved = 0.0
    for name, expected in weights(plain).items():
        np.testing.assert_allclose(traced.held[name].tensor.numpy(), expected, rtol=1e-5, atol=1e-5, err_msg=name)
        moved = max(moved, float(np.abs(expected - before[name]).max()))
    assert moved > STEPS * LEARNING_RATE / 2, "nothing was learned that could differ"
    return traced


@pytest.mark.parametrize("family", FAMILIES)
def test_a_traced_graph_trains_as_the_model_does(family):
    traced = same(family)
    layers = traced.layers.sublayers()
    assert any(isinstance(layer, Dropout) and layer.p for layer in layers) == (family in ("gpt3", "opt", "glm"))
    routers = [layer for layer in layers if isinstance(layer, Router)]
    assert bool(routers) == (family == "deepseek_v3")
    assert all(router.e_score_correction_bias.abs().sum() > 0 for router in routers), "the loads never came out"


def test_attached_losses_move_what_nothing_else_does():
    found = built("deepseek_v3", True)
    name = next(name for name in found.held if "eh_proj" in name)
    before = weights(found)[name]
    train(found, "deepseek_v3", range(1))
    assert np.abs(weights(found)[name] - before).max() > LEARNING_RATE / 2


@pytest.mark.parametrize("family", ("llama", pytest.param("bloom", marks=pytest.mark.soak)))
@pytest.mark.parametrize(
    "settings",
    ({"lora": LoraSpec(rank=4, dropout=0.2)}, {"prefix": PrefixSpec(tokens=3, hidden=8)}),
    ids=("lora", "prefix"),
)
def test_what_is_trained_beside_the_model(family, settings):
    same(family, **settings)


def test_evaluation_and_other_shapes_between_steps(caplog):
    plain, traced = (built("llama", to_static) for to_static in (False, True))
    with caplog.at_level(logging.WARNING, "zoo"):
        for step, length in enumerate((8, 5, 6, 8, 7)):
            wanted, found = (
                train(engine, "llama", [step], length=length, paddings=(0, 2)) for engine in (plain, traced)
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
            np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-6)
            sums = [engine.evaluate(micro_batches("llama", 9)).loss for engine in (plain, traced)]
            assert sums[0] == pytest.approx(sums[1], rel=1e-6)
    said = [record.getMessage() for record in caplog.records if record.name == "zoo"]
    assert len(said) == 1 and said[0].startswith("8 shapes of micro batches so far")


def test_a_run_goes_on_from_a_checkpoint_traced_or_not(tmp_path):
    first = built("gpt3", True)
    train(first, "gpt3", range(2))
    folder = save(first, tmp_path, 2, state={"consumed_samples": 8})
    wanted = train(first, "gpt3", range(2, STEPS))
    for to_static in (True, False):
        with Reader(folder, first.table) as reader:
            resumed = built("gpt3", to_static, lambda mesh, reader=reader: from_checkpoint(reader, mesh))
            load_states(resumed, reader)
        found = train(resumed, "gpt3", range(2, STEPS))
        if to_static:
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-6)


def test_model_code_that_asks_for_values_is_named(monkeypatch):
    traced = built("llama", True)
    through = type(traced.layers).through

    def asks(self, x, batch, *more):
        return through(self, x, batch, *more) * float(batch.input_ids.max())

    monkeypatch.setattr(type(traced.layers), "through", asks)
    with pytest.raises(ZooError, match="cannot be traced") as caught:
        train(traced, "llama", range(1))
    assert "without --to_static" in caught.value.todo


@pytest.mark.parametrize(
    ("asked", "why"),
    (
        ({"world": 2, "tensor": 2}, "to_static with tp 2: a graph holds no exchange"),
        ({"world": 2, "pipeline": 2}, "to_static with pp 2: a graph holds no exchange"),
        ({"world": 2, "sharding": 2, "sharding_stage": 3}, "to_static with sharding stage3: a graph holds no exchange"),
        ({"world": 2, "pipeline": 2, "semi_auto": True}, "the semi-automatic engine with pp 2"),
        ({"world": 2, "semi_auto": True, "task": "dpo"}, "its loss is computed outside the program"),
        ({"recompute": "core_attn"}, "to_static with recompute (core_attn)"),
        ({"task": "predict"}, "to_static with predict: nothing is trained"),
    ),
)
def test_what_does_not_combine_is_refused_by_name(asked, why):
    found = find("meta-llama/Meta-Llama-3-8B")
    with pytest.raises(ZooError, match="what a traced graph holds") as caught:
        compose(Request(to_static=True, **asked), found.architecture, found.config)
    assert why in caught.value.why


SMALL = "--scale tiny --num_hidden_layers 2 --device cpu --max_steps 5 --learning_rate 1e-3 --adam_epsilon 1e-6 "
SMALL = [*SMALL.split(), "--report_to", "none"]


@pytest.fixture
def trained(run, corpus, tuning_data, pairs, tmp_path):
    """Run a task by the command; gives its output, and what it printed on standard output."""
    data = {
        "pretrain": ["--input_dir", str(corpus), "--split", "80,20,0", "--max_seq_length", "32"],
        "sft": ["--dataset_name_or_path", str(tuning_data), "--max_length", "64", "--pad_to_max_length"],
        "dpo": ["--train_dataset_path", str(pairs / "pairs-train.jsonl"), "--max_seq_len", "64"],
    }
    data["lora"] = data["sft"]

    def call(task: str, out: str, *more: str) -> tuple[Path, str]:
        words = ["run", task, "--model", "meta-llama/Meta-Llama-3-8B", *SMALL, *data[task], "--save_steps", "3"]
        words += ["--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / out), *more]
        words += [] if task == "pretrain" else ["--tokenizer", str(tuning_data / "tokenizer")]
        status, said, err = run(words)
        assert (status, err) == (0, "")
        return tmp_path / out, said

    return call


def losses(folder):
    with (folder / "loss.csv").open(newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def stored(folder):
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.mark.parametrize("task", ("pretrain", "sft", "lora", "dpo"))
def test_every_task_by_the_command(task, trained):
    plain, said = trained(task, "plain")
    assert "traced graph" not in said
    traced, said = trained(task, "traced", "--to_static")
    assert "also       traced graph" in said
    # what is lost on a pair comes from differences of sums over whole answers
    loose = {"rtol": 0, "atol": 1e-6} if task == "dpo" else {"rtol": 1e-6}
    np.testing.assert_allclose(losses(traced), losses(plain), **loose)
    wanted, found = (stored(folder / "checkpoint-5") for folder in (plain, traced))
    assert set(found) == set(wanted) != set()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)
    again, _ = trained(task, "again", "--to_static", "--resume", str(traced / "checkpoint-3"))
    assert losses(again) == losses(traced)[3:]


def test_refused_by_the_command_before_anything_starts(run, tmp_path, corpus):
    words = ["run", "pretrain", "--model", "meta-llama/Meta-Llama-3-8B", *SMALL, "--input_dir", str(corpus)]
    words += ["--output_dir", str(tmp_path / "out"), "--to_static"]
    for more, why in (
        (("--nproc", "2", "--tp", "2"), "to_static with tp 2: a graph holds no exchange"),
        (("--recompute",), "to_static with recompute (full)"),
        (("--do_qat",), "do_qat does not combine with to_static"),
    ):
        status, _, err = run([*words, *more])
        assert status == 2 and why in err and not (tmp_path / "out").exists()


def test_a_file_of_arguments_asks_for_it(run, tmp_path, corpus):
    given = {"model_name_or_path": "meta-llama/Meta-Llama-3-8B", "input_dir": str(corpus), "to_static": 1}
    (tmp_path / "given.json").write_text(json.dumps({**given, "output_dir": str(tmp_path / "out")}))
    status, said, err = run(["run", "pretrain", str(tmp_path / "given.json"), *SMALL, "--dry-run"])
    assert (status, err) == (0, "") and "traced graph" in said
