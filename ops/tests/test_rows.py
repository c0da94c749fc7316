"""What generates one token on CPU against the definitions: with one sample and several, and when it stays off."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

import zoo_ops.cpu.attention as cpu_attention
import zoo_ops.feed_forward as feed_forward
import zoo_ops.linear as linear_module
import zoo_ops.norm as norm_module
import zoo_ops.rope as rope_module
from zoo_ops.batch import Batch
from zoo_ops.cache import LayerCache
from zoo_ops.core_attention import attention, attention_reference
from zoo_ops.cpu import rows
from zoo_ops.cpu.blas import mkl_product
from zoo_ops.cpu.rows import plain_pass, product, view
from zoo_ops.cpu.threads import one_blas_thread, set_threads
from zoo_ops.feed_forward import gated_mlp, gated_reference
from zoo_ops.kernels import Kernels, set_kernels
from zoo_ops.linear import Embedding, Linear, LMHead, linear, project
from zoo_ops.norm import rms_norm, rms_norm_reference
from zoo_ops.rope import apply_rope, apply_rope_reference

HAS_MKL = (Path(paddle.__file__).parent / "libs" / "libmklml_intel.so").exists()
ROWS = ((1, 1), (3, 1), (1, 4))
"""Samples and tokens of a pass."""


@pytest.fixture(autouse=True)
def clean():
    yield
    set_kernels(Kernels())
    set_threads(None)


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of the functions for a few rows, wherever they are imported."""
    found: dict[str, int] = {}

    def counting(name, plain):
        def counted(*args, **kwargs):
            found[name] = found.get(name, 0) + 1
            return plain(*args, **kwargs)

        return counted

    for module in (linear_module, feed_forward, norm_module, rope_module, cpu_attention):
        for name in ("linear_row", "gated_row", "rms_norm_rows", "rope_rows", "attention_row", "embedding_rows"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return found


def random(*shape, seed=0, dtype="float32", scale=1.0):
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape) * scale, dtype)


def wide(*tensors):
    return tuple(t.astype("float64") for t in tensors)


def close(got, expected):
    np.testing.assert_allclose(got.numpy(), expected.numpy(), atol=1e-5, rtol=1e-5)


def made(inputs, outputs, bias=False, seed=1, dtype="float32"):
    weight = nn.Linear(1, 1).create_parameter([inputs, outputs], dtype=dtype)
    weight.set_value(random(inputs, outputs, seed=seed, dtype=dtype, scale=inputs**-0.5))
    layer = Linear(weight, nn.Linear(1, 1).create_parameter([outputs], dtype=dtype) if bias else None)
    if bias:
        layer.bias.set_value(random(outputs, seed=seed + 10, dtype=dtype))
    return layer


def test_views_of_slices_are_the_tensors_memory():
    x = random(3, 7, 4, 5)
    for part in (x, x[1:, 2:5], x[:, -1:], x.transpose([0, 2, 1, 3])[:, 1:, ::2], x[..., 2:], x[:0], x[:, 2:2, 1:]):
        np.testing.assert_array_equal(view(part), part.numpy())
    part = x[:, -1:]
    view(part)[...] = 7.0
    assert (x[:, -1:] == 7.0).all() and not (x[:, :-1] == 7.0).any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(5, 3), (64, 96), (1024, 1030)])
def test_projection_of_a_row(size, bias, threads, calls):
    set_threads(threads)
    layer, x = made(*size, bias=bias), random(1, 1, size[0])
    expected = F.linear(*wide(x, layer.weight), layer.bias.astype("float64") if bias else None)
    with paddle.no_grad(), one_blas_thread():
        got = layer(x)
        assert calls == {"linear_row": 1} and got.shape == [1, 1, size[1]]
        close(got, expected)
        close(layer(x[0]), expected[0])
        many = random(2, 3, size[0])
        close(layer(many), F.linear(*wide(many, layer.weight), layer.bias.astype("float64") if bias else None))
    assert calls == {"linear_row": 2}


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("size", [(5, 3), (64, 96), (1024, 1030)])
def test_product_of_rows(size, rows):
    random = np.random.default_rng(rows)
    x, weight = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, size[0]), size))
    for given in (x, np.repeat(x, 2, axis=1)[:, ::2]):  # what is not in C order takes numpy's way
        for own in (weight, np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2]):
            out = np.full((rows, size[1]), np.nan, np.float32)
            assert product(given, own, out) is out
            np.testing.assert_allclose(out, x.astype(float) @ weight.astype(float), atol=1e-5 * size[0] ** 0.5)
    assert mkl_product(x, weight, np.empty((rows, size[1]), np.float32)) == HAS_MKL
    assert not mkl_product(x.astype(float), weight.astype(float), np.empty((rows, size[1])))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(7, 5), (2050, 512)])
