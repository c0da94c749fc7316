"""The head with rows of length 1 against its definition, and what it does to rows of zeros."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from zoo_ops import LMHead

B, S = 2, 3
SIZES = ((7, 5), (129, 128))
"""Vocabulary and hidden width; the second is large enough for the hand-written pass on CPU."""


def made(size=SIZES[0], normalize=True, scale=1.0):
    rng = np.random.default_rng(0)
    head, weight = LMHead(size[1], size[0], normalize), rng.normal(size=size).astype("float32") * np.float32(scale)
    head.weight.set_value(paddle.to_tensor(weight))
    x = rng.normal(size=(B, S, size[1])).astype("float32")
    seed = rng.normal(size=(B, S, size[0])).astype("float32")
    return head, weight, x, seed


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_rows_of_length_one(size, scale):
    head, weight, x, _ = made(size, scale=scale)
    unit = weight.astype("float64") / np.sqrt((weight.astype("float64") ** 2).sum(1, keepdims=True))
    np.testing.assert_allclose(head(paddle.to_tensor(x)).numpy(), x @ unit.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_flows_through_the_division(size):
    """d(w / |w|) is (1 - u u^T) / |w|: what lengthens a row changes nothing."""
    head, weight, x, seed = made(size)
    (head(paddle.to_tensor(x)) * paddle.to_tensor(seed)).sum().backward()
    w = weight.astype("float64")
    length = np.sqrt((w**2).sum(1, keepdims=True))
    unit, plain = w / length, np.einsum("bsv,bsh->vh", seed.astype("float64"), x)
    wanted = (plain - unit * (unit * plain).sum(1, keepdims=True)) / length
    np.testing.assert_allclose(head.weight.grad.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert np.abs((head.weight.grad.numpy() * weight).sum(1)).max() < 1e-5


def test_the_parameter_is_left_as_it_is():
    head, weight, x, _ = made()
    head.eval()
    head(paddle.to_tensor(x))
    assert np.array_equal(head.weight.numpy(), weight)


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_zeros_give_zero_and_no_nan(size):
    head, weight, x, seed = made(size)
    weight[3] = 0.0
    head.weight.set_value(paddle.to_tensor(weight))
    logits = head(paddle.to_tensor(x))
    seed[..., 3] = 0.0
    (logits * paddle.to_tensor(seed)).sum().backward()
    assert np.all(logits.numpy()[..., 3] == 0.0)
    assert np.all(head.weight.grad.numpy()[3] == 0.0) and np.isfinite(head.weight.grad.numpy()).all()


def test_an_ordinary_head_is_untouched():
    head, weight, x, _ = made(normalize=False)
    np.testing.assert_allclose(head(paddle.to_tensor(x)).numpy(), x @ weight.T, rtol=1e-5, atol=1e-6)
