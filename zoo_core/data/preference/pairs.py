"""Pairs as rows of micro batches: the chosen samples first, the rejected ones after them in the same order.

Shape legend: B pairs of a micro batch, S tokens of the longest row of a step.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from zoo_core.data.preference.encoding import EncodedPair, PairEncoder
from zoo_core.data.preference.record import parse_pair
from zoo_core.data.sampler import MicroBatch
from zoo_core.data.sft import BadLine, Encoded, Lines, Survey, TuningSet

__all__ = ["PairSet", "survey_pairs"]

_REMEMBERED = 512


class PairSet(TuningSet):
    """The pairs of a part.

    Args:
        lines, encoder: where pairs come from.
        survey: of all lines, see `survey_pairs`.
        multiple: rows are filled up to a multiple of this.
    """

    def __init__(self, lines: Lines, encoder: PairEncoder, survey: Survey, multiple: int = 1) -> None:
        super().__init__(lines, encoder.whole, survey, None, multiple)
        self._pairs, self._lines_of = encoder, survey.samples
        self._seen: OrderedDict[int, EncodedPair] = OrderedDict()

    def row(self, number: int) -> list[Encoded]:
        """Return the chosen sample of pair `number // 2`, or the rejected one where the number is odd."""
        pair = self._pair(int(self._lines_of[number // 2]))
        return [pair.rejected if number % 2 else pair.chosen]

    def _pair(self, line: int) -> EncodedPair:
        found = self._seen.pop(line, None) or _encoded(self._lines, line, self._pairs)
        self._seen[line] = found
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return found

    def collate(self, rows: npt.NDArray[np.int64], width: int) -> MicroBatch:
        """Return a micro batch of these pairs [B], as `TuningSet.collate` has it; int64 [2B, S] each."""
        both = np.concatenate([2 * rows, 2 * rows + 1])
        return super().collate(np.where(np.tile(rows, 2) < 0, -1, both), width)


def _encoded(lines: Lines, line: int, encoder: PairEncoder) -> EncodedPair:
    place = lines.place(line)
    return encoder.encode(parse_pair(lines.read(line), place), place)


def survey_pairs(lines: Lines, encoder: PairEncoder, first: int, last: int, skip_bad: bool) -> Survey:
    """Look at the lines from `first` to before `last`; a length is that of the longer sample, the rest of both.

    Args:
        skip_bad: leave bad lines out, instead of stopping at the first.

    Raises:
        BadLine: a line is bad, and none may be.
    """
    columns = np.zeros((4, last - first), np.int32)
    bad: list[str] = []
    equal: list[str] = []
    for number, line in enumerate(range(first, last)):
        try:
            pair = _encoded(lines, line, encoder)
        except BadLine as error:
            if not skip_bad:
                raise
            bad.append(f"{error.what} ({error.why})" if error.why else error.what)
            continue
        both = (pair.chosen, pair.rejected)
        if pair.chosen.ids == pair.rejected.ids:
            equal.append(lines.place(line))
        learned, cut = (sum(sample.learned for sample in both), sum(sample.answer_cut for sample in both))
        columns[:, number] = pair.longest - 1, learned, pair.chosen.source_cut, cut
    return Survey(columns[0], columns[1], columns[2], columns[3], tuple(bad), tuple(equal))
