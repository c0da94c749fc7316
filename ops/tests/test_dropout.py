"""Dropout masks: the same whatever the layout, and what they promise statistically."""

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from zoo_ops import parallel
from zoo_ops.dropout import Dropout, dropout_context, keep_dropout_context, keep_mask, set_dropout_state


@pytest.fixture(autouse=True)
def clean():
    set_dropout_state(7, 3)
    yield
    set_dropout_state(0, 0)
    parallel.configure()


def layer(p=0.25, name="llama.layers.0.dropout", **kwargs):
    made = Dropout(p, **kwargs)
    made.name_ = name
    return made


def test_a_shard_has_the_slice_of_the_whole_mask():
    whole = keep_mask("a", [4, 12, 6], 0.4).numpy()
    with dropout_context(sample_base=1, sequence_offset=4):
        part = keep_mask("a", [2, 5, 6], 0.4).numpy()
    np.testing.assert_array_equal(part, whole[1:3, 4:9])


def test_a_longer_padding_changes_no_mask():
    """Of [B, S, heads, keys]: how far a micro batch is padded depends on the layout."""
    longer = keep_mask("a", [2, 7, 3, 9], 0.4).numpy()
    np.testing.assert_array_equal(keep_mask("a", [2, 5, 3, 5], 0.4).numpy(), longer[:, :5, :, :5])
    np.testing.assert_array_equal(keep_mask("a", [2, 7, 1, 9], 0.4, feature_start=2).numpy(), longer[:, :, 2:])
    assert 0.4 < longer.mean() < 0.8 and (longer[:, :, 0] != longer[:, :, 1]).any()


def test_sequence_and_feature_shards_ask_the_mesh():
    x = paddle.ones([2, 8, 6])
    whole = layer()(x).numpy()
    inner = layer(inside=True)(x).numpy()
    y = paddle.ones([2, 8, 4, 8])
    outer = layer(inside=True)(y).numpy()
    for rank in range(2):
        parallel.configure(parallel.Axis(2, rank), sequence_parallel=True)
        part = slice(rank * 4, rank * 4 + 4)
        np.testing.assert_array_equal(layer()(x[:, part]).numpy(), whole[:, part])
        part = slice(rank * 3, rank * 3 + 3)
        np.testing.assert_array_equal(layer(inside=True)(x[..., part]).numpy(), inner[..., part])
        heads = slice(rank * 2, rank * 2 + 2)
        np.testing.assert_array_equal(layer(inside=True)(y[:, :, heads]).numpy(), outer[:, :, heads])
    parallel.configure(parallel.Axis(2, 1))
    np.testing.assert_array_equal(layer()(x).numpy(), whole)


def test_rate_scale_and_independence():
    x = paddle.ones([8, 64, 128])
    out = layer(0.25)(x).numpy()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    kept = out > 0
    # five standard deviations of a share of 65,536 values
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    for axis in range(3):
        a, b = np.take(kept, range(kept.shape[axis] - 1), axis), np.take(kept, range(1, kept.shape[axis]), axis)
        assert abs((a & b).mean() - 0.75**2) < 0.01
        assert kept.mean(axis=tuple({0, 1, 2} - {axis})).std() < 0.02
    others = [layer(0.25, "other")(x).numpy()]
    for seed, step in ((8, 3), (7, 4)):
        set_dropout_state(seed, step)
        others.append(layer(0.25)(x).numpy())
    for other in others:
        assert abs((kept & (other > 0)).mean() - 0.75**2) < 0.01


def test_mask_is_pinned():
    """The mask of a seed is part of a run's reproducibility; a change here changes every resumed run."""
    assert keep_mask("pinned", [1, 2, 8], 0.5).astype("int32").tolist() == PINNED


PINNED = [[[0, 0, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]]]


def test_identity_when_not_training():
    x = paddle.randn([2, 3, 4])
    assert layer(0.0)(x) is x
    quiet = layer()
    quiet.eval()
    assert quiet(x) is x
    set_dropout_state(7, 3, training=False)
    assert layer()(x) is x
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Dropout(1.0)


def test_recompute_sees_the_mask_of_its_own_micro_batch():
    drop = layer(0.5)
    x = paddle.randn([2, 4, 6])
    x.stop_gradient = False
    with dropout_context(sample_base=6):
        out = recompute(keep_dropout_context(lambda t: drop(t * 2)), x)
        expected = (keep_mask(drop.name_, x.shape, 0.5).astype("float32") * 4).numpy()
    with dropout_context(sample_base=8):
        out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected)
