"""The key/value cache."""

import numpy as np
import paddle
import pytest

from zoo_ops.cache import Cache


def test_layers_fill_and_advance():
    cache = Cache(2, 3, 8)
    assert len(cache) == 2
    k, v = paddle.randn([3, 7, 2, 4]), paddle.randn([3, 7, 2, 5])
    for start, stop in ((0, 4), (4, 5), (5, 7)):
        assert cache.length == start
        for layer in cache:
            keys, values = layer.update(k[:, start:stop], v[:, start:stop])
            assert layer.length == stop
            np.testing.assert_array_equal(keys.numpy(), k[:, :stop].numpy())
            np.testing.assert_array_equal(values.numpy(), v[:, :stop].numpy())
    cache.truncate(2)
    assert cache.length == 2
    cache.reorder(paddle.to_tensor([2, 2, 0]))
    keys, _ = cache[1].update(k[:, :1], v[:, :1])
    np.testing.assert_array_equal(keys.numpy()[:, :2], k.numpy()[[2, 2, 0], :2])


def test_misuse_is_refused():
    cache = Cache(1, 2, 4)
    with pytest.raises(ValueError, match="for 2 samples was given 3"):
        cache[0].update(paddle.zeros([3, 1, 1, 2]), paddle.zeros([3, 1, 1, 2]))
    with pytest.raises(ValueError, match="no room for 5"):
        cache[0].update(paddle.zeros([2, 5, 1, 2]), paddle.zeros([2, 5, 1, 2]))
    one = paddle.zeros([1, 1, 1, 2])
    cache[0].update(one, one)
    with pytest.raises(ValueError, match="for 1 samples was given 2"):
        cache[0].update(paddle.zeros([2, 1, 1, 2]), paddle.zeros([2, 1, 1, 2]))
    with pytest.raises(ValueError, match="given 3"):
        cache.reorder(paddle.to_tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="moves by 4"):
        cache.shift(4)
    other = Cache(1, 1, 4)
    other[0].update(paddle.zeros([1, 2, 1, 2]), paddle.zeros([1, 2, 1, 2]))
    with pytest.raises(ValueError, match="1 rows of 2 columns join 1 of 1"):
        cache.join(other)


def rows_of(cache, columns):
    """What the rows have in the last so many columns: the values of a token that is appended, and those before it."""
    token = paddle.full([cache.rows, 1, 1, 1], -1.0)
    keys, values = cache[0].update(token, token * 2)
    assert (values == keys * 2).all()
    found = keys[:, -columns - 1 : -1].flatten(1).numpy().astype(int).tolist()
    cache.truncate(cache.length - 1)
    return found


def filled(rows, room, *first):
    """A cache whose rows count on from the given numbers."""
    cache = Cache(1, room, 12)
    numbers = paddle.to_tensor(first, dtype="float32").reshape([-1, 1, 1, 1])
    k = numbers + paddle.arange(rows, dtype="float32").reshape([1, -1, 1, 1])
    cache[0].update(k, k * 2)
    cache[0].notes["first"] = numbers.flatten(1)
    cache[0].token_notes["tokens"] = k.flatten(1)
    return cache


def test_rows_join_move_and_leave():
    cache = filled(2, 4, 10, 20)
    cache.join(filled(1, 1, 30))
    assert cache.rows == 3 and cache.length == 2
    assert rows_of(cache, 2) == [[10, 11], [20, 21], [0, 30]]
    long = filled(5, 1, 40)
    cache.shift(long.length - cache.length)
    cache.join(long)
    assert [row[-2:] for row in rows_of(cache, 5)] == [[10, 11], [20, 21], [0, 30], [43, 44]]
    assert cache[0].token_notes["tokens"].numpy().astype(int).tolist()[2:] == [[0, 0, 0, 0, 30], [40, 41, 42, 43, 44]]
    assert cache[0].notes["first"].flatten().tolist() == [10, 20, 30, 40]
    cache.keep([0, 3, 2])
    assert [row[-1] for row in rows_of(cache, 1)] == [11, 44, 30]
    assert cache[0].notes["first"].flatten().tolist() == [10, 40, 30]
    cache.keep([0, 2])
    cache.shift(-3)
    assert rows_of(cache, 2)[0] == [10, 11] and rows_of(cache, 1)[1] == [30]
    assert cache[0].token_notes["tokens"].numpy().astype(int).tolist() == [[10, 11], [0, 30]]
    cache.keep([])
    assert cache.rows == cache.length == 0 and not cache[0].notes
    cache.join(filled(3, 2, 7, 8))
    assert rows_of(cache, 3) == [[7, 8, 9], [8, 9, 10]]


def test_a_row_that_joins_shows_nothing_of_the_one_before():
    """A NaN that was hidden would show: 0 times it is no 0."""
    cache = filled(4, 2, float("nan"), 1)
    cache.keep([1])
    cache.keep([])
    cache.join(filled(4, 2, 5))
    cache.join(filled(1, 1, 9))
    keys, _ = cache[0].update(paddle.zeros([2, 1, 1, 1]), paddle.zeros([2, 1, 1, 1]))
    assert keys[1, :, 0, 0].tolist() == [0, 0, 0, 9, 0] and not keys.isnan().any()


def test_beams_grow_and_shrink():
    cache = filled(2, 4, 10, 20)
    cache.reorder(paddle.to_tensor([1, 1, 0, 1]))
    assert rows_of(cache, 2) == [[20, 21], [20, 21], [10, 11], [20, 21]]
    cache.reorder(paddle.to_tensor([2]))
    assert cache.rows == 1 and rows_of(cache, 2) == [[10, 11]]
    assert cache[0].notes["first"].tolist() == [[10]]
