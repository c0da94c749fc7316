"""`zoo run predict` on every process: the model is built, answers the questions, and the first process writes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

from tqdm import tqdm

from zoo_core._counting import many
from zoo_core.arguments import Arguments
from zoo_core.checkpoint import Reader
from zoo_core.engine import state as states
from zoo_core.engine.build import from_both
from zoo_core.engine.engine import Engine
from zoo_core.engine.launch import in_worker, stop_requested
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.quiet import without_notices
from zoo_core.errors import DataError
from zoo_core.export.static import Runner, static_passes
from zoo_core.generate.beam import BeamPasses, beam_search
from zoo_core.generate.passes import EnginePasses
from zoo_core.generate.pool import Pool
from zoo_core.generate.rules import Row
from zoo_core.peft.files import AdapterFiles
from zoo_core.peft.prefix_files import PrefixFiles
from zoo_core.plan import Plan
from zoo_core.predict.answering import Answers, Asked, PoolAnswers, Sharing, write_answers
from zoo_core.predict.ready import Ready
from zoo_core.predict.record import Record
from zoo_core.predict.report import scored, summary
from zoo_core.train.agree import shared
from zoo_core.train.log import logger, set_up_logging
from zoo_core.train.prepare import other_fusing
from zoo_core.train.settings import chosen_kernels

__all__ = ["run"]

_EVERY = 10.0
"""Seconds between log lines where there is no progress bar."""

_INTERRUPTED = 130


def run(arguments: Arguments, plan: Plan, ready: Ready) -> int:
    """Answer the questions that are not answered yet; every rank calls it. Returns the exit status.

    Raises:
        CheckpointError: weights are missing or wrong.
        ZooError: on all ranks: the disk is full, or the model cannot answer.
    """
    set_up_logging(is_first=os.environ.get("PADDLE_TRAINER_ID", "0") == "0")
    with without_notices():
        mesh = make_mesh(plan)
    passes = _passes(arguments, mesh, ready)
    output = Path(arguments.generation.output_file).expanduser()
    held = list[Record]()

    def opened() -> str:
        if mesh.rank == 0:
            anew = arguments.generation.overwrite_output
            held.append(Record(output, ready.settings, len(ready.prompts), anew))
        return json.dumps([ready.prompts.lines.digest, held[0].done if held else 0])

    try:
        told = [json.loads(text) for text in shared(mesh, opened)]
        if len({digest for digest, _ in told}) > 1:
            raise DataError(
                f"{arguments.generation.data_file} differs between processes", "its contents are not the same",
                "copy one everywhere",
            )  # fmt: skip
        begun = told[0][1]
        return _answer(arguments, mesh, passes, ready, held[0] if held else None, begun)
    except KeyboardInterrupt:
        if held:
            done, total = held[0].done, many(len(ready.prompts), "question")
            print(f"\n{done} of {total} answered; the same command goes on from there", file=sys.stderr)
        raise
    finally:
        for record in held:
            record.close()


def _passes(arguments: Arguments, mesh: Mesh, ready: Ready) -> BeamPasses:
    """The model, or what was exported of it."""
    spec = ready.model.exported
    if spec is None:
        return EnginePasses(_engine(arguments, mesh, ready))
    return static_passes(
        ready.weights, spec, cast(Runner, arguments.generation.export_runner), arguments.training.device
    )


def _answer(
    arguments: Arguments, mesh: Mesh, passes: BeamPasses, ready: Ready, record: Record | None, begun: int
) -> int:
    wanted, start = arguments.generation, time.perf_counter()
    with _Progress(arguments, len(ready.prompts), begun, mesh) as progress:
        answers = _answers(arguments, passes, ready, progress)
        place = mesh.place
        sharing = Sharing(
            mesh.replica, mesh.plan.replicas, place.tensor == 0 and place.pipe == 0, partial(shared, mesh)
        )
        done = write_answers(ready.prompts, record, answers, wanted.batch_size, begun, sharing, progress.going)
    if record is not None:
        if done < len(ready.prompts):
            total = many(len(ready.prompts), "question")
            print(f"stopped after {done} of {total}; the same command goes on from there")
        else:
            found = scored(record.lines())
            record.finish()
            print(summary(record.output, done, done - begun, time.perf_counter() - start, found))
        sys.stdout.flush()
    mesh.barrier()  # a worker that ends early makes the launcher end the others
    return 0 if done == len(ready.prompts) else _INTERRUPTED


def _engine(arguments: Arguments, mesh: Mesh, ready: Ready) -> Engine:
    """Build this rank's part of the model, and of what was trained beside it."""
    model, dtype, lora, prefix = ready.model, ready.dtype, None, None
    found, config = model.found, model.config
    for folder in filter(None, (ready.weights, model.adapter, model.prefix)):
        states.check_files(folder, mesh, states=False)
    table, degree, rank = found.architecture.table(config), mesh.plan.tensor, mesh.place.tensor
    with ExitStack() as opened:
        reader = opened.enter_context(Reader(ready.weights, table, other_fusing(found, config)))
        source = states.from_checkpoint(reader, mesh, dtype)
        if model.adapter is not None:
            files = opened.enter_context(AdapterFiles(model.adapter, table))
            source, lora = from_both(source, files.source(degree, rank, dtype)), files.spec
        elif model.prefix is not None:
            before = opened.enter_context(PrefixFiles(model.prefix, found.architecture.pipe_layers(config), config))
            source, prefix = from_both(source, before.source(degree, rank, dtype)), before.spec
        return Engine(
            mesh, found.architecture, config, source, dtype, None, chosen_kernels(arguments, mesh.plan),
            lora=lora, prefix=prefix,
        )  # fmt: skip