def test_head_of_a_row(size, threads, calls):
    set_threads(threads)
    for normalize in (False, True):
        head, x = LMHead(size[1], size[0], normalize), random(1, 1, size[1])
        weight = head.weight.numpy().astype("float64")
        expected = x.numpy() @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) if normalize else weight).T
        with paddle.no_grad():
            np.testing.assert_allclose(head(x).numpy(), expected, atol=1e-5, rtol=1e-5)
    assert calls["linear_row"] == 2


def test_embedding_of_a_few_rows(calls):
    weight = random(11, 6)
    layer = Embedding(nn.Embedding(11, 6).weight)
    layer.weight.set_value(weight)
    for ids in ([[3]], [[0], [10]], [[1, 2, 2]], np.zeros((2, 0), np.int64)):
        x = paddle.to_tensor(np.asarray(ids))
        with paddle.no_grad():
            got = layer(x)
        assert got.shape == [*x.shape, 6]
        np.testing.assert_array_equal(got.numpy(), weight.numpy()[x.numpy()])
    assert calls == {"embedding_rows": 4}
    with paddle.no_grad(), pytest.raises(ValueError):
        layer(paddle.to_tensor([[11]]))
    calls.clear()
    layer(paddle.to_tensor([[3]])).sum().backward()
    assert not calls and layer.weight.grad.numpy()[3].tolist() == [1.0] * 6


def test_several_projections_of_a_row(calls):
    layers, x = [made(6, width, bias=width == 4, seed=width) for width in (3, 4, 5)], random(1, 1, 6)
    with paddle.no_grad():
        for got, layer in zip(project(x, *layers), layers, strict=True):
            close(got, F.linear(x, layer.weight, layer.bias))
    assert calls == {"linear_row": 3}


@pytest.mark.parametrize("bias", [False, True])
def test_gated_block_of_a_row(bias, calls):
    gate, up, down = made(6, 9, bias, 1), made(6, 9, bias, 2), made(9, 6, bias, 3)
    for scale in (1.0, 300.0):  # silu far below where exp overflows
        x = random(1, 1, 6, scale=scale)
        with paddle.no_grad(), np.errstate(over="raise", invalid="raise", divide="raise"):
            close(gated_mlp(x, gate, up, down), down(gated_reference(gate(x), up(x))))
            close(gated_mlp(x, gate, up, down, "relu"), down(gated_reference(gate(x), up(x), "relu")))
    assert calls["gated_row"] == 2
    with paddle.no_grad():
        many = random(2, 1, 6)
        close(gated_mlp(many, gate, up, down), down(gated_reference(gate(many), up(many))))
    assert calls["gated_row"] == 2


