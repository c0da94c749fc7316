"""Products with quantised weights against their definition, with adapters, and how much of a weight is numbers at once.

Shape legend: T tokens, I/O in and out features.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from zoo_ops import dequantise
from zoo_ops.dequantise import Integers, integer_product, quantised_reference, weight_product, whole_weight
from zoo_ops.kernels import Kernels, set_kernels
from zoo_ops.linear import ColumnLinear, RowLinear
from zoo_ops.lora import adapted, lora_reference
from zoo_ops.quantized import QuantColumnLinear, QuantLinear, QuantRowLinear, _has_kernel, kernel_product

T, WIDTH = 3, 5


def made(features, bits=8, group=-1, zeros=False, order=False, activations=False, smooth=False, static=False, seed=0):
    """Random tensors of a layer and how they are laid out."""
    rng = np.random.default_rng(seed)
    block, size = {8: (1, 1), 4: (2, 1), 3: (8, 3)}[bits]
    groups = 1 if group < 0 else -(-features // group)
    rows = -(-features // block) * size
    whole = rng.integers(-128, 128, (rows, WIDTH)).astype(np.int8)
    tensors = {
        "quant_weight": paddle.to_tensor(whole if bits == 8 else whole.view(np.uint8)),
        "quant_scale": paddle.to_tensor(rng.uniform(0.5, 2, (groups, WIDTH)).astype(np.float32)),
    }
    if zeros:
        tensors["quant_zero"] = paddle.to_tensor(rng.integers(-4, 4, (groups, WIDTH)).astype(np.int8))
    if order:
        tensors["g_idx"] = paddle.to_tensor(rng.integers(0, groups, features).astype(np.int32))
    if smooth:
        tensors["smooth"] = paddle.to_tensor(rng.uniform(0.5, 2, features).astype(np.float32))
    if static:
        tensors["act_scale"] = paddle.to_tensor(np.array([0.06], np.float32))
    return tensors, Integers(features, bits, group, activations)


def inputs(features, seed=1):
    x = paddle.to_tensor(np.random.default_rng(seed).standard_normal((T, features)).astype(np.float32))
    x.stop_gradient = False
    return x


WEIGHTS = {
    "int8": dict(features=21), "int8 groups": dict(features=40, group=16), "int4": dict(features=7, bits=4),
    "int4 groups": dict(features=48, bits=4, group=16, zeros=True), "int3": dict(features=21, bits=3),
    "int3 groups": dict(features=40, bits=3, group=16), "order": dict(features=40, bits=4, group=8, order=True),
    "int3 order": dict(features=44, bits=3, group=8, order=True, zeros=True),
}  # fmt: skip
BOTH = {
    "dynamic": dict(features=21), "smooth": dict(features=16, smooth=True), "static": dict(features=16, static=True),
    "smooth static": dict(features=30, smooth=True, static=True),
}  # fmt: skip


@pytest.fixture(params=["whole", "blocks", "traced"])
def way(request, monkeypatch):
    """One block, several blocks, and the operations that other devices have."""
    if request.param == "blocks":
        monkeypatch.setattr(dequantise, "_BLOCK_VALUES", 8 * WIDTH)
    set_kernels(Kernels(fast_cpu=request.param != "traced"))
    yield request.param
    set_kernels(Kernels())


@pytest.mark.parametrize("kind", WEIGHTS.values(), ids=WEIGHTS)
def test_a_product_is_that_of_the_reference(kind, way):
    tensors, form = made(**kind)
    x = inputs(form.features)
    expected = quantised_reference(x, tensors, form)
    y = weight_product(x, tensors, form)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=1e-4)
    dense = whole_weight(tensors, form)
    assert dense.shape == [form.features, WIDTH] and dense.dtype == paddle.float32
    np.testing.assert_allclose(paddle.matmul(x, dense).numpy(), expected.numpy(), rtol=1e-5, atol=1e-4)
    grad = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    (dx,) = paddle.grad(y, x, paddle.to_tensor(grad))
    np.testing.assert_allclose(dx.numpy(), grad @ dense.numpy().T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", BOTH.values(), ids=BOTH)
def test_integer_activations_are_those_of_the_reference(kind, way):
    tensors, form = made(**kind, activations=True)
    x = inputs(form.features)
    y = integer_product(x, tensors, form)
    np.testing.assert_allclose(y.numpy(), quantised_reference(x, tensors, form).numpy(), rtol=1e-6)
    (dx,) = paddle.grad(y.sum(), x)
    expected = whole_weight(tensors, form).sum(1).expand([T, form.features])
    np.testing.assert_allclose(dx.numpy(), expected.numpy(), rtol=1e-5, atol=1e-4)
    # rounding activations costs something, but not much
    plain = paddle.matmul(x, whole_weight(tensors, form))
    assert 0 < float((y - plain).abs().max() / plain.abs().max()) < 0.05


def test_integer_sums_are_exact_where_float32_is_not():
    features = 5000
    weight = np.full((features, 2), 127, np.int8)
    weight[::2, 1] = -128
    tensors = {"quant_weight": paddle.to_tensor(weight), "quant_scale": paddle.ones([1, 2])}
    form = Integers(features, activations=True)
    q = np.full((1, features), 127.0, np.float32)
    q[0, 1::3] = 126
    exact = q.astype(np.int64) @ weight.astype(np.int64)
    assert (exact > 2**24).any()
    assert np.array_equal(dequantise._integer_sums(paddle.to_tensor(q), tensors, form).numpy(), exact)
    assert all(stop - start <= 1024 for start, stop in form.blocks(2))


def test_a_token_of_zeros_and_no_token_at_all():
    tensors, form = made(16, activations=True)
    assert (integer_product(paddle.zeros([2, 16]), tensors, form).numpy() == 0).all()
    for kind in ({}, {"activations": True}):
        tensors, form = made(16, **kind)
        layer = QuantLinear(tensors, form, None)
        assert layer(paddle.zeros([0, 16])).shape == [0, WIDTH]


@pytest.mark.parametrize("kind", [*WEIGHTS.values(), dict(features=3000), dict(features=600, bits=4, group=128)])
def test_only_a_block_of_the_weight_is_numbers_at_a_time(kind, monkeypatch):
    monkeypatch.setattr(dequantise, "_BLOCK_VALUES", 100 * WIDTH)
    tensors, form = made(**kind)
    seen, before = [], dequantise._dense_block

    def spy(*arguments):
        block = before(*arguments)
        seen.append(block.shape[0])
        return block

    monkeypatch.setattr(dequantise, "_dense_block", spy)
    x = inputs(form.features)
    y = weight_product(x, tensors, form)
    assert sum(seen) == form.features and max(seen) <= max(100, 8)
    seen.clear()
    paddle.grad(y.sum(), x)
    assert sum(seen) == form.features and max(seen) <= max(100, 8)


def test_a_layer_keeps_no_numbers():
    tensors, form = made(64)
    layer = QuantLinear(tensors, form, paddle.ones([WIDTH]))
    layer(inputs(64))
    held = [t for t in [*layer._buffers.values(), *layer.__dict__.values()] if isinstance(t, paddle.Tensor)]
    assert sum(t.size * t.element_size() for t in held) == 64 * WIDTH + 4 * WIDTH
    assert not [name for name, _ in layer.named_parameters() if "weight" in name]


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("kind", [QuantLinear, QuantColumnLinear, QuantRowLinear])
def test_layers_and_adapters_on_them(kind, activations):
    tensors, form = made(24, activations=activations)
    bias = paddle.linspace(0, 1, WIDTH)
    layer, x = kind(tensors, form, bias), inputs(24)
    assert isinstance(layer, {QuantColumnLinear: ColumnLinear, QuantRowLinear: RowLinear}.get(kind, object))
    base = quantised_reference(x, tensors, form) + bias
    np.testing.assert_allclose(layer(x).numpy(), base.numpy(), rtol=1e-5, atol=1e-4)
    rng = np.random.default_rng(3)
    A, B = (paddle.to_tensor(rng.standard_normal(s).astype(np.float32)) for s in ((24, 2), (2, WIDTH)))
    A.stop_gradient = B.stop_gradient = False
    both = adapted(layer, A, B, 0.5, 0.0, "m.layers.0.q_proj")
    y = both(x)
    expected = base + 0.5 * paddle.matmul(paddle.matmul(x, A), B)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=1e-3)
    dense = whole_weight(tensors, form)
    np.testing.assert_allclose(both.weight.numpy(), (dense + 0.5 * A @ B).numpy(), rtol=1e-5, atol=1e-4)
    found = paddle.grad(y.sum(), [x, A, B])
    wanted = paddle.grad(lora_reference(x, dense, bias, A, B, 0.5).sum(), [x, A, B])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-3)
    both.set_adapter(None, None, 1.0)
    np.testing.assert_allclose(both(x).numpy(), base.numpy(), rtol=1e-5, atol=1e-4)
    assert [name for name, _ in both.named_parameters() if not name.endswith("bias")] == []


def test_shapes_of_batches_are_kept():
    tensors, form = made(24)
    assert QuantLinear(tensors, form, None)(paddle.ones([2, 3, 24])).shape == [2, 3, WIDTH]


@pytest.mark.parametrize("kind", ["int8", "int4 groups", "int3 order", "smooth static"])
def test_a_layer_is_traced_with_its_integers(kind, tmp_path):
    tensors, form = made(**{**WEIGHTS, **BOTH}[kind], activations=kind in BOTH)
    layer, x = QuantLinear(tensors, form, paddle.ones([WIDTH])), inputs(form.features).detach().unsqueeze(0)
    expected = layer(x).numpy()
    set_kernels(Kernels(fast_cpu=False))
    try:
        spec = paddle.static.InputSpec([1, -1, form.features], "float32")
        paddle.jit.save(paddle.jit.to_static(layer, full_graph=True), str(tmp_path / "layer"), input_spec=[spec])
    finally:
        set_kernels(Kernels())
    loaded = paddle.jit.load(str(tmp_path / "layer"))
    np.testing.assert_allclose(loaded(x).numpy(), expected, rtol=1e-5, atol=1e-4)
    kinds = {str(held.dtype) for held in [*loaded.parameters(), *loaded.buffers()]}
    assert kinds & {"paddle.int8", "paddle.uint8"}


def test_the_cpu_has_no_kernel():
    tensors, form = made(64)
    assert not _has_kernel(paddle.ones([1, 64], "float32"), tensors, form)


@pytest.mark.gpu
@pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="needs a GPU")
@pytest.mark.parametrize("bits", [4, 8])
def test_the_kernel_keeps_the_integers(bits):
    from zoo_ops.quantized import _prepared

    rng = np.random.default_rng(0)
    rows, kind = (128, np.int8) if bits == 8 else (64, np.uint8)
    tensors = {
        "quant_weight": paddle.to_tensor(
            rng.integers(-100, 100, (rows, 64)).astype(np.int8 if bits == 8 else np.uint8)
        ),
        "quant_scale": paddle.to_tensor(rng.uniform(0.001, 0.01, (1, 64)).astype(np.float32)),
    }
    form = Integers(128, bits)
    x = paddle.to_tensor(rng.standard_normal((4, 128))).astype("bfloat16")
    assert _has_kernel(x, tensors, form)
    y = kernel_product(x, _prepared(tensors, form, x.dtype), None, bits)
    expected = paddle.matmul(x.astype("float32"), whole_weight(tensors, form))
    np.testing.assert_allclose(y.astype("float32").numpy(), expected.numpy(), rtol=2e-2, atol=2e-2)
