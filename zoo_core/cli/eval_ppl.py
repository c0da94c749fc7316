"""`zoo eval ppl`: the perplexity of a model on a corpus."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_core.cli.eval_model import OUT, check_out, model_options, write_json

if TYPE_CHECKING:
    from zoo_core.evaluate.perplexity import PerplexityReport

__all__ = ["ppl"]


@click.command(name="ppl", short_help="measure perplexity on a corpus")
@model_options
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="Prefix of a .bin/.idx corpus, a text or JSON lines file, or a folder of them.")  # fmt: skip
@click.option("--max_length", "--max-length", type=click.IntRange(1),
              help="Most tokens that a pass sees; by default the model's context, at most 2048.")  # fmt: skip
@click.option("--stride", type=click.IntRange(1), help="Tokens by which the window moves on in a longer text; by "
              "default max_length. Less gives every token more before it, and takes longer.")  # fmt: skip
@click.option("--documents", type=click.Choice(("file", "blank-line", "line")), default="file", show_default=True,
              help="What a document of a text file is: the file, a block between blank lines, or a line.")  # fmt: skip
@click.option("--json_key", "--json-key", default="text", show_default=True, help="Key of the text in JSON lines.")
@click.option("--begin/--no-begin", default=True, show_default=True,
              help="Put bos, or what the family begins a text with, before each document.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Only so many documents.")
@click.option("--out", type=OUT, help="JSON file to write the report to.")
def ppl(
    path: str,
    batch_size: int,
    tokenizer: Path | None,
    lora_path: Path | None,
    prefix_path: Path | None,
    device: str,
    dtype: str,
    data: Path,
    max_length: int | None,
    stride: int | None,
    documents: str,
    json_key: str,
    begin: bool,
    limit: int | None,
    out: Path | None,
) -> None:
    """Measure the perplexity of the model in PATH on a corpus.

    Each document is scored by itself, a long one by windows: a pass sees at most max_length tokens, and
    every token is scored once.

    \b
      zoo eval ppl ./output --data corpus
      zoo eval ppl ./qwen-7b --data held-out.txt --stride 512 --out report.json
    """
    check_out(out)
    from tqdm import tqdm

    from zoo_core.evaluate.documents import check_data, read_documents
    from zoo_core.evaluate.loading import load

    check_data(data)
    model = load(path, tokenizer, lora_path, prefix_path, device, dtype)
    from zoo_core.evaluate.perplexity import measure_perplexity

    found = islice(read_documents(data, model.tokenizer, documents, json_key), limit)
    with tqdm(unit=" tokens", desc="scoring", delay=0.5, unit_scale=True) as bar:
        report = measure_perplexity(
            model, found, max_length=max_length, stride=stride, batch_size=batch_size, begin=begin, progress=bar.update
        )
    if out is not None:
        write_json(out, {"model": path, "data": str(data), **report.as_json()})
    click.echo(_text(report))


def _text(report: PerplexityReport) -> str:
    rows = [
        ("perplexity", _number(report.perplexity), "of a token"),
        ("byte perplexity", _number(report.byte_perplexity), f"{_number(report.bits_per_byte)} bits per byte of UTF-8"),
        ("word perplexity", _number(report.word_perplexity), "words are what white space parts"),
        ("documents", f"{report.documents:,}", ""),
        ("tokens", f"{report.tokens:,}", f"scored, in {report.bytes:,} bytes, {report.words:,} words"),
        ("window", f"{report.max_length:,}", f"tokens, moved on by {report.stride:,}"),
    ]
    return "\n".join(f"{name:<15}  {value:>12}  {note}".rstrip() for name, value, note in rows)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if value < 1e6 else f"{value:.4e}"
