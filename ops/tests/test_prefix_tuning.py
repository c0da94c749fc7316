"""Virtual tokens in attention: every path equals their definition, and nobody else knows of them.

Shape legend: B batch, S queries, K keys, P virtual tokens, N query heads, M kv heads, D head width.
"""

from __future__ import annotations

import threading

import numpy as np
import paddle
import pytest

from zoo_ops import Batch, Cache, after_prefix, alibi_bias, attach_prefix, attention, virtual_entries, virtual_tokens
from zoo_ops import core_attention as core
from zoo_ops.alibi import alibi_slopes
from zoo_ops.dropout import Dropout, set_dropout_state
from zoo_ops.kernels import Kernels, set_kernels
from zoo_ops.masks import real_before

B, S, P, N, M, D = 2, 6, 3, 4, 2, 8
SEGMENTS = [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 2]]
LEFT_PADDED = [[1] * 6, [0, 0, 1, 1, 1, 1]]


@pytest.fixture(autouse=True)
def usual_kernels():
    yield
    set_kernels(Kernels())


def tensor(shape, seed, grad=True):
    made = paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    made.stop_gradient = not grad
    return made


def inputs(length=S):
    shapes = ((B, length, N, D), (B, length, M, D), (B, length, M, D))
    return [tensor(shape, seed) for seed, shape in enumerate(shapes)]


def prefix():
    return tensor((P, M, D), 11), tensor((P, M, D), 12)


def batch(kind="plain", length=S):
    fields = {"segments": {"segment_ids": SEGMENTS}, "padding": {"attention_mask": LEFT_PADDED}}.get(kind, {})
    return Batch(
        paddle.zeros([B, length], dtype="int64"), **{k: paddle.to_tensor(np.array(v)) for k, v in fields.items()}
    )


def plainly(q, k, v, front_k, front_v, kind="plain", bias=None, both_ways=None):
    """Attention with virtual tokens, query by query, in float64; pad rows too."""
    q, k, v, front_k, front_v = (x.numpy().astype(np.float64) for x in (q, k, v, front_k, front_v))
    out = np.zeros((B, S, N, D))
    for b in range(B):
        for s in range(S):
            for n in range(N):
                m = n // (N // M)
                seen = [j for j in range(S) if j <= s or (both_ways is not None and both_ways[b][j])]
                if kind == "segments":
                    seen = [j for j in seen if SEGMENTS[b][j] == SEGMENTS[b][s]]
                if kind == "padding":
                    seen = [j for j in seen if LEFT_PADDED[b][j]]
                keys = np.concatenate([front_k[:, m], k[b, seen, m]])
                values = np.concatenate([front_v[:, m], v[b, seen, m]])
                scores = keys @ q[b, s, n] / np.sqrt(D)
                if bias is not None:
                    scores = scores + bias(b, s, n, seen)
                weights = np.exp(scores - scores.max())
                out[b, s, n] = weights / weights.sum() @ values
    return out


PATHS = {
    "cpu": Kernels(),
    "plain": Kernels(fast_cpu=False),
    "recomputed": Kernels(recompute_core_attention=True),
    "recomputed plain": Kernels(recompute_core_attention=True, fast_cpu=False),
}


@pytest.mark.parametrize("kind", ("plain", "segments", "padding"))
@pytest.mark.parametrize("path", PATHS)
def test_every_query_sees_them(kind, path):
    (q, k, v), (front_k, front_v) = inputs(), prefix()
    set_kernels(PATHS[path])
    with virtual_tokens(front_k, front_v):
        out = attention(q, k, v, batch(kind))
    np.testing.assert_allclose(out.numpy(), plainly(q, k, v, front_k, front_v, kind), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ("plain", "segments", "padding"))
