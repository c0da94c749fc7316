"""Training, whatever the task: the stops 5 to 8 of a run, top to bottom."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo_core._counting import many
from zoo_core.arguments import Arguments
from zoo_core.checkpoint import FolderLock, Reader
from zoo_core.engine import state as states
from zoo_core.engine.build import from_both, from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.launch import handle_stop_signals, stop_requested
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.parts import read_weight
from zoo_core.engine.quiet import without_notices
from zoo_core.errors import CheckpointError, ZooError
from zoo_core.peft.files import AdapterFiles
from zoo_core.peft.prefix_files import PrefixFiles
from zoo_core.plan import Plan
from zoo_core.registry import Found
from zoo_core.train.adapters import export_adapter
from zoo_core.train.generation import GENERATED, GENERATED_DEV
from zoo_core.train.integers import rounded_when_read, stored_config
from zoo_core.train.log import Progress, logger, set_up_logging, span_text
from zoo_core.train.patience import patience_of
from zoo_core.train.prefixes import export_prefix, open_trained
from zoo_core.train.prepare import other_fusing
from zoo_core.train.prepared import Prepared
from zoo_core.train.record import LossTable, columns_of, event_kinds, event_writers, plot_losses, plot_rewards
from zoo_core.train.results import metrics_table, write_results
from zoo_core.train.rundata import OpenData
from zoo_core.train.schedule import schedule_of
from zoo_core.train.session import Best, Session, tokenizer_files
from zoo_core.train.settings import chosen_kernels, optimizer_settings, precision
from zoo_ops.dropout import set_dropout_state

__all__ = ["resume_command", "train"]

_INTERRUPTED = 130

_RECORDS = ("loss.png", "rewards.png", "loss.csv", GENERATED, GENERATED_DEV)


def train(
    arguments: Arguments, plan: Plan, found: Found, prepared: Prepared, words: Sequence[str], open_data: OpenData
) -> int:
    """Train; every rank calls it. Returns the exit status: 0, or 130 when it was asked to stop.

    Args:
        arguments: of the run.
        plan: what was composed.
        found: the model.
        prepared: where the run begins.
        words: the command line after `zoo`, to say how to resume.
        open_data: opens what the task reads.

    Raises:
        ZooError: the loss is no number any more, or the disk is full; checkpoints are whole.
    """
    begin = time.perf_counter()
    set_up_logging(is_first=os.environ.get("PADDLE_TRAINER_ID", "0") == "0")
    with without_notices():
        mesh = make_mesh(plan)
    lock = _lock(mesh, Path(arguments.training.output_dir))
    try:
        return _run(arguments, mesh, found, prepared, words, begin, open_data)
    finally:
        if lock is not None:
            lock.release()


def _lock(mesh: Mesh, root: Path) -> FolderLock | None:
    """Take the output folder for this run, on the first rank.

    Raises:
        CheckpointError: on every rank: another run has it.
    """
    lock, told = None, ""
    if mesh.rank == 0:
        try:
            lock = FolderLock(root)
        except CheckpointError as error:
            told = json.dumps([error.what, error.why, error.todo])
    failed = mesh.exchange(told)[0]
    if failed:
        raise CheckpointError(*json.loads(failed))
    return lock


def _run(
    arguments: Arguments,
    mesh: Mesh,
    found: Found,
    prepared: Prepared,
    words: Sequence[str],
    begin: float,
    open_data: OpenData,
) -> int:
    data = open_data(arguments, mesh, prepared)
    training, root = arguments.training, Path(arguments.training.output_dir)
    folder = Path(training.logging_dir or root / "runs")
    kinds = event_kinds(arguments) if mesh.rank == 0 else frozenset()
    best = prepared.state.get("best")
    session = Session(
        arguments,
        found.name + (f" ({arguments.model.scale})" if arguments.model.scale else ""),
        _engine(arguments, mesh, found, prepared, data.engine),
        data,
        schedule_of(training, data.max_steps),
        LossTable(root / "loss.csv", columns=columns_of(data.measured, data.tuned, data.scored)),
        event_writers(kinds, folder / training.run_name if training.run_name else folder),
        tokenizer_files(prepared.tokenizer),
        patience_of(arguments, prepared.state.get("patience")),
        Best(**best) if best else None,
    )
    if session.is_first:
        session.table.open(data.first_step)
    try:
        started = time.perf_counter()
        stopped_at = _train(session) if training.do_train else None
        session.seconds = time.perf_counter() - started
        if stopped_at is None:
            last = _end(session, mesh, found, prepared)
    except Exception as error:
        _leave_saved(session)
        if lost := _lost_peer(error, session):
            raise lost from error
        raise
    _finish_records(session)
    if session.is_first and stopped_at is not None:
        print(f"stopped at step {stopped_at} of {data.max_steps}, saved {session.newest()}")
        print(f"resume     {resume_command(words, **_same_base(arguments, prepared.weights))}", flush=True)
    elif session.is_first:
        again = resume_command(words, max_steps=2 * last, **_same_base(arguments, prepared.weights))
        print(_summary(session, last, time.perf_counter() - begin, again), flush=True)
        if prepared.freezes:
            print(_adapter(session, found, prepared), flush=True)
    mesh.barrier()  # a worker that ends early makes the launcher end the others
    return 0 if stopped_at is None else _INTERRUPTED


def _end(session: Session, mesh: Mesh, found: Found, prepared: Prepared) -> int:
    """What follows the last step: evaluations, the last checkpoint, the best model; returns the step it is at."""
    training, data = session.arguments.training, session.data
    last = max(data.max_steps, data.first_step) if training.do_train else data.first_step
    last = session.ended_at or last
    if data.valid is not None and session.evaluated_at != last:
        session.evaluate(last, data.valid)
    if training.do_train and training.save_strategy != "no" and last not in (session.saved_at, data.first_step):
        session.save(last)
    session.finish_saving()
    if training.load_best_model_at_end and session.best is not None and session.best.step != last:
        _take_best(session, mesh, found, prepared, session.best)
        if data.valid is not None and data.tuned:
            session.evaluate(session.best.step, data.valid)
    if data.test is not None:
        session.evaluate(last, data.test, "test")
    return last


def _engine(arguments: Arguments, mesh: Mesh, found: Found, prepared: Prepared, make: Callable[..., Engine]) -> Engine:
    """Build this rank's part of the model, filled from a checkpoint, a folder of weights, or the seed."""
    config, chosen = prepared.config, precision(arguments, mesh.plan.device)
    settings = optimizer_settings(arguments, chosen)
    kernels, gather = chosen_kernels(arguments, mesh.plan), not arguments.model.tensor_parallel_output
    split, integers = mesh.cut, config.quantization_config
    source = from_seed(arguments.training.seed, config, *split)
    whole, stored = from_seed(arguments.training.seed, config, 1, 0), stored_config(found, config)
    with ExitStack() as opened:
        reader = None
        if prepared.start is not None:
            states.check_files(prepared.start, mesh, states=prepared.resume == prepared.start)
            table, fused = found.architecture.table(stored), other_fusing(found, stored)
            base = reader = opened.enter_context(Reader(prepared.start, table, fused))
            source = states.from_checkpoint(base, mesh, chosen.dtype)
            whole = partial(read_weight, base, degree=1, rank=0, dtype="float32")
        if integers is not None and integers != stored.quantization_config:
            source = rounded_when_read(source, whole, found.architecture.table(config), integers, *split)
        if prepared.adapters is not None:
            states.check_files(prepared.adapters, mesh, states=prepared.resume is not None)
            files: AdapterFiles | PrefixFiles = open_trained(prepared, found, prepared.adapters)
            opened.enter_context(files)
            source = from_both(source, files.source(*split, chosen.dtype))
            reader = files.reader
        elif prepared.freezes:
            fresh = from_seed(arguments.training.seed, config, *split)
            source = from_both(source, fresh)
        engine = make(
            mesh, found.architecture, config, source, chosen.dtype, settings, kernels, gather, chosen.amp,
            prepared.lora, prepared.prefix, **({"qat": prepared.qat} if prepared.qat is not None else {}),
        )  # fmt: skip
        if prepared.resume is not None and reader is not None and not arguments.training.ignore_load_lr_and_optim:
            states.load_states(engine, reader)
    what = "adapters" if prepared.lora is not None else "prefix"
    for folder in filter(None, (prepared.start, prepared.adapters)):
        logger.info("%s from %s", what if folder == prepared.adapters else "weights", folder)
    return engine


