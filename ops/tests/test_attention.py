"""Attention: the definition against loops, and every implementation against the definition in float64."""

import math

import numpy as np
import paddle
import pytest

import zoo_ops.cpu.attention as cpu
from zoo_ops.batch import Batch
from zoo_ops.core_attention import attention, attention_reference, attention_sdpa
from zoo_ops.cpu.attention import attention_cpu
from zoo_ops.cpu.threads import set_threads
from zoo_ops.kernels import Kernels, set_kernels
from zoo_ops.masks import segment_ends, visible

SHAPES = {  # B, S, past, N, M, D
    "one_head": (1, 4, 0, 1, 1, 8),
    "odd_heads": (2, 9, 0, 5, 5, 6),
    "grouped": (2, 13, 0, 6, 2, 10),
    "one_kv_head": (3, 8, 0, 4, 1, 16),
    "cached": (2, 3, 6, 4, 2, 8),
    "one_token": (2, 1, 11, 3, 3, 5),
    "two_blocks": (1, 150, 0, 4, 2, 12),
}


@pytest.fixture(autouse=True)
def clean():
    yield
    set_kernels(Kernels())
    set_threads(None)


def make(shape, mask="none", seed=0):
    B, S, past, N, M, D = SHAPES[shape]
    rng = np.random.default_rng(seed)
    K = past + S
    q, k, v, g = (rng.standard_normal(s) for s in ((B, S, N, D), (B, K, M, D), (B, K, M, D), (B, S, N, D)))
    fields = {}
    if "padding" in mask:
        padding = np.ones((B, K), np.int64)
        padding[0, : K // 3 + 1] = 0
        padding[-1, K - K // 4 :] = 0
        fields["attention_mask"] = paddle.to_tensor(padding)
    if "packed" in mask:
        fields["segment_ids"] = paddle.to_tensor(np.sort(rng.integers(0, 3, (B, S)), axis=1))
    return (q, k, v), g, Batch(paddle.zeros([B, S], "int64"), **fields), past


def run(function, arrays, grad, dtype, **kwargs):
    leaves = [paddle.to_tensor(x, dtype=dtype, stop_gradient=False) for x in arrays]
    out = function(*leaves, **kwargs)
    (out * paddle.to_tensor(grad, dtype=dtype)).sum().backward()
    return [out.numpy()] + [x.grad.numpy() for x in leaves]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["none", "padding", "packed", "packed padding"])
@pytest.mark.parametrize("causal", [True, False])
def test_reference_is_the_definition(shape, mask, causal):
    if "packed" in mask and SHAPES[shape][2]:
        pytest.skip("packed samples have no cache")
    if shape == "two_blocks":
        pytest.skip("loops")
    (q, k, v), _, batch, past = make(shape, mask)
    out = attention_reference(*map(paddle.to_tensor, (q, k, v)), batch, past=past, causal=causal).numpy()
    B, S, N, D = q.shape
    real = None if batch.attention_mask is None else batch.attention_mask.numpy()
    segment = None if batch.segment_ids is None else batch.segment_ids.numpy()
    for b in range(B):
        for i in range(S):
            seen = [
                j
                for j in range(k.shape[1])
                if (not causal or j <= past + i)
                and (real is None or real[b, j])
                and (segment is None or segment[b, i] == segment[b, j])
            ]
            for n in range(N):
                m = n // (N // k.shape[2])
                if not seen:
                    np.testing.assert_array_equal(out[b, i, n], 0)
                    continue
                weights = np.exp(k[b, seen, m] @ q[b, i, n] / math.sqrt(D))
                np.testing.assert_allclose(out[b, i, n], weights @ v[b, seen, m] / weights.sum(), atol=1e-12)


@pytest.mark.parametrize("implementation", [attention, attention_cpu, attention_sdpa, attention_reference])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["none", "padding", "packed", "packed padding"])
def test_implementations_match_float64(implementation, shape, mask):
    if "packed" in mask and SHAPES[shape][2]:
        pytest.skip("packed samples have no cache")
    arrays, grad, batch, past = make(shape, mask)
    options = {"batch": batch, "past": past, "scale": 0.3}
    expected = run(attention_reference, arrays, grad, "float64", **options)
    got = run(implementation, arrays, grad, "float32", **options)
    for a, b in zip(got, expected, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias_shape", ["1N1K", "BNSK", "SK", "11SK"])
def test_bias(bias_shape, causal):
    arrays, grad, batch, past = make("grouped", "padding")
    sizes = dict(zip("BSNK", (2, 13, 6, 13), strict=True)) | {"1": 1}
    bias = np.random.default_rng(3).standard_normal([sizes[c] for c in bias_shape])
    options = {"batch": batch, "past": past, "causal": causal}
    expected = run(attention_reference, arrays, grad, "float64", bias=paddle.to_tensor(bias), **options)
    for implementation in (attention, attention_sdpa):
        if implementation is attention_sdpa and len(bias_shape) < 4:
            continue
        got = run(implementation, arrays, grad, "float32", bias=paddle.to_tensor(bias, dtype="float32"), **options)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_bias_that_is_trained_gets_its_gradient():
    arrays, grad, batch, _ = make("odd_heads")
    bias = paddle.zeros([1, 5, 9, 9])
    bias.stop_gradient = False
    out = attention(*(paddle.to_tensor(x, dtype="float32") for x in arrays), batch, bias=bias)
    out.sum().backward()
    assert float(bias.grad.abs().max()) > 0


@pytest.mark.parametrize("keep", [0, 1 << 28])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("heads,rows", [(1, 7), (2, 64), (8, 128)])
def test_cpu_parts_blocks_and_threads_do_not_change_the_result(monkeypatch, keep, number, heads, rows):
    monkeypatch.setattr(cpu, "KEEP_BYTES", keep)
    monkeypatch.setattr(cpu, "HEADS", heads)
    monkeypatch.setattr(cpu, "ROWS", rows)
    set_threads(number)
    arrays, grad, batch, past = make("two_blocks", "packed")
    expected = run(attention_reference, arrays, grad, "float64", batch=batch)
    for a, b in zip(run(attention_cpu, arrays, grad, "float32", batch=batch), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_threads_may_change_between_forward_and_backward():
    arrays, grad, batch, _ = make("two_blocks")
    expected = run(attention_reference, arrays, grad, "float64", batch=batch)
    leaves = [paddle.to_tensor(x, dtype="float32", stop_gradient=False) for x in arrays]
    set_threads(1)
    out = attention_cpu(*leaves, batch)
    set_threads(2)
    (out * paddle.to_tensor(grad, dtype="float32")).sum().backward()
    for leaf, wanted in zip(leaves, expected[1:], strict=True):
        np.testing.assert_allclose(leaf.grad.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 2)])
