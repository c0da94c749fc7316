"""Multiple-choice questions from local files. No paddle.

C-Eval's layout: a folder with `dev`, `val` and `test`, in each `SUBJECT_dev.csv` and so on, with the columns id,
question, A, B, C, D and, in dev and val, answer (Huang et al. 2023, C-Eval). Also a single file of that form, and JSON
lines with the same keys, or with `choices`, a list, in place of the letters; `answer` is a letter, or the number of the
choice from 0. JSON lines may name a `subject` each.
"""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.errors import DataError, nearest

__all__ = ["LETTERS", "SPLITS", "Question", "QuestionSet", "read_questions"]

LETTERS = string.ascii_uppercase
SPLITS = ("dev", "val", "test")
_ENDINGS = (".csv", ".jsonl", ".json")


@dataclass(frozen=True)
class Question:
    """A question.

    Args:
        id: as the file has it.
        text: of the question.
        choices: their texts, at least two.
        answer: number of the right one, or `None` where the file does not say, as in C-Eval's test split.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int | None


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a subject.

    Args:
        subject: its name.
        questions: those to be answered.
        examples: those that show how, with answers.
    """

    subject: str
    questions: tuple[Question, ...]
    examples: tuple[Question, ...]


def read_questions(data: Path, split: str = "val", subjects: Sequence[str] = ()) -> list[QuestionSet]:
    """Read the questions of one split, and the examples of dev, by subject in order of name.

    Args:
        data: a folder in C-Eval's layout, or without splits a folder of files, or a file.
        split: "dev", "val" or "test", if `data` has splits.
        subjects: only these; by default all.

    Raises:
        DataError: there are no questions, a subject is unknown, or a row is wrong; names file and line.
    """
    data = Path(data)
    if data.is_file():
        found = _by_subject(data, "")
        examples: dict[str, list[Question]] = {}
    elif not data.is_dir():
        raise DataError(f"no questions at {data}", "no such file or folder", "name a folder like C-Eval's, or a file")
    elif any((data / name).is_dir() for name in SPLITS):
        if not (data / split).is_dir():
            there = ", ".join(name for name in SPLITS if (data / name).is_dir())
            raise DataError(f"{data} has no split {split}", f"it has {there}", "choose one of these")
        found = _folder(data / split, split)
        examples = _folder(data / "dev", "dev") if split != "dev" and (data / "dev").is_dir() else {}
    else:
        found, examples = _folder(data, ""), {}
    for name in subjects:
        if name not in found:
            near = nearest(name, found)
            raise DataError(
                f"no subject {name!r} in {data}",
                f"it has {len(found)} subjects" + (f"; did you mean {near!r}?" if near else ""),
                "correct --subjects",
            )
    chosen = sorted(subjects or found)
    for name in chosen:
        for number, example in enumerate(examples.get(name, ()), start=1):
            if example.answer is None:
                raise DataError(f"example {number} of {name} has no answer", "examples show it", "correct the dev file")
    return [QuestionSet(name, tuple(found[name]), tuple(examples.get(name, ()))) for name in chosen]


def _folder(folder: Path, split: str) -> dict[str, list[Question]]:
    files = sorted(file for file in folder.iterdir() if file.suffix in _ENDINGS and file.is_file())
    if not files:
        raise DataError(
            f"no questions in {folder}", f"no file there ends in {' '.join(_ENDINGS)}", "name another folder"
        )
    found: dict[str, list[Question]] = {}
    for file in files:
        for subject, questions in _by_subject(file, split).items():
            found.setdefault(subject, []).extend(questions)
    return found


def _by_subject(file: Path, split: str) -> dict[str, list[Question]]:
    """The questions of a file, by subject: that of the row, or the file's name without the split's."""
    named = file.stem.removesuffix(f"_{split}") if split else file.stem
    found: dict[str, list[Question]] = {}
    ids: dict[tuple[str, str], int] = {}
    for line, row in _rows(file):
        subject = str(row.get("subject") or named)
        question = _question(row, f"{file}, line {line}", len(found.get(subject, ())))
        first = ids.setdefault((subject, question.id), line)
        if first != line:
            raise DataError(
                f"{file}, line {line} has the id {question.id!r} again", f"line {first} has it", "give each its own"
            )
        found.setdefault(subject, []).append(question)
    if not found:
        raise DataError(f"no questions in {file}", "it is empty", "remove it, or fill it")
    return found


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets write a mark first
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}", str(error), "it has to be text in UTF-8") from error
    if file.suffix == ".csv":
        yield from _csv_rows(file, text)
        return
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise DataError(f"{file}, line {line} is no JSON", str(error), "write one object on each line") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {line} is no object", f"it is a {type(row).__name__}", "write {...}")
        yield line, row


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, header = 1, None
    try:
        for cells in reader:
            begin, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                missing = [name for name in ("question", "A", "B") if name not in header]
                if missing:
                    raise DataError(
                        f"{file} has no column {missing[0]}", f"its first line is {', '.join(header)}",
                        "the columns are id,question,A,B,C,D,answer",
                    )  # fmt: skip
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{file}, line {begin} has {len(cells)} cells", f"the first line has {len(header)}",
                    'put a text with commas or line breaks in "quotes"',
                )  # fmt: skip
            yield begin, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}, line {line} is no CSV", str(error), "correct its quotes") from error


def _question(row: Mapping[str, Any], place: str, number: int) -> Question:
    """Check a row; `number` is its id where it has none."""
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place} has no question", "its `question` is missing or empty", "correct or remove the row")
    choices = row.get("choices")
    if choices is None:
        choices = []
        for letter in LETTERS:
            if letter not in row:
                break
            choices.append(row[letter])
    if isinstance(choices, list):
        choices = [str(choice).strip() if isinstance(choice, str | int | float) else "" for choice in choices]
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS) or not all(choices):
        raise DataError(
            f"{place} has no choices", "each of A, B, ... needs a text, and there are at least two",
            "correct or remove the row",
        )  # fmt: skip
    own = row.get("id")
    return Question(
        str(number if own is None or own == "" else own).strip(), text.strip(), tuple(choices),
        _answer(row.get("answer"), len(choices), place),
    )  # fmt: skip


def _answer(given: Any, choices: int, place: str) -> int | None:
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        number = given
    else:
        word = str(given).strip().upper()
        number = LETTERS.index(word) if len(word) == 1 and word in LETTERS else -1
    if not 0 <= number < choices:
        letters = f"{LETTERS[0]} to {LETTERS[choices - 1]}"
        raise DataError(f"{place} has the answer {given!r}", f"it can be {letters}", "correct or remove the row")
    return number
