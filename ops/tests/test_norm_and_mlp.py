"""RMSNorm and feed-forward blocks against their definitions in float64."""

import numpy as np
import paddle
import pytest
from paddle import nn

from zoo_ops.cpu.elementwise import rms_norm_cpu
from zoo_ops.cpu.threads import set_threads
from zoo_ops.feed_forward import activate, fused_gated_mlp, gated, gated_mlp, gated_reference, mlp
from zoo_ops.kernels import Kernels, set_kernels
from zoo_ops.norm import RMSNorm, rms_norm, rms_norm_reference


@pytest.fixture(autouse=True)
def clean():
    yield
    set_kernels(Kernels())
    set_threads(None)


def run(function, arrays, dtype, seed=5):
    leaves = [paddle.to_tensor(x, dtype=dtype, stop_gradient=False) for x in arrays]
    out = function(*leaves)
    grad = np.random.default_rng(seed).standard_normal(out.shape)
    (out * paddle.to_tensor(grad, dtype=dtype)).sum().backward()
    return [out.numpy()] + [x.grad.numpy() for x in leaves]


def agree(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 5, 7), (3, 50, 96), (1, 3, 4, 6), (2, 33000)])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("function", [rms_norm, rms_norm_cpu])
def test_rms_norm(shape, number, function):
    set_threads(number)
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape) * 3, rng.standard_normal(shape[-1])
    expected = weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(rms_norm(*(paddle.to_tensor(a, "float64") for a in (x, weight)), 1e-5).numpy(), expected)
    agree(
        run(lambda x, w: function(x, w, 1e-5), (x, weight), "float32"),
        run(lambda x, w: rms_norm_reference(x, w, 1e-5), (x, weight), "float64"),
    )


def test_rms_norm_layer_and_frozen_weight():
    layer = RMSNorm(6, 1e-6)
    assert layer.weight.shape == [6]
    np.testing.assert_array_equal(layer.weight.numpy(), 1)
    layer.weight.stop_gradient = True
    for function in (lambda x: layer(x), lambda x: rms_norm_cpu(x, layer.weight, 1e-6)):
        x = paddle.randn([2, 3, 6])
        x.stop_gradient = False
        (function(x) * paddle.randn([2, 3, 6])).sum().backward()
        assert layer.weight.grad is None
        assert float(x.grad.abs().max()) > 0


def test_rms_norm_of_a_view():
    base = paddle.randn([4, 5, 12])
    got = rms_norm_cpu(base[:, 1:4, 2:9], paddle.ones([7]), 1e-6)
    np.testing.assert_array_equal(got.numpy(), rms_norm_cpu(base[:, 1:4, 2:9].clone(), paddle.ones([7]), 1e-6).numpy())


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 65, 129)])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("number", [1, 2])
def test_gated(shape, activation, number):
    set_threads(number)
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal(shape) * 2, rng.standard_normal(shape)
    agree(
        run(lambda g, u: gated(g, u, activation), arrays, "float32"),
        run(lambda g, u: gated_reference(g, u, activation), arrays, "float64"),
    )


def test_gated_at_the_extremes():
    gate = paddle.to_tensor([[-200.0, -90.0, 0.0, 90.0, 200.0]], stop_gradient=False)
    out = gated(gate, paddle.ones([1, 5]))
    out.sum().backward()
    np.testing.assert_allclose(out.numpy(), [[0, 0, 0, 90, 200]], atol=1e-30)
    np.testing.assert_allclose(gate.grad.numpy(), [[0, 0, 0.5, 1, 1]], atol=1e-30)


def test_mlp_forms_agree_and_an_unknown_activation_is_refused():
    paddle.seed(0)
    gate, up, down = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 6)
    both = nn.Linear(6, 20)
    both.weight.set_value(paddle.concat([gate.weight, up.weight], axis=1))
    both.bias.set_value(paddle.concat([gate.bias, up.bias]))
    x = paddle.randn([2, 3, 6])
    expected = down(paddle.nn.functional.silu(gate(x)) * up(x)).numpy()
    np.testing.assert_allclose(gated_mlp(x, gate, up, down).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(fused_gated_mlp(x, both, down).numpy(), expected, atol=1e-6)
    wide = up(x)
    tanh = 0.5 * wide * (1 + paddle.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(mlp(x, up, down, "gelu_tanh").numpy(), down(tanh).numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="'mish' is not known"):
        activate(x, "mish")


def test_fused_norm_says_once_that_this_device_lacks_it(caplog):
    set_kernels(Kernels(fused_rms_norm=True))
    for _ in range(2):
        rms_norm(paddle.ones([1, 2]), paddle.ones([2]), 1e-6)
    assert caplog.text.count("use_fused_rms_norm") == 1
