"""Mixture of experts: a router with loss-free balance, and experts that may be spread over an axis.

Routing: DeepSeek-AI 2024, "DeepSeek-V3 Technical Report" (arXiv 2412.19437), section 2.1.2. Balance: Wang et al. 2024
(arXiv 2408.15664).

Shape legend: B batch, S sequence, T tokens, H hidden, E experts, K experts of a token, G groups of experts,
R rows (a token for each of its experts), F width of an expert or this rank's part of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from zoo_ops import parallel
from zoo_ops.batch import Batch
from zoo_ops.feed_forward import gated
from zoo_ops.linear import inside

__all__ = ["Router", "choose_experts", "choose_experts_reference", "moe", "moe_reference"]


def choose_experts_reference(
    scores_TE: Tensor, bias_E: Tensor, top_k: int, groups: int, top_groups: int, scale: float, normalise: bool
) -> tuple[Tensor, Tensor]:
    """`choose_experts` by its definition, token by token."""
    E = scores_TE.shape[1]
    weights, chosen = [], []
    for row in scores_TE:
        corrected = (row + bias_E).tolist()
        members = [list(range(g * E // groups, (g + 1) * E // groups)) for g in range(groups)]
        worth = [sum(sorted((corrected[e] for e in group), reverse=True)[:2]) for group in members]
        open_groups = sorted(range(groups), key=lambda g: -worth[g])[:top_groups]
        candidates = [e for g in open_groups for e in members[g]]
        best = sorted(candidates, key=lambda e: -corrected[e])[:top_k]
        picked = paddle.stack([row[e] for e in best])
        weights.append(picked / (picked.sum() + 1e-20) * scale if normalise else picked * scale)
        chosen.append(best)
    return paddle.stack(weights), paddle.to_tensor(chosen, dtype="int64")


def choose_experts(
    scores_TE: Tensor, bias_E: Tensor, top_k: int, groups: int, top_groups: int, scale: float, normalise: bool
) -> tuple[Tensor, Tensor]:
    """Choose each token's experts within its best groups; return weights [T, K] and int64 expert numbers [T, K].

    Args:
        scores_TE: affinity of each token to each expert.
        bias_E: added for the choice only, never to the weights.
        top_k: K.
        groups: G, runs of E / G experts; a group is worth the sum of its two best.
        top_groups: groups that a token may use.
        scale: multiplies the weights.
        normalise: weights of a token are divided by their sum first.
    """
    T, E = scores_TE.shape
    with paddle.no_grad():
        corrected_TE = scores_TE.detach() + bias_E
        if groups > 1:
            worth_TG = corrected_TE.reshape([T, groups, E // groups]).topk(2, axis=-1)[0].sum(axis=-1)
            best = worth_TG.topk(top_groups, axis=-1)[1]
            open_TG = F.one_hot(best, groups).sum(axis=1) > 0
            open_TE = open_TG.unsqueeze(-1).expand([T, groups, E // groups]).reshape([T, E])
            corrected_TE = paddle.where(open_TE, corrected_TE, paddle.full_like(corrected_TE, -float("inf")))
        experts_TK = corrected_TE.topk(top_k, axis=-1)[1]
        at = (paddle.arange(T).unsqueeze(1) * E + experts_TK).flatten()
    # gathered by flat index: `take_along_axis` has a gradient that is far slower on CPU
    weights_TK = paddle.gather(scores_TE.flatten(), at).reshape([T, top_k])
    if normalise:
        weights_TK = weights_TK / (weights_TK.sum(axis=-1, keepdim=True) + 1e-20)
    return weights_TK * scale, experts_TK


class Router(nn.Layer):  # type: ignore[misc]
    """Sigmoid scores, group-limited choice, and a bias that is moved after each step instead of a balance loss.

    Args:
        hidden: H.
        experts: E.
        top_k: K, experts of a token.
        groups, top_groups: see `choose_experts`.
        scale, normalise: of the weights.
        balance_rate: by how much an expert's bias moves after a step, up where it had less than the mean load; 0
            leaves the bias alone.

    The weight is [E, H], the persistent buffer `e_score_correction_bias` float32 [E]. Scores are float32 or wider.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        groups: int = 1,
        top_groups: int = 1,
        scale: float = 1.0,
        normalise: bool = True,
        balance_rate: float = 0.001,
    ) -> None:
        super().__init__()
        self.weight = self.create_parameter([experts, hidden])
        self.register_buffer("e_score_correction_bias", paddle.zeros([experts], dtype="float32"))
        self.options = (top_k, groups, top_groups, scale, normalise)
        self.balance_rate = balance_rate
        self._seen: dict[str, Tensor] = {}

    @property
    def load_E(self) -> Tensor | None:
        """How many tokens each expert had since the last `balance`, int64 [E]; `None` before the first."""
        return self._seen.get("load")  # no attribute: a layer that is traced takes tensors among its buffers

    def take_load(self) -> Tensor | None:
        """Return `load_E`, and begin to count anew."""
        return self._seen.pop("load", None)

    def add_load(self, load_E: Tensor) -> None:
        """Add int64 [E] to what is counted."""
        self._seen["load"] = self._seen["load"] + load_E if self._seen else load_E

    def forward(self, x_TH: Tensor, real_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weights [T, K] and the experts, int64 [T, K], of each token.

        Args:
            x_TH: tokens.
            real_T: bool, false for padding, which is no load to be balanced; `None` without padding.
        """
        wide = "float64" if x_TH.dtype == paddle.float64 else "float32"
        scores_TE = F.sigmoid(paddle.matmul(x_TH.astype(wide), self.weight.astype(wide), transpose_y=True))
        bias_E = self.e_score_correction_bias.astype(wide)
        weights_TK, experts_TK = choose_experts(scores_TE, bias_E, *self.options)
        # a recomputed block runs first without gradients and then with: a token is counted once
        if self.training and self.balance_rate and paddle.is_grad_enabled():
            counted_NK = experts_TK if real_T is None else experts_TK[real_T]
            load_E = paddle.bincount(counted_NK.flatten(), minlength=self.weight.shape[0])
            self.add_load(load_E)
        return weights_TK, experts_TK

    def balance(self, load_E: Tensor) -> None:
        """Move the bias by the load of a whole step, int64 [E], summed over micro batches and replicas."""
        with paddle.no_grad():
            wide = load_E.astype("float64")
            up_E = paddle.sign(wide.mean() - wide).astype("float32")
            self.e_score_correction_bias.add_(up_E * self.balance_rate)
        self.take_load()


def moe_reference(x_BSH: Tensor, gate: Any, experts: Any, shared: Any = None) -> Tensor:
    """`moe` by its definition, on one card: every token through every one of its experts."""
    x_TH = x_BSH.reshape([-1, x_BSH.shape[-1]])
    weights_TK, experts_TK = gate(x_TH)
    rows = []
    for t, chosen in enumerate(experts_TK.tolist()):
        one_1H = x_TH[t : t + 1]
        out_1H = paddle.zeros_like(one_1H) if shared is None else _inside(shared, one_1H)
        for k, e in enumerate(chosen):
            out_1H = out_1H + _inside(experts[e], one_1H) * weights_TK[t, k].astype(out_1H.dtype)
        rows.append(out_1H)
    return paddle.concat(rows).reshape(x_BSH.shape)


def _inside(expert: Any, x_RH: Tensor) -> Tensor:
    """An expert in a region that was entered already: [R, H] -> [R, H], this rank's part of the sum."""
    return inside(expert.down_proj, gated(inside(expert.gate_proj, x_RH), inside(expert.up_proj, x_RH)))


def moe(x_BSH: Tensor, gate: Any, experts: nn.LayerList, shared: Any = None, batch: Batch | None = None) -> Tensor:
    """Return the weighted sum of each token's experts, and the shared expert's output beside it, [B, S, H].

    The experts are SwiGLU blocks; no token is dropped. The region of the tensor axis is entered and left once for all
    of them. Where experts are spread over the expert axis, tokens travel to theirs and back.

    Args:
        x_BSH: hidden states, or this rank's part of the sequence of them.
        gate: `Router`, or another layer that gives [T, H] its weights [T, K] and expert numbers [T, K].
        experts: layers with `gate_proj`, `up_proj` and `down_proj`, each an `nn.Linear` without bias, by number; on
            the expert axis a rank has only some of them.
        shared: a layer like an expert that every token passes; `None` without one.
        batch: its `attention_mask` says which tokens are padding, and no load.
    """
    whole_BSH = parallel.enter(x_BSH)
    x_TH = whole_BSH.reshape([-1, whole_BSH.shape[-1]])
    real_T = None
    if batch is not None and batch.attention_mask is not None:
        real_T = (batch.attention_mask[:, -whole_BSH.shape[1] :] != 0).flatten()
    weights_TK, experts_TK = gate(x_TH) if real_T is None else gate(x_TH, real_T)
    if not paddle.in_dynamic_mode():
        return parallel.leave(_traced(x_TH, weights_TK, experts_TK, experts, shared).reshape(whole_BSH.shape))
    T, K = experts_TK.shape
    # rows ordered by expert: `order[i]` is the (token, choice) of row i
    flat = experts_TK.flatten()
    order = paddle.argsort(flat, stable=True)
    counts_E = paddle.bincount(flat, minlength=gate.weight.shape[0])
    order, back, counts_E = _without_idle(order, paddle.argsort(order), counts_E)
    rows_RH = paddle.gather(x_TH, order // K)
    out_RH = _spread(rows_RH, counts_E, experts)
    out_RH = out_RH * paddle.gather(weights_TK.flatten(), order).unsqueeze(-1).astype(out_RH.dtype)
    out_TH = paddle.gather(out_RH, back).reshape([T, K, -1]).sum(axis=1)
    if shared is not None:
        out_TH = out_TH + _inside(shared, x_TH)
    return parallel.leave(out_TH.reshape(whole_BSH.shape))


def _traced(x_TH: Tensor, weights_TK: Tensor, experts_TK: Tensor, experts: nn.LayerList, shared: Any) -> Tensor:
    """What a traced graph does: how many rows an expert has is not known, so those that are asked for take them all.

    An expert that nobody asks for is not run, and its weights are not read.
    """
    out_TH = paddle.zeros_like(x_TH) if shared is None else _inside(shared, x_TH)
    for number, expert in experts.named_children():
        asked_TK = experts_TK == int(number)
        weight_T1 = paddle.where(asked_TK, weights_TK, paddle.zeros_like(weights_TK)).sum(axis=-1, keepdim=True)
        out_TH = paddle.static.nn.cond(
            asked_TK.any(),
            lambda out_TH=out_TH, expert=expert, weight_T1=weight_T1: (
                out_TH + _inside(expert, x_TH) * weight_T1.astype(out_TH.dtype)
            ),
            lambda out_TH=out_TH: out_TH * 1.0,
        )
    return out_TH


def _without_idle(order: Tensor, back: Tensor, counts_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give experts without rows the first token, so that they are in the graph as the others are; nobody reads it.

    Sharding stages 2 and 3 reduce gradients in the order in which they come, which must be that of every other rank,
    and it follows from the graph. Those stages do not combine with the expert axis, where `_run` cuts a row off.

    Args:
        order: for each row, its (token, choice); rows are ordered by expert.
        back: for each (token, choice), its row.
        counts_E: rows of each expert.
    """
    if parallel.expert_axis().degree > 1 or not (paddle.is_grad_enabled() or parallel.gathers_weights()):
        return order, back, counts_E
    counts = counts_E.numpy()
    if counts.all():
        return order, back, counts_E
    starts = np.cumsum(counts) - counts
    made = np.insert(order.numpy(), starts[counts == 0], 0)
    # a row moves down by as many idle experts as come before it
    moved = back.numpy() + np.searchsorted(starts[counts == 0], back.numpy(), side="right")
    return paddle.to_tensor(made), paddle.to_tensor(moved), paddle.to_tensor(np.maximum(counts, 1))


def _spread(rows_RH: Tensor, counts_E: Tensor, experts: nn.LayerList) -> Tensor:
    """Each row through its expert, wherever that is; `rows_RH` are ordered by expert, `counts_E` of them for each."""
    axis = parallel.expert_axis()
    own = {int(number): expert for number, expert in experts.named_children()}
    if axis.degree == 1:
        return _run(rows_RH, counts_E.tolist(), [own[e] for e in sorted(own)])
    counts = parallel.expert_counts(counts_E).numpy()  # [rank of the axis, E]
    held = len(own)
    by_rank = counts.reshape(axis.degree, axis.degree, held)  # [from, to, expert there]
    to, here = by_rank[axis.rank].sum(axis=-1).tolist(), by_rank[:, axis.rank]
    arrived_RH = parallel.exchange_rows(rows_RH, to, here.sum(axis=-1).tolist())
    # they come ordered by sender and then by expert; the experts want them the other way round
    parts = paddle.to_tensor([e for _ in range(axis.degree) for e in range(held)], dtype="int64")
    of_expert = paddle.repeat_interleave(parts, paddle.to_tensor(here.flatten()))
    order = paddle.argsort(of_expert, stable=True)
    done_RH = _run(paddle.gather(arrived_RH, order), here.sum(axis=0).tolist(), [own[e] for e in sorted(own)])
    sent_RH = paddle.gather(done_RH, paddle.argsort(order))
    return parallel.exchange_rows(sent_RH, here.sum(axis=-1).tolist(), to)


def _run(rows_RH: Tensor, counts: list[int], experts: list[Any]) -> Tensor:
    """Consecutive rows through consecutive experts, `counts` of them each.

    In training an expert without rows gets one of zeros whose output is cut off, so that its weights have a gradient
    (zero) on every rank and collectives over gradients match; also where weights are gathered when a layer is called.
    """
    parts, start = [], 0
    for count, expert in zip(counts, experts, strict=True):
        if count:
            parts.append(_inside(expert, rows_RH[start : start + count]))
        elif paddle.is_grad_enabled() or parallel.gathers_weights():
            parts.append(_inside(expert, paddle.zeros([1, rows_RH.shape[-1]], dtype=rows_RH.dtype))[:0])
        start += count
    return paddle.concat(parts) if parts else rows_RH
