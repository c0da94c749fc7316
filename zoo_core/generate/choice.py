"""From logits to the next token. No paddle.

Shape legend: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_core.errors import ConfigError

__all__ = ["Sampling", "choose", "probabilities"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: logits are divided by it; 0 always takes the most likely token.
        top_k: only this many of the most likely tokens; 0 is all.
        top_p: only the fewest most likely tokens that together have at least this probability (Holtzman et al.,
            "The Curious Case of Neural Text Degeneration", 2020); it looks at what `top_k` has left.

    Raises:
        ConfigError: a value out of its range; names it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", 0.0 <= self.temperature < np.inf, "0 (greedy) or above"),
            ("top_k", self.top_k >= 0, "0 (all) or above"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
        ):
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"it has to be {wanted}")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken, so that no random number is drawn."""
        return self.temperature == 0.0 or self.top_k == 1


def probabilities(logits_V: Array, sampling: Sampling) -> Array:
    """Return what is drawn from, float64 [V], summing to 1; of equal logits the lower id comes first.

    Raises:
        ConfigError: the logits hold a NaN, as those of a model whose training diverged.
    """
    values = np.asarray(logits_V, np.float64)
    if np.isnan(values).any():
        raise _no_numbers()
    order = np.argsort(-values, kind="stable")
    if sampling.is_greedy:
        return (np.arange(len(values)) == order[0]).astype(np.float64)
    kept = order[: sampling.top_k or None]
    scaled = np.exp((values[kept] - values[kept[0]]) / sampling.temperature)
    scaled /= scaled.sum()
    # A token is kept while the more likely ones before it do not reach top_p, so the first always is.
    before = np.cumsum(scaled) - scaled
    scaled[before >= sampling.top_p] = 0.0
    found = np.zeros(len(values))
    found[kept] = scaled / scaled.sum()
    return found


def _no_numbers() -> ConfigError:
    return ConfigError("the model's logits are not numbers", "its weights hold NaN or infinity", "use another one")


def choose(logits_V: Array, sampling: Sampling, random: np.random.Generator) -> int:
    """Return the id of the next token; draws one number from `random` unless the choice is greedy."""
    if sampling.is_greedy:
        best = int(np.argmax(logits_V))  # the first of equals, or the first NaN
        if np.isnan(logits_V[best]):
            raise _no_numbers()
        return best
    chances = probabilities(logits_V, sampling)
    total = np.cumsum(chances)
    # The last sum may fall short of 1 by rounding: what is drawn is scaled to it.
    return int(np.searchsorted(total, random.random() * total[-1], side="right"))
