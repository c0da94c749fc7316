"""Preference losses and their gradients equal TRL on transformers; PaddleFormers' and an older TRL's where it has none.

Shapes: P pairs, S tokens; rows are the chosen answers, then the rejected ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import GOLDEN, REPOSITORY, single  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.checkpoint.hf import hf_places  # noqa: E402
from zoo_core.engine.build import from_both  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.engine.state import from_checkpoint  # noqa: E402
from zoo_core.peft.files import AdapterFiles  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_core.train.dpo_engine import PairEngine  # noqa: E402
from zoo_core.train.dpo_objective import MEASURED, REFERENCE, PairObjective  # noqa: E402
from zoo_ops.preference import (  # noqa: E402
    PREFERENCE_LOSSES,
    REFERENCE_FREE,
    PreferenceLoss,
    sequence_log_probs,
    sequence_log_probs_reference,
)

FOUND = load_file(Path(__file__).parent / "golden_dpo" / "golden.safetensors")
BASE = REPOSITORY / "plugins/llama/tests/golden/llama3_gqa"
BATCH = {name: FOUND[name] for name in ("input_ids", "labels", "attention_mask")}
PAIRS = len(FOUND["policy"]) // 2

CASES = {
    "sigmoid": PairObjective(PreferenceLoss()),
    "sigmoid_sft": PairObjective(PreferenceLoss(), 0.7, 0.3),
    "smoothed": PairObjective(PreferenceLoss(label_smoothing=0.2)),
    "free": PairObjective(PreferenceLoss(beta=0.3)),
    "hinge": PairObjective(PreferenceLoss("hinge", beta=0.3)),
    "ipo": PairObjective(PreferenceLoss("ipo", beta=0.2)),
    "sppo_hard": PairObjective(PreferenceLoss("sppo_hard")),
    "nca_pair": PairObjective(PreferenceLoss("nca_pair")),
    "kto_pair": PairObjective(PreferenceLoss("kto_pair")),
    "dpop": PairObjective(PreferenceLoss("dpop", dpop_lambda=5.0)),
    "simpo": PairObjective(PreferenceLoss("simpo", beta=2.0, simpo_gamma=1.2, label_smoothing=0.1)),
    "orpo": PairObjective(PreferenceLoss("orpo"), 0.4, 1.0),
}
FREE = ("free", "simpo", "orpo")


def model(objective, adapter=None, settings=None, has_reference=True):
    """The golden policy, perhaps with adapters over it."""
    found = find(str(BASE))
    architecture, config = found.architecture, found.config
    table, mesh = architecture.table(config), single(architecture, config)
    more = {"settings": settings, "objective": objective, "has_reference": has_reference}
    with Reader(BASE, table) as reader:
        source = from_checkpoint(reader, mesh)
        if adapter is None:
            return PairEngine(mesh, architecture, config, source, **more)
        with AdapterFiles(adapter, table) as files:
            return PairEngine(mesh, architecture, config, from_both(source, files.source()), lora=files.spec, **more)


def compared(case):
    reference = np.zeros_like(FOUND["reference"]) if case in FREE else FOUND["reference"]
    return {**BATCH, REFERENCE: reference}


def backward(engine, batch):
    """The loss of a batch, of which the gradients stay on the parameters."""
    counts = engine._count([batch], 1.0)
    engine.layers.train()
    ready = engine._to_batch(batch)
    engine._feed.fill([ready])
    loss = engine._loss(engine.layers(paddle.zeros([1])), ready.labels)
    loss.backward()
    return float(loss), engine._measured(counts)


def compare_gradients(engine, case):
    compared, places = set(), {}
    for held in engine.held.values():
        for place in hf_places(held.rule):
            places[place.key] = held
    for key, theirs in FOUND.items():
        if key.startswith(f"{case}.grad."):
            name = key.removeprefix(f"{case}.grad.")
            grad = places[name].tensor.grad.numpy()
            theirs = theirs.T if places[name].rule.hf_transposed else theirs
            np.testing.assert_allclose(grad, theirs, rtol=1e-5, atol=1e-5 * max(np.abs(theirs).max(), 0.1), err_msg=key)
            compared.add(name)
    return compared


def test_every_loss_has_a_case():
    assert {objective.loss.kind for objective in CASES.values()} == set(PREFERENCE_LOSSES)
    assert {CASES[case].loss.kind for case in FREE} <= REFERENCE_FREE


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case):
    engine = model(CASES[case])
    loss, measured = backward(engine, compared(case))
    np.testing.assert_allclose(loss, FOUND[f"{case}.loss"], rtol=1e-5)
    np.testing.assert_allclose(measured.loss, loss, rtol=1e-5)
    names = compare_gradients(engine, case)
    assert len(names) == (len(engine.table) if case == "sigmoid" else 3)


def test_log_probabilities_and_what_is_told():
    engine = model(CASES["sigmoid"])
    np.testing.assert_allclose(engine.sequence_log_probs([BATCH])[0], FOUND["policy"], rtol=1e-5)
    _, measured = backward(engine, compared("sigmoid"))
    assert tuple(measured.means) == MEASURED
    told = [measured.means[name] for name in MEASURED[:6]]
    np.testing.assert_allclose(told, FOUND["told"], rtol=1e-5, atol=1e-6)


def test_adapters_and_the_base_below_them():
    engine = model(CASES["sigmoid"], GOLDEN / "llama")
    (batch,) = engine.compared([BATCH])
    np.testing.assert_allclose(batch[REFERENCE], FOUND["lora.reference"], rtol=1e-5)
    loss, _ = backward(engine, batch)
    np.testing.assert_allclose(loss, FOUND["lora.loss"], rtol=1e-5)
    assert len(compare_gradients(engine, "lora")) == len([key for key in FOUND if key.startswith("lora.grad.")]) > 10
    assert all(h.tensor.grad is None for n, h in engine.held.items() if "lora" not in n)


def test_losses_of_training():
    engine = model(CASES["sigmoid"], settings=OptimizerSettings(max_grad_norm=0.0))

    class Fixed:
        def sequence_log_probs(self, batches):
            return [FOUND["reference"]] * len(batches)

    engine.reference = Fixed()
    found = [engine.train_step([BATCH], 1e-3).loss for _ in FOUND["sigmoid.losses"]]
    np.testing.assert_allclose(found, FOUND["sigmoid.losses"], rtol=1e-5, atol=1e-5)


def test_a_copy_is_the_reference_until_it_is_updated():
    settings = OptimizerSettings(max_grad_norm=0.0)
    engine, engine_of = model(CASES["sigmoid"], settings=settings), model(CASES["sigmoid"])
    engine.reference = engine_of
    before = engine.train_step([BATCH], 1e-3)
    assert before.loss == pytest.approx(np.log(2), rel=1e-6) and before.means["rewards/margins"] == 0
    assert engine.measure([BATCH]).loss < before.loss
    engine.update_reference()
    assert engine.measure([BATCH]).loss == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parametrize("kind", sorted(PREFERENCE_LOSSES))
def test_filling_costs_nothing(kind):
    """Two pairs and a filled row are the two pairs, whatever the model says of the row."""
    random = np.random.default_rng(3)
    four = [paddle.to_tensor(-random.random(3).astype("float32") - 0.1, stop_gradient=False) for _ in range(4)]
    loss = PreferenceLoss(kind, beta=0.5)
    lost = loss(*four, paddle.to_tensor([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(lost[:2].numpy(), loss(*(x[:2] for x in four)).numpy(), rtol=1e-6)
    assert float(lost[2]) == 0.0
    lost.sum().backward()
    assert all(np.isfinite(x.grad.numpy()).all() and x.grad.numpy()[2] == 0 for x in four[:2])


def test_odds_of_certain_answers_are_finite():
    certain = paddle.to_tensor([0.0, -1e-9, -50.0], stop_gradient=False)
    lost = PreferenceLoss("orpo")(certain, certain - 1.0, paddle.zeros([3]), paddle.zeros([3]))
    lost.sum().backward()
    assert np.isfinite(lost.numpy()).all() and np.isfinite(certain.grad.numpy()).all()


def test_log_probabilities_equal_the_plain_definition():
    random = np.random.default_rng(5)
    logits = paddle.to_tensor(random.normal(size=(4, 6, 31)).astype("float32") * 3, stop_gradient=False)
    labels = paddle.to_tensor(np.where(random.random((4, 6)) < 0.4, -100, random.integers(0, 31, (4, 6))))
    weights, gradients = paddle.to_tensor(random.normal(size=4).astype("float32")), []
    for function in (sequence_log_probs, sequence_log_probs_reference):
        found, counts = function(logits, labels)
        (found * weights).sum().backward()
        gradients.append((found.numpy(), counts.numpy(), logits.grad.numpy()))
        logits.clear_gradient()
    for mine, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-6)


def test_the_golden_adapters_are_those_of_the_base():
    config = json.loads((GOLDEN / "llama" / "adapter_config.json").read_text())
    assert REPOSITORY / config["base_model_name_or_path"] == BASE
