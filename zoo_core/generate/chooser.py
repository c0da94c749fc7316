"""One row's choices: its draws, its penalties, and when it ends. No paddle.

Shape legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_core.generate.choice import Sampling, choose, likeliest, log_probabilities, penalised
from zoo_core.generate.rules import Finish, Row, Rules, Step

__all__ = ["Chooser", "hidden_ids"]

Array = np.ndarray[Any, Any]


def hidden_ids(rules: Rules, text: Sequence[int], made: int, vocab_size: int) -> list[int]:
    """Return the ids that may not come next.

    Args:
        text: of prompt and answer; only looked at for bad words.
        made: new tokens so far.
        vocab_size: ids at or above it are left out.
    """
    hidden = list(rules.ends) if made < rules.min_new_tokens else []
    for word in rules.bad_words:
        *before, last = word
        if not before or list(text[-len(before) :]) == before:
            hidden.append(last)
    return [token for token in hidden if token < vocab_size]


class Chooser:
    """Chooses the tokens of a row, one after the other.

    Args:
        row: the prompt.
        rules: what holds for it.
    """

    def __init__(self, row: Row, rules: Rules) -> None:
        self.made = 0
        self._row, self._rules = row, rules
        self._random = np.random.default_rng(row.seed)
        self._text = list(row.ids) if rules.bad_words else []
        self._answer: dict[int, int] = {}
        self._seen = np.unique(np.asarray(row.ids, np.int64)) if rules.sampling.penalises else np.empty(0, np.int64)

    def next(self, logits_V: Array) -> Step:
        """Choose the next token by the logits [V] of the model, which are not changed.

        Raises:
            ConfigError: they are not numbers, or the rules allow no token.
        """
        rules, sampling = self._rules, self._rules.sampling
        logits_V = logits_V[: rules.vocab_size]
        values = logits_V
        if sampling.penalises:
            values = penalised(values, sampling, self._answer, self._seen)
        hidden = hidden_ids(rules, self._text, self.made, len(values))
        if hidden:
            values = values.copy() if values is logits_V else values
            values[hidden] = -np.inf
        token = choose(values, sampling, self._random)
        self.made += 1
        ended = token in rules.ends
        if not ended:
            self._note(token, sampling)
        finish: Finish = "stop" if ended else "length" if self.made >= self._row.max_new_tokens else ""
        if rules.logprobs is None:
            return Step(None if ended else token, finish)
        logprobs_V = log_probabilities(logits_V)
        best = likeliest(logprobs_V, rules.logprobs).tolist() if rules.logprobs else []
        top = tuple((place, float(logprobs_V[place])) for place in best)
        return Step(None if ended else token, finish, float(logprobs_V[token]), top)

    def _note(self, token: int, sampling: Sampling) -> None:
        if self._rules.bad_words:
            self._text.append(token)
        if sampling.penalises:
            if token not in self._answer:
                self._seen = np.union1d(self._seen, np.asarray([token]))
            self._answer[token] = self._answer.get(token, 0) + 1
