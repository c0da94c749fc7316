"""Prefix tuning: trained keys and values that every query sees (Li and Liang 2021, arXiv 2101.00190; P-tuning v2, Liu
et al. 2021, arXiv 2110.07602).

A prefix is what P virtual tokens would have left in a block's cache: keys and values after position encoding. It is
no part of the batch: masks, lengths and caches do not count it. The engine hangs it on a block's attention module
(`attach_prefix`); while that module runs, `zoo_ops.attention` puts it in front of the keys and values it is given, and
`zoo_ops.alibi_bias` knows the distances. Model code is the same with and without one. Only attention that caches
something else than keys and values (a latent) asks for `virtual_entries` and puts them in front itself.

Shape legend: B batch, S queries, K keys without virtual ones, P virtual tokens, M kv heads (of this rank), D width of a
head, I/O in and out features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import paddle

from zoo_ops import parallel
from zoo_ops.linear import ColumnLinear, inside
from zoo_ops.masks import real_before

if TYPE_CHECKING:
    from paddle import Tensor

    from zoo_ops.batch import Batch

__all__ = ["VirtualEntries", "after_prefix", "attach_prefix", "virtual_entries", "virtual_tokens"]


@dataclass(frozen=True)
class VirtualEntries:
    """What stands in front of the cached entries of the attention module that runs now; of `count` 0, nothing.

    Args:
        k_PMD, v_PMD: as the module caches them; widths of keys and values may differ.
    """

    k_PMD: Tensor | None = None
    v_PMD: Tensor | None = None

    @property
    def count(self) -> int:
        """P, or 0."""
        return 0 if self.k_PMD is None else int(self.k_PMD.shape[0])

    def before_keys(self, k_BKMD: Tensor) -> Tensor:
        """[B, K, M, D] -> [B, P + K, M, D]."""
        return _before(self.k_PMD, k_BKMD)

    def before_values(self, v_BKMD: Tensor) -> Tensor:
        """[B, K, M, D] -> [B, P + K, M, D]."""
        return _before(self.v_PMD, v_BKMD)

    def project_values(self, layer: Any, x_BSI: Tensor) -> Tensor:
        """Apply a projection to the virtual values and, after them, to `x_BSI`: [B, P + S, O].

        The layer is called once. Where it is column-parallel, `x_BSI` enters the region and the virtual values, which
        every rank has whole, do not: each rank has a part of their gradient.
        """
        if self.v_PMD is None:
            return layer(x_BSI)
        if isinstance(layer, ColumnLinear):
            x_BSI = parallel.enter(x_BSI)
        return inside(layer, _before(self.v_PMD.flatten(1), x_BSI))


def _before(front: Tensor | None, x: Tensor) -> Tensor:
    """`front` [P, ...] in front of each sample of `x` [B, K, ...]."""
    if front is None:
        return x
    return paddle.concat([front.astype(x.dtype).unsqueeze(0).expand([x.shape[0], *front.shape]), x], axis=1)


_none = VirtualEntries()
_current: ContextVar[VirtualEntries] = ContextVar("zoo_ops_virtual_entries", default=_none)


def virtual_entries() -> VirtualEntries:
    """What stands in front of the entries of the attention module that runs now."""
    return _current.get()


@contextmanager
def virtual_tokens(k_PMD: Tensor, v_PMD: Tensor) -> Iterator[None]:
    """Let attention see these keys and values in front of its own, whatever its masks say."""
    token = _current.set(VirtualEntries(k_PMD, v_PMD))
    try:
        yield
    finally:
        _current.reset(token)


def attach_prefix(module: Any, parameters: Mapping[str, Any], key_width: int, value_width: int) -> None:
    """Give an attention module a prefix: from now on it runs within `virtual_tokens`.

    Args:
        module: whose `forward` calls attention; the parameters become its own.
        parameters: `prefix_key` and `prefix_value`, [P, M x D] each. Or, with a projection: `prefix_embedding` [P, E],
            `prefix_dense_weight` [E, I] and `prefix_dense_bias` [I], which all modules share, and
            `prefix_key_weight` [I, M x D], `prefix_key_bias` [M x D] and the same of the value. Then a prefix is
            tanh(embedding dense) projected, made anew in every call.
        key_width, value_width: D of either.
    """
    for name, tensor in parameters.items():
        module._parameters[name] = tensor
    plain, own = module.forward, module._parameters

    def rows(which: str) -> Tensor:
        if "prefix_embedding" not in own:
            return own[f"prefix_{which}"]
        # functions, not `+`: in a traced graph that takes no parameter which is not read as an attribute
        hidden_PI = paddle.tanh(
            paddle.add(paddle.matmul(own["prefix_embedding"], own["prefix_dense_weight"]), own["prefix_dense_bias"])
        )
        return paddle.add(paddle.matmul(hidden_PI, own[f"prefix_{which}_weight"]), own[f"prefix_{which}_bias"])

    def forward(*args: Any, **kwargs: Any) -> Any:
        k_PE, v_PE = rows("key"), rows("value")
        k_PMD, v_PMD = k_PE.reshape([k_PE.shape[0], -1, key_width]), v_PE.reshape([v_PE.shape[0], -1, value_width])
        with virtual_tokens(k_PMD, v_PMD):
            return plain(*args, **kwargs)

    module.forward = forward


def after_prefix(batch: Batch, tokens: int, past: int = 0) -> Batch:
    """Return the batch with positions that begin after `tokens` virtual ones, int64 [B, S].

    Positions that are given are moved; else real tokens are counted in each packed sample. Families that have their own
    positions do not read them.

    Args:
        past: cached tokens before the first one.
    """
    positions = batch.position_ids
    if positions is None:
        rows, length = batch.input_ids.shape
        positions = real_before(batch, length, past).expand([rows, length])
    return replace(batch, position_ids=positions + tokens, _memo={})
