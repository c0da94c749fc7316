"""Whether exported programs are the model: its logits and its greedy tokens, for each of them. No paddle.

Shape legend: B rows, S tokens of a prompt, K columns so far, T passes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from zoo_core.errors import ConfigError
from zoo_core.export.spec import Exported
from zoo_core.generate.pool import Passes
from zoo_core.quantization import QuantSpec

__all__ = ["Wanted", "compare", "prompts_for", "tolerance_of", "wanted_of"]

Array = np.ndarray[Any, Any]

_EXACT, _COARSE = 1e-5, 2e-2

_STEPS = 3
"""Tokens that follow each prompt."""


def tolerance_of(dtype: str, integers: QuantSpec | None) -> float:
    """How far a logit may be off, as a part of the largest one (or of 1).

    Half precision rounds to 8 or 11 bits, and w8a8 rounds activations to 8: a value that is off in the last bit of
    float32 may become the next integer, and all that follows differs by as much as rounding does. The model itself does
    so when its weights change in their last bits.
    """
    return _EXACT if dtype == "float32" and (integers is None or integers.method != "w8a8") else _COARSE


class Wanted:
    """What the dygraph model makes of some prompts: its logits, pass by pass, and the tokens it chooses.

    Args:
        prompts: ids, at least one each.
        logits_TBV: float32.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], logits_TBV: Array) -> None:
        self.prompts, self.logits_TBV = prompts, logits_TBV
        self.tokens_TB = logits_TBV.argmax(axis=-1)


def prompts_for(spec: Exported, vocab_size: int, texts: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    """Yield batches of prompts such that every program is run: for each prompt length B random ones, first of it.

    Args:
        texts: prompts of real text, which have the family's special tokens; they come first, if they fit.
    """
    random = np.random.default_rng(0)
    most = max(1, spec.max_length - 1 - _STEPS)
    fitting = [list(ids)[:most] for ids in texts if ids]
    if fitting:
        yield [fitting[row % len(fitting)] for row in range(spec.batch_size)]
    for size in spec.prefill:
        longest = min(size, most)
        lengths = [max(1, longest - 3 * row) for row in range(spec.batch_size)]
        yield [random.integers(0, vocab_size, length).tolist() for length in lengths]


def wanted_of(passes: Passes, prompts: Sequence[Sequence[int]], spec: Exported) -> Wanted:
    """Let the dygraph model read prompts, and go on from each by its likeliest tokens."""
    return Wanted(prompts, _follow(passes, prompts, spec, lambda _, logits_BV: logits_BV.argmax(axis=-1)))


def _follow(
    passes: Passes, prompts: Sequence[Sequence[int]], spec: Exported, choose: Callable[[int, Array], Array]
) -> Array:
    """Return the logits [T, B, V] of a prompt's pass and of those behind it."""
    S, B = max(map(len, prompts)), len(prompts)
    ids_BS, mask_BK = np.zeros((B, S), np.int64), np.zeros((B, S), np.int64)
    for row, ids in enumerate(prompts):
        ids_BS[row, S - len(ids) :], mask_BK[row, S - len(ids) :] = ids, 1
    positions_BS = np.maximum(mask_BK.cumsum(axis=1) - 1, 0)
    cache = passes.cache(B, min(S + _STEPS, spec.max_length))
    found = [passes.read(cache, ids_BS, mask_BK, positions_BS)]
    for step in range(min(_STEPS, spec.max_length - 1 - S)):
        ids_B1 = choose(step, found[-1])[:, None].astype(np.int64)
        positions_BS = positions_BS[:, -1:] + 1
        mask_BK = np.concatenate([mask_BK, np.ones((B, 1), np.int64)], axis=1)
        found.append(passes.read(cache, ids_B1, mask_BK, positions_BS))
    return np.stack(found)


def compare(
    way: str, passes: Passes, wanted: Sequence[Wanted], spec: Exported, tolerance: float = _EXACT
) -> Mapping[str, float]:
    """Compare what programs give with what the model gave; returns the largest difference, and what it is a part of.

    Args:
        way: how the programs are run, for the message.
        tolerance: see `tolerance_of`.

    Raises:
        ConfigError: a logit is further off than it may be, or another token would be chosen.
    """
    worst, largest, tokens = 0.0, 0.0, 0
    for one in wanted:
        found_TBV = _follow(passes, one.prompts, spec, lambda step, _, one=one: one.tokens_TB[step])  # type: ignore[misc]
        off = float(np.abs(found_TBV - one.logits_TBV).max())
        scale = max(1.0, float(np.abs(one.logits_TBV).max()))
        allowed = tolerance * scale
        where = f"by {way}, after prompts of {', '.join(str(len(ids)) for ids in one.prompts)} tokens"
        if not off <= allowed:  # a NaN is no number that is small enough
            raise ConfigError(
                "the exported programs are not the model",
                f"{where}, a logit differs by {off:.1e}; {allowed:.1e} is allowed",
                "this is a defect of zoo or of Paddle: report it; run the model without exporting it",
            )  # fmt: skip
        chosen_TB = found_TBV.argmax(axis=-1)
        best_TB, other_TB = (np.take_along_axis(one.logits_TBV, at[..., None], -1) for at in (one.tokens_TB, chosen_TB))
        # Another token of (within what is allowed) the same logit is as good.
        if float((best_TB - other_TB).max()) > 2 * off:
            raise ConfigError(
                "the exported programs are not the model", f"{where}, another token is chosen", "report it"
            )
        worst, largest, tokens = max(worst, off), max(largest, scale), tokens + chosen_TB.size
    return {"difference": worst, "largest_logit": largest, "tokens": tokens}
