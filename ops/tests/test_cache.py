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
    with pytest.raises(ValueError, match="for 2 samples"):
        cache[0].update(paddle.zeros([1, 1, 1, 2]), paddle.zeros([1, 1, 1, 2]))
    with pytest.raises(ValueError, match="no room for 5"):
        cache[0].update(paddle.zeros([2, 5, 1, 2]), paddle.zeros([2, 5, 1, 2]))
