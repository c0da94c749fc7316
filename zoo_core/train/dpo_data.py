"""What preference optimisation reads, and how it evaluates."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from zoo_core.arguments import Arguments, row_multiple
from zoo_core.data import BatchPlan, EvalPlan
from zoo_core.data.preference import PairEncoder, PairSet, parse_pair, survey_pairs
from zoo_core.data.sft import Lines, Survey
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.objective import ObjectiveEngine
from zoo_core.train.conversations import ReadPart, example_prompt, read_part, steps_of
from zoo_core.train.conversing import pair_encoder_of
from zoo_core.train.dpo_objective import MEASURED
from zoo_core.train.evaluation import Evaluated, Evaluation
from zoo_core.train.log import logger
from zoo_core.train.prepared import Prepared
from zoo_core.train.report import Part, pairs_report
from zoo_core.train.rundata import RunData

__all__ = ["PairEvaluation", "PairsEvaluated", "open_pairs"]

_AT_ONCE = 8
_WEIGHED = 256
"""Pairs whose tokens are counted, for the speed that is told."""


@dataclass(frozen=True)
class PairsEvaluated(Evaluated):
    """What an evaluation of pairs found: `loss` is the mean of a pair, `accuracy` the share with the better reward.

    Args:
        means: by the names of `zoo_core.train.dpo_objective.MEASURED`.
    """

    means: tuple[tuple[str, float], ...] = ()

    def metrics(self) -> dict[str, float]:
        """The values by the names that `metric_for_best_model` has for them."""
        return {"loss": self.loss, **dict(self.means)}


@dataclass(frozen=True)
class PairEvaluation(Evaluation):
    """An evaluation of pairs, to be made again and again."""

    def run(self, engine: Engine) -> PairsEvaluated:
        """Evaluate; every rank calls it and gets the same."""
        assert isinstance(engine, ObjectiveEngine)
        begin, mesh = time.perf_counter(), engine.mesh
        plan = EvalPlan(self.samples, self.micro_batch, mesh.replica, mesh.plan.replicas)
        rows, at_once = plan.micro_batches(), _AT_ONCE * mesh.plan.accumulate
        parts = []
        for first in range(0, len(rows), at_once):
            bounds = [min(row * plan.together, self.samples) for row in (first, first + at_once)]
            batches = self.read(list(rows[first : first + at_once]), np.arange(*bounds, dtype=np.int64))
            parts.append(engine.measure(batches))
        found = engine.together(parts)
        seconds, hits = time.perf_counter() - begin, found.means["rewards/accuracies"]
        return PairsEvaluated(found.loss, hits, int(found.counts[1]), self.samples, seconds, tuple(found.means.items()))


def open_pairs(make_engine: Callable[..., Engine], arguments: Arguments, mesh: Mesh, prepared: Prepared) -> RunData:
    """Look at the data, say what there is, and lay out the steps.

    Args:
        make_engine: builds the engine of the run, see `RunData`.

    Raises:
        DataError: on all ranks; see `read_part`.
        ConfigError: the checkpoint stopped within a global batch of this run.
    """
    training, plan, state = arguments.training, mesh.plan, prepared.state
    assert prepared.tokenizer is not None and prepared.tuning is not None, "`prepare` has found them"
    encoder, multiple = (
        pair_encoder_of(arguments, prepared.tokenizer, prepared.config.vocab_size),
        row_multiple(arguments),
    )

    def look_at(lines: Lines, first: int, last: int, skip_bad: bool) -> Survey:
        return survey_pairs(lines, encoder, first, last, skip_bad)

    read = read_part(arguments, mesh, prepared.tuning.train or prepared.tuning.dev, look_at)
    held = read_part(arguments, mesh, prepared.tuning.dev, look_at) if training.do_eval else None
    train = PairSet(read.lines, encoder, read.survey, multiple)
    batches = BatchPlan(
        plan.global_batch, plan.micro_batch, mesh.replica, plan.replicas, len(train), training.seed
    )  # fmt: skip
    first_step, first_sample = int(state.get("step", 0)), int(state.get("consumed_samples", 0))
    batches.step_of(first_sample)
    max_steps = training.max_steps
    if max_steps <= 0:
        left = training.num_train_epochs * len(train) - first_sample
        max_steps = first_step + max(math.ceil(left / plan.global_batch), 0 if first_step else 1)
    kept = {"digest": _digest(arguments, read.lines, encoder, len(train))}
    if state.get("data") and state["data"].get("digest") != kept["digest"]:
        logger.warning("the data, its lengths or form differ from the checkpoint's: other pairs follow")
    if mesh.rank == 0:
        parts = [Part("train", read.lines, read.survey)]
        parts += [Part("dev", held.lines, held.survey)] if held is not None else []
        print(pairs_report(parts, encoder.whole), flush=True)
    line = int(read.survey.samples[0])
    prompt = parse_pair(read.lines.read(line), read.lines.place(line)).prompt
    return RunData(
        batches,
        partial(steps_of, train, batches, first_sample, max(arguments.data.dataloader_num_workers, 1)),
        len(train),
        _tokens_of_a_pair(train),
        int(train.lengths.max()),
        max_steps,
        first_step,
        first_sample,
        _evaluation(arguments, held, encoder, multiple),
        None,
        kept,
        example_prompt(prompt[-1]["content"], encoder.whole),
        tuned=True,
        engine=make_engine,
        measured=MEASURED,
    )


def _tokens_of_a_pair(train: PairSet) -> float:
    """Tokens that the model reads of a pair, on average."""
    some = np.unique(np.linspace(0, len(train) - 1, min(len(train), _WEIGHED)).astype(np.int64))
    return float(np.mean([sum(len(train.row(2 * pair + n)[0].ids) - 1 for n in (0, 1)) for pair in some.tolist()]))


def _evaluation(
    arguments: Arguments, held: ReadPart | None, encoder: PairEncoder, multiple: int
) -> PairEvaluation | None:
    if held is None:
        return None
    training = arguments.training
    dev = PairSet(held.lines, encoder, held.survey, multiple)
    most = training.max_evaluate_steps * training.per_device_eval_batch_size
    samples = min(len(dev), most) if most > 0 else len(dev)
    return PairEvaluation(samples, training.per_device_eval_batch_size, dev.micro_batches)


def _digest(arguments: Arguments, lines: Lines, encoder: PairEncoder, pairs: int) -> str:
    """A digest of the lines and of all that decides which rows they make, and in which order."""
    settings = [lines.digest, encoder.longest, encoder.longest_prompt, encoder.whole.form]
    settings += [arguments.data.chat_template, pairs, arguments.training.seed]
    return hashlib.blake2b(json.dumps(settings).encode(), digest_size=16).hexdigest()
