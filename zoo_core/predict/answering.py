"""From questions to answers in a file, whoever answers. No paddle.

Questions are answered some at a time, in the order of the file: a window. Within a window short prompts go first, so
that batches have little filling. Windows do not depend on where a run was broken off, so each batch of a run that goes
on is what it would have been, and the answers are the same to the last bit.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from zoo_core.errors import ConfigError
from zoo_core.generate import Row, Rules
from zoo_core.generate.pool import Pool
from zoo_core.generate.texts import AnswerText
from zoo_core.predict.prompts import Prompts
from zoo_core.predict.questions import Question
from zoo_core.predict.record import Record
from zoo_core.tokenizers import Tokenizer

__all__ = ["ALONE", "WINDOW", "Answers", "Asked", "PoolAnswers", "Sharing", "answer_lines", "write_answers"]

WINDOW = 16
"""Batches of a window: so many answers a kill may lose, and more of them would have batches with less filling."""


@dataclass(frozen=True)
class Asked:
    """A question to be answered.

    Args:
        number: of its line, from 0.
        ids: of the prompt.
        most: tokens of an answer.
    """

    number: int
    ids: Sequence[int]
    most: int


class Answers(Protocol):
    """Whatever can answer: a model here, or an exported one."""

    def __call__(self, asked: Sequence[Asked]) -> list[list[str]]:
        """Return the answers to each question, equally many to each."""


def _alone(make: Callable[[], str]) -> list[str]:
    return [make()]


@dataclass(frozen=True)
class Sharing:
    """Who answers what, where several processes do.

    Args:
        replica, replicas: this process is in the first of so many copies of the model.
        speaks: it tells the others what its copy has answered.
        exchange: gives what every process makes to all; all raise what one does.
    """

    replica: int = 0
    replicas: int = 1
    speaks: bool = True
    exchange: Callable[[Callable[[], str]], list[str]] = _alone


ALONE = Sharing()


def write_answers(
    prompts: Prompts,
    record: Record | None,
    answers: Answers,
    at_once: int,
    done: int = 0,
    sharing: Sharing = ALONE,
    going: Callable[[int], bool] = lambda done: True,
) -> int:
    """Answer the questions from number `done` on, and write the answers; returns how many questions are answered.

    Args:
        record: where to; `None` on processes that do not write.
        answers: gives them, in batches of its own.
        at_once: questions of a batch.
        sharing: with other processes, which all call this alike.
        going: told on every process, after each window, how many are answered; a false answer of one ends all.

    Raises:
        ZooError: on all processes: the disk is full, or the model cannot answer. What is written stays.
    """
    size = WINDOW * at_once * sharing.replicas
    while done < len(prompts):
        numbers = range(done, min(done + size, len(prompts)))

        def answered(numbers: range = numbers) -> str:
            asked = sorted((_asked(prompts, number) for number in numbers), key=lambda one: len(one.ids))
            mine = asked[sharing.replica :: sharing.replicas]
            found = answers(mine) if mine else []
            told = [[one.number, texts] for one, texts in zip(mine, found, strict=True)]
            return json.dumps(told if sharing.speaks else [])

        texts = {number: texts for part in sharing.exchange(answered) for number, texts in json.loads(part)}
        done = numbers.stop

        def written(numbers: range = numbers, texts: dict[int, list[str]] = texts) -> str:
            if record is not None:
                lines = [line for at in numbers for line in answer_lines(prompts.question(at), texts[at])]
                record.add(lines, numbers.stop)
            return "" if going(numbers.stop) else "stop"

        if "stop" in sharing.exchange(written):
            break
    return done


def _asked(prompts: Prompts, number: int) -> Asked:
    ids, _ = prompts.ids(number)
    return Asked(number, ids, prompts.room(len(ids)))


def answer_lines(question: Question, texts: Sequence[str]) -> list[str]:
    """Return the lines of the answers to a question, without line breaks."""
    return [_json({"src": question.source, "tgt": question.target, "output": text}) for text in texts]


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can spell it
        return json.dumps(value)
    return text


class PoolAnswers:
    """Answers of a model that decodes many rows at a time.

    Args:
        pool: makes a pool with room for rows of so many tokens.
        tokenizer: of the model.
        rules: how tokens are chosen and answers end.
        copies: answers to each question.
        seed: of the draws; each answer has its own, so it does not depend on what is answered beside it.
        stop: texts that end an answer.
        tell: called for each answer.
    """

    def __init__(
        self,
        pool: Callable[[int], Pool],
        tokenizer: Tokenizer,
        rules: Rules,
        copies: int = 1,
        seed: int = 0,
        stop: Sequence[str] = (),
        tell: Callable[[], object] = lambda: None,
    ) -> None:
        self._pool, self._tokenizer, self._rules = pool, tokenizer, rules
        self._copies, self._seed, self._stop, self._tell = copies, seed, stop, tell

    def __call__(self, asked: Sequence[Asked]) -> list[list[str]]:
        """Return the answers to each question.

        Raises:
            ConfigError: the logits are not numbers.
        """
        rows = [Row(one.ids, one.most, (self._seed, one.number, copy)) for one in asked for copy in range(self._copies)]
        pool = self._pool(max(len(row.ids) + row.max_new_tokens for row in rows))
        texts = self._decoded(pool, rows)
        return [texts[at : at + self._copies] for at in range(0, len(texts), self._copies)]

    def _decoded(self, pool: Pool, rows: Sequence[Row]) -> list[str]:
        waiting, held = deque(enumerate(rows)), dict[int, int]()
        tokens: list[list[int]] = [[] for _ in rows]
        # without stop strings an answer is decoded as a whole, as evaluation by generating does
        streams = {at: AnswerText(self._tokenizer, row.ids, self._stop) for at, row in enumerate(rows) if self._stop}
        texts = [""] * len(rows)
        while waiting or held:
            while waiting and pool.free:
                at, row = waiting.popleft()
                held[pool.add(row, self._rules)] = at
            for ticket, step in pool.step().items():
                at = held[ticket]
                if step.finish == "error":
                    raise ConfigError(
                        "the model's logits are not numbers", "its weights hold NaN or infinity", "use another one"
                    )
                if step.token is not None and self._stop:
                    texts[at] += streams[at].add(step.token)
                elif step.token is not None:
                    tokens[at].append(step.token)
                stopped = bool(self._stop) and streams[at].stopped
                if stopped and not step.finish:
                    pool.drop(ticket)
                if stopped or step.finish:
                    del held[ticket]
                    rest = streams.pop(at).end() if self._stop else ""
                    whole = self._tokenizer.decode(tokens[at], skip_special_tokens=True)
                    texts[at] = texts[at] + rest if self._stop else whole
                    self._tell()
        return texts
