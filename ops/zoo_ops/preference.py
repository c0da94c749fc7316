"""Learning from pairs of answers: log-probabilities of whole answers, and what is lost on a pair of them.

Direct preference optimisation (Rafailov et al. 2023, DPO, arXiv 2305.18290) and its relatives are functions of four
numbers a pair: the log-probabilities that the trained model (policy) and a fixed one (reference) give to the chosen
answer and to the rejected one.

Shape legend: R rows (an answer each), S sequence, V vocabulary, v this rank's part of it, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from zoo_ops.loss import IGNORE, cross_entropy, cross_entropy_reference

__all__ = [
    "AVERAGED",
    "PREFERENCE_LOSSES",
    "REFERENCE_FREE",
    "SMOOTHED",
    "WITHOUT_REFERENCE",
    "PreferenceLoss",
    "sequence_log_probs",
    "sequence_log_probs_reference",
]

AVERAGED = frozenset({"ipo", "simpo", "orpo"})
"""Losses whose log-probabilities are the mean of a token, not the sum of the answer's."""

WITHOUT_REFERENCE = frozenset({"simpo", "orpo"})
"""Losses that have no reference model."""

REFERENCE_FREE = WITHOUT_REFERENCE | {"sigmoid", "hinge", "ipo"}
"""Losses that also mean something when the reference gives every answer the same probability."""

SMOOTHED = frozenset({"sigmoid", "simpo"})
"""Losses that know of labels that may be flipped."""

_NEAR_ZERO = -1e-7
"""The largest mean log-probability that odds are taken of: those of certainty are infinite."""