def test_frozen_inputs(frozen):
    arrays, grad, batch, _ = make("grouped")
    expected = run(attention_reference, arrays, grad, "float64", batch=batch)
    leaves = [paddle.to_tensor(x, dtype="float32", stop_gradient=i in frozen) for i, x in enumerate(arrays)]
    (attention(*leaves, batch) * paddle.to_tensor(grad, dtype="float32")).sum().backward()
    for i, leaf in enumerate(leaves):
        if i in frozen:
            assert leaf.grad is None
        else:
            np.testing.assert_allclose(leaf.grad.numpy(), expected[i + 1], atol=1e-5)


def test_recomputed_core_gives_the_same():
    arrays, grad, batch, _ = make("grouped", "packed")
    plain = run(attention, arrays, grad, "float32", batch=batch)
    set_kernels(Kernels(recompute_core_attention=True))
    for a, b in zip(run(attention, arrays, grad, "float32", batch=batch), plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_cached_steps_equal_the_whole():
    (q, k, v), _, batch, _ = make("grouped")
    q, k, v = (paddle.to_tensor(x, dtype="float32") for x in (q, k, v))
    whole = attention(q, k, v, batch).numpy()
    ids = paddle.zeros([2, 1], "int64")
    for i in range(13):
        step = attention(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1], Batch(ids), past=i)
        np.testing.assert_allclose(step.numpy()[:, 0], whole[:, i], atol=1e-6)


@pytest.mark.parametrize("mask", ["none", "padding"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_one_token_without_gradients(mask, with_bias):
    arrays, _, batch, past = make("one_token", mask)
    if mask == "padding":
        batch.attention_mask[1] = 0
    bias = np.random.default_rng(1).standard_normal((1, 3, 1, 12)) if with_bias else None
    out = []
    for function, dtype in ((attention_cpu, "float32"), (attention_reference, "float64")):
        added = None if bias is None else paddle.to_tensor(bias, dtype=dtype)
        out.append(function(*(paddle.to_tensor(x, dtype=dtype) for x in arrays), batch, past=past, bias=added).numpy())
    np.testing.assert_allclose(*out, atol=1e-6)


def test_flash_says_once_that_this_device_lacks_it(caplog):
    set_kernels(Kernels(flash_attention=True))
    arrays, grad, batch, _ = make("one_head")
    for _ in range(2):
        run(attention, arrays, grad, "float32", batch=batch)
    assert [r.name for r in caplog.records] == ["zoo"]
    assert "use_flash_attention" in caplog.text


def test_misfits_are_refused():
    q, k = paddle.zeros([1, 4, 3, 2]), paddle.zeros([1, 4, 2, 2])
    with pytest.raises(ValueError, match="3 query heads"):
        attention(q, k, k, Batch(paddle.zeros([1, 4], "int64")))
    with pytest.raises(ValueError, match="4 keys for 1 cached"):
        attention(k, k, k, Batch(paddle.zeros([1, 4], "int64")), past=1)
    with pytest.raises(ValueError, match="attention_mask covers 3"):
        attention(k, k, k, Batch(paddle.zeros([1, 4], "int64"), attention_mask=paddle.ones([1, 3], "int64")))
    packed = Batch(paddle.zeros([1, 1], "int64"), segment_ids=paddle.zeros([1, 1], "int64"))
    with pytest.raises(ValueError, match="packing has no cache"):
        attention(k[:, :1], k, k, packed, past=3)


def test_segment_ends():
    ids = paddle.to_tensor([[1, 1, 1, 2, 2, 0, 0], [5, 4, 4, 4, 4, 4, 3]])
    assert segment_ends(ids).tolist() == [[3, 3, 3, 5, 5, 7, 7], [1, 6, 6, 6, 6, 6, 7]]
    batch = Batch(ids, segment_ids=ids)
    mask = visible(batch, 7, 7, 0, True)
    assert mask is visible(batch, 7, 7, 0, True)
    rows, columns = np.arange(7)[:, None], np.arange(7)[None]
    ends = segment_ends(ids).numpy()[:, None, :]
    np.testing.assert_array_equal(mask.numpy()[:, 0], (rows >= columns) & (rows < ends))
