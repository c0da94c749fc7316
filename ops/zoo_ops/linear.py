"""Projections, embeddings and heads: on one card, and the forms that the engine puts in their place.

Model code uses `paddle.nn.Linear`, `paddle.nn.Embedding`, `LMHead` and `project`; the engine swaps the layers for the
parallel ones of this file, following the parameter table. A swapped layer keeps its place in the module tree, so the
single-card parameter names stay.

Shape legend: B batch, S sequence, H hidden, V vocabulary, I/O in and out features, v/i/o this rank's part.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from zoo_ops import parallel
from zoo_ops.cpu.rows import MOST, Projection, embedding_rows, is_one_row, is_plain, linear_row
from zoo_ops.kernels import cpu_path
from zoo_ops.loss import cross_entropy
from zoo_ops.norm import rms_norm

__all__ = [
    "ColumnLinear",
    "Embedding",
    "LMHead",
    "Linear",
    "RowLinear",
    "VocabEmbedding",
    "VocabHead",
    "head_loss",
    "inside",
    "linear",
    "project",
    "read_by_heads",
    "whole_projections",
]


def linear(x: Tensor, weight_IO: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return `x` times the weight, and the bias added: [..., I] -> [..., O]."""
    biases = () if bias_O is None else (bias_O,)
    if is_one_row(x, weight_IO, *biases):
        return linear_row(x, weight_IO, bias_O)
    if cpu_path(x, weight_IO, *biases):  # what paddle's function calls, once it has asked for its flags
        return paddle._C_ops.linear(x, weight_IO, bias_O)
    return F.linear(x, weight_IO, bias_O)


def _logits(x: Tensor, weight_vH: Tensor, normalize: bool) -> Tensor:
    """x times the weight's rows, which count as 1 long if `normalize`.

    A row over its L2 norm is RMSNorm of the row over sqrt(H), and RMSNorm has good kernels everywhere. The epsilon is
    1e-24 on the squared length: nothing to a real row, while rows of padding stay zero and have finite gradients.
    """
    if normalize:
        hidden = weight_vH.shape[-1]
        weight_vH = rms_norm(weight_vH, paddle.ones([hidden], dtype=weight_vH.dtype), 1e-24 / hidden)
        x = x * hidden**-0.5
    if is_one_row(x, weight_vH):
        return linear_row(x, weight_vH, transpose=True)
    return paddle.matmul(x, weight_vH, transpose_y=True)


class LMHead(nn.Layer):  # type: ignore[misc]
    """Hidden states to logits; the weight is [vocabulary, hidden], so that an embedding can be shared as it is.

    Args:
        hidden_size: H.
        vocab_size: V.
        normalize: use each row of the weight divided by its length (Baichuan2, arXiv 2309.10305), and let the gradient
            flow through the division; the parameter itself is left as it is.
    """

    def __init__(self, hidden_size: int, vocab_size: int, normalize: bool = False) -> None:
        super().__init__()
        self.weight = self.create_parameter([vocab_size, hidden_size])
        self.normalize = normalize

    def forward(self, x_BSH: Tensor) -> Tensor:
        """Return logits [B, S, V]."""
        return _logits(x_BSH, self.weight, self.normalize)


