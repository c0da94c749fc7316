"""Each operation that numpy replays gives what Paddle's own gives."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from zoo_core.export.programs import replay_of
from zoo_core.replay.numpy_ops import CONSTANTS, OPERATIONS, VIEWS
from zoo_core.replay.program import CannotReplay

DONE = {
    "views": lambda x, i: [
        x.reshape([4, 6]), x.transpose([0, 2, 1]).reshape([2, 12]), x.flatten(1), x.unsqueeze(1).squeeze(0),
        x[:, 1:, ::2], x[:, -1], paddle.flip(x, [1]), *paddle.split(x, [1, 2], axis=1), *paddle.chunk(x, 2, axis=2),
        *paddle.unbind(x, axis=1), x[:1].expand([5, 3, 4]),
    ],
    "two numbers": lambda x, i: [
        x + 1.5, x + x[:1], x - x[:1],
        x * paddle.to_tensor([1.0, 2.0, 4.0, 8.0]), x / (x * x + 2.0),
        paddle.minimum(x, x[:1]), paddle.maximum(x, x[:, :1]),
        (x > 0.1).astype("float32"), (x < 0.1).astype("int64"), x >= 0.2, x <= 0.2, i == 2, i != 2,
        paddle.logical_and(x > 0, i.unsqueeze(-1) > 1), paddle.logical_or(x > 0, i.unsqueeze(-1) > 1),
        paddle.logical_not(x > 0),
    ],
    "one number": lambda x, i: [
        paddle.cos(x), paddle.sin(x), paddle.tanh(x), paddle.exp(x), paddle.sqrt(x * x), paddle.square(x),
        paddle.rsqrt(x * x + 1.0), F.relu(x), F.swish(60 * x), F.sigmoid(60 * x), paddle.clip(x, -0.3, 0.4),
        paddle.clip(i, min=2), paddle.scale(x, 2.0, 3.0), paddle.scale(x, 2.0, 3.0, bias_after_scale=False), i * 3 + 1,
    ],
    "rows": lambda x, i: [
        x.mean(axis=-1, keepdim=True), x.mean(axis=[0, 2]), x.sum(axis=1), x.sum(axis=-1, keepdim=True),
        F.softmax(x * 9, axis=-1), F.softmax(x, axis=1), paddle.cumsum(i, axis=1), paddle.cummax(i, axis=1)[0],
        paddle.cummin(i, axis=1)[0], F.layer_norm(x, [4], paddle.full([4], 2.0), paddle.full([4], 0.5), 1e-5),
        paddle.take_along_axis(i, i - 1, axis=1), paddle.put_along_axis(i, i - 1, i * 7, axis=1),
    ],
    "tables": lambda x, i: [
        F.embedding(i, paddle.arange(20, dtype="float32").reshape([5, 4])), paddle.full_like(x, 3.0) * x,
        paddle.where(x > 0, x, x * 0.5), paddle.concat([x, x * 2], axis=1), paddle.stack([x, x + 1], axis=-1),
    ],
    "products": lambda x, i: [
        x @ x.transpose([0, 2, 1]), paddle.matmul(x, x, transpose_y=True), paddle.matmul(x, x, transpose_x=True),
        x @ paddle.arange(12, dtype="float32").reshape([4, 3]), x[:1, :1] @ paddle.ones([4, 3]),
        paddle.matmul(x, paddle.arange(12, dtype="float32").reshape([3, 4]), transpose_y=True),
    ],
}  # fmt: skip


class _Layer(nn.Layer):
    def __init__(self, do):
        super().__init__()
        self.do = do

    def forward(self, x, i):
        return self.do(x, i)


def replay(do, folder):
    """The layer as Paddle runs it, and as numpy does; and what it is made of."""
    specs = [paddle.static.InputSpec(shape, kind) for shape, kind in (([2, 3, 4], "float32"), ([2, 3], "int64"))]
    static = paddle.jit.to_static(_Layer(do), input_spec=specs, full_graph=True)
    paddle.jit.save(static, str(folder / "layer"), skip_prune_program=True)
    loaded = paddle.jit.load(str(folder / "layer"))
    holder = loaded._program_holder_dict["forward"]
    kinds = {operation.name().removeprefix("pd_op.") for operation in holder.infer_program.global_block().ops}
    return loaded, replay_of(loaded, "forward"), kinds


@pytest.fixture(scope="module")
def seen():
    return set()


@pytest.mark.parametrize("name", DONE)
def test_operations(name, tmp_path, seen):
    loaded, replayed, kinds = replay(DONE[name], tmp_path)
    seen |= kinds
    random = np.random.default_rng(3)
    for _ in range(2):  # the second time all arrays hold what the first has left
        x = paddle.to_tensor(random.standard_normal((2, 3, 4)).astype(np.float32))
        i = paddle.to_tensor(random.integers(1, 4, (2, 3)))
        wanted, found = loaded(x, i), replayed.run([x, i])
        assert len(found) == len(wanted)
        for own, other in zip(found, wanted, strict=True):
            assert (own.shape, own.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(own.numpy(), other.numpy(), rtol=2e-6, atol=1e-6)


def test_every_operation_was_among_them(seen):
    if len(seen) < 40:
        pytest.skip("only some of the tests above were run")
    assert {*OPERATIONS, *VIEWS, *CONSTANTS} - seen == set()


def test_others_are_named(tmp_path):
    with pytest.raises(CannotReplay, match="gelu"):
        replay(lambda x, i: [F.gelu(x)], tmp_path)
