"""What a run needs from the disk, found and checked before any process starts. No paddle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_core.arguments import TUNING, Arguments
from zoo_core.checkpoint import (
    Reader,
    check_output,
    check_unlocked,
    checkpoints,
    find_weights,
    last_good,
    read_state,
)
from zoo_core.checkpoint.folders import SMALL, damaged, identity, newest_folder, problems
from zoo_core.checkpoint.foreign import has_foreign
from zoo_core.config import ModelConfig
from zoo_core.engine.launch import in_worker
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.registry import Found
from zoo_core.train.adapters import describe_lora, given_adapter, lora_of_run
from zoo_core.train.generation import generates
from zoo_core.train.integers import base_of_run, stored_config
from zoo_core.train.prefixes import describe_prefix, given_prefix, prefix_of_run
from zoo_core.train.prepared import Prepared
from zoo_core.train.record import event_kinds
from zoo_core.train.rounding import check_compression, qat_of_run
from zoo_core.train.scores import SCORES
from zoo_core.train.tuning import check_ready, check_tuning
from zoo_core.train.vocabulary import check_ids, fitted_vocabulary, run_tokenizer

__all__ = ["other_fusing", "prepare"]


def prepare(arguments: Arguments, found: Found, config: ModelConfig) -> Prepared:
    """Find data, tokenizer, weights and checkpoint, and check that they belong together.

    Raises:
        CheckpointError: weights or checkpoint are missing, incomplete or of another model; the output folder is taken.
        DataError: the data is missing, damaged or has ids beyond the vocabulary.
        ConfigError: no data is named, or arguments contradict what is there.
        TokenizerError: the tokenizer cannot be read, or is missing where it is needed.
    """
    if not in_worker():  # the first worker holds the lock while the others look at the folder
        check_unlocked(arguments.training.output_dir)
    event_kinds(arguments)
    check_compression(arguments, found)
    _comparable(arguments)
    tunes = arguments.task in TUNING
    if tunes:
        check_ready(arguments)
    weights = _weights(arguments, found)
    tokenizer = run_tokenizer(arguments, found, weights)
    config, fitted = fitted_vocabulary(arguments, config, tokenizer)
    config = base_of_run(arguments, found, config)
    said: tuple[str, ...] = (fitted,) if fitted else ()
    tuning = check_tuning(arguments, config, tokenizer) if tunes else None
    if arguments.model.scale and arguments.model.continue_training and not arguments.training.resume_from_checkpoint:
        said += ("random weights in spite of continue_training: none are published at these sizes",)
    if not tunes and not arguments.data.input_dir:
        raise ConfigError(
            "no corpus is named", "pretraining reads ids from one", "--input_dir FOLDER; `zoo data build` makes one"
        )
    resume = _resume(arguments, config)
    state = read_state(resume) if resume else {}
    _free_output(arguments, config, resume)
    if not tunes:
        check_ids(str(arguments.data.input_dir), config)
    prefix = prefix_of_run(arguments, found, config, weights, resume)
    prefix_path = given_prefix(arguments) if prefix is not None else None
    trained = describe_prefix(found, config, prefix) if prefix is not None else ""
    lora = lora_of_run(arguments, found, config, weights, resume)
    lora_path = given_adapter(arguments) if lora is not None else None
    if lora is not None:
        trained = describe_lora(found.architecture.table(config), lora)
    qat = qat_of_run(arguments, found, config, state)
    if qat is not None:
        trained = f"all weights, for use with {qat.describe()}"
    ready = Prepared(
        config, weights, resume, state, tokenizer, said, tuning, lora, lora_path, prefix, prefix_path, trained,
        qat,
    )  # fmt: skip
    if ready.start is not None:
        stored = stored_config(found, config)
        with Reader(ready.start, found.architecture.table(stored), other_fusing(found, stored)) as reader:
            reader.check()
    return ready


def _comparable(arguments: Arguments) -> None:
    training = arguments.training
    tunes = arguments.task in TUNING
    answers = generates(arguments)
    metric = (training.metric_for_best_model or ("bleu4" if answers else "loss")).removeprefix("eval_")
    known: tuple[str, ...] = ("loss", "ppl", "accuracy") if tunes else ("loss", "ppl")
    if answers:
        known = SCORES
    if arguments.task == "dpo":
        known = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "logps/chosen")
    if (training.load_best_model_at_end or training.early_stopping_patience) and metric not in known:
        what = "eval_with_do_generation" if answers else "fine-tuning" if tunes else "pretraining"
        raise ConfigError(
            f"metric_for_best_model = {training.metric_for_best_model!r} is not known",
            f"{what} measures {' and '.join(known)}",
            "give one of them, or leave it out",
        )
    if training.early_stopping_patience and training.evaluation_strategy == "no":
        raise ConfigError(
            "early_stopping_patience waits for evaluations", "evaluation_strategy is no", "--evaluation_strategy epoch"
        )


def other_fusing(found: Found, config: ModelConfig) -> Mapping[str, Any]:
    """The table of the model with its projections fused, in which its parts may be stored."""
    names = [name for name in ("fuse_attention_qkv", "fuse_attention_ffn") if hasattr(config, name)]
    return found.architecture.table(config.replace(**dict.fromkeys(names, True))) if names else {}


def _weights(arguments: Arguments, found: Found) -> Path | None:
    """Random weights unless training goes on from published ones, which have the published sizes.

    Raises:
        CheckpointError: they are not there; says where to put them.
    """
    goes_on = arguments.model.continue_training or arguments.finetune.lora or arguments.finetune.prefix_tuning
    if not goes_on or arguments.model.scale:
        return None
    try:
        if found.path is not None and arguments.model.model_path is None:
            return find_weights(str(found.path), found.path)
        return find_weights(found.name, arguments.model.model_path)
    except CheckpointError as error:
        todo = f"{error.todo}; --continue_training false starts with random ones"
        raise CheckpointError(error.what, error.why, todo) from error


def _resume(arguments: Arguments, config: ModelConfig) -> Path | None:
    wanted, root = arguments.training.resume_from_checkpoint, Path(arguments.training.output_dir)
    if not wanted:
        return None
    path = root if wanted in ("latest", "last_good") else Path(wanted).expanduser()
    newest = last_good(path) if wanted == "last_good" else newest_folder(path)
    if newest is not None:
        path = newest
    elif not (path / "manifest.json").is_file():
        there = "no whole checkpoint in it" if path.is_dir() else "no such folder"
        others = checkpoints(root)
        todo = f"--resume {others[0].path}" if others else "leave --resume out to start from the beginning"
        if path.is_dir() and has_foreign(path):
            there = "it holds weights of another framework, and no optimizer states that zoo reads"
            todo = f"--model_name_or_path {path} --continue_training starts from its weights"
        raise CheckpointError(f"cannot resume from {path}", there, todo)
    if wrong := problems(path, SMALL):
        error = damaged(path, wrong)
        before = [saved.path for saved in checkpoints(path.parent) if saved.path.name != path.name]
        more = "--resume last_good takes the newest whose files are all as they were written"
        todo = f"--resume {before[0]} goes on from one saved before; {more}" if before else error.todo
        raise CheckpointError(error.what, error.why, todo)
    stored = read_state(path).get("model")
    if isinstance(stored, Mapping):
        here = identity(config, int(stored.get("parameters", 0)))
        differ = [f"{key} is {stored.get(key)} there, {value} here" for key, value in here.items()
                  if stored.get(key) != value]  # fmt: skip
        if differ:
            raise CheckpointError(
                f"{path} is a checkpoint of another model", "; ".join(differ), "give the model that it was saved from"
            )
    return path


def _free_output(arguments: Arguments, config: ModelConfig, resume: Path | None) -> None:
    """Refuse a folder of another model; one of this model needs a word on what to do with it."""
    training = arguments.training
    root = Path(training.output_dir)
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not there.is_dir():
        raise CheckpointError(f"{there} is not a folder", "checkpoints go there", "choose another output_dir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CheckpointError(f"cannot write to {there}", "checkpoints go there", "choose another output_dir")
    check_output(root, config)
    held = checkpoints(root)
    if held and resume is None and training.do_train and not training.overwrite_output_dir:
        raise CheckpointError(
            f"{root} already holds checkpoints of this model, the last at step {held[0].step}",
            "a new run would replace them",
            "--resume goes on from there; --overwrite_output_dir starts afresh; or choose another --output_dir",
        )
