"""The CPU cross entropy against its definition in float64."""

import numpy as np
import paddle
import pytest

from zoo_ops.cpu.loss import cross_entropy_cpu
from zoo_ops.cpu.threads import set_threads
from zoo_ops.loss import cross_entropy


@pytest.fixture(autouse=True)
def clean():
    yield
    set_threads(None)


@pytest.mark.parametrize("tokens,vocab", [(1, 2), (7, 11), (64, 1031)])
@pytest.mark.parametrize("number", [1, 2])
def test_loss_and_gradient(tokens, vocab, number):
    set_threads(number)
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((tokens, vocab)) * 5, rng.standard_normal(tokens)
    labels = rng.integers(0, vocab, tokens)
    labels[:: max(2, tokens // 3)] = -100
    kept = labels != -100
    top = x.max(-1, keepdims=True)
    softmax = np.exp(x - top) / np.exp(x - top).sum(-1, keepdims=True)
    index = np.arange(tokens), np.where(kept, labels, 0)
    expected = -np.log(softmax[index]) * kept
    dx = softmax.copy()
    dx[index] -= 1
    dx *= (grad * kept)[:, None]

    leaf = paddle.to_tensor(x, dtype="float32", stop_gradient=False)
    loss = cross_entropy_cpu(leaf, paddle.to_tensor(labels))
    (loss * paddle.to_tensor(grad, dtype="float32")).sum().backward()
    np.testing.assert_allclose(loss.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(leaf.grad.numpy(), dx, atol=1e-6)
    public = cross_entropy(leaf.detach().unsqueeze(0), paddle.to_tensor(labels).unsqueeze(0))
    np.testing.assert_allclose(public.numpy()[0], expected, atol=1e-5)


def test_far_apart_logits_stay_finite():
    leaf = paddle.to_tensor([[300.0, -300.0, 0.0]], stop_gradient=False)
    loss = cross_entropy_cpu(leaf, paddle.to_tensor([1]))
    loss.sum().backward()
    np.testing.assert_allclose(loss.numpy(), [600.0])
    np.testing.assert_allclose(leaf.grad.numpy(), [[1.0, -1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("vocab", [7, 512, 40000])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_have_no_loss(vocab, wrong):
    """Paddle's own kernel passes over them where the vocabulary is large."""
    logits = paddle.zeros([1, 3, vocab])
    logits[0, 0, vocab - 1] = wrong
    logits[0, 1, vocab - 1] = wrong
    loss = cross_entropy(logits, paddle.to_tensor([[0, -100, 0]])).numpy()[0]
    assert np.isnan(loss[0]) and loss[1] == 0 and loss[2] == pytest.approx(np.log(vocab), rel=1e-5)
