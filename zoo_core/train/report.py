"""What is said of the data before training begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo_core._counting import many
from zoo_core.data.sft import Encoder, Lines, Survey, TuningSet

__all__ = ["Part", "data_report", "pairs_report"]


@dataclass(frozen=True)
class Part:
    """A part of the data: its name, its lines, and what became of them."""

    name: str
    lines: Lines
    survey: Survey


def data_report(parts: Sequence[Part], encoder: Encoder, packed: TuningSet | None, room: int) -> str:
    """Return a few lines: samples, tokens, what was cut and left out, and how full packed rows are.

    Args:
        packed: the packed training part.
        room: tokens of a packed row.
    """
    lines = []
    for part in parts:
        survey, samples = part.survey, part.survey.samples
        lengths = survey.lengths[samples]
        lines.append(
            f"{part.name:<11}{_files(part)}: {many(len(samples), 'sample')}, {many(int(lengths.sum()), 'token')}, "
            f"{int(survey.learned.sum()):,} of them of answers; longest {int(lengths.max()):,}"
        )
        lines += _losses(part, ("source", "answer"))
    if packed is not None:
        used = float(packed.lengths.mean()) / room
        each = len(parts[0].survey.samples) / len(packed)
        rows = f"{many(len(packed), 'row')} of {many(room, 'token')}"
        lines.append(f"{'packed':<11}{rows}, {100 * used:.1f}% full, {each:.1f} samples each")
    lines.append(f"{'form':<11}{_form(encoder)}")
    return "\n".join(lines)


def pairs_report(parts: Sequence[Part], encoder: Encoder) -> str:
    """Return a few lines: pairs, tokens of their answers, what was cut and left out."""
    lines = []
    for part in parts:
        survey, samples = part.survey, part.survey.samples
        lines.append(
            f"{part.name:<11}{_files(part)}: {many(len(samples), 'pair')}, "
            f"{many(int(survey.learned.sum()), 'token')} of answers; "
            f"longest with its prompt {int(survey.lengths.max()):,}"
        )
        lines += _losses(part, ("prompt", "pair of answers"))
        if survey.equal:
            lines.append(
                f"{'':<11}warning: {many(len(survey.equal), 'pair')} of answers that are the same, of which nothing is "
                f"learned; the first is {survey.equal[0]}"
            )
    form = "the tokenizer's chat form" if encoder.form == "chat" else _form(encoder).partition(";")[0]
    lines.append(f"{'form':<11}{form}")
    return "\n".join(lines)


def _files(part: Part) -> str:
    return ", ".join(map(str, part.lines.files[:2])) + (" ..." if len(part.lines.files) > 2 else "")


def _losses(part: Part, names: tuple[str, str]) -> list[str]:
    """What was cut off sources and answers, as `names` call them, and which lines were left out."""
    survey, lines = part.survey, []
    for name, cut in zip(names, (survey.source_cut, survey.answer_cut), strict=True):
        which = np.flatnonzero(cut)
        if len(which):
            lines.append(
                f"{'':<11}truncated: {many(len(which), name)}, by {many(int(cut.sum()), 'token')} in all; "
                f"the first is {part.lines.place(int(which[0]))}"
            )
    if survey.bad:
        lines.append(f"{'':<11}left out: {many(len(survey.bad), 'line')}; the first: {survey.bad[0]}")
    return lines


def _form(encoder: Encoder) -> str:
    if encoder.form == "chat":
        return "the tokenizer's chat form; answers alone are learned"
    why = f" ({encoder.why_plain})" if encoder.why_plain else ""
    return f"source, target, end of text, without a chat template{why}; targets alone are learned"
