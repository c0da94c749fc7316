"""The three parts of the corpus for one run, how long the run is, and where in them it begins."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from zoo_core.arguments import Arguments
from zoo_core.data import (
    BatchPlan,
    IndexStore,
    MicroBatch,
    PretrainSplits,
    SampleSource,
    build_pretrain_datasets,
    builds_index,
    collate,
    open_corpus,
    parse_input_dir,
    prefetched,
    train_batches,
)
from zoo_core.engine.mesh import Mesh
from zoo_core.errors import DataError, ZooError
from zoo_core.train.evaluation import Evaluation
from zoo_core.train.labels import as_trained
from zoo_core.train.log import logger
from zoo_core.train.prepared import Prepared
from zoo_core.train.rundata import RunData

__all__ = ["open_data"]

T = TypeVar("T")


def _first_builders(mesh: Mesh, builds: bool, make: Callable[[bool], T]) -> T:
    """Let some ranks build while the others wait, and raise everywhere what failed anywhere."""
    made: T | None = None
    told = ""
    if builds:
        try:
            made = make(True)
        except ZooError as error:
            told = json.dumps([error.what, error.why, error.todo])
    failed = next(filter(None, mesh.exchange(told)), "")
    if failed:
        raise DataError(*json.loads(failed))
    return made if made is not None else make(False)


def _digest(arguments: Arguments) -> str:
    """A digest of the corpora and of the settings that decide which samples there are and in which order."""
    data = arguments.data
    corpora = [(open_corpus(item.prefix).digest, item.weight) for item in parse_input_dir(str(data.input_dir))]
    settings = [corpora, data.split, data.max_seq_length, arguments.training.seed]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()


def _evaluation(
    arguments: Arguments, source: SampleSource | None, batches: int, wanted: bool, part: str
) -> Evaluation | None:
    if not wanted:
        return None
    if source is None:
        raise DataError(
            f"there is no {part} part to evaluate on",
            f"split {arguments.data.split} of this corpus leaves it no document",
            "give --split 9,1, a larger corpus, or no evaluation",
        )
    micro = arguments.training.per_device_eval_batch_size
    read = partial(_collated, source, arguments.model.lm_shift_labels)
    return Evaluation(min(len(source), micro * batches), micro, read)


def _collated(
    source: SampleSource, shift_labels: bool, rows: Sequence[npt.NDArray[np.int64]], together: npt.NDArray[np.int64]
) -> list[MicroBatch]:
    return [as_trained(collate(source, row), shift_labels) for row in rows]


def _steps(
    source: SampleSource, batches: BatchPlan, first_sample: int, shift_labels: bool, ahead: int
) -> Iterator[list[MicroBatch]]:
    steps = train_batches(source, batches, first_sample)
    return prefetched(([as_trained(b, shift_labels) for b in step] for step in steps), ahead)


def open_data(arguments: Arguments, mesh: Mesh, prepared: Prepared) -> RunData:
    """Open the corpora, and build their indexes on the ranks that may.

    Raises:
        DataError: a part of a corpus is too small, or an index cannot be written; on every rank.
        ConfigError: the checkpoint stopped within a global batch of this run.
    """
    training, data, plan = arguments.training, arguments.data, mesh.plan
    state = prepared.state
    # workers of several machines that were launched by hand know their place only from the launcher
    local_rank = int(os.environ.get("PADDLE_LOCAL_RANK", mesh.rank % plan.local_world))
    builds = builds_index(data.share_folder, mesh.rank, local_rank)
    make = partial(_splits, arguments, prepared.config.vocab_size)
    first_step, first_sample = int(state.get("step", 0)), int(state.get("consumed_samples", 0))
    max_steps = training.max_steps
    if max_steps <= 0:
        one_epoch = _first_builders(mesh, builds, partial(make, (None, 0, 0))).train
        per_epoch = _needed(one_epoch, arguments).samples_per_epoch
        left = training.num_train_epochs * per_epoch - first_sample
        max_steps = first_step + max(int(left / plan.global_batch), 0 if first_step else 1)
    wanted = first_sample + max(max_steps - first_step, 0) * plan.global_batch
    before = state.get("data", {})
    # the order of the samples depends on their number: a run that is resumed for fewer steps keeps the first order
    index_samples = max(wanted, int(before.get("index_samples", 0)), 1)
    splits = _first_builders(
        mesh,
        builds,
        partial(make, (index_samples, None if training.do_eval else 0, None if training.do_predict else 0)),
    )
    train = _needed(splits.train, arguments)
    digest = _digest(arguments)
    _say_what_changed(before, digest, index_samples, train.samples_per_epoch)
    iterations = training.max_evaluate_steps if training.max_evaluate_steps > 0 else training.eval_iters
    batches = BatchPlan(plan.global_batch, plan.micro_batch, mesh.replica, plan.replicas)
    batches.step_of(first_sample)
    workers = data.dataloader_num_workers
    return RunData(
        batches,
        partial(_steps, train, batches, first_sample, arguments.model.lm_shift_labels, workers),
        train.samples_per_epoch,
        data.max_seq_length,
        data.max_seq_length,
        max_steps,
        first_step,
        first_sample,
        _evaluation(arguments, splits.valid, iterations, training.do_eval, "validation"),
        _evaluation(arguments, splits.test, training.test_iters or 10 * iterations, training.do_predict, "test"),
        {"digest": digest, "index_samples": index_samples},
    )


def _splits(
    arguments: Arguments, vocab_size: int, samples: tuple[int | None, int | None, int | None], builds: bool
) -> PretrainSplits:
    data = arguments.data
    return build_pretrain_datasets(
        str(data.input_dir),
        split=data.split,
        seq_length=data.max_seq_length,
        num_samples=samples,
        seed=arguments.training.seed,
        vocab_size=vocab_size,
        store=IndexStore(Path(data.data_cache).expanduser() if data.data_cache else None, builds),
    )


def _needed(train: SampleSource | None, arguments: Arguments) -> SampleSource:
    if train is None:
        raise DataError(
            "there is nothing to train on",
            f"split {arguments.data.split} of {arguments.data.input_dir} leaves no document to the training part",
            "give another --split or a larger corpus",
        )
    return train


def _say_what_changed(before: dict[str, object], digest: str, index_samples: int, per_epoch: float) -> None:
    if not before:
        return
    if before.get("digest") != digest:
        logger.warning("the corpus, split, max_seq_length or seed differ from the checkpoint's: other samples follow")
        return
    earlier = int(str(before.get("index_samples", index_samples)))
    if index_samples > earlier and index_samples > per_epoch:
        logger.warning("the run became longer than planned: the samples of its later epochs come in another order")
