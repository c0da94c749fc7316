"""The decoding loop: a prompt once, then token after token against a cache. No paddle.

Shape legend: S tokens of a pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from zoo_core.generate.choice import Sampling, choose

__all__ = ["Logits", "decode"]

Logits = Callable[[Sequence[int]], "np.ndarray[Any, Any]"]
"""Takes the ids that follow those it was given before, and returns the logits [V] after the last one."""


def decode(
    logits: Logits,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    ends: Collection[int] = (),
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield new tokens, at most `max_new_tokens`, up to one of `ends`, which is not yielded.

    Args:
        logits: the model with its cache.
        prompt: ids, at least one.
        seed: of the draws; the same seed gives the same tokens.
        ends: ids that end the text.
        vocab_size: ids at or above it are never chosen, for a model's vocabulary may be padded beyond its tokenizer's.

    Raises:
        ValueError: the prompt is empty.
    """
    if not prompt:
        raise ValueError("a prompt has at least one token")
    random = np.random.default_rng(seed)
    following = list(prompt)
    for _ in range(max_new_tokens):
        token = choose(logits(following)[:vocab_size], sampling, random)
        if token in ends:
            return
        yield token
        following = [token]