def _leave_saved(session: Session) -> None:
    """Before a failure ends the run, let what is being saved come to the disk; its own failure is only told."""
    try:
        session.finish_saving()
    except Exception as error:
        logger.error("%s", error)


_LOST = re.compile(r"(Connection (reset|closed|refused)|Broken pipe|Read error|Write error|TIMEOUT|Timed out).*")


def _lost_peer(error: Exception, session: Session) -> ZooError | None:
    """What to say when a step failed because another process is gone; `None` for any other failure."""
    said = _LOST.search(str(error)) if "gloo" in str(error) else None
    if said is None and not isinstance(error, ConnectionError):
        return None
    newest, logs = session.newest(), session.arguments.launch.log_dir
    return ZooError(
        "another process of this run has ended, or cannot be reached any more",
        said[0].strip() if said else str(error),
        f"see why in {logs}/workerlog.*" + (f"; --resume goes on from {newest}" if newest else ""),
    )


def _take_best(session: Session, mesh: Mesh, found: Found, prepared: Prepared, best: Best) -> None:
    """Replace the model of the last step by that of the best evaluation, for what comes after training."""
    del session.engine
    gc.collect()  # layers refer to each other: one model at a time
    folder = session.root / f"checkpoint-{best.step}"
    session.engine = _engine(session.arguments, mesh, found, replace(prepared, resume=folder), session.data.engine)


