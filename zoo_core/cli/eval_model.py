"""What the commands of `zoo eval` share: the options that name a model, and writing a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zoo_core._atomic import written_beside
from zoo_core.errors import ConfigError

__all__ = ["OUT", "check_out", "model_options", "write_json"]

F = TypeVar("F", bound=Callable[..., Any])

OUT = click.Path(path_type=Path, dir_okay=False)

_OPTIONS = (
    click.option("--batch_size", "--batch-size", type=click.IntRange(1), default=8, show_default=True,
                 help="Rows of a pass."),
    click.option("--tokenizer", type=click.Path(path_type=Path), help="Its file or folder; else the one in PATH."),
    click.option("--lora_path", "--lora-path", type=click.Path(path_type=Path),
                 help="Adapter of the model in PATH: a LoRA checkpoint, or PEFT's or PaddleNLP's folder."),
    click.option("--prefix_path", "--prefix-path", type=click.Path(path_type=Path),
                 help="Prefix of the model in PATH: a checkpoint of prefix tuning, or PEFT's folder."),
    click.option("--device", type=click.Choice(("auto", "cpu", "gpu", "xpu")), default="auto", show_default=True,
                 help="Where to run."),
    click.option("--dtype", type=click.Choice(("float32", "bfloat16", "float16")), default="float32",
                 show_default=True, help="Type of the weights; CPUs have float32 only."),
)  # fmt: skip


def model_options(function: F) -> F:
    """Add the argument PATH and the options that say how its model is run."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return click.argument("path")(function)


def check_out(*files: Path | None) -> None:
    """Look whether files can be written, before the work is done whose result they hold.

    Raises:
        ConfigError: there is no such folder.
    """
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {file}", f"there is no folder {file.absolute().parent}", "make it first")


def write_json(file: Path, content: Any) -> None:
    """Write a file that is either whole or as it was.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with written_beside(file) as stream:
            stream.write(f"{json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False)}\n".encode())
    except OSError as error:
        raise ConfigError(f"cannot write {file}", error.strerror or str(error), "free space, or change it") from error
