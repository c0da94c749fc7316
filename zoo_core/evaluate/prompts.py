"""How multiple-choice questions are written down for a model that continues text. No paddle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo_core.evaluate.questions import LETTERS, Question

__all__ = ["STYLES", "Style", "prompt"]


@dataclass(frozen=True)
class Style:
    """The words around questions.

    Args:
        instruction: stands first; `{subject}` in it becomes the subject.
        asks: stands before the answer.
        gap: between the two.
    """

    instruction: str
    asks: str
    gap: str

    @staticmethod
    def ceval() -> Style:
        """C-Eval's own, in Chinese."""
        return Style("以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n", "答案：", "")

    @staticmethod
    def mmlu() -> Style:
        """MMLU's own, in English."""
        first = "The following are multiple choice questions (with answers) about {subject}.\n\n"
        return Style(first, "Answer:", " ")


STYLES = {"ceval": Style.ceval, "mmlu": Style.mmlu}


def prompt(style: Style, subject: str, question: Question, examples: Sequence[Question], by: str) -> str:
    """Return the text up to where the answer begins.

    Args:
        subject: as the files have it; its underscores become spaces.
        examples: with answers, before the question.
        by: "letter" lists the choices; "text" does not, and examples answer with the choice's text.
    """
    first = style.instruction.replace("{subject}", subject.replace("_", " "))
    shown = "".join(f"{_asked(style, one, by)}{style.gap}{_answer(one, by)}\n\n" for one in examples)
    return first + shown + _asked(style, question, by)


def _asked(style: Style, question: Question, by: str) -> str:
    choices = "".join(f"\n{LETTERS[n]}. {text}" for n, text in enumerate(question.choices)) if by == "letter" else ""
    return f"{question.text}{choices}\n{style.asks}"


def _answer(question: Question, by: str) -> str:
    number = question.answer or 0
    return LETTERS[number] if by == "letter" else question.choices[number]