class Linear(nn.Linear):  # type: ignore[misc]
    """A whole Linear as the engine runs it: weight [I, O], bias [O]."""

    def __init__(self, weight: Any, bias: Any) -> None:
        nn.Layer.__init__(self)
        # a tensor over a mesh is no `Parameter`, which is what an attribute would have to be
        self._parameters["weight"], self._parameters["bias"] = weight, bias
        self.name = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):  # type: ignore[misc]
    """A whole Embedding as the engine runs it: weight [V, H]."""

    def __init__(self, weight: Any) -> None:
        nn.Layer.__init__(self)
        self._parameters["weight"] = weight

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., H].

        Raises:
            ValueError: an id is beyond the rows of the weight.
        """
        weight = self.weight
        if math.prod(ids.shape) * weight.shape[-1] < MOST and is_plain(weight):
            found = embedding_rows(ids, weight)
            if found is not None:
                return found
        return F.embedding(ids, weight)

    def extra_repr(self) -> str:
        """The sizes."""
        return ", ".join(map(str, self.weight.shape))


def whole_projections(x: Tensor, *layers: Any) -> list[Projection] | None:
    """The weights and biases of Linears that are as good as called with the one row of a generated token; else `None`.

    Not where something hangs on their calls: a sharded weight is gathered there.
    """
    found: list[Projection] = []
    for layer in layers:
        if type(layer) is not Linear or layer._forward_pre_hooks or layer._forward_post_hooks:
            return None
        found.append((layer._parameters["weight"], layer._parameters["bias"]))
    tensors = [t for projection in found for t in projection if t is not None]
    return found if is_one_row(x, *tensors) else None


class ColumnLinear(nn.Layer):  # type: ignore[misc]
    """A Linear that holds some of the output features: weight [I, o], bias [o]."""

    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor, entered: bool = False) -> Tensor:
        """Return this rank's output features [B, S, o].

        Args:
            x: [B, S, I], or this rank's part of the sequence.
            entered: `x` is whole and its gradient is summed elsewhere (see `project`).
        """
        return linear(x if entered else parallel.enter(x), self.weight, self.bias)


class RowLinear(nn.Layer):  # type: ignore[misc]
    """A Linear that holds some of the input features: weight [i, O]; the whole bias [O] is added after the sum."""

    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x_BSi: Tensor, stays: bool = False) -> Tensor:
        """Return [B, S, O], or this rank's part of the sequence of it.

        Args:
            x_BSi: this rank's input features.
            stays: the ranks' parts are summed elsewhere (see `inside`); then this is one term of the sum.
        """
        y = linear(x_BSi, self.weight)
        if stays:
            return y
        y = parallel.leave(y)
        return y if self.bias is None else y + self.bias


class VocabEmbedding(nn.Layer):  # type: ignore[misc]
    """An embedding that holds the rows [start, start + v) of the vocabulary."""

    def __init__(self, weight: Any, start: int) -> None:
        super().__init__()
        self.weight, self.start = weight, start

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Return [B, S, H], or this rank's part of the sequence of it."""
        local = ids_BS - self.start
        mine = paddle.logical_and(local >= 0, local < self.weight.shape[0])
        x_BSH = F.embedding(paddle.where(mine, local, paddle.zeros_like(local)), self.weight)
        return parallel.leave(x_BSH * mine.unsqueeze(-1).astype(x_BSH.dtype))


class VocabHead(nn.Layer):  # type: ignore[misc]
    """A head that holds the rows [start, start + v) of the vocabulary, the last of them perhaps padding.

    Args:
        weight: [v, H].
        start: first row.
        vocab_size: rows of the whole vocabulary without padding.
        gather: return the whole logits on every rank instead of this rank's part.
        normalize: as `LMHead` has it; rows are whole on every rank, so each rank normalises its own.
    """

    def __init__(self, weight: Any, start: int, vocab_size: int, gather: bool = False, normalize: bool = False) -> None:
        super().__init__()
        self.weight, self.start, self.vocab_size, self.gather = weight, start, vocab_size, gather
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, S, v], or [B, S, V] when gathered."""
        logits = _logits(parallel.enter(x), self.weight, self.normalize)
        return parallel.gather_features(logits)[..., : self.vocab_size] if self.gather else logits


def project(x: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    """Apply several projections to one input: queries, keys and values, say, or gate and up.

    Where the layers are column-parallel, the input enters the region once for all of them: one gather on the way in
    and one sum of the gradient on the way back.
    """
    plain = whole_projections(x, *layers)
    if plain is not None:
        return tuple(linear_row(x, weight_IO, bias_O) for weight_IO, bias_O in plain)
    if all(isinstance(layer, ColumnLinear) for layer in layers):
        x = parallel.enter(x)
        return tuple(layer(x, True) for layer in layers)
    return tuple(layer(x) for layer in layers)


def inside(layer: Any, x: Tensor) -> Tensor:
    """Apply a projection without bias in a parallel region that is entered and left by the caller.

    The layer is called, not read: what the engine hangs on calls (gathering a sharded weight) takes place.
    """
    return layer(x, True) if isinstance(layer, ColumnLinear | RowLinear) else layer(x)


def read_by_heads(x: Tensor) -> Tensor:
    """Pass on what every head reads as it is, outside any projection: the rotary part of a latent key, say.

    [B, S, ...] -> [B, S, ...]; on the way back the heads' gradients are summed, wherever the heads are.
    """
    return parallel.enter(x)


def head_loss(head: Any, x_BSH: Tensor, labels_BS: Tensor) -> Tensor:
    """The cross entropy of each token, float32 [B, S], of a head that is called inside the model.

    Args:
        head: an `LMHead`, or what stands in its place.
        x_BSH: hidden states, or this rank's part of the sequence of them.
        labels_BS: int64, the whole sequence, already shifted; -100 bears no loss.
    """
    logits = head(x_BSH)
    if isinstance(head, VocabHead) and not head.gather:
        return cross_entropy(logits, labels_BS, start=head.start, vocab_size=head.vocab_size)
    return cross_entropy(logits, labels_BS)
