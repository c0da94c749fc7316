"""`zoo data`: build, show and verify corpora, and copy the bundled text out."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from zoo_core._counting import many
from zoo_core.data import corpus, open_corpus
from zoo_core.data.build import FORMATS, BuildReport, build_corpus
from zoo_core.data.encode import TokenizerSource
from zoo_core.data.sources import DOCUMENTS
from zoo_core.errors import ConfigError, DataError

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


def _bytes(size: int) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"


@click.group(name="data")
def command() -> None:
    """Build, show and verify corpora; copy the bundled text out."""


@command.command()
@click.argument("inputs", nargs=-1, type=_PATH)
@click.option("--output", required=True, type=_PATH, help="Prefix of the two files to write.")
@click.option("--tokenizer", type=_PATH, help="Tokenizer file or folder.")
@click.option("--model", help="Model whose tokenizer to use; with --tokenizer it reads those files.")
@click.option("--workers", type=click.IntRange(1), help="Processes; by default the cores, fewer for little text.")
@click.option("--json-key", default="text", show_default=True, help="Key of the text in JSON lines.")
@click.option("--append-eos/--no-append-eos", default=True, show_default=True, help="End every document with eos.")
@click.option("--format", "file_format", type=click.Choice(FORMATS), default="bin", show_default=True,
              help="bin: Megatron's .bin/.idx; npy: PaddleNLP's older _ids.npy/_idx.npz.")  # fmt: skip
@click.option("--documents", type=click.Choice(DOCUMENTS), default=DOCUMENTS[0], show_default=True,
              help="What a document of a .txt file is: a block between blank lines, a line, or the file.")  # fmt: skip
@click.option("--shuffle-seed", type=int, help="Shuffle the documents by this seed; else they keep their order, and "
              "the validation split, which is cut from the end, is the end of the last file.")  # fmt: skip
@click.option("--skip-bad-lines", is_flag=True, help="Name and pass over lines that cannot be used.")
@click.option("--overwrite", is_flag=True, help="Replace an existing corpus.")
def build(
    inputs: tuple[Path, ...],
    output: Path,
    tokenizer: Path | None,
    model: str | None,
    workers: int | None,
    json_key: str,
    append_eos: bool,
    file_format: str,
    documents: str,
    shuffle_seed: int | None,
    skip_bad_lines: bool,
    overwrite: bool,
) -> None:
    """Tokenise text files, JSON lines or folders of them into a corpus.

    Without INPUTS the bundled English and Chinese text is used.
    """
    if tokenizer is None and model is None:
        raise ConfigError(
            "no tokenizer is named", "text becomes token ids", "say --tokenizer PATH or --model NAME; "
            "`zoo tokenizer train --output FOLDER` makes one"
        )  # fmt: skip
    if not inputs:
        click.echo("no input named: using the bundled English and Chinese text")
    began = time.monotonic()
    with tqdm(unit="B", unit_scale=True, desc="tokenising", delay=0.2) as bar:

        def advance(read: int, total: int) -> None:
            bar.total = total
            bar.update(read)

        report = build_corpus(
            inputs or corpus.files(),
            output,
            TokenizerSource(tokenizer, model),
            file_format=file_format,
            documents=documents,
            shuffle_seed=shuffle_seed,
            json_key=json_key,
            append_eos=append_eos,
            workers=workers,
            skip_bad_lines=skip_bad_lines,
            overwrite=overwrite,
            on_progress=advance,
            on_bad_line=lambda message: bar.write(f"skipped {message}"),
        )
    _say(report, time.monotonic() - began, model, tokenizer)


def _say(report: BuildReport, seconds: float, model: str | None, tokenizer: Path | None) -> None:
    for path in report.files:
        click.echo(f"wrote {path} ({_bytes(path.stat().st_size)})")
    click.echo(
        f"{many(report.tokens, 'token')} as {np.dtype(report.dtype)} in {many(report.documents, 'document')}, "
        f"from {many(report.inputs, 'file')} of {_bytes(report.source_bytes)} "
        f"({report.source_bytes / report.tokens:.2f} bytes a token), "
        f"in {seconds:.1f} s with {many(report.workers, 'process')}"
    )
    if report.bad or report.empty:
        click.echo(f"passed over: bad lines {report.bad:,}, empty documents {report.empty:,}")
    prefix = shlex.quote(str(report.prefix))
    reading = f"--tokenizer {shlex.quote(str(tokenizer))} " if tokenizer is not None else ""
    click.echo(f"look at it:  zoo data show {prefix}")
    named = shlex.quote(model or "qwen/qwen-7b")
    click.echo(f"train on it: zoo run pretrain --model {named} --scale tiny {reading}--input_dir {prefix}")


@command.command()
@click.argument("prefix", type=_PATH)
@click.option("--doc", type=int, default=0, show_default=True, help="Sequence to show, from 0.")
@click.option("--tokens", "count", type=click.IntRange(1), default=16, show_default=True, help="Tokens to show.")
@click.option("--tokenizer", type=_PATH, help="Tokenizer to show them as text too.")
@click.option("--model", help="Model whose tokenizer to use.")
def show(prefix: Path, doc: int, count: int, tokenizer: Path | None, model: str | None) -> None:
    """Show what the corpus PREFIX holds."""
    found = open_corpus(prefix)
    for path in found.files:
        click.echo(f"{path} ({_bytes(path.stat().st_size)})")
    click.echo(
        f"{many(found.num_tokens, 'token')} as {found.dtype}, {many(len(found), 'sequence')}, "
        f"{many(found.num_documents, 'document')}"
    )
    if len(found):
        low, middle, high = np.percentile(found.lengths, [0, 50, 100])
        click.echo(f"tokens of a sequence: shortest {low:,.0f}, median {middle:,.0f}, longest {high:,.0f}")
    ids = found.sequence(doc)[:count].tolist()
    click.echo(f"sequence {doc} ({many(int(found.lengths[doc]), 'token')}) begins {' '.join(map(str, ids))}")
    if tokenizer is not None or model is not None:
        click.echo(TokenizerSource(tokenizer, model).load().decode(ids))


@command.command()
@click.argument("prefix", type=_PATH)
@click.option("--vocab-size", type=click.IntRange(1), help="Refuse token ids at or above this.")
def verify(prefix: Path, vocab_size: int | None) -> None:
    """Check the corpus PREFIX from end to end, every token id included."""
    found = open_corpus(prefix)
    highest = -1
    step = 1 << 24
    for begin in tqdm(range(0, found.num_tokens, step), desc="reading", unit="block", disable=found.num_tokens < step):
        block = found.tokens[begin : begin + step]
        highest = max(highest, int(block.max()))
        beyond = block < 0 if vocab_size is None else (block < 0) | (block >= vocab_size)
        if beyond.any():
            at = begin + int(beyond.argmax())
            raise DataError(
                f"{found.files[0]} has the token id {int(found.tokens[at])}",
                f"token {at}, at byte {at * found.dtype.itemsize} of the ids; "
                + (f"the vocabulary has {vocab_size}" if vocab_size else "ids are not negative"),
                "build the corpus with the tokenizer of this model",
            )
    click.echo(
        f"{prefix} is whole: {many(found.num_tokens, 'token')} in {many(len(found), 'sequence')}, "
        f"ids up to {highest:,}; a model needs a vocabulary of at least {highest + 1:,}"
    )


@command.command(name="corpus")
@click.option("--output", required=True, type=_PATH, help="Folder to copy to.")
def copy_corpus(output: Path) -> None:
    """Copy the bundled public-domain text out."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in [*corpus.files(), Path(corpus.__file__).with_name("ORIGIN.md")]:
            shutil.copyfile(file, output / file.name)
            click.echo(f"wrote {output / file.name} ({_bytes(file.stat().st_size)})")
    except OSError as error:
        raise DataError(f"cannot copy to {output}", str(error), "free space or choose another --output") from error
    click.echo(f"train a tokenizer on it: zoo tokenizer train {output} --vocab-size 8000 --output {output}-tokenizer")
