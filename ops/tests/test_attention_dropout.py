"""Dropout of attention weights: what it is, when it acts, and that neither recompute nor the layout changes it."""

import math

import numpy as np
import paddle
import pytest

from zoo_ops import parallel
from zoo_ops.batch import Batch
from zoo_ops.core_attention import attention
from zoo_ops.dropout import Dropout, dropout_context, keep_mask, set_dropout_state
from zoo_ops.kernels import Kernels, set_kernels

B, S, N, D = 2, 7, 4, 6
P = 0.3


@pytest.fixture(autouse=True)
def clean():
    set_dropout_state(7, 3)
    yield
    set_dropout_state(0, 0)
    set_kernels(Kernels())
    parallel.configure()


def layer(p=P):
    made = Dropout(p, inside=True)
    made.name_ = "gpt.decoder.layers.0.self_attn.dropout"
    return made


def inputs(masks="none", past=0, kv_heads=N, seed=0):
    """Return queries, keys, values, a gradient of the output, and the batch."""
    rng = np.random.default_rng(seed)
    K = past + S
    arrays = [rng.standard_normal([B, length, heads, D]) for length, heads in ((S, N), (K, kv_heads), (K, kv_heads))]
    fields = {}
    if masks == "padding":
        real = np.ones([B, K], np.int64)
        real[1, :3] = 0
        fields["attention_mask"] = paddle.to_tensor(real)
    if masks == "packed":
        fields["segment_ids"] = paddle.to_tensor([[0] * 3 + [1] * 4] * B)
    return arrays, rng.standard_normal([B, S, N, D]), Batch(paddle.zeros([B, S], "int64"), **fields)


def naive(arrays, grad, batch, kept_BSNK, past=0, scale=None):
    """Return the output and the gradients of q, k and v in float64, the weights formed and dropped one by one."""
    q, k, v = (paddle.to_tensor(x, stop_gradient=False) for x in arrays)
    groups = N // k.shape[2]
    keys, values = (paddle.repeat_interleave(t, groups, axis=2).transpose([0, 2, 1, 3]) for t in (k, v))
    scores_BNSK = paddle.matmul(q.transpose([0, 2, 1, 3]), keys, transpose_y=True) * (scale or 1 / math.sqrt(D))
    sees = np.arange(past, past + S)[:, None] >= np.arange(past + S)[None]
    sees = np.broadcast_to(sees, scores_BNSK.shape).copy()
    if batch.attention_mask is not None:
        sees &= batch.attention_mask.numpy()[:, None, None, :] != 0
    if batch.segment_ids is not None:
        segment = batch.segment_ids.numpy()
        sees &= (segment[:, :, None] == segment[:, None, :])[:, None]
    raised = paddle.exp(scores_BNSK) * paddle.to_tensor(sees.astype("float64"))
    weights = raised / paddle.clip(raised.sum(-1, keepdim=True), min=1e-300)
    factor = kept_BSNK.transpose(0, 2, 1, 3) / (1 - P)
    out = paddle.matmul(weights * paddle.to_tensor(factor), values).transpose([0, 2, 1, 3])
    (out * paddle.to_tensor(grad)).sum().backward()
    return [out.numpy(), q.grad.numpy(), k.grad.numpy(), v.grad.numpy()]


def run(arrays, grad, batch, drop, dtype="float32", **options):
    leaves = [paddle.to_tensor(x, dtype=dtype, stop_gradient=False) for x in arrays]
    out = attention(*leaves, batch, dropout=drop, **options)
    (out * paddle.to_tensor(grad, dtype=dtype)).sum().backward()
    return [out.numpy(), *(leaf.grad.numpy() for leaf in leaves)]


@pytest.mark.parametrize("kv_heads", [N, 2])
@pytest.mark.parametrize("masks", ["none", "padding", "packed"])
def test_weights_are_dropped_by_the_mask_of_the_layers_name(masks, kv_heads):
    arrays, grad, batch = inputs(masks, kv_heads=kv_heads)
    drop = layer()
    kept = keep_mask(drop.name_, [B, S, N, S], P).numpy()
    assert 0.6 < kept.mean() < 0.8
    wanted = naive(arrays, grad, batch, kept)
    for dtype, close in (("float64", 1e-12), ("float32", 1e-5)):
        for ours, theirs in zip(run(arrays, grad, batch, drop, dtype), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=close)


