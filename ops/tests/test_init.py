"""Initial values: a function of seed and name, the same in every slice."""

import numpy as np
import pytest

from zoo_ops import init
from zoo_ops.init import initial, initial_slice


@pytest.mark.parametrize("shape", [(), (7,), (1000, 3), (300, 1100), (5, 40, 9), (2, 300_000)])
def test_slices_are_slices_of_the_whole(shape):
    whole = initial(1, "w", shape, "normal", 0.02)
    assert whole.shape == shape
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, initial(1, "w", shape, "normal", 0.02))
    index = tuple(slice(size // 3, size - size // 4) for size in shape)
    for used in (index, index[:1], (slice(None), *index[1:]) if shape else ()):
        np.testing.assert_array_equal(initial_slice(1, "w", shape, "normal", 0.02, used), whole[used])
    empty = initial_slice(1, "w", (4, 4), "normal", 1.0, (slice(2, 2),))
    assert empty.shape == (0, 4)


def test_seed_name_and_block_give_other_values():
    base = initial(1, "w", (1 << 11, 1 << 8), "normal", 1.0)
    for other in (initial(2, "w", base.shape, "normal", 1.0), initial(1, "v", base.shape, "normal", 1.0)):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.01
    rows = init._BLOCK // 256
    assert abs(np.corrcoef(base[:rows].ravel(), base[rows : 2 * rows].ravel())[0, 1]) < 0.01


def test_distribution_and_other_kinds():
    values = initial(0, "w", (1000, 1000), "normal", 0.5) / 0.5
    assert abs(values.mean()) < 5e-3
    assert abs(values.std() - 1) < 5e-3
    assert abs((values**4).mean() - 3) < 0.03
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 3e-3
    assert 4 < np.abs(values).max() < 7
    assert (initial(0, "b", (3,), "zeros", 0.0) == 0).all()
    assert (initial_slice(0, "n", (3, 4), "ones", 0.0, (slice(1, 3),)) == np.ones((2, 4), np.float32)).all()
    with pytest.raises(ValueError, match="'xavier' is not known"):
        initial(0, "w", (3,), "xavier", 1.0)
