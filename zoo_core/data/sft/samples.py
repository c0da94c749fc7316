"""Rows of one or more samples, and micro batches of rows.

Shape legend: B rows, S tokens of the longest row of a step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from zoo_core.data.sampler import IGNORED_LABEL, MicroBatch
from zoo_core.data.sft.encoder import Encoded, Encoder
from zoo_core.data.sft.lines import Lines
from zoo_core.data.sft.packing import Rows
from zoo_core.data.sft.surveying import Survey, encoded_line

__all__ = ["TuningSet"]

_REMEMBERED = 512


class TuningSet:
    """The samples of a part, by row.

    Lines are read and encoded when they are asked for; a few hundred are remembered.

    Args:
        lines, encoder: where samples come from.
        survey: of all lines.
        packed: rows of several samples; `None` for a row for each sample.
        multiple: rows are filled up to a multiple of this.
        fixed: rows are filled up to this; 0 fills up to the longest of those that go together.
    """

    def __init__(
        self,
        lines: Lines,
        encoder: Encoder,
        survey: Survey,
        packed: Rows | None = None,
        multiple: int = 1,
        fixed: int = 0,
    ) -> None:
        self._lines, self._encoder, self._packed = lines, encoder, packed
        self._samples, self._multiple, self._fixed = survey.samples, multiple, fixed
        self.lengths: npt.NDArray[np.int64] = (
            survey.lengths[self._samples].astype(np.int64) if packed is None else packed.lengths
        )
        self._known: OrderedDict[int, Encoded] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def row(self, number: int) -> list[Encoded]:
        """Return the samples of a row."""
        lines = self._samples[number : number + 1] if self._packed is None else self._packed[number]
        return [self._sample(int(line)) for line in lines]

    def _sample(self, line: int) -> Encoded:
        found = self._known.pop(line, None) or encoded_line(self._lines, line, self._encoder)
        self._known[line] = found
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return found

    def width(self, rows: npt.NDArray[np.int64]) -> int:
        """Return S for micro batches that hold these rows between them; -1 stands for no row."""
        real = rows[rows >= 0]
        longest = max(self._fixed, int(self.lengths[real].max()) if real.size else 1)
        return -(-longest // self._multiple) * self._multiple

    def collate(self, rows: npt.NDArray[np.int64], width: int) -> MicroBatch:
        """Return a micro batch of these rows [B], int64 [B, S] each: ids, labels, and what tells samples apart.

        Every sample gives its ids but the last, and as labels the ids one further on where they belong to an answer.
        Rows are filled up on the right, which `attention_mask` says where it happens. Packed rows have `segment_ids`,
        and `position_ids` that begin at 0 in each sample. A row of -1 is filling that bears no labels.
        """
        shape = (len(rows), width)
        ids_BS, labels_BS = (np.full(shape, value, np.int64) for value in (self._encoder.filler, IGNORED_LABEL))
        mask_BS, segment_BS, position_BS = (np.zeros(shape, np.int64) for _ in range(3))
        for at, row in enumerate(rows.tolist()):
            if row < 0:
                mask_BS[at], position_BS[at] = 1, np.arange(width)
                continue
            samples = self.row(row)
            bounds = np.cumsum([0, *(len(sample.ids) - 1 for sample in samples)]).tolist()
            for number, ((start, stop), sample) in enumerate(zip(pairwise(bounds), samples, strict=True)):
                ids_BS[at, start:stop] = sample.ids[:-1]
                position_BS[at, start:stop] = np.arange(stop - start)
                segment_BS[at, start:stop] = number
                for first, last in sample.answers:
                    labels_BS[at, start + first - 1 : start + last - 1] = sample.ids[first:last]
            mask_BS[at, : bounds[-1]] = 1
            segment_BS[at, bounds[-1] :] = len(samples)
            position_BS[at, bounds[-1] :] = np.arange(width - bounds[-1])
        fields = {"input_ids": ids_BS, "labels": labels_BS}
        if not mask_BS.all():
            fields["attention_mask"] = mask_BS
        if self._packed is not None:
            fields |= {"segment_ids": segment_BS, "position_ids": position_BS}
        return fields

    def micro_batches(
        self, rows: Sequence[npt.NDArray[np.int64]], together: npt.NDArray[np.int64] | None = None
    ) -> list[MicroBatch]:
        """Return a micro batch for each of `rows`, all of one width: that of all rows, or of those in `together`."""
        width = self.width(np.concatenate(list(rows)) if together is None else together)
        return [self.collate(row, width) for row in rows]
