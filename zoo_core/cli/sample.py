"""`zoo sample`: continue a text with a trained model, on one process."""

from __future__ import annotations

import os
from pathlib import Path

import click

from zoo_core.environment import apply_cpu_environment, device_of, require_paddle
from zoo_core.errors import ConfigError
from zoo_core.export.spec import is_exported
from zoo_core.generate.answering import TextBase
from zoo_core.generate.choice import Sampling

__all__ = ["command"]


@click.command(name="sample")
@click.argument("path")
@click.option("--prompt", required=True, help="Text to continue.")
@click.option("--max_new_tokens", "--max-new-tokens", type=click.IntRange(1), default=64, show_default=True,
              help="Tokens to add; fewer if the model ends the text or its context is full.")  # fmt: skip
@click.option("--temperature", type=float, default=0.8, show_default=True,
              help="Divides the logits; 0 always takes the most likely token.")  # fmt: skip
@click.option("--top_k", "--top-k", type=int, default=0, show_default=True,
              help="Choose among this many most likely tokens; 0 is all.")  # fmt: skip
@click.option("--top_p", "--top-p", type=float, default=0.95, show_default=True,
              help="Choose among the most likely tokens of this total probability.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed, the same text.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its file or folder; else the one in PATH.")
@click.option("--lora_path", "--lora-path", type=click.Path(path_type=Path),
              help="Adapter of the model in PATH: a LoRA checkpoint, or PEFT's or PaddleNLP's folder.")  # fmt: skip
@click.option("--prefix_path", "--prefix-path", type=click.Path(path_type=Path),
              help="Prefix of the model in PATH: a checkpoint of prefix tuning, or PEFT's folder.")  # fmt: skip
@click.option("--device", type=click.Choice(("auto", "cpu", "gpu", "xpu")), default="auto", show_default=True,
              help="Where to run.")  # fmt: skip
@click.option("--dtype", type=click.Choice(("float32", "bfloat16", "float16")), default="float32", show_default=True,
              help="Type of the weights; CPUs have float32 only.")  # fmt: skip
def command(
    path: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
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
    sampling = Sampling(temperature, top_k, top_p)
    device = device_of(device)
    require_paddle(device)
    if device == "cpu":
        if dtype != "float32":
            raise click.UsageError(f"--dtype {dtype} needs a GPU: Paddle has no such kernels for CPUs")
        apply_cpu_environment(1, os.environ)
    from zoo_core.engine.quiet import import_paddle

    import_paddle(device)
    model: TextBase
    if is_exported(Path(path).expanduser()):
        if lora_path is not None or prefix_path is not None:
            raise ConfigError(
                f"{path} is an exported model", "its adapters and its prefix are part of it, or it has none",
                "export the model with --lora_path or --prefix_path",
            )  # fmt: skip
        from zoo_core.export.static import load_static

        model = load_static(path, tokenizer, device)
    else:
        model = _trained(path, tokenizer, device, dtype, lora_path, prefix_path)
    pieces = model.sample(prompt, max_new_tokens, sampling, seed)
    first = next(pieces)  # a prompt that does not fit is refused before anything is printed
    click.echo(prompt + first, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()


def _trained(
    path: str, tokenizer: Path | None, device: str, dtype: str, lora_path: Path | None, prefix_path: Path | None
) -> TextBase:
    """Load a model that is run by an engine, and say what there is to say of it."""
    from zoo_core.generate.model import load_model

    adapters = {"adapter": lora_path} if lora_path is not None else None
    model = load_model(path, tokenizer, device, dtype, adapters, prefix_path)
    for note in model.notes:
        click.echo(note, err=True)
    return model
