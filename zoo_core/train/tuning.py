"""What fine-tuning needs before any process starts. No paddle."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.data.preference import find_pair_files, parse_pair
from zoo_core.data.sft import SAMPLE, BadLine, TuningFiles, find_tuning_files, parse_line
from zoo_core.errors import ConfigError, DataError, TokenizerError
from zoo_core.tokenizers import Tokenizer
from zoo_core.train.conversing import encoder_of, pair_encoder_of
from zoo_core.train.generation import check_generation

__all__ = ["check_ready", "check_tuning"]

NEEDS_REFERENCE = ("dpop", "kto_pair", "sppo_hard", "nca_pair")
NO_REFERENCE = ("simpo", "orpo")

_ANSWERING = ("eval_with_do_generation", "save_generation_output", "do_predict")

_LOOKED_AT = 8
"""Lines of each file that are looked at before the run; it looks at all before its first step."""


def check_ready(arguments: Arguments) -> None:
    """Refuse what this version cannot do, and evaluations by generating that cannot be made.

    Raises:
        ConfigError: such an argument is set, or a library is missing.
    """
    later = {}
    if arguments.task == "dpo":
        later = dict.fromkeys(_ANSWERING, "preferences are evaluated by their loss and rewards: leave it out")
    for name, todo in later.items():
        if arguments.value(name):
            raise ConfigError(f"{name} is not in this version", "its part of zoo is not written yet", todo)
    if arguments.task != "dpo":
        check_generation(arguments)


def check_tuning(arguments: Arguments, config: ModelConfig, tokenizer: Tokenizer | None) -> TuningFiles:
    """Find the files, and look at their first lines.

    Raises:
        ConfigError: no data is named, or the chat template cannot be used.
        TokenizerError: there is no tokenizer.
        DataError: a file is missing or empty, or one of its first lines cannot be used.
    """
    data = arguments.data
    if arguments.task == "dpo":
        return _check_pairs(arguments, config, tokenizer)
    if not data.dataset_name_or_path:
        raise ConfigError(
            "no data is named",
            'fine-tuning reads questions and answers: {"src": "...", "tgt": "..."} in JSON lines',
            f"--dataset_name_or_path FOLDER (train.json, dev.json); `--dataset_name_or_path {SAMPLE}` to try it",
        )
    files = find_tuning_files(data.dataset_name_or_path, data.task_name)
    if arguments.training.do_train and not files.train:
        raise DataError(
            f"there is nothing to train on in {data.dataset_name_or_path}", "it has no train.json", "put one there"
        )
    if arguments.training.do_eval and not files.dev:
        raise DataError(
            f"there is nothing to evaluate on in {data.dataset_name_or_path}",
            "it has no dev.json",
            "give a folder with train.json and dev.json, or --do_eval false",
        )
    if arguments.training.do_predict and not files.test:
        raise DataError(
            f"there is nothing to predict in {data.dataset_name_or_path}",
            "it has no test.json",
            "give a folder with train.json, dev.json and test.json, or --do_predict false",
        )
    encoder = encoder_of(arguments, _needed(arguments, tokenizer), config.vocab_size)
    _look(arguments, files, lambda line, place: encoder.encode(parse_line(line, place), place))
    return files


def _needed(arguments: Arguments, tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is not None:
        return tokenizer
    where = "--tokenizer PATH names the folder of one"
    if arguments.model.scale:
        where = "`zoo tokenizer train --output tokenizer` makes one to try it with: --tokenizer tokenizer"
    raise TokenizerError("there is no tokenizer", "fine-tuning reads text, and none lies beside the model", where)


def _look(arguments: Arguments, files: TuningFiles, encode: Callable[[bytes, str], object]) -> None:
    """Encode the first lines of the first file of each part."""
    for file in (*files.train[:1], *files.dev[:1], *files.test[:1]):
        for place, line in _first_lines(file):
            try:
                encode(line, place)
            except BadLine:
                if arguments.data.bad_lines == "stop":
                    raise


def _check_pairs(arguments: Arguments, config: ModelConfig, tokenizer: Tokenizer | None) -> TuningFiles:
    """The same of preference optimisation.

    Raises:
        ConfigError, TokenizerError, DataError: as `check_tuning`; or arguments of the loss contradict each other.
    """
    training = arguments.training
    _check_loss(arguments)
    parts = {}
    for name, wanted in (("train_dataset_path", training.do_train), ("dev_dataset_path", training.do_eval)):
        named = arguments.value(name)
        if wanted and not named:
            raise ConfigError(
                f"{name} is missing",
                'preferences are read from JSON lines: {"src": "...", "response": ["...", "..."], "sort": [1, 0]}',
                f"--{name} FILE" + ("" if name[0] == "t" else ", or --do_eval false"),
            )
        parts[name] = find_pair_files(named, name) if wanted else ()
    files = TuningFiles(parts["train_dataset_path"], parts["dev_dataset_path"])
    encoder = pair_encoder_of(arguments, _needed(arguments, tokenizer), config.vocab_size)
    _look(arguments, files, lambda line, place: encoder.encode(parse_pair(line, place), place))
    return files


def _check_loss(arguments: Arguments) -> None:
    wanted, training = arguments.finetune, arguments.training
    kind, every = wanted.loss_type, wanted.ref_model_update_steps
    if wanted.reference_free and kind in NEEDS_REFERENCE:
        raise ConfigError(
            f"loss_type {kind} and reference_free do not combine",
            "it is defined by the distance of each answer from the reference model",
            "leave reference_free out, or take sigmoid, hinge, ipo, simpo or orpo",
        )
    if every > 0 and wanted.reference_free:
        why = f"{kind} has none" if kind in NO_REFERENCE else "reference_free says so"
        raise ConfigError("ref_model_update_steps without a reference model", why, "leave it out")
    if every > 0 and (wanted.lora or wanted.prefix_tuning):
        raise ConfigError(
            "ref_model_update_steps does not combine with adapters",
            "the reference model is the one below them, which stays as it is",
            "leave it out, or train all weights",
        )
    if every > 0 and arguments.parallel.sharding.startswith("stage3"):
        raise ConfigError(
            "ref_model_update_steps does not combine with sharding stage3",
            "no process holds a whole weight to copy",
            "leave it out, or take stage2",
        )
    if every > 0 and training.load_best_model_at_end:
        raise ConfigError(
            "ref_model_update_steps and load_best_model_at_end do not combine",
            "losses against different reference models do not compare",
            "leave one of them out",
        )
    if not wanted.pref_loss_ratio and not wanted.sft_loss_ratio:
        raise ConfigError("nothing is minimised", "pref_loss_ratio and sft_loss_ratio are 0", "raise one of them")


def _first_lines(file: Path) -> list[tuple[str, bytes]]:
    try:
        with file.open("rb") as stream:
            lines = enumerate(iter(lambda: stream.readline(1 << 20), b""), start=1)
            first = [(f"{file}:{number}", line) for number, line in islice(lines, _LOOKED_AT) if line.strip()]
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"cannot read {file}", why, "check the file and its permissions") from error
    return [(place, line) for place, line in first if line.endswith(b"\n") or len(line) < 1 << 20]
