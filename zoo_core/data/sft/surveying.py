"""A look at every line before training: how long the samples are, what was cut, which lines are bad."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from zoo_core.data.sft.conversation import parse_line
from zoo_core.data.sft.encoder import Encoded, Encoder
from zoo_core.data.sft.lines import BadLine, Lines

__all__ = ["Survey", "encoded_line", "survey"]

Counts = npt.NDArray[np.int32]
_COLUMNS = ("lengths", "learned", "source_cut", "answer_cut")


@dataclass(frozen=True)
class Survey:
    """What every line of a part came to.

    Args:
        lengths: tokens that the model reads of each line's sample: one less than it has, as the last is only learned;
            0 for a line that is left out.
        learned: of its tokens, how many bear a loss.
        source_cut, answer_cut: how many were cut off.
        bad: what was wrong with the lines that are left out, in their order.
        equal: where pairs are whose two answers are the same, as they are read.
    """

    lengths: Counts
    learned: Counts
    source_cut: Counts
    answer_cut: Counts
    bad: tuple[str, ...] = field(default=())
    equal: tuple[str, ...] = field(default=())

    @property
    def samples(self) -> npt.NDArray[np.int64]:
        """The lines that are samples."""
        return np.flatnonzero(self.lengths)

    def to_text(self) -> str:
        """Return it as text, for other processes."""
        columns = [base64.b64encode(getattr(self, name).tobytes()).decode() for name in _COLUMNS]
        return json.dumps([columns, self.bad, self.equal])

    @classmethod
    def from_texts(cls, texts: Sequence[str]) -> Survey:
        """Put together what `to_text` gave of consecutive runs of lines."""
        parts = [json.loads(text) for text in texts]
        lengths, learned, source_cut, answer_cut = (
            np.concatenate([np.frombuffer(base64.b64decode(part[0][number]), np.int32) for part in parts])
            for number in range(len(_COLUMNS))
        )
        bad, equal = (tuple(line for part in parts for line in part[at]) for at in (1, 2))
        return cls(lengths, learned, source_cut, answer_cut, bad, equal)


def encoded_line(lines: Lines, line: int, encoder: Encoder) -> Encoded:
    """Return the sample of a line.

    Raises:
        BadLine: it is none.
    """
    place = lines.place(line)
    return encoder.encode(parse_line(lines.read(line), place), place)


def survey(lines: Lines, encoder: Encoder, first: int, last: int, skip_bad: bool) -> Survey:
    """Look at the lines from `first` to before `last`.

    Args:
        skip_bad: leave bad lines out, instead of stopping at the first.

    Raises:
        BadLine: a line is bad, and none may be.
    """
    columns = np.zeros((len(_COLUMNS), last - first), np.int32)
    bad: list[str] = []
    for number, line in enumerate(range(first, last)):
        try:
            found = encoded_line(lines, line, encoder)
        except BadLine as error:
            if not skip_bad:
                raise
            bad.append(f"{error.what} ({error.why})" if error.why else error.what)
            continue
        columns[:, number] = len(found.ids) - 1, found.learned, found.source_cut, found.answer_cut
    return Survey(columns[0], columns[1], columns[2], columns[3], tuple(bad))
