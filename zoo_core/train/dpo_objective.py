"""What preference optimisation minimises, over pairs.

Shape legend: R rows of a micro batch: the chosen answers, then the rejected ones; P pairs, R / 2; S sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from zoo_core.engine.batches import MicroBatch
from zoo_ops.loss import IGNORE
from zoo_ops.preference import AVERAGED, PreferenceLoss, sequence_log_probs

__all__ = ["MEASURED", "REFERENCE", "PairObjective"]

REFERENCE = "reference_log_probs"
"""The field of a micro batch with what the reference model gives each row, float32 [R]."""

MEASURED = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
    "nll_loss",
)  # fmt: skip
"""What is told of the pairs: means of a pair, but `nll_loss`, which is that of a token of the chosen answers."""


class PairObjective:
    """pref_loss_ratio x the mean preference loss of a pair + sft_loss_ratio x the mean loss of a chosen token.

    A reward is beta x the distance of an answer's log-probability from the reference model's; it is of a token on
    average where the loss is.

    Args:
        loss: of pairs.
        pref_loss_ratio, sft_loss_ratio: the weights.
    """

    fields: tuple[str, ...] = (REFERENCE,)
    names: tuple[str, ...] = MEASURED

    def __init__(self, loss: PreferenceLoss, pref_loss_ratio: float = 1.0, sft_loss_ratio: float = 0.0) -> None:
        self.loss, self._weights = loss, (pref_loss_ratio, sft_loss_ratio)

    def counts(self, batches: Sequence[MicroBatch]) -> npt.NDArray[np.float64]:
        """Return the number of pairs, and of the tokens of their chosen answers."""
        chosen = [(batch["labels"] != IGNORE)[: len(batch["labels"]) // 2] for batch in batches]
        pairs, tokens = sum(int(c.any(axis=1).sum()) for c in chosen), sum(int(c.sum()) for c in chosen)
        return np.array([pairs, tokens], np.float64)

    def __call__(
        self, logits: Any, labels_RS: Any, beside: Mapping[str, Any], vocab: Mapping[str, int]
    ) -> tuple[Any, Any]:
        """Return the two weighted terms, and the sums of `MEASURED`; filling counts nothing."""
        log_probs_R, tokens_R = sequence_log_probs(logits, labels_RS, **vocab)
        reference_R, lengths_R = beside[REFERENCE], tokens_R.clip(min=1.0)
        chosen_P, _ = log_probs_R.chunk(2)
        real_P = (tokens_R.chunk(2)[0] > 0).astype("float32")
        nll = -chosen_P.sum()
        if self.loss.kind in AVERAGED:
            log_probs_R, reference_R = log_probs_R / lengths_R, reference_R / lengths_R
        policy, reference = log_probs_R.chunk(2), reference_R.chunk(2)
        lost = self.loss(policy[0], policy[1], reference[0], reference[1], real_P).sum()
        with paddle.no_grad():
            better, worse = (self.loss.beta * (p - r) for p, r in zip(policy, reference, strict=True))
            hits = (better > worse).astype("float32") * real_P
            means = [better, worse, hits, better - worse, *policy]
            sums = [(value * real_P).sum().detach() for value in means] + [nll.detach()]
        return paddle.stack([self._weights[0] * lost, self._weights[1] * nll]), paddle.stack(sums)

    def means(self, sums_M: npt.NDArray[np.float64], counts_T: npt.NDArray[np.float64]) -> dict[str, float]:
        """Return the means by the names of `MEASURED`."""
        pairs, tokens = np.maximum(counts_T, 1.0)
        divided = [*(sums_M[:-1] / pairs), sums_M[-1] / tokens]
        return {name: float(value) for name, value in zip(MEASURED, divided, strict=True)}