@pytest.mark.parametrize("path", PATHS)
def test_gradients_equal_those_of_the_definition(kind, path):
    def gradients(kernels):
        own, front = inputs(), prefix()
        set_kernels(kernels)
        with virtual_tokens(*front):
            out = attention(*own, batch(kind))
        (out * tensor(out.shape, 21, grad=False)).sum().backward()
        return [x.grad.numpy() for x in (*own, *front)]

    for found, wanted in zip(gradients(PATHS[path]), gradients(Kernels(fast_cpu=False)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(wanted).max() > 1e-3


def test_a_trained_prefix_under_frozen_projections_has_its_gradient():
    own, front = inputs(), prefix()
    for x in own:
        x.stop_gradient = True
    with virtual_tokens(*front):
        attention(*own, batch()).sum().backward()
    assert all(x.grad is None for x in own) and all(np.abs(x.grad.numpy()).max() > 0 for x in front)


def test_paddles_own_kernel_gives_the_same():
    (q, k, v), (front_k, front_v) = inputs(), prefix()
    with virtual_tokens(front_k, front_v):
        entries = virtual_entries()
        k_all, v_all = entries.before_keys(k), entries.before_values(v)
    for kind in ("plain", "segments", "padding"):
        found = core.attention_sdpa(q, k_all, v_all, batch(kind), virtual=P).numpy()
        np.testing.assert_allclose(found, plainly(q, k, v, front_k, front_v, kind), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ("plain", "segments", "padding"))
def test_what_flash_kernels_are_asked_for(kind, monkeypatch):
    """Their contract in numpy: causal over as many queries as keys; each key is blind from a row of its own on."""

    def flashmask(q, k, v, startend_row_indices=None, causal=True):
        assert causal and q.shape[1] == k.shape[1]
        rows = np.arange(q.shape[1])
        sees = rows[:, None] >= rows[None, :]
        sees = np.broadcast_to(sees, (B, *sees.shape))
        if startend_row_indices is not None:
            sees = sees & (rows[None, :, None] < startend_row_indices.numpy()[:, 0, :, 0][:, None, :])
        k, v = (x.numpy().repeat(N // M, axis=2) for x in (k, v))
        scores = np.einsum("bsnd,bknd->bnsk", q.numpy(), k) / np.sqrt(D)
        weights = np.exp(scores) * sees[:, None]
        return paddle.to_tensor(
            np.einsum("bnsk,bknd->bsnd", weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30), v)
        )

    flash = paddle.nn.functional.flash_attention
    monkeypatch.setattr(flash, "flash_attention", lambda q, k, v, causal: (flashmask(q, k, v),))
    monkeypatch.setattr(paddle.nn.functional, "flashmask_attention", flashmask)
    (q, k, v), (front_k, front_v) = inputs(), prefix()
    with virtual_tokens(front_k, front_v):
        entries = virtual_entries()
    found = core.attention_flash(q, entries.before_keys(k), entries.before_values(v), batch(kind), virtual=P)
    np.testing.assert_allclose(
        found.numpy(), plainly(q, k, v, front_k, front_v, kind).astype(np.float32), rtol=1e-4, atol=1e-5
    )


def test_a_prompt_that_is_read_both_ways():
    (q, k, v), (front_k, front_v) = inputs(), prefix()
    both = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
    with virtual_tokens(front_k, front_v):
        out = attention(q, k, v, batch(), prefix_BK=paddle.to_tensor(both))
    np.testing.assert_allclose(out.numpy(), plainly(q, k, v, front_k, front_v, both_ways=both), rtol=1e-5, atol=1e-6)


def test_packed_samples_equal_samples_alone():
    (q, k, v), front = inputs(), prefix()
    with virtual_tokens(*front):
        packed = attention(q, k, v, batch("segments")).numpy()
        alone = attention(q[:1, 3:], k[:1, 3:], v[:1, 3:], Batch(paddle.zeros([1, 3], dtype="int64"))).numpy()
    np.testing.assert_allclose(packed[:1, 3:], alone, rtol=1e-5, atol=1e-6)


def test_dropout_of_weights_drops_virtual_ones_too():
    own, (front_k, front_v) = inputs(), prefix()
    set_dropout_state(0, 0)
    dropout = Dropout(0.5, inside=True)
    dropout.name_ = "a"
    with virtual_tokens(front_k, front_v):
        out = attention(*own, batch(), dropout=dropout)
    kept = attention(*own, batch(), dropout=None)
    assert out.shape == kept.shape and bool(paddle.isfinite(out).all())
    out.sum().backward()
    assert np.abs(front_v.grad.numpy()).max() > 0


@pytest.mark.parametrize("kind", ("plain", "padding"))
def test_decoding_with_a_cache_that_does_not_know_them(kind):
    (q, k, v), front = inputs(), prefix()
    for kernels in (Kernels(), Kernels(fast_cpu=False)):
        set_kernels(kernels)
        with virtual_tokens(*front), paddle.no_grad():
            whole = attention(q, k, v, batch(kind)).numpy()
            cache, parts = Cache(1, B, S)[0], []
            for start, stop in ((0, 3), (3, 4), (4, 6)):
                past, mask = cache.length, None
                if kind == "padding":
                    mask = paddle.to_tensor(np.array(LEFT_PADDED))[:, :stop]
                keys = cache.update(k[:, start:stop], v[:, start:stop])
                one = Batch(paddle.zeros([B, stop - start], dtype="int64"), attention_mask=mask)
                parts.append(attention(q[:, start:stop], *keys, one, past=past).numpy())
        assert cache.length == S
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ("plain", "segments", "padding"))
def test_linear_biases_know_the_distances(kind):
    (q, k, v), (front_k, front_v) = inputs(), prefix()
    slopes = alibi_slopes(N)

    def bias(b, s, n, seen):
        """Virtual tokens stand at 0, 1, ..., the sample's real ones follow."""
        real = [j for j in range(S) if (kind != "padding" or LEFT_PADDED[b][j])]
        real = [j for j in real if kind != "segments" or SEGMENTS[b][j] == SEGMENTS[b][s]]
        places = {j: P + i for i, j in enumerate(real)}
        here = places.get(s, P)  # a pad has no place; what it sees is virtual
        return slopes[n] * np.array([*range(P), *(places[j] for j in seen)]) - slopes[n] * here

    one = batch(kind)
    with virtual_tokens(front_k, front_v):
        out = attention(q, k, v, one, bias=alibi_bias(one, N, S))
    wanted = plainly(q, k, v, front_k, front_v, kind, bias)
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert alibi_bias(one, N, S).shape == [1, N, S, S]  # the same batch without a prefix


def test_a_bias_that_does_not_know_them_is_0_there():
    (q, k, v), (front_k, front_v) = inputs(), prefix()
    own = np.random.default_rng(5).standard_normal((1, N, S, S)).astype(np.float32)
    with virtual_tokens(front_k, front_v):
        out = attention(q, k, v, batch(), bias=paddle.to_tensor(own))
    wanted = plainly(
        q, k, v, front_k, front_v, bias=lambda b, s, n, seen: np.array([0.0] * P + [own[0, n, s, j] for j in seen])
    )
    np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_positions_begin_after_them():
    plain = after_prefix(batch(), P)
    assert plain.position_ids.tolist() == [[3, 4, 5, 6, 7, 8]] * 2
    assert after_prefix(batch("segments"), P).position_ids.tolist() == [[3, 4, 5, 3, 4, 5], [3, 4, 3, 4, 5, 3]]
    assert after_prefix(batch("padding"), P).position_ids.tolist()[1] == [3, 3, 3, 4, 5, 6]
    given = Batch(paddle.zeros([1, 2], dtype="int64"), position_ids=paddle.to_tensor([[7, 8]]))
    assert after_prefix(given, P, 7).position_ids.tolist() == [[10, 11]]
    later = Batch(paddle.zeros([2, 1], dtype="int64"), attention_mask=paddle.to_tensor(LEFT_PADDED)[:, :5])
    assert after_prefix(later, P, 4).position_ids.tolist() == [[7], [5]]
    assert real_before(Batch(paddle.zeros([1, 2], dtype="int64")), 2, 4).tolist() == [[4, 5]]


class Module(paddle.nn.Layer):
    def forward(self, own, one):
        return attention(*own, one)


def test_a_module_runs_with_its_own_prefix_only():
    own, (front_k, front_v) = inputs(), prefix()
    module = Module()
    attach_prefix(module, {"prefix_key": front_k.flatten(1), "prefix_value": front_v.flatten(1)}, D, D)
    np.testing.assert_allclose(module(own, batch()).numpy(), plainly(*own, front_k, front_v), rtol=1e-5, atol=1e-6)
    assert virtual_entries().count == 0
    with pytest.raises(ValueError):
        module(own, Batch(own[0], attention_mask=paddle.ones([B, S + 1])))
    assert virtual_entries().count == 0, "an error leaves nothing behind"
    seen = []
    with virtual_tokens(front_k, front_v):
        other = threading.Thread(target=lambda: seen.append(virtual_entries().count))
        other.start()
        other.join()
    assert seen == [0], "ranks that run as threads have prefixes of their own"


def test_a_projection_is_the_network_by_its_definition():
    own, width = inputs(), M * D
    rng = np.random.default_rng(3)
    shapes = {
        "prefix_embedding": (P, 5), "prefix_dense_weight": (5, 7), "prefix_dense_bias": (7,),
        "prefix_key_weight": (7, width), "prefix_key_bias": (width,), "prefix_value_weight": (7, width),
        "prefix_value_bias": (width,),
    }  # fmt: skip
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    module, made = Module(), {name: paddle.to_tensor(value) for name, value in values.items()}
    for one in made.values():
        one.stop_gradient = False
    attach_prefix(module, made, D, D)
    hidden = np.tanh(values["prefix_embedding"] @ values["prefix_dense_weight"] + values["prefix_dense_bias"])
    front = [
        paddle.to_tensor((hidden @ values[f"prefix_{w}_weight"] + values[f"prefix_{w}_bias"]).reshape(P, M, D))
        for w in ("key", "value")
    ]
    out = module(own, batch())
    np.testing.assert_allclose(out.numpy(), plainly(*own, *front), rtol=1e-4, atol=1e-5)
    out.sum().backward()
    assert all(one.grad is not None for one in made.values())


def test_without_a_prefix_nothing_changes():
    own = inputs()
    entries = virtual_entries()
    assert entries.count == 0 and entries.before_keys(own[1]) is own[1] and entries.before_values(own[2]) is own[2]
    with pytest.raises(ValueError, match="keys for"):
        attention(own[0], *prefix_longer(own), batch())


def prefix_longer(own):
    """Keys that a caller has put virtual ones in front of without saying so."""
    with virtual_tokens(*prefix()):
        entries = virtual_entries()
    return entries.before_keys(own[1]), entries.before_values(own[2])
