"""`zoo tokenizer`: train one for trying things out, and look at what one does."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from zoo_core._counting import many
from zoo_core.data import corpus
from zoo_core.data.encode import TokenizerSource
from zoo_core.data.sources import input_files
from zoo_core.tokenizers import train_bpe

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.group(name="tokenizer")
def command() -> None:
    """Train a tokenizer for trying things out; look at what one does."""


@command.command()
@click.argument("inputs", nargs=-1, type=_PATH)
@click.option("--vocab-size", type=int, default=8000, show_default=True, help="Tokens wanted, at least 257.")
@click.option("--output", required=True, type=_PATH, help="Folder for tokenizer.json and tokenizer_config.json.")
def train(inputs: tuple[Path, ...], vocab_size: int, output: Path) -> None:
    """Train a byte-level BPE tokenizer.

    INPUTS are text files or folders of them; without any, the bundled English and Chinese text is used.
    """
    files = input_files(inputs) if inputs else corpus.files()
    if not inputs:
        click.echo("no input named: using the bundled English and Chinese text")
    tokenizer = train_bpe(files, vocab_size, output, progress=sys.stderr.isatty())
    for path in tokenizer.files:
        click.echo(f"wrote {path} ({path.stat().st_size / 1000:.1f} KB)")
    fewer = "" if tokenizer.vocab_size == vocab_size else f" ({vocab_size:,} asked for: the text yields no more)"
    click.echo(f"{tokenizer.vocab_size:,} tokens{fewer}; <|endoftext|> is {tokenizer.eos_id}, for bos, eos and pad")
    text, folder = shlex.join(map(str, inputs)), shlex.quote(str(output))
    click.echo(f'look at it:     zoo tokenizer show {folder} "In the beginning"')
    click.echo(f"build a corpus: zoo data build {text + ' ' if text else ''}--tokenizer {folder} --output PREFIX")


@command.command()
@click.argument("path", type=_PATH)
@click.argument("text")
@click.option("--model", help="Model whose plugin reads PATH, as a bare *.tiktoken file needs.")
@click.option("--add-special-tokens", is_flag=True, help="Add what the family adds by itself.")
def show(path: Path, text: str, model: str | None, add_special_tokens: bool) -> None:
    """Show the ids and pieces of TEXT under the tokenizer at PATH."""
    tokenizer = TokenizerSource(path, model).load()
    ids = tokenizer.encode(text, add_special_tokens)
    kind = type(tokenizer).__name__
    click.echo(f"{kind} with {tokenizer.vocab_size:,} tokens; "
               f"bos {tokenizer.bos_id}, eos {tokenizer.eos_id}, pad {tokenizer.pad_id}")  # fmt: skip
    for token, piece in zip(ids, tokenizer.pieces(ids), strict=True):
        click.echo(f"{token:>8}  {piece!r}")
    back = tokenizer.decode(ids, skip_special_tokens=True)
    same = "gives the text back" if back == text else f"gives {back!r}"
    click.echo(f"{many(len(text), 'character')}, {many(len(ids), 'token')}; decoding {same}")
