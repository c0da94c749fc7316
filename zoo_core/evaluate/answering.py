"""Multiple choice: which answer a model holds the most probable, by subject.

By letter, as C-Eval and MMLU do (Huang et al. 2023; Hendrycks et al. 2021): the prompt lists the choices, and the next
token's probability is compared over the letters. By text: the prompt has the question alone, and the log-probability of
each choice's text is compared, as it is (acc) and divided by its number of characters (acc_norm), as
lm-evaluation-harness has them. Answered examples stand before the question, the same for a whole subject; where they
do not fit the context, fewer do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluate.encoding import pair_ids
from zoo_core.evaluate.prompts import Style, prompt
from zoo_core.evaluate.questions import LETTERS, Question, QuestionSet
from zoo_core.generate.model import TextModel
from zoo_core.generate.scoring import Scores, score_rows

__all__ = ["Answer", "ChoiceReport", "SubjectResult", "answer_questions"]

By = Literal["letter", "text"]


@dataclass(frozen=True)
class Answer:
    """What the model said to a question.

    Args:
        question: its id.
        chosen: number of the choice.
        normalized: number of the choice by `acc_norm`; by letter the same.
        right: the right one, or `None` where that is not known.
        shots: examples that stood before it.
        cut: its prompt did not fit the context even so; the first tokens were left out.
        logprobs: of each choice, in nats.
    """

    question: str
    chosen: int
    normalized: int
    right: int | None
    shots: int
    cut: bool
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class SubjectResult:
    """The answers to the questions of a subject."""

    subject: str
    answers: tuple[Answer, ...]

    @property
    def graded(self) -> int:
        """How many have a known answer."""
        return sum(answer.right is not None for answer in self.answers)

    @property
    def right(self) -> int:
        """How many were right."""
        return sum(answer.chosen == answer.right for answer in self.answers)

    @property
    def right_normalized(self) -> int:
        """How many were right by `acc_norm`."""
        return sum(answer.normalized == answer.right for answer in self.answers)


@dataclass(frozen=True)
class ChoiceReport:
    """The results of all subjects.

    Args:
        by: what was compared.
        subjects: in order of name.
    """

    by: By
    subjects: tuple[SubjectResult, ...]

    @property
    def all(self) -> SubjectResult:
        """All subjects as one: every question counts alike."""
        return SubjectResult("all", tuple(answer for result in self.subjects for answer in result.answers))

    def submission(self) -> dict[str, dict[str, str]]:
        """Return the predictions as C-Eval's site takes them: {subject: {id: letter}}."""
        return {
            result.subject: {answer.question: LETTERS[answer.chosen] for answer in result.answers}
            for result in self.subjects
        }

    def as_json(self) -> dict[str, Any]:
        """Return counts and accuracies, by subject, over all questions, and as the mean of the subjects."""
        rows = {result.subject: _rates(result, self.by) for result in self.subjects}
        graded = [row for row in rows.values() if row["graded"]]
        names = ["acc", "acc_norm"] if self.by == "text" else ["acc"]
        mean = {name: float(np.mean([row[name] for row in graded])) if graded else None for name in names}
        return {"by": self.by, "all": _rates(self.all, self.by), "mean_of_subjects": mean, "subjects": rows}


def _rates(result: SubjectResult, by: By) -> dict[str, Any]:
    graded = result.graded
    found: dict[str, Any] = {
        "questions": len(result.answers),
        "graded": graded,
        "acc": result.right / graded if graded else None,
    }
    if by == "text":
        found["acc_norm"] = result.right_normalized / graded if graded else None
    shots = [answer.shots for answer in result.answers] or [0]
    found["least_shots"], found["most_shots"] = min(shots), max(shots)
    found["cut"] = sum(answer.cut for answer in result.answers)
    return found


@dataclass(frozen=True)
class _Asked:
    """A question as the model is asked it: a row for each choice, or one for all where their letters are one token."""

    rows: list[list[int]]
    firsts: list[int]
    letters: tuple[int, ...]
    shots: int
    cut: bool


