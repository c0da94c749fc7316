"""Options that several commands have, each with one meaning and mostly one text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["device_option", "sampling_options", "tokenizer_option", "tuned_options", "weights_options"]

F = TypeVar("F", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)


def _with(function: F, *several: Callable[[F], F]) -> F:
    """Add options, which help lists in this order."""
    for option in reversed(several):
        function = option(function)
    return function


def sampling_options(function: F) -> F:
    """How tokens are drawn: those of `zoo_core.generate.Sampling`."""
    return _with(
        function,
        click.option("--temperature", type=float, default=0.8, show_default=True,
                     help="Divides the logits; 0 always takes the most likely token."),
        click.option("--top_k", "--top-k", type=int, default=0, show_default=True,
                     help="Choose among this many most likely tokens; 0 is all."),
        click.option("--top_p", "--top-p", type=float, default=0.95, show_default=True,
                     help="Choose among the most likely tokens of this total probability."),
        click.option("--min_p", "--min-p", type=float, default=0.0, show_default=True,
                     help="Choose among tokens of at least this part of the most likely one's probability."),
        click.option("--repetition_penalty", "--repetition-penalty", type=float, default=1.0, show_default=True,
                     help="Above 1 makes tokens that were there less likely."),
    )  # fmt: skip


def tuned_options(
    adapter: str = "Adapter of the model in PATH: a LoRA checkpoint, or PEFT's or PaddleNLP's folder.",
    prefix: str = "Prefix of the model in PATH: a checkpoint of prefix tuning, or PEFT's folder.",
) -> Callable[[F], F]:
    """What was trained beside the model.

    Args:
        adapter, prefix: help texts.
    """
    return lambda function: _with(
        function,
        click.option("--lora_path", "--lora-path", type=_PATH, help=adapter),
        click.option("--prefix_path", "--prefix-path", type=_PATH, help=prefix),
    )


def tokenizer_option(function: F) -> F:
    """Where the tokenizer is."""
    return click.option("--tokenizer", type=_PATH, help="Its file or folder; else the one beside the weights.")(
        function
    )


def device_option(where: str = "Where to run.") -> Callable[[F], F]:
    """The device.

    Args:
        where: help text.
    """
    devices = click.Choice(("auto", "cpu", "gpu", "xpu"))
    return click.option("--device", type=devices, default="auto", show_default=True, help=where)


def weights_options(where: str = "Where to run.") -> Callable[[F], F]:
    """Device and type of the weights.

    Args:
        where: help text of the device.
    """
    return lambda function: _with(
        function,
        device_option(where),
        click.option("--dtype", type=click.Choice(("float32", "bfloat16", "float16")), default="float32",
                     show_default=True, help="Type of the weights; CPUs have float32 only."),
    )  # fmt: skip