def sequence_log_probs(
    logits: Tensor, labels_RS: Tensor, *, start: int = 0, vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each row's labels, and how many they are; float32 [R] both.

    Each rank of the tensor axis sums over its own columns; whole logits are never gathered.

    Args:
        logits: [R, S, V], or this rank's columns [R, S, v] of it when `vocab_size` is given.
        labels_RS: int64, already shifted; -100 takes no part.
        start, vocab_size: as `cross_entropy` has them.
    """
    log_probs_R = -cross_entropy(logits, labels_RS, start=start, vocab_size=vocab_size).sum(axis=-1)
    return log_probs_R, (labels_RS != IGNORE).astype("float32").sum(axis=-1)


def sequence_log_probs_reference(logits_RSV: Tensor, labels_RS: Tensor) -> tuple[Tensor, Tensor]:
    """The plain definition of `sequence_log_probs`, for tests."""
    log_probs_R = -cross_entropy_reference(logits_RSV, labels_RS).sum(axis=-1)
    return log_probs_R, (labels_RS != IGNORE).astype("float32").sum(axis=-1)


@dataclass(frozen=True)
class PreferenceLoss:
    """What is lost on pairs of answers.

    Args:
        kind: one of `PREFERENCE_LOSSES`.
        beta: scale of the distance from the reference model; the reward is beta x log(policy / reference). `ipo` calls
            it tau.
        label_smoothing: probability that a pair is the wrong way round, for the losses in `SMOOTHED`.
        simpo_gamma: margin that `simpo` wants.
        dpop_lambda: penalty of `dpop` for a chosen answer that became less probable.
    """

    kind: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_gamma: float = 0.5
    dpop_lambda: float = 50.0

    def __call__(
        self,
        policy_chosen_P: Tensor,
        policy_rejected_P: Tensor,
        reference_chosen_P: Tensor,
        reference_rejected_P: Tensor,
        real_P: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each pair, float32 [P], with a gradient towards the policy.

        Args:
            policy_chosen_P, policy_rejected_P, reference_chosen_P, reference_rejected_P: log-probabilities of the
                answers; of a token on average for the losses in `AVERAGED`. Zeros stand for no reference.
            real_P: float, 1 for a pair and 0 for filling, whose loss is 0; `None` means that all are pairs.
        """
        if real_P is None:
            real_P = paddle.ones_like(policy_chosen_P)
        chosen_P, rejected_P = policy_chosen_P - reference_chosen_P, policy_rejected_P - reference_rejected_P
        return PREFERENCE_LOSSES[self.kind](self, chosen_P, rejected_P, real_P) * real_P

    def _smoothed(self, margin_P: Tensor) -> Tensor:
        """-log sigmoid, of the other direction too as far as labels may be flipped (Mitchell 2023, cDPO)."""
        smoothing = self.label_smoothing
        return -F.log_sigmoid(margin_P) * (1 - smoothing) - F.log_sigmoid(-margin_P) * smoothing

    def _sigmoid(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Rafailov et al. 2023, equation 7."""
        return self._smoothed(self.beta * (chosen_P - rejected_P))

    def _hinge(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Zhao et al. 2023, SLiC-HF, arXiv 2305.10425, with DPO's reward."""
        return F.relu(1 - self.beta * (chosen_P - rejected_P))

    def _ipo(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Azar et al. 2023, IPO, arXiv 2310.12036, equation 17, on the mean of a token as its authors meant it."""
        return (chosen_P - rejected_P - 1 / (2 * self.beta)) ** 2

    def _simpo(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Meng et al. 2024, SimPO, arXiv 2405.14734, equation 6."""
        return self._smoothed(self.beta * (chosen_P - rejected_P) - self.simpo_gamma)

    def _orpo(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Hong et al. 2024, ORPO, arXiv 2403.07691, equation 7; its weight is `pref_loss_ratio`, not beta."""
        return -F.log_sigmoid(_log_odds(chosen_P) - _log_odds(rejected_P))

    def _sppo_hard(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Wu et al. 2024, SPPO, arXiv 2405.00675, equation 4.7 with a certain winner."""
        return (chosen_P - 0.5 / self.beta) ** 2 + (rejected_P + 0.5 / self.beta) ** 2

    def _nca_pair(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Chen et al. 2024, NCA, arXiv 2402.05369, of two answers."""
        chosen_P, rejected_P = self.beta * chosen_P, self.beta * rejected_P
        return -F.log_sigmoid(chosen_P) - 0.5 * F.log_sigmoid(-chosen_P) - 0.5 * F.log_sigmoid(-rejected_P)

    def _dpop(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Pal et al. 2024, Smaug, arXiv 2402.13228, equation 3."""
        return -F.log_sigmoid(self.beta * (chosen_P - rejected_P - self.dpop_lambda * F.relu(-chosen_P)))

    def _kto_pair(self, chosen_P: Tensor, rejected_P: Tensor, real_P: Tensor) -> Tensor:
        """Ethayarajh et al. 2024, KTO, arXiv 2402.01306, equation 8, as it was first used on pairs.

        The distance from the reference is estimated from the other answers of the same micro batch, so this loss
        depends on how many pairs that has.
        """
        count = real_P.sum().clip(min=1.0)
        far_chosen = ((chosen_P * real_P).sum() / count).clip(min=0.0)
        far_rejected = ((rejected_P * real_P).sum() / count).clip(min=0.0)
        lost_chosen = 1 - F.sigmoid(self.beta * (chosen_P - far_rejected))
        lost_rejected = 1 - F.sigmoid(self.beta * (far_chosen - rejected_P))
        return 0.5 * (lost_chosen + lost_rejected)


def _log_odds(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)), from log p, accurate on both sides."""
    log_p = log_p.clip(max=_NEAR_ZERO)
    return log_p - paddle.log(-paddle.expm1(log_p))


PREFERENCE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": PreferenceLoss._sigmoid,
    "hinge": PreferenceLoss._hinge,
    "ipo": PreferenceLoss._ipo,
    "simpo": PreferenceLoss._simpo,
    "orpo": PreferenceLoss._orpo,
    "dpop": PreferenceLoss._dpop,
    "kto_pair": PreferenceLoss._kto_pair,
    "sppo_hard": PreferenceLoss._sppo_hard,
    "nca_pair": PreferenceLoss._nca_pair,
}
"""The losses by name."""
