"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import paddle
import pytest

import zoo_deepseek_v3
from zoo_core.testing import contract, pipeline
from zoo_core.testing.models import build, random_ids, random_weights
from zoo_ops import Batch, set_loss_weight

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
    pipeline.check_pipeline(ARCH, config, labels=random_ids(config, 2, 12, seed=1))


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