@pytest.mark.parametrize("shape", [(*r, 64) for r in ROWS] + [(2, 1, 3, 5), (0, 1, 8)])
def test_norm_of_a_few_rows(shape, calls):
    x, weight = random(*shape, scale=3), random(shape[-1], seed=1)
    with paddle.no_grad():
        close(rms_norm(x, weight, 1e-5), rms_norm_reference(*wide(x, weight), 1e-5))
    part = random(*shape[:-1], shape[-1] + 2)[..., 1:-1]
    with paddle.no_grad():
        close(rms_norm(part, weight, 1e-5), rms_norm_reference(*wide(part, weight), 1e-5))
    assert calls == ({"rms_norm_rows": 2} if shape[1] == 1 else {})  # longer ones may be recomputed, to the last bit


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary", [None, 4])
@pytest.mark.parametrize("B, S", ROWS)
def test_rotation_of_a_few_rows(B, S, rotary, interleaved, calls):
    x = random(B, S, 3, 8)
    for samples in {1, B}:
        half = random(samples, S, (rotary or 8) // 2, seed=2)
        angle = paddle.concat([half, half], axis=-1)  # as `rope_angles` gives them
        how = {"rotary_dim": rotary, "interleaved": interleaved}
        with paddle.no_grad():
            got = apply_rope(x, angle.cos(), angle.sin(), **how)
        close(got, apply_rope_reference(*wide(x, angle.cos(), angle.sin()), **how))
    assert calls.get("rope_rows", 0) == (len({1, B}) if S == 1 else 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("B, N, M, K", [(1, 4, 4, 1), (1, 6, 2, 40), (3, 4, 1, 200)])
def test_attention_of_a_row_over_a_cache(B, N, M, K, masked, calls):
    q, room = random(B, 1, N, 8), K + 5
    k, v = random(B, room, M, 8, seed=1)[:, :K], random(B, room, M, 6, seed=2)[:, :K]
    mask = np.ones((B, K), np.int64)
    mask[0, : (K + 1) // 2] = 0
    batch = Batch(paddle.zeros([B, 1], "int64"), attention_mask=paddle.to_tensor(mask) if masked else None)
    for bias in (None, random(1, N, 1, K, seed=3), random(B, 1, 1, K, seed=4)):
        with paddle.no_grad():
            got = attention(q, k, v, batch, past=K - 1, bias=bias, scale=0.4)
        close(got, attention_reference(*wide(q, k, v), batch, past=K - 1, bias=bias, scale=0.4))
    assert calls == {"attention_row": 3}


def test_a_sample_that_sees_nothing_gives_zeros():
    batch = Batch(paddle.zeros([2, 1], "int64"), attention_mask=paddle.to_tensor([[0, 0, 0], [1, 0, 1]]))
    with paddle.no_grad():
        out = attention(random(2, 1, 2, 4), random(2, 3, 2, 4), random(2, 3, 2, 4), batch, past=2)
    assert (out[0] == 0).all() and not (out[1] == 0).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("S", [1, 3])
def test_cache_takes_slices(S, dtype):
    cache, k, v = LayerCache(2, 9), random(2, 9, 3, 4, dtype=dtype), random(2, 9, 3, 5, seed=1, dtype=dtype)
    for start in range(0, 9, S):
        got = cache.update(k[:, start : start + S], v[:, start : start + S])
        for found, expected in zip(got, (k, v), strict=True):
            np.testing.assert_array_equal(found.numpy(), expected[:, : start + S].numpy())


def run_all(dtype="float32"):
    """One call of each operation with one row."""
    x, heads, half = random(1, 1, 6, dtype=dtype), random(1, 1, 2, 6, dtype=dtype), random(1, 1, 3, dtype=dtype)
    angle = paddle.concat([half, half], axis=-1)
    layers = made(6, 9, dtype=dtype), made(6, 9, seed=2, dtype=dtype), made(9, 6, seed=3, dtype=dtype)
    batch = Batch(paddle.zeros([1, 1], "int64"))
    return [
        rms_norm(x, random(6, dtype=dtype), 1e-5),
        apply_rope(heads, angle.cos(), angle.sin()),
        attention(heads, heads, heads, batch),
        linear(x, layers[0].weight),
        *project(x, *layers[:2]),
        gated_mlp(x, *layers),
    ]


def test_other_types_and_other_paths_are_left_alone(calls):
    with paddle.no_grad():
        expected = run_all("float64")
        assert not calls
        set_kernels(Kernels(fast_cpu=False))
        plain = run_all()
        assert not calls
        set_kernels(Kernels())
        fast = run_all()
    assert set(calls) == {"rms_norm_rows", "rope_rows", "attention_row", "linear_row", "gated_row"}
    for found in (plain, fast):
        for got, wanted in zip(found, expected, strict=True):
            assert got.dtype == paddle.float32
            close(got, wanted)


def test_plain_passes_ask_less_and_say_the_same(calls):
    with paddle.no_grad():
        wanted = run_all()
        asked = dict(calls)
        with plain_pass():
            found = run_all()
            assert calls == {name: 2 * number for name, number in asked.items()}
            for own, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(own.numpy(), other.numpy())
            run_all("float64")
            set_kernels(Kernels(fast_cpu=False))
            run_all()
        assert calls == {name: 2 * number for name, number in asked.items()}


def test_gradients_go_the_usual_way(calls):
    layers = made(6, 9), made(6, 9, seed=2), made(9, 6, seed=3)
    x = random(1, 1, 6)
    x.stop_gradient = False
    gated_mlp(rms_norm(x, random(6), 1e-5), *layers).sum().backward()
    assert not calls
    assert float(x.grad.abs().sum()) > 0 and all(float(layer.weight.grad.abs().sum()) > 0 for layer in layers)


def test_hooks_on_a_layer_are_called(calls):
    layers, seen = [made(6, 9), made(6, 9, seed=2), made(9, 6, seed=3)], []
    layers[1].register_forward_pre_hook(lambda layer, inputs: seen.append(layer))
    with paddle.no_grad():
        gated_mlp(random(1, 1, 6), *layers)
        project(random(1, 1, 6), *layers[:2])
    assert seen == [layers[1]] * 2 and "gated_row" not in calls


def test_blas_threads_are_given_back():
    from zoo_ops.cpu.threads import _openblas

    before = [library.num_threads for library in _openblas()]
    with pytest.raises(ValueError), one_blas_thread():
        assert all(library.num_threads == 1 for library in _openblas())
        raise ValueError
    assert [library.num_threads for library in _openblas()] == before


def test_width_from_which_threads_read():
    assert math.prod((1024, 1030)) > rows._WIDE > math.prod((512, 1376))
