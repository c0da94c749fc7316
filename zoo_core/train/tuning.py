"""What fine-tuning needs before any process starts. No paddle."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.data.sft import SAMPLE, BadLine, TuningFiles, find_tuning_files, parse_line
from zoo_core.errors import ConfigError, DataError, TokenizerError
from zoo_core.tokenizers import Tokenizer
from zoo_core.train.conversing import encoder_of

__all__ = ["check_ready", "check_tuning"]

_LOOKED_AT = 8
"""Lines of each file that are looked at before the run; it looks at all before its first step."""


def check_ready(arguments: Arguments) -> None:
    """Refuse what this version cannot do.

    Raises:
        ConfigError: such an argument is set.
    """
    later = {
        "eval_with_do_generation": "evaluation measures ppl and accuracy: leave it out",
        "save_generation_output": "nothing is generated: leave it out",
        "do_predict": "run `zoo sample` on the checkpoint, and leave it out",
        "weight_quantize_algo": "tune without it",
    }
    for name, todo in later.items():
        if arguments.value(name):
            raise ConfigError(f"{name} is not in this version", "its part of zoo is not written yet", todo)


def check_tuning(arguments: Arguments, config: ModelConfig, tokenizer: Tokenizer | None) -> TuningFiles:
    """Find the files, and look at their first lines.

    Raises:
        ConfigError: no data is named, or the chat template cannot be used.
        TokenizerError: there is no tokenizer.
        DataError: a file is missing or empty, or one of its first lines cannot be used.
    """
    data = arguments.data
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
    if tokenizer is None:
        where = "--tokenizer PATH names the folder of one"
        if arguments.model.scale:
            where = "`zoo tokenizer train --output tokenizer` makes one to try it with: --tokenizer tokenizer"
        raise TokenizerError("there is no tokenizer", "fine-tuning reads text, and none lies beside the model", where)
    encoder = encoder_of(arguments, tokenizer, config.vocab_size)
    for file in (*files.train[:1], *files.dev[:1]):
        for place, line in _first_lines(file):
            try:
                encoder.encode(parse_line(line, place), place)
            except BadLine:
                if data.bad_lines == "stop":
                    raise
    return files


def _first_lines(file: Path) -> list[tuple[str, bytes]]:
    try:
        with file.open("rb") as stream:
            lines = enumerate(iter(lambda: stream.readline(1 << 20), b""), start=1)
            first = [(f"{file}:{number}", line) for number, line in islice(lines, _LOOKED_AT) if line.strip()]
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"cannot read {file}", why, "check the file and its permissions") from error
    return [(place, line) for place, line in first if line.endswith(b"\n") or len(line) < 1 << 20]