def _answers(arguments: Arguments, passes: BeamPasses, ready: Ready, progress: _Progress) -> Answers:
    wanted, spec = arguments.generation, ready.model.exported
    tokenizer, copies = ready.prompts.encoder.tokenizer, wanted.num_return_sequences
    at_once, slots = wanted.batch_size, wanted.batch_size * copies
    if spec is not None:  # its programs have so many rows and no more
        at_once, slots = min(at_once, spec.batch_size // wanted.num_beams), min(slots, spec.batch_size)

    def beams(asked: Sequence[Asked]) -> list[list[str]]:
        found: list[list[str]] = []
        for at in range(0, len(asked), at_once):
            rows = [Row(one.ids, one.most) for one in asked[at : at + at_once]]
            best = beam_search(
                passes, rows, ready.rules, wanted.num_beams, length_penalty=wanted.length_penalty,
                early_stopping=wanted.early_stopping, num_return_sequences=copies,
            )  # fmt: skip
            for answers in best:
                found.append([tokenizer.decode(list(one.tokens), skip_special_tokens=True) for one in answers])
                progress.tell()
        return found

    if wanted.decode_strategy == "beam_search":
        return beams
    seed = arguments.training.seed
    return PoolAnswers(
        lambda room: Pool(passes, slots, room), tokenizer, ready.rules, copies, seed, ready.stop, progress.tell
    )


class _Progress:
    """A bar on the terminal, or a line now and then where there is none; counts questions of all replicas."""

    def __init__(self, arguments: Arguments, total: int, begun: int, mesh: Mesh) -> None:
        bar = not arguments.training.disable_tqdm and (sys.stderr.isatty() or "disable_tqdm" in arguments.given)
        self._copies = 1
        if arguments.generation.decode_strategy != "beam_search":
            self._copies = arguments.generation.num_return_sequences
        self._step, self._part, self._done, self._total, self._begun = mesh.plan.replicas, 0, begun, total, begun
        self._start = self._said = time.monotonic()
        self._bar = tqdm(
            total=total, initial=begun, unit="question", dynamic_ncols=True, file=sys.stderr,
            disable=not (bar and mesh.rank == 0),
        )  # fmt: skip

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def tell(self) -> None:
        """An answer is there; others of this question may not be, and other replicas are about as far."""
        self._part += 1
        if self._part % self._copies == 0:
            self._bar.update(min(self._step, self._total - self._bar.n))

    def going(self, done: int) -> bool:
        """So many questions are answered; whether to go on."""
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now - self._said > _EVERY:
            rate = (done - self._begun) / (now - self._start)
            logger.info("answered %d of %d questions, %.3g a second", done, self._total, rate)
            self._said = now
        return not (in_worker() and stop_requested())
