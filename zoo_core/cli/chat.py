"""`zoo chat`: talk with a model at the terminal, on one process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import click

from zoo_core.cli._options import sampling_options, tokenizer_option, tuned_options, weights_options
from zoo_core.errors import ConfigError, TokenizerError

__all__ = ["command"]


@click.command(name="chat")
@click.argument("path")
@click.option("--system", default="", help="What the model is told beforehand.")
@click.option("--max_new_tokens", "--max-new-tokens", type=int, default=512, show_default=True,
              help="Tokens of an answer; fewer if the model ends it or its context is full.")  # fmt: skip
@sampling_options
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed, the same answers.")
@tokenizer_option
@tuned_options()
@weights_options()
def command(
    path: str,
    system: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int,
    tokenizer: Path | None,
    lora_path: Path | None,
    prefix_path: Path | None,
    device: str,
    dtype: str,
) -> None:
    """Talk with the model in PATH, in the form that its family has for conversations.

    PATH is a zoo checkpoint, the output folder of a run, a Hugging Face folder, a model's name, or a folder
    that zoo export wrote. /help lists the commands there. From a pipe each line is a question.

    \b
      zoo chat ./output --system "You answer in one sentence."
      echo "What is a prime?" | zoo chat ./output --temperature 0
    """
    from zoo_core.cli._conversation import Settings  # choose tokens with numpy, which help does without
    from zoo_core.cli._loading import loaded_model
    from zoo_core.cli._talk import Talk, typed_lines, with_history

    settings = Settings(temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, seed)
    model = loaded_model(path, tokenizer, device, dtype, lora_path, prefix_path)
    try:
        talk = Talk(model, settings, system)
    except TokenizerError as error:
        raise ConfigError(
            f"{path} cannot chat: {error.what}",
            error.why,
            f"zoo sample {path} --prompt TEXT continues a text; a chat_template.jinja beside it lets it chat",
        ) from None
    source, terminal = sys.stdin, sys.stdin.isatty()
    if terminal:
        with_history()
        click.echo(f"{model.folder}, context {model.context} tokens; /help lists the commands, Ctrl-D leaves", err=True)
    else:
        with suppress(AttributeError):
            source.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    for line in typed_lines(source, "> ", "... "):
        if not talk.take(line):
            break
