"""Runs in every process of a launch: each parallel layer against the whole layer on one card. No zoo_core here.

Prints a JSON line of largest differences for rank 0; the test reads it.
"""

from __future__ import annotations

import json

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from zoo_ops import LMHead, cross_entropy, parallel, project
from zoo_ops.linear import ColumnLinear, RowLinear, VocabEmbedding, VocabHead
from zoo_ops.loss import cross_entropy_reference

B, S, H, F, V = 2, 8, 12, 20, 21


def emulated_reduce_scatter(out, x, group):
    dist.all_reduce(x, group=group)
    part = out.shape[0]
    paddle.assign(x[dist.get_rank() * part : (dist.get_rank() + 1) * part], out)


def leaf(array):
    tensor = paddle.to_tensor(np.ascontiguousarray(array))
    tensor.stop_gradient = False
    return tensor


def gather(array):
    parts = []
    dist.all_gather(parts, paddle.to_tensor(array))
    return [part.numpy() for part in parts]


def far(mine, whole):
    return float(np.abs(np.asarray(mine) - np.asarray(whole)).max())


def mlp_block(rank, degree, split_sequence):
    """Two projections of one input, multiplied, then a row layer with bias: outputs and all gradients."""
    rng = np.random.default_rng(1)
    x, up, gate = rng.normal(size=(B, S, H)), rng.normal(size=(H, F)), rng.normal(size=(H, F))
    bias, down, tail = rng.normal(size=F), rng.normal(size=(F, H)), rng.normal(size=H)
    seed = rng.normal(size=(B, S, H))
    arrays = [a.astype("float64") for a in (x, up, gate, bias, down, tail)]

    whole = [leaf(a) for a in arrays]
    wx, wup, wgate, wbias, wdown, wtail = whole
    out = (paddle.matmul(wx, wup) + wbias) * paddle.matmul(wx, wgate)
    out = paddle.matmul(out, wdown) + wtail
    (out * paddle.to_tensor(seed)).sum().backward()

    columns = slice(rank * F // degree, (rank + 1) * F // degree)
    rows = slice(*parallel.sequence_shard(S))
    lx = leaf(x[:, rows])
    lup, lbias, lgate = leaf(up[:, columns]), leaf(bias[columns]), leaf(gate[:, columns])
    ldown, ltail = leaf(down[columns]), leaf(tail)
    a, b = project(lx, ColumnLinear(lup, lbias), ColumnLinear(lgate, None))
    mine = RowLinear(ldown, ltail)(a * b)
    (mine * paddle.to_tensor(seed[:, rows])).sum().backward()
    tail_grad = ltail.grad
    if split_sequence:  # the bias of a row layer is added to a part of the sequence: its gradient is summed
        tail_grad = tail_grad.clone()
        dist.all_reduce(tail_grad)
    return {
        "out": far(mine, out.numpy()[:, rows]),
        "x": far(lx.grad, wx.grad.numpy()[:, rows]),
        "up": far(lup.grad, wup.grad.numpy()[:, columns]),
        "gate": far(lgate.grad, wgate.grad.numpy()[:, columns]),
        "bias": far(lbias.grad, wbias.grad.numpy()[columns]),
        "down": far(ldown.grad, wdown.grad.numpy()[columns]),
        "tail": far(tail_grad, wtail.grad.numpy()),
    }


def vocabulary(rank, degree, gathered, normalize=False):
    """Embedding, head and loss over a vocabulary that does not divide, so that the last rank has padding."""
    rng = np.random.default_rng(2)
    table, head = rng.normal(size=(V, H)).astype("float32"), rng.normal(size=(V, H)).astype("float32")
    ids, labels = rng.integers(0, V, (B, S)), rng.integers(0, V, (B, S))
    labels[0, 3] = -100
    weight = rng.normal(size=(B, S)).astype("float32")

    whole_table, lm = leaf(table), LMHead(H, V, normalize)
    lm.weight.set_value(paddle.to_tensor(head))
    logits = lm(nn.functional.embedding(paddle.to_tensor(ids), whole_table))
    loss = cross_entropy_reference(logits, paddle.to_tensor(labels))
    (loss * paddle.to_tensor(weight)).sum().backward()

    width = -(-V // degree)
    start, stop = rank * width, min((rank + 1) * width, V)
    padded = [np.zeros((width, H), "float32") for _ in range(2)]
    padded[0][: stop - start], padded[1][: stop - start] = table[start:stop], head[start:stop]
    ltable, lhead = (leaf(p) for p in padded)
    x = VocabEmbedding(ltable, start)(paddle.to_tensor(ids))
    mine = VocabHead(lhead, start, V, gathered, normalize)(x)
    split = {} if gathered else {"start": start, "vocab_size": V}
    local = cross_entropy(mine, paddle.to_tensor(labels), **split)
    (local * paddle.to_tensor(weight)).sum().backward()
    found = {
        "loss": far(local, loss.numpy()),
        "table": far(ltable.grad.numpy()[: stop - start], whole_table.grad.numpy()[start:stop]),
        "padding": float(np.abs(lhead.grad.numpy()[stop - start :]).sum()),
        "head": far(lhead.grad.numpy()[: stop - start], lm.weight.grad.numpy()[start:stop]),
    }
    if gathered:
        found["logits"] = far(mine, logits.numpy())
    return found


def main():
    dist.init_parallel_env()
    rank, degree = dist.get_rank(), dist.get_world_size()
    axis = parallel.Axis(degree, rank, dist.get_group() if hasattr(dist, "get_group") else None)
    found = {}
    for split_sequence in (False, True):
        parallel.configure(axis, split_sequence, emulated_reduce_scatter)
        name = "sequence" if split_sequence else "tensor"
        found[f"{name} mlp"] = mlp_block(rank, degree, split_sequence)
        for gathered in (False, True):
            kind = " gathered" if gathered else ""
            found[f"{name} vocabulary{kind}"] = vocabulary(rank, degree, gathered)
            found[f"{name} vocabulary{kind} normalised"] = vocabulary(rank, degree, gathered, normalize=True)
    everywhere = gather(np.array([max(part.values()) for part in found.values()], "float64"))
    found["worst of all ranks"] = {"any": float(np.max(everywhere))}
    if rank == 0:
        print("FOUND " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
