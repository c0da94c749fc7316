"""Evaluation by generating: questions of a part are answered, and the answers compared with those of the files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.data import EvalPlan
from zoo_core.data.sft import Encoder, Lines, parse_line
from zoo_core.data.sft.surveying import Survey, encoded_line
from zoo_core.engine.engine import Engine
from zoo_core.generate import Row, Rules
from zoo_core.generate.beam import beam_search
from zoo_core.generate.passes import EnginePasses, answer_batch
from zoo_core.train.agree import shared
from zoo_core.train.record import recorded
from zoo_core.train.scores import scores

__all__ = ["Answered", "AnswerEvaluation", "Questions"]


@dataclass(frozen=True)
class Answered:
    """What an evaluation by generating found.

    Args:
        scores: of the answers, see `zoo_core.train.scores`.
        tokens: of all answers.
        samples: how many questions were answered.
        seconds: how long it took.
    """

    scores: Mapping[str, float]
    tokens: int
    samples: int
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The values by the names that `metric_for_best_model` has for them."""
        return dict(self.scores)


class Questions:
    """The last questions of a part's conversations, as the model reads them, and what should be answered.

    Args:
        lines, encoder: where they come from.
        survey: of all lines.
    """

    def __init__(self, lines: Lines, encoder: Encoder, survey: Survey) -> None:
        self.encoder = encoder
        self._lines, self._samples = lines, survey.samples
        self._prompts = (survey.lengths - survey.learned)[self._samples]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._samples)

    def by_length(self, count: int) -> list[int]:
        """Return the numbers of the first `count`, short prompts first, so that batches have little filling."""
        order: list[int] = np.argsort(self._prompts[:count], kind="stable").tolist()
        return order

    def prompt(self, number: int) -> list[int]:
        """Return the ids that the answer follows."""
        found = encoded_line(self._lines, int(self._samples[number]), self.encoder)
        return found.ids[: found.answers[-1][0]]

    def texts(self, number: int) -> tuple[str | list[str], str]:
        """Return the question, or the questions of all turns, and the last answer, as the file has them."""
        line = int(self._samples[number])
        messages = parse_line(self._lines.read(line), self._lines.place(line))
        asked = [message["content"] for message in messages if message["role"] == "user"]
        return asked[0] if len(asked) == 1 else asked, messages[-1]["content"]


@dataclass(frozen=True)
class AnswerEvaluation:
    """An evaluation by generating, to be made again and again.

    Args:
        questions: of the part.
        samples: how many of them, from the first on.
        micro_batch: questions that are answered at a time.
        rules: how tokens are chosen and answers end.
        max_new_tokens: of an answer; question and answer together have at most the encoder's limit.
        copies: answers for each question.
        seed: of the draws; each answer has its own, so it does not depend on what is answered beside it.
        output: file that the answers are written to, if any.
        beams: what beam search is told; empty where tokens are chosen one by one.
    """

    questions: Questions
    samples: int
    micro_batch: int
    rules: Rules
    max_new_tokens: int
    copies: int = 1
    seed: int = 0
    output: Path | None = None
    beams: Mapping[str, Any] = field(default_factory=dict)

    def run(self, engine: Engine) -> Answered:
        """Evaluate; every rank calls it and gets the same.

        Raises:
            DataError: on all ranks: a file cannot be read any more, the logits are not numbers, or the disk is full.
        """
        begin, mesh = time.perf_counter(), engine.mesh

        def answers() -> str:
            found = self._answers(engine)
            return json.dumps(found) if mesh.place.tensor == 0 else "{}"

        whole: dict[int, list[list[int]]] = {}
        for text in shared(mesh, answers):
            whole |= {int(number): texts for number, texts in json.loads(text).items()}
        told = shared(mesh, lambda: json.dumps(self._scores(whole)) if mesh.rank == 0 else "")[0]
        tokens = sum(len(ids) for texts in whole.values() for ids in texts)
        return Answered(json.loads(told), tokens, len(whole), time.perf_counter() - begin)

    def _answers(self, engine: Engine) -> dict[int, list[list[int]]]:
        """The ids of the answers to this replica's questions, by number."""
        mesh, order = engine.mesh, self.questions.by_length(self.samples)
        plan = EvalPlan(len(order), self.micro_batch, mesh.replica, mesh.plan.replicas)
        found: dict[int, list[list[int]]] = {}
        for places in plan.micro_batches().tolist():
            numbers = [order[place] for place in places if place >= 0]
            if not numbers and not engine.moves_together:
                continue
            if self.beams:
                found |= self._searched(engine, numbers)
                continue
            rows = [row for number in numbers for row in self._rows(number)] or [Row([self.rules.filler], 0)]
            texts = answer_batch(engine, rows, self.rules, self.max_new_tokens)
            for at, number in enumerate(numbers):
                found[number] = texts[at * self.copies : (at + 1) * self.copies]
        return found

    def _searched(self, engine: Engine, numbers: Sequence[int]) -> dict[int, list[list[int]]]:
        """The best answers to some questions, by beam search."""
        rows = [self._rows(number)[0] for number in numbers]
        best = beam_search(EnginePasses(engine), rows, self.rules, num_return_sequences=self.copies, **self.beams)
        return {number: [list(beam.tokens) for beam in each] for number, each in zip(numbers, best, strict=True)}

    def _rows(self, number: int) -> list[Row]:
        prompt = self.questions.prompt(number)
        most = min(self.max_new_tokens, self.questions.encoder.limits.total - len(prompt))
        return [Row(prompt, most, (self.seed, number, copy)) for copy in range(self.copies)]

    def _scores(self, answers: Mapping[int, Sequence[Sequence[int]]]) -> dict[str, float]:
        """Decode and compare the answers, each of several to a question by itself, and write them down."""
        decode = self.questions.encoder.tokenizer.decode
        lines = [
            {"src": source, "tgt": target, "output": decode(list(ids), skip_special_tokens=True)}
            for number, texts in sorted(answers.items())
            for source, target in [self.questions.texts(number)]
            for ids in texts
        ]
        if self.output is not None:
            with recorded(self.output) as stream:
                for line in lines:
                    stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        return scores([str(line["output"]) for line in lines], [str(line["tgt"]) for line in lines])
