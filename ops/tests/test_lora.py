"""Adapted Linear layers against their definition, on one card; the parallel forms are compared in tests/parallel."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from zoo_ops import set_dropout_state
from zoo_ops.linear import ColumnLinear, RowLinear, inside, project
from zoo_ops.lora import LoraColumnLinear, LoraLinear, LoraRowLinear, adapted, lora_reference

B, S, IN, OUT, R = 2, 5, 6, 8, 3
SCALE = 1.5


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"x": [B, S, IN], "weight": [IN, OUT], "bias": [OUT], "A": [IN, R], "B": [R, OUT]}
    made = {name: paddle.to_tensor(rng.standard_normal(shape).astype("float32")) for name, shape in shapes.items()}
    for name in ("x", "A", "B"):
        made[name].stop_gradient = False
    return made


def layer_of(kind, t, dropout=0.0):
    plain = {LoraColumnLinear: ColumnLinear, LoraRowLinear: RowLinear}.get(kind)
    if plain is None:
        base = nn.Linear(IN, OUT)
        base._parameters["weight"], base._parameters["bias"] = t["weight"], t["bias"]
    else:
        base = plain(t["weight"], t["bias"])
    found = adapted(base, t["A"], t["B"], SCALE, dropout, "some.layer")
    assert type(found) is kind
    return found


@pytest.mark.parametrize("kind", [LoraLinear, LoraColumnLinear, LoraRowLinear])
def test_equals_the_definition(kind):
    ours, theirs = tensors(), tensors()
    y = layer_of(kind, ours)(ours["x"])
    expected = lora_reference(*(theirs[name] for name in ("x", "weight", "bias", "A", "B")), SCALE)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for name in ("x", "A", "B"):
        np.testing.assert_allclose(ours[name].grad.numpy(), theirs[name].grad.numpy(), rtol=1e-4, atol=1e-3)
    assert ours["weight"].grad is None


@pytest.mark.parametrize("kind", [LoraLinear, LoraColumnLinear, LoraRowLinear])
def test_without_an_adapter_it_is_the_plain_layer(kind):
    t = tensors()
    layer = layer_of(kind, t)
    layer.set_adapter(None, None, 1.0)
    expected = paddle.matmul(t["x"], t["weight"]) + t["bias"]
    np.testing.assert_allclose(layer(t["x"]).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(layer.weight.numpy(), t["weight"].numpy())


def test_the_weight_is_the_merged_one_and_the_parameter_the_base():
    t = tensors()
    layer = layer_of(LoraColumnLinear, t)
    expected = t["weight"].numpy() + SCALE * t["A"].numpy() @ t["B"].numpy()
    np.testing.assert_allclose(layer.weight.numpy(), expected, rtol=1e-5, atol=1e-5)
    held = dict(layer.named_parameters())
    assert set(held) == {"weight", "bias", "lora_A", "lora_B"}
    np.testing.assert_array_equal(held["weight"].numpy(), t["weight"].numpy())


def test_projections_and_experts_take_it_as_they_take_the_plain_layer():
    t = tensors()
    layer = layer_of(LoraColumnLinear, t)
    first, second = project(t["x"], layer, layer)
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    layer._parameters["bias"] = None
    plain = layer_of(LoraRowLinear, {**t, "bias": None})
    rows = t["x"].reshape([-1, IN])
    np.testing.assert_allclose(inside(layer, rows).numpy(), inside(plain, rows).numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", [LoraLinear, LoraColumnLinear, LoraRowLinear])
def test_dropout_is_before_the_adapter_only_and_in_training_only(kind):
    t = tensors()
    layer = layer_of(kind, t, dropout=0.5)
    set_dropout_state(1, 1)
    layer.train()
    first, again = layer(t["x"]).numpy(), layer(t["x"]).numpy()
    np.testing.assert_array_equal(first, again)
    set_dropout_state(1, 2)
    assert not np.array_equal(first, layer(t["x"]).numpy())
    layer.set_adapter(t["A"], t["B"] * 0, SCALE)
    plain = paddle.matmul(t["x"], t["weight"]) + t["bias"]
    np.testing.assert_allclose(layer(t["x"]).numpy(), plain.numpy(), rtol=1e-5, atol=1e-5)
    layer.set_adapter(t["A"], t["B"], SCALE)
    layer.eval()
    expected = lora_reference(*(t[name] for name in ("x", "weight", "bias", "A", "B")), SCALE)
    np.testing.assert_allclose(layer(t["x"]).numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_layer_that_is_no_linear_is_refused():
    with pytest.raises(TypeError, match="Embedding takes no adapter"):
        adapted(nn.Embedding(3, 4), None, None, 1.0, 0.0, "x")


def test_layer_norm_gives_its_input_the_gradient_also_when_it_is_frozen():
    """Paddle's own kernel does not, on CPU."""
    from zoo_ops import LayerNorm

    found = []
    for frozen in (False, True):
        paddle.seed(0)
        norm = LayerNorm(8)
        rng = np.random.default_rng(0)
        norm.weight.set_value(rng.standard_normal(8).astype("float32"))
        norm.weight.stop_gradient = norm.bias.stop_gradient = frozen
        x = paddle.to_tensor(rng.standard_normal((2, 3, 8)).astype("float32"), stop_gradient=False)
        (norm(x) ** 3).sum().backward()
        assert (norm.weight.grad is None) == frozen
        found.append(x.grad.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-6)
