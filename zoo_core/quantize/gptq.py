"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): round one input feature at a time, and let the rest make up for it.

The sum of squared output errors of a Linear is tr(D^T H D), with D = W - Q and H = X^T X over the calibration tokens.
When a row of W (an input feature) is rounded, the rows that are not rounded yet are moved to the minimum of that sum.
Those moves follow from the upper Cholesky factor of the inverse of H, once for all columns of W.

Groups are runs of input features in the order of the weight, each with its own scales, whatever the order of rounding:
with `act_order` the scales of all groups are found before the first row is rounded. A quantised weight is then stored
like any other, and splits over ranks like any other; no permutation goes along.

Shape legend: I in, O out features, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core.errors import ConfigError
from zoo_core.quantization import PER_CHANNEL
from zoo_core.quantized.bits import limits
from zoo_core.quantized.pack import QuantisedWeight, quantise_rtn

__all__ = ["GptqOptions", "gptq", "output_error"]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class GptqOptions:
    """How GPTQ proceeds.

    Args:
        bits: of a weight.
        group_size: input features that share a scale, the last group may be short; -1 is all of them.
        symmetric: there are no zero points.
        act_order: round the input features with the largest activations first.
        percdamp: share of H's mean diagonal that is added to its diagonal.
        block: rows after which the rest of the weight is brought up to date.
    """

    bits: int = 4
    group_size: int = PER_CHANNEL
    symmetric: bool = True
    act_order: bool = False
    percdamp: float = 0.01
    block: int = 128


def _factor(hessian_II: npt.NDArray[np.float64], percdamp: float) -> npt.NDArray[np.float64]:
    """The upper Cholesky factor of the inverse of the damped H.

    Raises:
        ConfigError: H is not finite, or the damping is too small for it.
    """
    damped_II = hessian_II + np.eye(len(hessian_II)) * percdamp * float(np.mean(np.diag(hessian_II)))
    try:
        if not np.isfinite(damped_II).all():
            raise np.linalg.LinAlgError("activations are not finite")
        lower_II = np.linalg.cholesky(damped_II)
        half_II = np.linalg.solve(lower_II, np.eye(len(lower_II)))
        return np.linalg.cholesky(half_II.T @ half_II).T
    except np.linalg.LinAlgError as error:
        raise ConfigError(
            "the calibration data do not determine the weights", str(error), "raise --percdamp, or use more text"
        ) from error


def gptq(weight_IO: Floats, hessian_II: Floats, options: GptqOptions | None = None) -> QuantisedWeight:
    """Return the weight quantised such that the layer's output on the calibration data changes little.

    The scales of a group are those of rounding to nearest, of the weights as they are when its first row is rounded.
    Rows move after that, so symmetric ones may take the least integer too, which rounding to nearest leaves out.

    Args:
        weight_IO: as Paddle has it.
        hessian_II: X^T X over the calibration tokens, times any positive number.
        options: by default 4 bits, no groups, no order, damping 0.01.

    Raises:
        ConfigError: H cannot be inverted.
    """
    options = options or GptqOptions()
    size, out = weight_IO.shape
    group = size if options.group_size == PER_CHANNEL else options.group_size
    low, high = limits(options.bits)
    work_IO, square_II = np.array(weight_IO, np.float64), np.array(hessian_II, np.float64)
    dead = np.diag(square_II) == 0  # a feature that is always 0: its weights change nothing
    square_II[dead, dead] = 1.0
    work_IO[dead] = 0.0
    scales = _Scales(-(-size // group), out, options)
    if options.act_order:
        for number in range(-(-size // group)):
            scales.find(number, work_IO[number * group : (number + 1) * group])
        order = np.argsort(-np.diag(square_II), kind="stable")
    else:
        order = np.arange(size)
    upper_II = _factor(square_II[np.ix_(order, order)], options.percdamp)
    work_IO = work_IO[order]
    q_IO = np.empty((size, out), np.int8)
    for start in range(0, size, options.block):
        stop = min(start + options.block, size)
        errors_bO = np.empty((stop - start, out))
        for i in range(start, stop):
            number, place = divmod(int(order[i]), group)
            if not options.act_order and place == 0:
                rest_gO = work_IO[i : i + group].copy()
                if stop < i + group:  # what lies beyond the block does not know of the block's errors yet
                    rest_gO[stop - i :] -= upper_II[start:i, stop : i + group].T @ errors_bO[: i - start]
                scales.find(number, rest_gO)
            scale_O, zero_O = scales.scale_GO[number].astype(np.float64), scales.zero_GO[number]
            row_O = np.clip(np.rint(work_IO[i] / scale_O) + zero_O, low, high)
            q_IO[order[i]] = row_O
            error_O = (work_IO[i] - scale_O * (row_O - zero_O)) / upper_II[i, i]
            work_IO[i + 1 : stop] -= np.outer(upper_II[i, i + 1 : stop], error_O)
            errors_bO[i - start] = error_O
        work_IO[stop:] -= upper_II[start:stop, stop:].T @ errors_bO
    zero_GO = None if options.symmetric else scales.zero_GO.astype(np.int8)
    return QuantisedWeight(q_IO, scales.scale_GO, options.group_size, zero_GO)


class _Scales:
    """The scales and zero points of the groups, found one group at a time."""

    def __init__(self, groups: int, out: int, options: GptqOptions) -> None:
        self.scale_GO, self.zero_GO = np.ones((groups, out), np.float32), np.zeros((groups, out))
        self._bits, self._symmetric = options.bits, options.symmetric

    def find(self, number: int, weight_gO: Floats) -> None:
        """Those of rounding these rows to nearest."""
        _, scale_1O, zero_1O = quantise_rtn(weight_gO.astype(np.float32), self._bits, PER_CHANNEL, self._symmetric)
        self.scale_GO[number] = scale_1O[0]
        if zero_1O is not None:
            self.zero_GO[number] = zero_1O[0]


def output_error(weight_IO: Floats, quantised_IO: Floats, hessian_II: Floats) -> float:
    """The root mean square of the layer's output error on the calibration data, over that of its output.

    Args:
        hessian_II: X^T X over the calibration tokens, times any positive number.
    """
    wide_IO, change_IO = np.asarray(weight_IO, np.float64), np.asarray(weight_IO, np.float64) - quantised_IO
    error = float(np.einsum("io,io->", change_IO, hessian_II @ change_IO))
    whole = float(np.einsum("io,io->", wide_IO, hessian_II @ wide_IO))
    return float(np.sqrt(max(error, 0.0) / whole)) if whole > 0 else 0.0