def _train(session: Session) -> int | None:
    """Take the steps that are left; returns the step at which a signal stopped the run, or `None` at its end."""
    training, data, engine = session.arguments.training, session.data, session.engine
    if data.first_step >= data.max_steps:
        logger.warning("nothing is left to train: the checkpoint is at step %d of %d", data.first_step, data.max_steps)
        return None
    handle_stop_signals()
    # a bar in a log file is noise, unless it was asked for
    wanted = not training.disable_tqdm and (sys.stderr.isatty() or "disable_tqdm" in session.arguments.given)
    steps = data.steps()
    with Progress(data.max_steps, data.first_step, session.is_first and wanted) as progress:
        for step in range(data.first_step + 1, data.max_steps + 1):
            rate = session.schedule.rate(step)
            set_dropout_state(training.seed, step)
            with session.watch.step():
                with session.watch.read():
                    batches = next(steps)
                result = engine.train_step(batches, rate, stop_requested() or session.saving.failed)
            _check_finite(session, step, result.loss, result.grad_norm, rate)
            session.log_step(step, result.loss, rate, result.grad_norm, result.means)
            progress.advance(result.loss)
            if result.stop:  # asked for, or a save has failed: all ranks know of either by now
                session.finish_saving()
            if data.valid is not None and session.is_due(training.evaluation_strategy, training.eval_steps, step):
                session.evaluate(step, data.valid)
            if session.is_due(training.save_strategy, training.save_steps, step):
                session.save(step)
            if session.patience.is_over and step < data.max_steps:
                waited = many(session.patience.waited, "evaluation")
                logger.info("no better %s for %s: training ends", session.patience.metric, waited)
                session.ended_at = step
                return None
            if result.stop and step < data.max_steps:
                if session.saved_at != step:
                    session.save(step)
                session.finish_saving()
                return step
    return None


def _check_finite(session: Session, step: int, loss: float, norm: float, rate: float) -> None:
    """Stop before weights that are no numbers are saved.

    Raises:
        ZooError: the loss or the gradient norm is infinite or no number.
    """
    scaled = session.arguments.training.fp16  # a float16 step whose gradients overflow is skipped by the engine
    if math.isfinite(loss) and (math.isfinite(norm) or scaled):
        return
    _finish_records(session)
    _leave_saved(session)
    session.engine.mesh.barrier()  # a worker that ends early makes the launcher end the others
    newest = session.newest()
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
    raise ZooError(
        f"{what} at step {step}",
        f"learning rate {rate:g}, loss {loss:g}, gradient norm {norm:g}; nothing was saved from this step",
        "lower learning_rate or warm up longer" + (f"; {newest} is the last checkpoint" if newest else ""),
    )


def _finish_records(session: Session) -> None:
    session.events.close()
    session.write_table()
    if session.is_first and session.table.column("loss")[0]:
        unit = "a pair" if session.data.measured else "nats per token"
        plot_losses(session.table, session.root / "loss.png", f"{session.model_name}: loss by step", unit)
        if session.data.measured:
            plot_rewards(session.table, session.root / "rewards.png", f"{session.model_name}: rewards by step")


_REPLACED = ("--resume", "--resume_from_checkpoint", "--ckpt_dir", "--overwrite_output_dir")


_NAMED = {
    "max_steps": ("--max_steps",),
    "model_name_or_path": ("--model_name_or_path", "--model"),
    "model_path": ("--model_path",),
}


def resume_command(words: Sequence[str], **instead: str | int) -> str:
    """Return the command line that goes on from the newest checkpoint.

    Args:
        words: the command line after `zoo`.
        instead: `max_steps`, `model_name_or_path` or `model_path`, where it is to be another.
    """
    dropped = (*_REPLACED, *(option for name in instead for option in _NAMED[name]))
    kept: list[str] = []
    values = False
    for word in words:
        if word.startswith("-"):
            values = word in dropped
            if word.split("=")[0] not in dropped:
                kept.append(word)
        elif not values:
            kept.append(word)
    more = [word for name, value in instead.items() for word in (f"--{name}", str(value))]
    return shlex.join(["zoo", *kept, *more, "--resume"])


