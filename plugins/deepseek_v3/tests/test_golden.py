"""T1: logits, losses and every gradient against other implementations; `zoo_core.testing.golden` has the rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

import zoo_deepseek_v3
from zoo_core.testing import contract, folders, golden
from zoo_core.testing.models import build, gradients
from zoo_ops import Batch, cross_entropy, set_loss_weight

ARCH = contract.architecture(zoo_deepseek_v3)
HERE = Path(__file__).parent / "golden"
CASES = golden.golden_cases(HERE)
PREDICTIONS = sorted(file.parent for file in HERE.glob("*/prediction.safetensors"))


@pytest.fixture
def loss_weight():
    yield set_loss_weight
    set_loss_weight(0.0)


def load(case):
    config = ARCH.capabilities.config_class.from_hf(json.loads((case / "config.json").read_text()))
    return config, build(ARCH, config, golden.read_weights(case, ARCH.table(config)))


def close(ours, theirs):
    return abs(ours - theirs) <= 1e-5 + 1e-5 * abs(theirs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_transformers(case):
    golden.check_golden(ARCH, case)


def prediction_case(case):
    """The golden tensors, and the batch with labels as the engine gives them: shifted."""
    wanted = load_file(case / "prediction.safetensors")
    ahead = np.concatenate([wanted["labels"][:, 1:], np.full_like(wanted["labels"][:, :1], -100)], axis=1)
    fields = {name: wanted[name] for name in ("input_ids", "position_ids", "attention_mask") if name in wanted}
    if "sequence_lengths" in wanted:
        lengths = wanted["sequence_lengths"]
        fields["segment_ids"] = np.repeat(np.arange(len(lengths)), lengths)[None]
    fields = {name: paddle.to_tensor(value) for name, value in fields.items()}
    return wanted, Batch(**fields, labels=paddle.to_tensor(ahead)), int((ahead != -100).sum())


@pytest.mark.parametrize("case", PREDICTIONS, ids=lambda case: case.name)
def test_prediction_equals_the_equations(case, loss_weight):
    """Both losses, and the gradients of their sum, as training makes them."""
    config, model = load(case)
    wanted, batch, tokens = prediction_case(case)
    loss_weight(1.0 / tokens)
    model.train()
    loss = cross_entropy(model(batch).logits, batch.labels).sum() / tokens
    loss.backward()
    assert close(float(loss), wanted["loss"])
    table = ARCH.table(config)
    golden.check_gradients(table, gradients(model, lambda name: table[name].single), wanted)

    model.eval()
    with paddle.no_grad():
        hidden = model.deepseek_v3(batch)
        prediction = model.deepseek_v3.layers[config.num_hidden_layers].losses(hidden, batch).sum() / tokens
    assert close(float(prediction), wanted["prediction_loss"])


@pytest.mark.parametrize("how", ["eval", "no labels"])
def test_prediction_is_for_training_only(how, loss_weight):
    config, model = load(PREDICTIONS[0])
    _, batch, _ = prediction_case(PREDICTIONS[0])
    loss_weight(1.0)
    if how == "eval":
        model.eval()
    else:
        batch = Batch(batch.input_ids)
    model(batch).logits.sum().backward()
    prediction = model.deepseek_v3.layers[config.num_hidden_layers]
    assert prediction.eh_proj.weight.grad is None and prediction.mlp.gate.weight.grad is None


def test_a_sample_predicts_alike_alone_in_a_packed_row_and_in_a_padded_one(loss_weight):
    """Samples as fine-tuning cuts them: the last token is a label only. Gradients, and what routers count."""
    config, model = load(PREDICTIONS[0])
    model.train()
    loss_weight(1.0)
    samples = [np.random.default_rng(n).integers(0, config.vocab_size, length) for n, length in enumerate((6, 4))]

    def run(*batches):
        model.clear_gradients()
        for batch in batches:
            model(batch).logits.sum().backward()
        last = model.deepseek_v3.layers[-1]
        load_E = last.mlp.gate.take_load().tolist()
        return last.eh_proj.weight.grad.numpy(), load_E

    def row(*values):
        return paddle.to_tensor(np.concatenate(values)[None], dtype="int64")

    alone = [Batch(row(ids[:-1]), labels=row(ids[1:]), attention_mask=row(np.ones(len(ids) - 1))) for ids in samples]
    filler = np.zeros(3, np.int64)
    packed = Batch(
        row(*(ids[:-1] for ids in samples), filler),
        position_ids=row(*(np.arange(len(ids) - 1) for ids in samples), filler),
        segment_ids=row(*(np.full(len(ids) - 1, n) for n, ids in enumerate(samples)), filler + 2),
        attention_mask=row(*(np.ones(len(ids) - 1) for ids in samples), filler),
        labels=row(*(ids[1:] for ids in samples), filler - 100),
    )
    padded = [
        Batch(row(ids[:-1], filler), labels=row(ids[1:], filler - 100),
              attention_mask=row(np.ones(len(ids) - 1), filler))
        for ids in samples
    ]  # fmt: skip
    wanted, load_E = run(*alone)
    assert np.abs(wanted).max() > 1e-3 and sum(load_E) == (4 + 2) * config.num_experts_per_tok
    for batches in ([packed], padded):
        found, counted_E = run(*batches)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert counted_E == load_E


@pytest.mark.parametrize("case", [*CASES, *PREDICTIONS], ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, tmp_path):
    """Names and bits, the router's bias and the copies in the prediction's layer included."""
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved")
