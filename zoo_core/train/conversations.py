"""What fine-tuning on conversations reads: the lines of each part, encoded, packed and put into batches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from zoo_core.arguments import Arguments, row_multiple, sample_tokens
from zoo_core.config import ModelConfig
from zoo_core.data import BatchPlan, MicroBatch, prefetched
from zoo_core.data.sft import (
    Encoder,
    LengthGroupedPlan,
    Lines,
    Survey,
    TuningSet,
    first_fit,
    parse_line,
    survey,
)
from zoo_core.engine.mesh import Mesh
from zoo_core.errors import DataError
from zoo_core.train.agree import shared
from zoo_core.train.answers import AnswerEvaluation, Questions
from zoo_core.train.conversing import encoder_of
from zoo_core.train.evaluation import Evaluates, Evaluation
from zoo_core.train.generation import GENERATED, GENERATED_DEV, beams_of, rules_of
from zoo_core.train.log import logger
from zoo_core.train.prepared import Prepared
from zoo_core.train.report import Part, data_report
from zoo_core.train.rundata import RunData
from zoo_core.train.scores import SCORES

__all__ = ["ReadPart", "example_prompt", "open_conversations", "read_part", "steps_of"]

_SHOWN = 5
"""Bad lines that are named when they are left out."""

_MANY = 20_000
"""Lines that take so long to look at that it is said."""


@dataclass(frozen=True)
class ReadPart:
    """A part of the data, as every rank knows it."""

    lines: Lines
    survey: Survey


def read_part(
    arguments: Arguments, mesh: Mesh, files: tuple[Path, ...], look_at: Callable[[Lines, int, int, bool], Survey]
) -> ReadPart:
    """Look at all lines, every rank at its share of them.

    Args:
        files: of the part.
        look_at: gives the survey of the lines from one number to before another; the last says whether bad ones are
            left out.

    Raises:
        DataError: on all ranks: a line is bad, and may not be; no line is good; machines have different files.
    """
    skip, kept = arguments.data.bad_lines == "skip", list[Lines]()

    def look() -> str:
        lines = Lines(files)
        kept.append(lines)
        if len(lines) >= _MANY:
            logger.info("looking at %s lines", f"{len(lines):,}")
        share = [len(lines) * rank // mesh.plan.world for rank in (mesh.rank, mesh.rank + 1)]
        return json.dumps([lines.digest, look_at(lines, share[0], share[1], skip).to_text()])

    found = [json.loads(text) for text in shared(mesh, look)]
    if len({digest for digest, _ in found}) > 1:
        names = ", ".join(map(str, files))
        raise DataError(f"{names} differ between processes", "their contents are not the same", "copy one everywhere")
    whole = Survey.from_texts([text for _, text in found])
    for line in whole.bad[:_SHOWN]:
        logger.warning("left out: %s", line)
    if len(whole.bad) > _SHOWN:
        logger.warning("left out: %d lines more", len(whole.bad) - _SHOWN)
    if not len(whole.samples):
        raise DataError(f"no line of {files[0]} can be used", whole.bad[0], "repair them; the first is above")
    return ReadPart(kept[0], whole)


def open_conversations(arguments: Arguments, mesh: Mesh, prepared: Prepared) -> RunData:
    """Look at the data, say what there is, and lay out the steps.

    Raises:
        DataError: on all ranks; see `read_part`.
        ConfigError: the checkpoint stopped within a global batch of this run.
    """
    training, data, plan, state = arguments.training, arguments.data, mesh.plan, prepared.state
    assert prepared.tokenizer is not None and prepared.tuning is not None, "`prepare` has found them"
    encoder = encoder_of(arguments, prepared.tokenizer, prepared.config.vocab_size)

    def look_at(lines: Lines, first: int, last: int, skip_bad: bool) -> Survey:
        return survey(lines, encoder, first, last, skip_bad)

    read = read_part(arguments, mesh, prepared.tuning.train or prepared.tuning.dev or prepared.tuning.test, look_at)
    held = read_part(arguments, mesh, prepared.tuning.dev, look_at) if training.do_eval else None
    asked = read_part(arguments, mesh, prepared.tuning.test, look_at) if training.do_predict else None
    room, multiple = sample_tokens(arguments), row_multiple(arguments)
    fixed = room if data.pad_to_max_length else 0
    rows = None
    if data.zero_padding:
        order = np.random.RandomState(training.seed).permutation(read.survey.samples)
        rows = first_fit(read.survey.lengths.astype(np.int64), room, order)
    train = TuningSet(read.lines, encoder, read.survey, rows, multiple, fixed)
    place = (plan.global_batch, plan.micro_batch, mesh.replica, plan.replicas, len(train), training.seed)
    grouped = data.group_by_length and rows is None
    batches = LengthGroupedPlan(*place, lengths=train.lengths) if grouped else BatchPlan(*place)
    first_step, first_sample = int(state.get("step", 0)), int(state.get("consumed_samples", 0))
    batches.step_of(first_sample)
    max_steps = training.max_steps
    if max_steps <= 0:
        left = training.num_train_epochs * len(train) - first_sample
        max_steps = first_step + max(math.ceil(left / plan.global_batch), 0 if first_step else 1)
    kept = {"digest": _digest(arguments, read.lines, encoder, len(train))}
    if state.get("data") and state["data"].get("digest") != kept["digest"]:
        logger.warning("the data, its lengths, form or order differ from the checkpoint's: other samples follow")
    if mesh.rank == 0:
        parts = [Part("train", read.lines, read.survey)]
        more = (("dev", held), ("test", asked))
        parts += [Part(name, part.lines, part.survey) for name, part in more if part is not None]
        print(data_report(parts, encoder, train if rows is not None else None, room), flush=True)

    def evaluation(part: ReadPart | None, output: str) -> Evaluates | None:
        if part is None or not data.eval_with_do_generation:
            return _evaluation(arguments, part, encoder, multiple, fixed)
        return _answering(arguments, part, encoder, prepared.config, output)

    return RunData(
        batches,
        partial(steps_of, train, batches, first_sample, max(data.dataloader_num_workers, 1)),
        len(train),
        float(train.lengths.mean()),
        int(train.lengths.max()),
        max_steps,
        first_step,
        first_sample,
        evaluation(held, GENERATED_DEV if training.do_predict else GENERATED),
        evaluation(asked, GENERATED),
        kept,
        _example(held or read, encoder),
        tuned=True,
        scored=SCORES if data.eval_with_do_generation else (),
    )


def steps_of(train: TuningSet, batches: BatchPlan, first_sample: int, ahead: int) -> Iterator[list[MicroBatch]]:
    """Yield for ever this rank's micro batches of one step after the other, all of a step of one width."""

    def made() -> Iterator[list[MicroBatch]]:
        step = batches.step_of(first_sample)
        while True:
            yield train.micro_batches(list(batches.micro_batches(step)), batches.global_indices(step))
            step += 1

    return prefetched(made(), ahead)