def _same_base(arguments: Arguments, weights: Path | None) -> dict[str, str]:
    """The argument that names the checkpoint which an output folder stood for: its newest may be another one later."""
    for name in ("model_path", "model_name_or_path"):
        given = getattr(arguments.model, name)
        if given and weights is not None and Path(given).expanduser().absolute() == weights.parent.absolute():
            return {name: str(weights)}
    return {}


def _results(session: Session, last: int) -> dict[str, dict[str, float]]:
    """The metrics of training and of the last evaluation, by PaddleNLP's names."""
    data, parts = session.data, dict[str, dict[str, float]]()
    steps, losses = session.table.column("loss")
    own = [loss for step, loss in zip(steps, losses, strict=True) if step > data.first_step]
    epoch = data.consumed(last) / data.samples_per_epoch
    if own and session.arguments.training.do_train:
        seconds = max(session.seconds, 1e-9)
        parts["train"] = {
            "epoch": epoch,
            "train_loss": sum(own) / len(own),
            "train_runtime": seconds,
            "train_samples_per_second": len(own) * data.batches.global_batch / seconds,
            "train_steps_per_second": len(own) / seconds,
        }
    for part, found in session.measured.items():
        parts[part] = {
            "epoch": epoch,
            **{f"{part}_{name}": value for name, value in found.metrics().items()},
            f"{part}_runtime": found.seconds,
            f"{part}_samples_per_second": found.samples / max(found.seconds, 1e-9),
        }
    return parts


def _adapter(session: Session, found: Found, prepared: Prepared) -> str:
    """Write the adapter, or the prefix, as PEFT has it; where it lies, and how to join an adapter with its base."""
    folder = session.root / f"checkpoint-{session.best.step}" if session.best is not None else session.newest()
    if folder is None or not folder.is_dir():
        return f"{'adapter' if prepared.lora is not None else 'prefix':<11}none was saved"
    if prepared.prefix is not None:
        return export_prefix(folder, session.root / "adapter", found, prepared.config)
    at = export_adapter(folder, session.root / "adapter", found, prepared.config)
    lines = [f"adapter    {at}, as PEFT loads it"]
    if prepared.weights is not None:
        words = ["--model_name_or_path", str(prepared.weights), "--lora_path", str(at), "--merge_model_path"]
        lines.append(f"merge      zoo merge lora {shlex.join([*words, str(session.root / 'merged')])}")
    return "\n".join(lines)


def _summary(session: Session, last: int, seconds: float, again: str) -> str:
    """What was reached, what was written, and what to do next.

    Args:
        again: the command that goes on.
    """
    root, metrics, data = session.root, session.metrics, session.data
    reached = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    if "eval_loss" in metrics:
        hits = metrics.get("eval_accuracy", metrics.get("eval_rewards/accuracies"))
        accuracy = f", accuracy {hits:.4f}" if hits is not None else ""
        perplexity = f", perplexity {metrics['eval_ppl']:.5g}" if "eval_ppl" in metrics else ""
        reached.append(f"validation loss {metrics['eval_loss']:.4f}{perplexity}{accuracy}")
    if "test_loss" in metrics:
        reached.append(f"test loss {metrics['test_loss']:.4f}")
    for part, name in (("eval", "validation"), ("test", "test")):
        if f"{part}_bleu4" in metrics:
            reached.append(f"{name} BLEU-4 {metrics[f'{part}_bleu4']:.4f}, Rouge-L {metrics[f'{part}_rougel']:.4f}")
    lines = [f"done       {many(last, 'step')} in {span_text(seconds)}" + "".join(f", {text}" for text in reached)]
    newest = session.newest() if session.saved_at >= 0 else None
    wrote = [str(newest)] if newest else []
    wrote += [str(root / name) for name in _RECORDS if (root / name).is_file()]
    if data.tuned:
        results = _results(session, last)
        wrote += map(str, write_results(root, results))
        lines.append(f"metrics\n{metrics_table(results)}")
    lines.append("wrote      " + ", ".join(wrote))
    if session.best is not None:
        lines.append(f"best       {root / f'checkpoint-{session.best.step}'}, {session.best.value:.4f}")
    if newest:
        lines.append(f"go on      {again}")
        tokenizer = "" if session.files else " --tokenizer PATH"
        chosen = root / f"checkpoint-{session.best.step}" if session.best is not None and data.tuned else newest
        lines.append(
            f"sample     zoo sample {shlex.quote(str(chosen))}{tokenizer} --prompt {shlex.quote(data.example)}"
        )
        if not data.tuned:
            lines.append(f"compare    zoo logits {shlex.quote(str(newest))} --ids ids.npy --out logits.npy")
    return "\n".join(lines)
