"""The beams of one row: which go on, which have ended, and when the search is done. No paddle.

Shape legend: N beams of the row, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zoo_core.errors import ConfigError
from zoo_core.generate.choice import likeliest, log_probabilities, penalised
from zoo_core.generate.chooser import hidden_ids
from zoo_core.generate.rules import Finish, Row, Rules

__all__ = ["Beam", "BeamRow", "Stopping"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Beam:
    """An answer.

    Args:
        tokens: the new ones, without the one that ended it.
        score: by which answers are compared; see `zoo_core.generate.beam.beam_search`.
        logprobs: of each token, in nats, as the rules have changed it; of an end too, so there may be one more.
        finish: why it ended.
    """

    tokens: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]
    finish: Finish


@dataclass(frozen=True)
class Stopping:
    """How many beams there are, how they are compared, and when a search ends; see `beam_search`."""

    beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    returned: int

    def __post_init__(self) -> None:
        early, returned = self.early_stopping, self.returned
        for name, value, good, wanted in (
            ("the number of beams", self.beams, self.beams >= 1, "1 or more"),
            ("num_return_sequences", returned, 1 <= returned <= self.beams, f"1 to the number of beams, {self.beams}"),
            ("length_penalty", self.length_penalty, np.isfinite(self.length_penalty), "a number"),
            ("early_stopping", early, early in (True, False, "never"), "true, false or never"),
        ):
            if not good:
                raise ConfigError(f"{name} is {value}", f"it has to be {wanted}")

    def score(self, logprob: float, length: int) -> float:
        """The score of an answer of `length` tokens, its end included."""
        return float(logprob / length**self.length_penalty)


@dataclass(frozen=True)
class _Going:
    """A beam that goes on; `logprob` is the sum of `logprobs`."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    logprob: float = 0.0


class BeamRow:
    """The search of one row.

    Args:
        row: the prompt.
        rules: what holds for it.
        stopping: beams, scores and the end.
    """

    def __init__(self, row: Row, rules: Rules, stopping: Stopping) -> None:
        self._row, self._rules, self._stopping = row, rules, stopping
        self._going = [_Going()]
        self._ended: list[Beam] = []
        self._prompt = np.unique(np.asarray(row.ids, np.int64))

    @property
    def width(self) -> int:
        """Beams that go on; 1, the prompt, at first, and 0 when the row is done."""
        return len(self._going)

    def best(self) -> list[Beam]:
        """The answers, the best first; of a row that is done."""
        return self._ended[: self._stopping.returned]

    def advance(self, logits_NV: Array) -> list[tuple[int, int]]:
        """Take the logits after each beam's last token, and return of each that goes on the beam it comes from and its
        new token, the best first; none where the row is done.

        Raises:
            ConfigError: they are not numbers, or the rules allow no token.
        """
        logprobs_NV = np.stack([self._logprobs(*pair) for pair in zip(self._going, logits_NV, strict=True)])
        totals_NV = logprobs_NV + np.asarray([[beam.logprob] for beam in self._going])
        wanted, ends, vocab = self._stopping.beams, self._rules.ends, logprobs_NV.shape[1]
        length = len(self._going[0].tokens) + 1
        is_full = len(self._ended) == wanted
        offered: list[Beam] = []
        going: list[tuple[int, _Going]] = []
        # so many that there are enough without an end, whatever ends are among them
        for rank, place in enumerate(likeliest(totals_NV.ravel(), wanted * (1 + max(1, len(ends)))).tolist()):
            source, token = divmod(place, vocab)
            total = float(totals_NV[source, token])
            if not np.isfinite(total):
                break
            before = self._going[source]
            logprobs = (*before.logprobs, float(logprobs_NV[source, token]))
            is_end = token in ends
            if is_end or length == self._row.max_new_tokens:
                if rank < wanted:  # others are followed only so that enough go on
                    tokens = before.tokens if is_end else (*before.tokens, token)
                    score = self._stopping.score(total, length)
                    offered.append(Beam(tokens, score, logprobs, "stop" if is_end else "length"))
            elif len(going) < wanted:
                going.append((source, _Going((*before.tokens, token), logprobs, total)))
        if not offered and not going:
            raise ConfigError("the rules allow no token", "bad words, ends or the vocabulary leave none", "allow more")
        if not (is_full and self._stopping.early_stopping is True):
            self._ended = sorted(self._ended + offered, key=lambda beam: -beam.score)[:wanted]
        self._going = [beam for _, beam in going]
        if not going or self._is_done(length):
            self._going = []
            return []
        return [(source, beam.tokens[-1]) for source, beam in going]

    def _is_done(self, length: int) -> bool:
        """Whether no answer is looked for any more, `length` tokens after the prompt."""
        stopping = self._stopping
        if len(self._ended) < stopping.beams:
            return False
        if stopping.early_stopping is True:
            return True
        if stopping.early_stopping == "never" and stopping.length_penalty > 0:
            length = self._row.max_new_tokens
        return stopping.score(self._going[0].logprob, length) <= self._ended[-1].score

    def _logprobs(self, beam: _Going, logits_V: Array) -> Array:
        """What each token adds to a beam, float64 [V]; minus infinity for those that may not come."""
        rules = self._rules
        logits_V = logits_V[: rules.vocab_size]
        if not np.isfinite(logits_V.max()):
            raise ConfigError(
                "the model's logits are not numbers", "its weights hold NaN or infinity", "use another one"
            )
        values_V = log_probabilities(logits_V)
        if rules.sampling.penalises:
            seen = np.union1d(self._prompt, np.asarray(beam.tokens, np.int64))
            values_V = penalised(values_V, rules.sampling, Counter(beam.tokens), seen)
        text = (*self._row.ids, *beam.tokens) if rules.bad_words else ()
        hidden = hidden_ids(rules, text, len(beam.tokens), len(values_V))
        values_V[hidden] = -np.inf
        return values_V
