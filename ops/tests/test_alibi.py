"""Linear biases: the paper's slopes, the definition by loops, cached calls, and each rank's own heads."""

import math

import numpy as np
import paddle
import pytest

import zoo_ops.alibi as alibi
from zoo_ops import parallel
from zoo_ops.alibi import alibi_bias, alibi_slopes
from zoo_ops.batch import Batch
from zoo_ops.core_attention import attention, attention_reference


@pytest.fixture(autouse=True)
def one_card():
    yield
    parallel.configure()


def batch(length=4, **fields):
    return Batch(paddle.zeros([2, length], "int64"), **fields)


def geometric(heads):
    """The paper's slopes of a power of two: the first is 2^(-8/n), and so is the ratio."""
    first = 2.0 ** (-8.0 / heads)
    return [first * first**i for i in range(heads)]


def naive(heads):
    """Slopes as the paper's authors give them for any number of heads."""
    power = 1
    while power * 2 <= heads:
        power *= 2
    found = geometric(power)
    if power < heads:
        for i, slope in enumerate(geometric(2 * power)):
            if i % 2 == 0 and len(found) < heads:
                found.append(slope)
    return found


def loops(heads, queries, past=0):
    """-slope x (how far the key lies before the query); what lies after has 0."""
    out = np.zeros([1, heads, queries, past + queries])
    for n, slope in enumerate(naive(heads)):
        for i in range(queries):
            for j in range(past + queries):
                out[0, n, i, j] = -slope * max(past + i - j, 0)
    return out


def test_slopes_of_8_and_16_heads_are_the_papers():
    assert alibi_slopes(8).tolist() == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    sixteen = alibi_slopes(16)
    # "we interpolate those 8 slopes by geometrically averaging every consecutive pair"; the first is 1 / sqrt(2)
    np.testing.assert_allclose(sixteen[1::2], alibi_slopes(8), rtol=1e-7)
    np.testing.assert_allclose(sixteen[0], 1 / math.sqrt(2), rtol=1e-7)
    np.testing.assert_allclose(sixteen[2::2] ** 2, sixteen[1:-1:2] * sixteen[3::2], rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 12, 24, 32, 40, 64, 71, 112])
def test_slopes_of_any_number_of_heads(heads):
    found = alibi_slopes(heads)
    assert found.dtype == np.float32 and found.shape == (heads,)
    np.testing.assert_allclose(found, naive(heads), rtol=1e-7)
    assert len(set(found.tolist())) == heads and 0 < found.min() and found.max() < 1


def test_slopes_of_12_heads_are_those_of_8_and_every_second_of_16():
    assert alibi_slopes(12).tolist() == [*alibi_slopes(8).tolist(), *alibi_slopes(16)[:8:2].tolist()]


@pytest.mark.parametrize("heads", [4, 5, 12])
@pytest.mark.parametrize(("queries", "past"), [(1, 0), (7, 0), (1, 9), (3, 5)])
def test_bias_is_the_definition(heads, queries, past):
    found = alibi_bias(batch(queries), heads, queries, past)
    assert found.shape == [1, heads, queries, past + queries] and found.dtype == paddle.float32
    assert found.stop_gradient
    np.testing.assert_allclose(found.numpy(), loops(heads, queries, past), rtol=1e-7, atol=0)


@pytest.mark.parametrize("heads", [8, 6])
def test_rows_of_cached_calls_are_rows_of_the_whole(heads):
    whole = alibi_bias(batch(9), heads, 9).numpy()
    for past, queries in ((0, 4), (4, 1), (5, 4)):
        part = alibi_bias(batch(queries), heads, queries, past).numpy()
        assert np.array_equal(part, whole[:, :, past : past + queries, : past + queries])


@pytest.mark.parametrize(("heads", "degree"), [(8, 2), (6, 2), (6, 3), (12, 4), (112, 16)])
def test_each_rank_has_the_biases_of_its_own_heads(heads, degree):
    whole = alibi_bias(batch(5), heads, 5, 2).numpy()
    parts = []
    for rank in range(degree):
        parallel.configure(tensor=parallel.Axis(degree, rank))
        parts.append(alibi_bias(batch(5), heads, 5, 2).numpy())
        assert parts[-1].shape == (1, heads // degree, 5, 7)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    assert not np.array_equal(parts[0], parts[1])


def test_it_is_made_once_for_a_micro_batch(monkeypatch):
    calls = []
    monkeypatch.setattr(alibi, "_bias", lambda *args: calls.append(args))
    one = batch()
    for _ in range(3):
        alibi_bias(one, 6, 4)
    alibi_bias(one, 6, 1, 4)
    alibi_bias(batch(), 6, 4)
    assert calls == [(6, 4, 0), (6, 1, 4), (6, 4, 0)]


def shifted(heads, real):
    """Biases as Bloom's published code adds them: slope x (number of the key among the real ones), for every query."""
    number = np.maximum((np.cumsum(real, axis=1) - 1) * real, 0)
    slopes = np.asarray(naive(heads))
    return paddle.to_tensor(slopes[None, :, None, None] * number[:, None, None, :])


@pytest.mark.parametrize("heads", [4, 6, 5])
@pytest.mark.parametrize("kind", ["plain", "left padding", "packed"])
def test_a_bias_that_counts_from_the_start_gives_the_same_attention(heads, kind):
    """Softmax does not see what is added to a whole row; float64."""
    rng, length = np.random.default_rng(0), 8
    q, k, v = (paddle.to_tensor(rng.standard_normal([2, length, heads, 4])) for _ in range(3))
    real, fields = np.ones([2, length], np.int64), {}
    if kind == "left padding":
        real[1, :3] = 0
        fields["attention_mask"] = paddle.to_tensor(real)
    if kind == "packed":
        fields["segment_ids"] = paddle.to_tensor(np.repeat([[0, 1]], 2, axis=0).repeat(4, axis=1))
    given = batch(length, **fields)
    wanted = attention_reference(q, k, v, given, bias=shifted(heads, real)).numpy()
    found = attention_reference(q, k, v, given, bias=alibi_bias(given, heads, length)).numpy()
    kept = real[..., None, None]
    # The slopes are float32.
    np.testing.assert_allclose(found * kept, wanted * kept, atol=1e-6)
    without = attention_reference(q, k, v, given).numpy()
    assert np.abs(without - wanted).max() > 1e-2
    single = [x.astype("float32") for x in (q, k, v)]
    fast = attention(*single, given, bias=alibi_bias(given, heads, length)).numpy()
    np.testing.assert_allclose(fast * kept, wanted * kept, atol=2e-6)
