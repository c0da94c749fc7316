"""From logits to probabilities to the next token. No paddle.

Logits are changed in this order, which is that of transformers: repetition penalty, presence and frequency penalty,
temperature, top-k, top-p, min-p.

Shape legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_core.errors import ConfigError

__all__ = ["Sampling", "choose", "likeliest", "log_probabilities", "no_numbers", "penalised", "probabilities"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: logits are divided by it; 0 always takes the most likely token.
        top_k: only this many of the most likely tokens; 0 is all.
        top_p: only the fewest most likely tokens that together have at least this probability (Holtzman et al.,
            "The Curious Case of Neural Text Degeneration", 2020); it looks at what `top_k` has left.
        min_p: only tokens of at least this share of the most likely one's probability (Nguyen et al. 2024, arXiv
            2407.01082); 0 is all.
        repetition_penalty: logits of tokens in the prompt or the answer are divided by it where they are above 0, else
            multiplied (Keskar et al. 2019, arXiv 1909.05858, section 4.1).
        presence_penalty: taken from the logits of tokens in the answer.
        frequency_penalty: likewise, as many times as they are in it.

    Raises:
        ConfigError: a value out of its range; names it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", 0.0 <= self.temperature < np.inf, "0 (greedy) or above"),
            ("top_k", self.top_k >= 0, "0 (all) or above"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "0 (all) or above, at most 1"),
            ("repetition_penalty", 0.0 < self.repetition_penalty < np.inf, "above 0; 1 is none"),
            ("presence_penalty", abs(self.presence_penalty) < np.inf, "a number; 0 is none"),
            ("frequency_penalty", abs(self.frequency_penalty) < np.inf, "a number; 0 is none"),
        ):
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"it has to be {wanted}")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken, so that no random number is drawn."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def penalises(self) -> bool:
        """Whether the tokens so far matter."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


def penalised(logits_V: Array, sampling: Sampling, answer: Mapping[int, int], seen: Array) -> Array:
    """Return logits with penalties, float64 [V].

    Args:
        answer: token -> how often it is in the answer.
        seen: ids, each once, of the prompt and the answer.
    """
    values = np.array(logits_V, np.float64)
    if sampling.repetition_penalty != 1.0:
        seen = seen[seen < len(values)]
        found = values[seen]
        values[seen] = np.where(found > 0, found / sampling.repetition_penalty, found * sampling.repetition_penalty)
    if answer and (sampling.presence_penalty or sampling.frequency_penalty):
        ids = np.fromiter(answer, np.int64, len(answer))
        counts = np.fromiter(answer.values(), np.int64, len(answer))
        values[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return values


def log_probabilities(logits_V: Array) -> Array:
    """Return the log of the softmax, float64 [V]."""
    values = np.asarray(logits_V, np.float64)
    values = values - values.max()
    return np.asarray(values - np.log(np.exp(values).sum()))


def likeliest(values: Array, count: int) -> Array:
    """The ids of the `count` highest, highest first; of equals the lower id comes first."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    bound = np.partition(values, len(values) - count)[len(values) - count]
    above, level = np.flatnonzero(values > bound), np.flatnonzero(values == bound)
    ids = np.concatenate([above, level[: count - len(above)]])
    ids.sort()
    return np.asarray(ids[np.argsort(-values[ids], kind="stable")])


def _nucleus(chances: Array, top_p: float) -> Array:
    """The fewest likeliest places that together have `top_p`; a few are sorted at a time, for most often few do."""
    count = 256
    while True:
        kept = likeliest(chances, count)
        before = np.cumsum(chances[kept]) - chances[kept]
        # A token is kept while the more likely ones before it do not reach top_p, so the first always is.
        inside = before < top_p
        if not inside[-1] or count >= len(chances):
            return np.asarray(kept[inside])
        count *= 8


def probabilities(logits_V: Array, sampling: Sampling) -> Array:
    """Return what is drawn from, float64 [V], summing to 1; of equal logits the lower id comes first.

    Penalties are not looked at, see `penalised`.

    Raises:
        ConfigError: the logits hold a NaN, as those of a model whose training diverged, or allow no token at all.
    """
    values = np.asarray(logits_V, np.float64)
    best = int(np.argmax(values))  # the first of equals, or the first NaN
    if not np.isfinite(values[best]):
        raise no_numbers()
    if sampling.is_greedy:
        return (np.arange(len(values)) == best).astype(np.float64)
    kept = likeliest(values, sampling.top_k) if 0 < sampling.top_k < len(values) else np.arange(len(values))
    scaled = np.exp((values[kept] - values[best]) / sampling.temperature)
    scaled /= scaled.sum()
    if sampling.top_p < 1.0:
        # positions in `kept` stand in the order of ids among equals, so the order of equals stays
        inside = _nucleus(scaled, sampling.top_p)
        kept, scaled = kept[inside], scaled[inside]
    if sampling.min_p > 0.0:
        inside = scaled >= sampling.min_p * scaled.max()
        kept, scaled = kept[inside], scaled[inside]
    found = np.zeros(len(values))
    found[kept] = scaled / scaled.sum()
    return found


def no_numbers() -> ConfigError:
    """Return the error of logits that are not numbers."""
    return ConfigError("the model's logits are not numbers", "its weights hold NaN or infinity", "use another one")


def choose(logits_V: Array, sampling: Sampling, random: np.random.Generator) -> int:
    """Return the id of the next token; draws one number from `random` unless the choice is greedy.

    Raises:
        ConfigError: as `probabilities`.
    """
    if sampling.is_greedy:
        best = int(np.argmax(logits_V))
        if not np.isfinite(logits_V[best]):
            raise no_numbers()
        return best
    chances = probabilities(logits_V, sampling)
    total = np.cumsum(chances)
    # The last sum may fall short of 1 by rounding: what is drawn is scaled to it.
    return int(np.searchsorted(total, random.random() * total[-1], side="right"))