def _evaluation(
    arguments: Arguments, part: ReadPart | None, encoder: Encoder, multiple: int, fixed: int
) -> Evaluation | None:
    if part is None:
        return None
    rows = TuningSet(part.lines, encoder, part.survey, None, multiple, fixed)
    samples, at_once = _evaluated(arguments, len(rows))
    return Evaluation(samples, at_once, rows.micro_batches, accuracy=True)


def _answering(
    arguments: Arguments, part: ReadPart, encoder: Encoder, config: ModelConfig, output: str
) -> AnswerEvaluation:
    questions, generation = Questions(part.lines, encoder, part.survey), arguments.generation
    samples, at_once = _evaluated(arguments, len(questions))
    return AnswerEvaluation(
        questions,
        samples,
        at_once,
        rules_of(arguments, encoder, config),
        generation.max_dec_len,
        generation.num_return_sequences,
        arguments.training.seed,
        Path(arguments.training.output_dir) / output if arguments.data.save_generation_output else None,
        beams_of(arguments),
    )


def _evaluated(arguments: Arguments, there: int) -> tuple[int, int]:
    """How many samples of a part are evaluated, and how many of them at once."""
    at_once = arguments.training.per_device_eval_batch_size
    most = arguments.training.max_evaluate_steps * at_once
    return min(there, most) if most > 0 else there, at_once


def _digest(arguments: Arguments, lines: Lines, encoder: Encoder, rows: int) -> str:
    """A digest of the lines and of all that decides which rows they make, and in which order."""
    data = arguments.data
    settings = [lines.digest, repr(encoder.limits), encoder.form, data.chat_template, rows, data.zero_padding]
    settings += [data.group_by_length, arguments.training.seed]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()


def _example(read: ReadPart, encoder: Encoder) -> str:
    """A first question, as the model reads it, if that can be typed."""
    line = int(read.survey.samples[0])
    messages = parse_line(read.lines.read(line), read.lines.place(line))
    return example_prompt(next(message["content"] for message in messages if message["role"] == "user"), encoder)


def example_prompt(question: str, encoder: Encoder) -> str:
    """Return a question as the model reads it, if that can be typed."""
    tokenizer = encoder.tokenizer
    if encoder.form == "chat" and hasattr(tokenizer, "chat"):
        ids = tokenizer.chat([{"role": "user", "content": question}])
        text = tokenizer.decode(ids)
        return text if tokenizer.encode(text) == ids else question
    return question
