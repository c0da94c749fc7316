"""`zoo eval harness`: the tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path

import click

from zoo_core.cli.eval_model import model_options

__all__ = ["harness"]


@click.command(
    name="harness", short_help="run tasks of lm-evaluation-harness", context_settings={"ignore_unknown_options": True}
)
@model_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def harness(
    path: str,
    batch_size: int,
    tokenizer: Path | None,
    lora_path: Path | None,
    prefix_path: Path | None,
    device: str,
    dtype: str,
    words: tuple[str, ...],
) -> None:
    """Run tasks of lm-evaluation-harness (pip install "zoo-core[eval]") with the model in PATH.

    WORDS go to lm-eval as they are: --tasks, --include_path, --num_fewshot, --limit, --apply_chat_template,
    --gen_kwargs, --output_path, --log_samples ... Tasks read local files; nothing is downloaded.

    \b
      zoo eval harness ./qwen-7b --tasks my_task --include_path ./tasks
      zoo eval harness ./qwen-7b --lora_path ./output --tasks my_task --include_path ./tasks --output_path ./results
    """
    from zoo_core.evaluate.commandline import run_harness

    named = {"tokenizer": tokenizer, "lora_path": lora_path, "prefix_path": prefix_path}
    model = {"pretrained": path, "dtype": dtype, **{name: str(value) for name, value in named.items() if value}}
    # as JSON, for a comma or an equals sign in a path would end it
    own = ["--model", "zoo", "--model_args", json.dumps(model), "--batch_size", str(batch_size), "--device", device]
    run_harness(["run", *own, *words])
