"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import zoo_deepseek_v3
from zoo_core.testing import contract, models
from zoo_core.testing.models import build, gradients, random_ids, random_weights
from zoo_ops import Batch, cross_entropy, set_loss_weight

ARCH = contract.architecture(zoo_deepseek_v3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["deepseek-ai/DeepSeek-V3"].replace(**ARCH.capabilities.scales["tiny"])


@pytest.fixture
def _loss_weight():
    set_loss_weight(0.01)
    yield
    set_loss_weight(0.0)


@pytest.mark.usefixtures("_loss_weight")
@pytest.mark.parametrize(
    "changes",
    [{}, {"num_nextn_predict_layers": 0}, {"q_lora_rank": None}, {"tie_word_embeddings": True}, {"moe_layer_freq": 2}],
    ids=str,
)
def test_pipeline_is_the_model(changes):
    """Logits, and gradients of both losses; a tied copy is a tensor of its own in the list, whose gradients add up."""
    config = TINY.replace(**changes)
    table, layers = ARCH.table(config), ARCH.pipe_layers(config)
    weights, ids = random_weights(table), random_ids(config, 2, 12)
    labels = random_ids(config, 2, 12, seed=1)
    model = build(ARCH, config, weights)
    wanted_logits = model(Batch(ids, labels=labels)).logits
    cross_entropy(wanted_logits, labels).mean().backward()
    wanted = gradients(model, lambda name: table[name].single)

    assert sum(entry.is_block for entry in layers) == config.num_hidden_layers
    batch, x, built = Batch(ids, labels=labels), None, [entry.factory() for entry in layers]
    for entry, layer in zip(layers, built, strict=True):
        models.set_weights(layer, table, weights, entry.single)
        x = layer(x, batch, None)
    assert np.array_equal(x.numpy(), wanted_logits.numpy())
    cross_entropy(x, labels).mean().backward()
    found: dict[str, list[np.ndarray]] = {}
    for entry, layer in zip(layers, built, strict=True):
        if entry.attention:
            assert entry.attention in dict(layer.named_sublayers())
        for name, gradient in gradients(layer, entry.single).items():
            assert name not in found, f"two layers hold {name}"
            found[name] = [gradient]
    assert set(found) == {name for name, rule in table.items() if not rule.buffer}
    for name, rule in table.items():
        if rule.single != name:
            found[rule.single] += found.pop(name)
    for name, parts in found.items():
        # A tensor with several uses gathers its gradient in the model in another order than the copies are added here.
        if len(parts) == 1:
            assert np.array_equal(parts[0], wanted[name]), name
        else:
            np.testing.assert_allclose(sum(parts), wanted[name], rtol=1e-5, atol=1e-8, err_msg=name)


def test_a_router_counts_each_choice_once():
    """In training, with gradients; what recompute runs first, without them, is not counted."""
    model = build(ARCH, TINY, random_weights(ARCH.table(TINY)))
    batch = Batch(random_ids(TINY, 2, 12), labels=random_ids(TINY, 2, 12))
    gates = [layer.mlp.gate for layer in model.deepseek_v3.layers if hasattr(layer.mlp, "gate")]
    assert len(gates) == 4
    with paddle.no_grad():
        model(batch)
    model.eval()
    model(batch)
    assert all(gate.load_E is None for gate in gates)
    model.train()
    model(batch)
    assert [int(gate.load_E.sum()) for gate in gates] == [2 * 12 * TINY.num_experts_per_tok] * 4