def test_scale_and_past_keys_go_along():
    arrays, grad, batch = inputs("padding", past=4)
    kept = keep_mask(layer().name_, [B, S, N, S + 4], P).numpy()
    wanted = naive(arrays, grad, batch, kept, past=4, scale=0.3)
    for ours, theirs in zip(run(arrays, grad, batch, layer(), past=4, scale=0.3), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_weight_that_is_not_dropped_is_scaled_up_and_one_that_is_gives_nothing():
    """With one-hot values of as many features as keys, the output is the dropped weights themselves."""
    arrays, _, batch = inputs()
    eye = np.broadcast_to(np.eye(S)[None, :, None], [B, S, N, S]).copy()
    q, k, v = (paddle.to_tensor(x, dtype="float32") for x in (arrays[0], arrays[1], eye))
    whole = attention(q, k, v, batch).numpy()
    kept = keep_mask(layer().name_, [B, S, N, S], P).numpy()
    dropped = attention(q, k, v, batch, dropout=layer()).numpy()
    np.testing.assert_array_equal(dropped[~kept], 0)
    np.testing.assert_allclose(dropped[kept], whole[kept] / (1 - P), atol=1e-6)


@pytest.mark.parametrize("why", ["eval", "p = 0", "not training"])
def test_identity_where_nothing_is_dropped(why):
    arrays, grad, batch = inputs("padding")
    plain = run(arrays, grad, batch, None)
    drop = layer(0.0 if why == "p = 0" else P)
    if why == "eval":
        drop.eval()
    if why == "not training":
        set_dropout_state(7, 3, training=False)
    for ours, theirs in zip(run(arrays, grad, batch, drop), plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_expectation_is_attention_without_dropout():
    arrays, _, batch = inputs()
    q, k, v = (paddle.to_tensor(x, dtype="float32") for x in arrays)
    drop, steps = layer(), 400
    total, squares = np.zeros([B, S, N, D]), np.zeros([B, S, N, D])
    for step in range(steps):
        set_dropout_state(7, step)
        out = attention(q, k, v, batch, dropout=drop).numpy()
        total, squares = total + out, squares + out**2
    mean = total / steps
    deviation = np.sqrt(np.maximum(squares / steps - mean**2, 1e-12) / steps)
    wanted = attention(q, k, v, batch).numpy()
    # Of 336 values none is expected five standard errors away.
    assert (np.abs(mean - wanted) / deviation).max() < 5


@pytest.mark.parametrize("masks", ["none", "packed"])
def test_recomputed_core_drops_the_same_weights(masks):
    """The backward pass runs when another micro batch, and another step, is current."""
    arrays, grad, batch = inputs(masks)
    with dropout_context(sample_base=6):
        wanted = run(arrays, grad, batch, layer())
    set_kernels(Kernels(recompute_core_attention=True))
    leaves = [paddle.to_tensor(x, dtype="float32", stop_gradient=False) for x in arrays]
    with dropout_context(sample_base=6):
        out = attention(*leaves, batch, dropout=layer())
    set_dropout_state(7, 4)
    with dropout_context(sample_base=8):
        (out * paddle.to_tensor(grad, dtype="float32")).sum().backward()
    for ours, theirs in zip([out.numpy(), *(leaf.grad.numpy() for leaf in leaves)], wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_step_drops_other_weights():
    arrays, grad, batch = inputs()
    first = run(arrays, grad, batch, layer())[0]
    set_dropout_state(7, 4)
    assert np.abs(run(arrays, grad, batch, layer())[0] - first).max() > 1e-2


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_rank_drops_what_the_single_card_drops_in_its_heads(sequence_parallel):
    arrays, grad, batch = inputs()
    whole = run(arrays, grad, batch, layer())
    for rank in range(2):
        parallel.configure(parallel.Axis(2, rank), sequence_parallel)
        mine = (slice(None), slice(None), slice(2 * rank, 2 * rank + 2))
        ours = run([x[mine] for x in arrays], grad[mine], batch, layer())
        for part, theirs in zip(ours, whole, strict=True):
            np.testing.assert_allclose(part, theirs[mine], atol=1e-6)
