"""Attention whose prompt is read both ways: the definition against loops, the implementations against it in float64.

Shape legend: B batch, S queries, K keys (past ones included), N query heads, M kv heads, D head width.
"""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

import zoo_ops.cpu.attention as cpu
from zoo_ops import Batch, Kernels, attention, set_kernels
from zoo_ops.core_attention import attention_reference, attention_sdpa
from zoo_ops.cpu.attention import attention_cpu
from zoo_ops.masks import visible

SHAPES = {  # B, S, past, N, M, D
    "one_sample": (1, 7, 0, 2, 2, 4),
    "odd_heads": (3, 9, 0, 5, 5, 6),
    "grouped": (2, 12, 0, 6, 2, 4),
    "cached": (2, 3, 6, 4, 2, 8),
    "one_token": (2, 1, 8, 3, 3, 4),
    "two_blocks": (2, 150, 0, 4, 2, 4),
}
MASKS = ("none", "padding", "packed", "packed padding")
EVERY = [(shape, mask) for shape in SHAPES for mask in MASKS if not (SHAPES[shape][2] and "packed" in mask)]


@pytest.fixture(autouse=True)
def plain_kernels():
    yield
    set_kernels(Kernels())


def make(shape, mask, seed=0):
    """Return q, k, v, the gradient of the output, the batch and the prefix, as numpy but for the batch."""
    B, S, past, N, M, D = SHAPES[shape]
    K, rng = past + S, np.random.default_rng(seed)
    q, k, v, grad = (rng.standard_normal(size) for size in ((B, S, N, D), (B, K, M, D), (B, K, M, D), (B, S, N, D)))
    fields = {}
    if "padding" in mask:
        real = np.ones((B, K), np.int64)
        real[0, : K // 4 + 1] = 0
        real[-1, K - K // 5 :] = 0
        fields["attention_mask"] = paddle.to_tensor(real)
    if "packed" in mask:
        fields["segment_ids"] = paddle.to_tensor(np.sort(rng.integers(0, 3, (B, S)), axis=1))
    # Not only a beginning: every second sample has a hole, and the first has none of the keys that are last.
    prefix = np.zeros((B, K), bool)
    for row in range(B):
        prefix[row, : K * (row + 2) // (B + 2)] = True
        prefix[row, row % 2 :: 5] ^= row % 2 == 1
    return (q, k, v), grad, Batch(paddle.zeros([B, S], "int64"), **fields), past, prefix


def looped(arrays, batch, past, prefix, scale):
    """Attention, one head of one query at a time; a query that sees nothing gives zeros."""
    q, k, v = arrays
    real = np.ones(k.shape[:2]) if batch.attention_mask is None else batch.attention_mask.numpy()
    segment = np.zeros(k.shape[:2]) if batch.segment_ids is None else batch.segment_ids.numpy()
    out, groups = np.zeros((*q.shape[:3], v.shape[-1])), q.shape[2] // k.shape[2]
    for b, i, n in np.ndindex(*q.shape[:3]):
        seen = [
            j
            for j in range(k.shape[1])
            if (j <= past + i or prefix[b, j]) and real[b, j] and segment[b, j] == segment[b, past + i]
        ]
        if seen:
            weights = np.exp(k[b, seen, n // groups] @ q[b, i, n] * scale)
            out[b, i, n] = weights @ v[b, seen, n // groups] / weights.sum()
    return out


def run(function, arrays, grad, dtype, prefix, **options):
    leaves = [paddle.to_tensor(x, dtype=dtype, stop_gradient=False) for x in arrays]
    out = function(*leaves, prefix_BK=paddle.to_tensor(prefix), **options)
    (out * paddle.to_tensor(grad, dtype=dtype)).sum().backward()
    return [out.numpy()] + [leaf.grad.numpy() for leaf in leaves]


@pytest.mark.parametrize(("shape", "mask"), [case for case in EVERY if case[0] != "two_blocks"])
def test_reference_is_the_definition(shape, mask):
    arrays, _, batch, past, prefix = make(shape, mask)
    found = attention_reference(
        *map(paddle.to_tensor, arrays), batch, past=past, scale=0.4, prefix_BK=paddle.to_tensor(prefix)
    )
    np.testing.assert_allclose(found.numpy(), looped(arrays, batch, past, prefix, 0.4), atol=1e-12)


@pytest.mark.parametrize("implementation", [attention, attention_cpu, attention_sdpa, attention_reference])
@pytest.mark.parametrize(("shape", "mask"), EVERY)
def test_implementations_match_float64(implementation, shape, mask):
    arrays, grad, batch, past, prefix = make(shape, mask)
    options = {"batch": batch, "past": past, "scale": 0.3}
    expected = run(attention_reference, arrays, grad, "float64", prefix, **options)
    found = run(implementation, arrays, grad, "float32", prefix, **options)
    for ours, wanted in zip(found, expected, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize("implementation", [attention, attention_cpu, attention_sdpa])
@pytest.mark.parametrize(("shape", "mask"), EVERY)
def test_without_gradients_it_is_the_same(implementation, shape, mask):
    arrays, _, batch, past, prefix = make(shape, mask)
    expected = attention_reference(*map(paddle.to_tensor, arrays), batch, past=past, prefix_BK=paddle.to_tensor(prefix))
    with paddle.no_grad():
        single = (paddle.to_tensor(x, dtype="float32") for x in arrays)
        found = implementation(*single, batch, past=past, prefix_BK=paddle.to_tensor(prefix))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("implementation", [attention, attention_cpu, attention_sdpa, attention_reference])
def test_extremes(implementation):
    """No key in the prefix is plain causal attention, all keys is attention both ways."""
    arrays, grad, batch, _, prefix = make("grouped", "padding")
    nothing, everything = np.zeros_like(prefix), np.ones_like(prefix)
    for chosen, causal in ((nothing, True), (everything, False)):
        leaves = [paddle.to_tensor(x) for x in arrays]
        wanted = attention_reference(*leaves, batch, causal=causal).numpy()
        found = run(implementation, arrays, grad, "float32", chosen, batch=batch)[0]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("implementation", [attention, attention_cpu, attention_sdpa, attention_reference])
def test_a_batch_may_have_several_prefixes(implementation):
    """A prefix that is gone must not lend its mask to one made in its place."""
    arrays, _, batch, _, _ = make("odd_heads", "none")
    single = [paddle.to_tensor(x, dtype="float32") for x in arrays]
    for end in range(10):
        prefix = np.tile(np.arange(9) < end, (3, 1))
        found = implementation(*single, batch, prefix_BK=paddle.to_tensor(prefix)).numpy()
        np.testing.assert_allclose(found, looped(arrays, batch, 0, prefix, 1 / math.sqrt(6)), atol=1e-5)


@pytest.mark.parametrize("implementation", [attention, attention_cpu, attention_sdpa])
def test_with_a_bias(implementation):
    arrays, grad, batch, past, prefix = make("grouped", "packed padding")
    bias = np.random.default_rng(3).standard_normal((1, 6, 12, 12))
    options = {"batch": batch, "past": past}
    expected = run(attention_reference, arrays, grad, "float64", prefix, bias=paddle.to_tensor(bias), **options)
    single = paddle.to_tensor(bias, dtype="float32")
    for ours, wanted in zip(
        run(implementation, arrays, grad, "float32", prefix, bias=single, **options), expected, strict=True
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize("rows", [7, 64])
@pytest.mark.parametrize("keep", [0, 1 << 28])
def test_cpu_blocks_and_kept_weights_do_not_change_the_result(monkeypatch, rows, keep):
    monkeypatch.setattr(cpu, "ROWS", rows)
    monkeypatch.setattr(cpu, "KEEP_BYTES", keep)
    arrays, grad, batch, _, prefix = make("two_blocks", "packed")
    expected = run(attention_reference, arrays, grad, "float64", prefix, batch=batch)
    found = run(attention_cpu, arrays, grad, "float32", prefix, batch=batch)
    for ours, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_recomputed_core_gives_the_same_and_makes_no_second_mask():
    arrays, grad, batch, _, prefix = make("grouped", "padding")
    plain = run(attention, arrays, grad, "float32", prefix, batch=batch)
    made = len(batch._memo)
    again = Batch(batch.input_ids, attention_mask=batch.attention_mask)
    set_kernels(Kernels(recompute_core_attention=True))
    for ours, wanted in zip(run(attention, arrays, grad, "float32", prefix, batch=again), plain, strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert len(again._memo) == made


@pytest.mark.parametrize("padded", [False, True])
def test_answers_decoded_step_by_step_equal_the_whole(padded):
    """The prompt in one pass, then the answer token by token without a prefix, for none of it lies ahead."""
    arrays, _, batch, _, _ = make("grouped", "padding" if padded else "none")
    q, k, v = (paddle.to_tensor(x, dtype="float32") for x in arrays)
    mask = batch.attention_mask
    prefix = np.zeros((2, 12), bool)
    prefix[:, :7] = True
    whole = attention(q, k, v, batch, prefix_BK=paddle.to_tensor(prefix)).numpy()
    for start, end in ((0, 7), *((i, i + 1) for i in range(7, 12))):
        part = Batch(batch.input_ids[:, start:end], attention_mask=None if mask is None else mask[:, :end])
        ahead = paddle.to_tensor(prefix[:, :end]) if start == 0 else None
        step = attention(q[:, start:end], k[:, :end], v[:, :end], part, past=start, prefix_BK=ahead)
        np.testing.assert_allclose(step.numpy(), whole[:, start:end], atol=1e-6)


def test_flash_attention_is_not_used_for_it(caplog):
    """Which the user is told."""
    set_kernels(Kernels(flash_attention=True))
    arrays, grad, batch, _, prefix = make("one_sample", "none")
    found = run(attention, arrays, grad, "float32", prefix, batch=batch)[0]
    np.testing.assert_allclose(found, looped(arrays, batch, 0, prefix, 0.5), atol=1e-5)
    assert "read both ways" in caplog.text


def test_mask_is_made_once():
    _, _, batch, _, prefix = make("grouped", "packed padding")
    first, second = paddle.to_tensor(prefix), paddle.to_tensor(prefix)
    assert visible(batch, 12, 12, 0, True, first) is visible(batch, 12, 12, 0, True, first)
    assert visible(batch, 12, 12, 0, True, first) is not visible(batch, 12, 12, 0, True, second)
    assert visible(batch, 12, 12, 0, True, first) is not visible(batch, 12, 12, 0, True)


def test_a_prefix_that_does_not_fit_is_refused():
    x, batch = paddle.zeros([2, 4, 1, 2]), Batch(paddle.zeros([2, 4], "int64"))
    with pytest.raises(ValueError, match="prefix_BK covers 3 of 4 keys"):
        attention(x, x, x, batch, prefix_BK=paddle.zeros([2, 3], "bool"))
    with pytest.raises(ValueError, match="prefix_BK is .*int64"):
        attention(x, x, x, batch, prefix_BK=paddle.zeros([2, 4], "int64"))
    with pytest.raises(ValueError, match=r"prefix_BK is .*\[3, 4\]"):
        attention(x, x, x, batch, prefix_BK=paddle.zeros([3, 4], "bool"))
