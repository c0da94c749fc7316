"""`zoo sample`: continue a text with a trained model, on one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from zoo_core.cli._options import sampling_options, tokenizer_option, tuned_options, weights_options
from zoo_core.errors import ConfigError

if TYPE_CHECKING:
    from zoo_core.generate.answering import TextBase
    from zoo_core.generate.beam import BeamPasses
    from zoo_core.generate.choice import Sampling

__all__ = ["command"]


@click.command(name="sample")
@click.argument("path")
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--max_new_tokens", "--max-new-tokens", type=click.IntRange(1), default=64, show_default=True,
              help="Tokens to add; fewer if the model ends the text or its context is full.")  # fmt: skip
@sampling_options
@click.option("--stop", multiple=True, help="A text that ends the answer and is no part of it; may be repeated.")
@click.option("--num_beams", "--num-beams", type=click.IntRange(1), default=1, show_default=True,
              help="Above 1 follows so many likeliest texts instead of drawing.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed, the same text.")
@tokenizer_option
@tuned_options()
@weights_options()
def command(
    path: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    stop: tuple[str, ...],
    num_beams: int,
    seed: int,
    tokenizer: Path | None,
    lora_path: Path | None,
    prefix_path: Path | None,
    device: str,
    dtype: str,
) -> None:
    """Continue a text with the model in PATH.

    PATH is a zoo checkpoint, the output folder of a run, a Hugging Face folder, a model's name, or a folder
    that zoo export wrote. The checkpoint of a LoRA or prefix run knows its base model.

    \b
      zoo sample ./output --prompt "In the beginning"
      zoo sample ./qwen-7b --lora_path ./output --prompt "In the beginning"
    """
    from zoo_core.cli._loading import loaded_model  # choose tokens with numpy, which help does without
    from zoo_core.generate.choice import Sampling

    if num_beams > 1 and (stop or {"temperature", "top_k", "top_p", "min_p", "seed"} & _given()):
        raise ConfigError(
            f"num_beams {num_beams} with {'stop' if stop else 'sampling'}",
            "beams follow the likeliest texts: they draw nothing, and end at tokens",
            "leave one of them out",
        )
    chosen = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    model = loaded_model(path, tokenizer, device, dtype, lora_path, prefix_path)
    if num_beams > 1:
        likeliest = Sampling(0.0, repetition_penalty=repetition_penalty)
        pieces = iter([_best(model, prompt, max_new_tokens, likeliest, num_beams)])
    else:
        pieces = model.sample(prompt, max_new_tokens, chosen, seed, stop)
    first = next(pieces)  # a prompt that does not fit is refused before anything is printed
    click.echo(prompt + first, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


def _given() -> set[str]:
    """The options that stood on the command line."""
    context = click.get_current_context()
    return {
        name for name in context.params if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
    }


def _best(model: TextBase, prompt: str, max_new_tokens: int, sampling: Sampling, beams: int) -> str:
    """The likeliest continuation that beam search finds."""
    from zoo_core.generate.beam import beam_search
    from zoo_core.generate.rules import Row

    ids = model.encode(prompt)
    row = Row(ids, min(max_new_tokens, model.context - len(ids)))
    ((best, *_),) = beam_search(cast("BeamPasses", model.passes()), [row], model.rules(sampling), beams)
    return model.tokenizer.decode(list(best.tokens), skip_special_tokens=True)
