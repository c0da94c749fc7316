"""Mixture of experts: choice and sums against their definitions, empty experts, loss-free balance."""

import numpy as np
import paddle
import pytest
from paddle import nn

from zoo_ops import Batch, Router, attach_loss, moe, set_loss_weight
from zoo_ops.experts import choose_experts, choose_experts_reference, moe_reference

H, F, E = 6, 10, 8


class Expert(nn.Layer):
    def __init__(self, hidden=H, width=F):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias_attr=False)
        self.up_proj = nn.Linear(hidden, width, bias_attr=False)
        self.down_proj = nn.Linear(width, hidden, bias_attr=False)


class Block(nn.Layer):
    def __init__(self, experts=E, top_k=3, shared=True, **router):
        super().__init__()
        paddle.seed(3)
        self.gate = Router(H, experts, top_k, **router)
        self.experts = nn.LayerList([Expert() for _ in range(experts)])
        self.shared = Expert() if shared else None
        rng = np.random.default_rng(1)
        for parameter in self.parameters():
            parameter.set_value(rng.standard_normal(parameter.shape).astype("float32") * 0.5)
        self.gate.e_score_correction_bias.set_value(rng.standard_normal(experts).astype("float32") * 0.1)


@pytest.fixture
def float64():
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype(before)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (2, 1), (4, 4)])
def test_choice_is_the_definition(groups, top_groups, normalise):
    rng = np.random.default_rng(groups)
    scores = paddle.to_tensor(rng.uniform(size=(13, E)))
    bias = paddle.to_tensor(rng.standard_normal(E) * 0.3)
    k = 2 if top_groups == 1 and groups == 4 else 3
    options = (k, groups, top_groups, 2.5, normalise)
    weights, experts = choose_experts(scores, bias, *options)
    wanted, chosen = choose_experts_reference(scores, bias, *options)
    np.testing.assert_array_equal(experts.numpy(), chosen.numpy())
    np.testing.assert_allclose(weights.numpy(), wanted.numpy(), rtol=1e-12)


def test_bias_changes_the_choice_and_not_the_weights():
    scores = paddle.to_tensor([[0.9, 0.8, 0.1, 0.2]])
    weights, experts = choose_experts(scores, paddle.to_tensor([0.0, 0.0, 1.0, 0.0]), 2, 1, 1, 1.0, False)
    assert experts.tolist() == [[2, 0]]
    np.testing.assert_allclose(weights.numpy(), [[0.1, 0.9]], rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("router", [{}, {"groups": 4, "top_groups": 2, "scale": 2.5}], ids=["plain", "grouped"])
def test_sum_and_gradients_are_the_definition(router, shared):
    x = np.random.default_rng(0).standard_normal((2, 5, H)).astype("float32")
    found = []
    for function in (moe, moe_reference):
        block, leaf = Block(shared=shared, **router), paddle.to_tensor(x, stop_gradient=False)
        out = function(leaf, block.gate, block.experts, block.shared)
        (out * out).sum().backward()
        grads = [p.grad for p in block.parameters()]
        found.append([out.numpy(), leaf.grad.numpy()] + [None if g is None else g.numpy() for g in grads])
    for ours, wanted in zip(*found, strict=True):
        wanted = np.zeros_like(ours) if wanted is None else wanted
        np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-5)


def test_experts_without_tokens_have_a_zero_gradient():
    block = Block(experts=E, top_k=1)
    block.gate.e_score_correction_bias.set_value(np.eye(E, dtype="float32")[2] * 10)
    moe(paddle.ones([1, 4, H]), block.gate, block.experts).sum().backward()
    for number, expert in enumerate(block.experts):
        gradient = expert.up_proj.weight.grad.numpy()
        assert (np.abs(gradient).max() > 0) == (number == 2)


def test_gradients_come_in_one_order_whichever_experts_are_idle():
    """Sharding stages 2 and 3 reduce each gradient as it comes: ranks of another order would wait for each other."""

    def order_of(tokens):
        block, came = Block(), []
        for name, parameter in block.named_parameters():
            parameter._register_backward_hook(lambda name=name: came.append(name))
        x = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, tokens, H)).astype("float32"))
        moe(x, block.gate, block.experts, block.shared).sum().backward()
        return came, len({expert for row in block.gate(x[0])[1].tolist() for expert in row})

    (few, used), (many, all_used) = order_of(1), order_of(200)
    assert used < E == all_used
    assert len(few) == len(list(Block().parameters())) and few == many


def test_bias_rises_for_idle_experts_and_falls_for_busy_ones():
    block = Block(experts=4, top_k=1, balance_rate=0.25)
    block.gate.e_score_correction_bias.set_value(np.array([0, 5, 0, 0], "float32"))
    x = paddle.ones([1, 6, H])
    moe(x, block.gate, block.experts)
    with paddle.no_grad():
        moe(x, block.gate, block.experts)
    assert block.gate.load_E.tolist() == [0, 6, 0, 0], "a pass without gradients must not count"
    block.gate.balance(block.gate.load_E)
    np.testing.assert_allclose(block.gate.e_score_correction_bias.numpy(), [0.25, 4.75, 0.25, 0.25])
    assert block.gate.load_E is None
    block.eval()
    moe(x, block.gate, block.experts)
    assert block.gate.load_E is None


def test_padding_is_no_load():
    block, x = (
        Block(experts=4, top_k=1),
        paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, H)), "float32"),
    )
    moe(x[:, 1:], block.gate, block.experts)
    wanted = block.gate.take_load().tolist()
    mask = paddle.to_tensor([[0, 1, 1], [0, 1, 1]])
    moe(x, block.gate, block.experts, batch=Batch(paddle.zeros([2, 3], "int64"), attention_mask=mask))
    assert block.gate.load_E.tolist() == wanted and sum(wanted) == 4


def test_attached_loss_adds_its_gradient_and_nothing_else():
    def gradient(weight):
        set_loss_weight(weight)
        x = paddle.to_tensor([1.0, 2.0], stop_gradient=False)
        y = attach_loss(x * 3.0, (x**2).sum())
        assert y.tolist() == [3.0, 6.0]
        y.sum().backward()
        return x.grad.tolist()

    try:
        assert gradient(0.0) == [3.0, 3.0]
        assert gradient(0.5) == [4.0, 5.0]
    finally:
        set_loss_weight(0.0)