def answer_questions(
    model: TextModel,
    sets: Sequence[QuestionSet],
    *,
    by: By = "letter",
    shots: int = 5,
    style: Style | None = None,
    batch_size: int = 8,
    progress: Callable[[int], object] | None = None,
) -> ChoiceReport:
    """Answer all questions.

    Args:
        by: compare the letters' probabilities, or the texts'.
        shots: examples before each question; a subject that has fewer gives all of its own.
        style: how prompts are written; by default C-Eval's.
        batch_size: rows of a pass.
        progress: called with the number of questions answered since the last call.

    Raises:
        DataError: there are no questions.
        ConfigError: the tokenizer is not the model's, or the model's logits are no numbers.
    """
    if not any(entry.questions for entry in sets):
        raise DataError("there are no questions", "", "name other data")
    chosen = style or Style.ceval()
    results = []
    for entry in sets:
        answers: list[Answer] = []
        for start in range(0, len(entry.questions), 4 * batch_size):
            part = entry.questions[start : start + 4 * batch_size]
            answers += _answer(model, entry, part, by, shots, chosen, batch_size)
            if progress is not None:
                progress(len(part))
        results.append(SubjectResult(entry.subject, tuple(answers)))
    return ChoiceReport(by, tuple(results))


def _answer(
    model: TextModel,
    entry: QuestionSet,
    questions: Sequence[Question],
    by: By,
    shots: int,
    style: Style,
    batch_size: int,
) -> list[Answer]:
    asked = [_ask(model, entry, question, by, shots, style) for question in questions]
    among = sorted({letter for one in asked for letter in one.letters})
    rows, firsts = [row for one in asked for row in one.rows], [first for one in asked for first in one.firsts]
    if max(map(max, rows)) >= model.config.vocab_size:
        raise ConfigError(
            "the tokenizer is not the model's", f"it gives the id {max(map(max, rows))}; the model has a vocabulary of "
            f"{model.config.vocab_size}", "name the tokenizer that the model was trained with",
        )  # fmt: skip
    scores = iter(
        score_rows(model.engine, rows, firsts=firsts, among=among, window=model.context, batch_size=batch_size)
    )
    found = []
    for one, question in zip(asked, questions, strict=True):
        own = [next(scores) for _ in one.rows]
        logprobs = _logprobs(one, own, among)
        if not all(np.isfinite(logprobs)):
            raise ConfigError(
                "the model's logits are not numbers", "its weights hold NaN or infinity", "use another one"
            )
        best = int(np.argmax(logprobs))
        per_character = [value / len(choice) for value, choice in zip(logprobs, question.choices, strict=True)]
        normalized = int(np.argmax(per_character)) if by == "text" else best
        found.append(Answer(question.id, best, normalized, question.answer, one.shots, one.cut, tuple(logprobs)))
    return found


def _logprobs(one: _Asked, own: Sequence[Scores], among: Sequence[int]) -> list[float]:
    if one.letters:
        return [float(own[0].among[-1, among.index(letter)]) for letter in one.letters]
    return [scores.total for scores in own]


def _ask(model: TextModel, entry: QuestionSet, question: Question, by: By, shots: int, style: Style) -> _Asked:
    """Write the prompt down with as many examples as fit."""
    room = model.context + 1  # the last token is not seen
    answers = [f"{style.gap}{LETTERS[n] if by == 'letter' else text}" for n, text in enumerate(question.choices)]
    for count in range(min(shots, len(entry.examples)), -1, -1):
        text = prompt(style, entry.subject, question, entry.examples[:count], by)
        # special tokens that a question spells out are text, as in a corpus
        pairs = [pair_ids(model.tokenizer, text, answer, parse_special=False) for answer in answers]
        if all(len(before) + len(after) <= room for before, after in pairs) or not count:
            break
    if not all(after for _, after in pairs):
        raise DataError(
            f"question {question.id!r} of {entry.subject} cannot be asked", "a choice has no token of its own here",
            "correct the question",
        )  # fmt: skip
    cut = any(len(before) + len(after) > room for before, after in pairs)
    letters = tuple(after[0] for _, after in pairs)
    if by == "letter" and all(len(after) == 1 for _, after in pairs) and len(set(letters)) == len(letters):
        row = [*pairs[0][0], letters[0]][-room:]
        return _Asked([row], [len(row) - 1], letters, count, cut)
    rows = [[*before, *after][-room:] for before, after in pairs]
    firsts = [max(1, len(row) - len(after)) for row, (_, after) in zip(rows, pairs, strict=True)]
    return _Asked(rows, firsts, (), count, cut)
