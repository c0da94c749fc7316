"""What the commands of `zoo eval` share: the options that name a model, and writing a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from zoo_core._atomic import written_beside
from zoo_core.cli._options import tokenizer_option, tuned_options, weights_options
from zoo_core.errors import ConfigError

__all__ = ["OUT", "check_out", "model_options", "write_json"]

F = TypeVar("F", bound=Callable[..., Any])

OUT = click.Path(path_type=Path, dir_okay=False)


def model_options(function: F) -> F:
    """Add the argument PATH and the options that say how its model is run."""
    rows = click.option(
        "--batch_size", "--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Rows of a pass."
    )
    return click.argument("path")(rows(tokenizer_option(tuned_options()(weights_options()(function)))))


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
