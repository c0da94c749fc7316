"""`zoo eval`: how good a model is, by what it makes of texts and questions."""

from __future__ import annotations

import click

from zoo_core.cli.eval_choice import choice
from zoo_core.cli.eval_harness import harness
from zoo_core.cli.eval_ppl import ppl

__all__ = ["command"]


@click.group(name="eval")
def command() -> None:
    """Evaluate a model: perplexity, multiple choice, or the tasks of lm-evaluation-harness."""


command.add_command(ppl)
command.add_command(choice)
command.add_command(harness)
