"""SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): move outliers of activations into the weights that follow them.

A Linear gives the same for x / s and s W, with a factor s for each input feature. Where s is |x|^alpha over
|W|^(1 - alpha) (largest magnitudes of the feature), neither is hard to round.

Shape legend: I in, O out features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.errors import ConfigError

__all__ = ["smoothing"]

_LEAST = 1e-5


def smoothing(
    absmax_I: npt.NDArray[np.floating[Any]], weights: Sequence[npt.NDArray[np.floating[Any]]], alpha: float = 0.5
) -> npt.NDArray[np.float32]:
    """Return the factor s of each input feature, float32 [I], all positive.

    Args:
        absmax_I: largest magnitude of each input feature over the calibration tokens.
        weights: [I, O] of each Linear with this input; they share the factors.
        alpha: how much of the difficulty goes to the weights, 0 to 1.

    Raises:
        ConfigError: alpha is outside 0 to 1, or the activations are not finite.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"--alpha {alpha} is not between 0 and 1", "it shares the range out over both factors", "")
    if not np.isfinite(absmax_I).all():
        raise ConfigError("activations of the calibration data are not finite", "", "look at the model's weights")
    weight_I = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0).astype(np.float64)
    wide_I = absmax_I.astype(np.float64)
    factor_I = np.maximum(wide_I, _LEAST) ** alpha / np.maximum(weight_I, _LEAST) ** (1 - alpha)
    # a feature that is always 0, or that no weight reads, has no range to be shared out
    idle = (wide_I < _LEAST) | (weight_I < _LEAST)
    return np.asarray(np.where(idle, 1.0, np.maximum(factor_I, _LEAST)), np.float32)
