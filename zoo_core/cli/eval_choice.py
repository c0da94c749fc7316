"""`zoo eval choice`: multiple choice from local files, C-Eval's above all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo_core._counting import many
from zoo_core.cli.eval_model import OUT, check_out, model_options, write_json

__all__ = ["choice"]


@click.command(name="choice", short_help="answer multiple-choice questions, C-Eval's above all")
@model_options
@click.option("--data", required=True, type=click.Path(path_type=Path),
              help="Folder like C-Eval's (val/SUBJECT_val.csv ...), or a CSV or JSON lines file.")  # fmt: skip
@click.option("--split", type=click.Choice(("val", "test", "dev")), default="val", show_default=True,
              help="Questions to answer, where the folder has splits.")  # fmt: skip
@click.option("--shots", type=click.IntRange(0), default=5, show_default=True,
              help="Examples of dev before each question; fewer where they do not fit the context.")  # fmt: skip
@click.option("--by", type=click.Choice(("letter", "text")), default="letter", show_default=True,
              help="Compare the probabilities of A, B, C, D, or of the answers' texts.")  # fmt: skip
@click.option("--subjects", help="Only these subjects, separated by commas.")
@click.option("--style", type=click.Choice(("ceval", "mmlu")), default="ceval", show_default=True,
              help="Words around a question: C-Eval's in Chinese, or MMLU's in English.")  # fmt: skip
@click.option("--instruction", help="Text that stands first, in place of the style's; {subject} becomes the subject.")
@click.option("--predictions", type=OUT, help="JSON file to write the answers to, as C-Eval's site takes them.")
@click.option("--out", type=OUT, help="JSON file to write the report to.")
def choice(
    path: str,
    batch_size: int,
    tokenizer: Path | None,
    lora_path: Path | None,
    prefix_path: Path | None,
    device: str,
    dtype: str,
    data: Path,
    split: str,
    shots: int,
    by: Any,
    subjects: str | None,
    style: str,
    instruction: str | None,
    predictions: Path | None,
    out: Path | None,
) -> None:
    """Let the model in PATH answer multiple-choice questions from local files.

    \b
      zoo eval choice ./qwen-7b --data ./ceval
      zoo eval choice ./qwen-7b --data ./ceval --split test --predictions submission.json
      zoo eval choice ./llama-7b --data questions.jsonl --by text --style mmlu --shots 0
    """
    from dataclasses import replace

    from zoo_core.evaluate.prompts import STYLES
    from zoo_core.evaluate.questions import read_questions

    check_out(predictions, out)
    words = STYLES[style]()
    if instruction is not None:
        words = replace(words, instruction=f"{instruction}\n\n")
    # before the model is loaded: a row that is wrong is found at once
    sets = read_questions(data, split, [name.strip() for name in subjects.split(",")] if subjects else ())
    from tqdm import tqdm

    from zoo_core.evaluate.loading import load

    model = load(path, tokenizer, lora_path, prefix_path, device, dtype)
    from zoo_core.evaluate.answering import answer_questions

    total = sum(len(entry.questions) for entry in sets)
    with tqdm(total=total, unit="question", desc="answering", delay=0.5) as bar:
        report = answer_questions(
            model, sets, by=by, shots=shots, style=words, batch_size=batch_size, progress=bar.update
        )
    found = report.as_json()
    if predictions is not None:
        write_json(predictions, report.submission())
    if out is not None:
        write_json(out, {"model": path, "data": str(data), "split": split, "shots": shots, **found})
    click.echo(_table(found, shots))
    if predictions is not None:
        click.echo(f"wrote {predictions}")


def _table(found: dict[str, Any], shots: int) -> str:
    names = ["acc", "acc_norm"] if found["by"] == "text" else ["acc"]
    rows = [("subject", "questions", *names)]
    rows += [(name, f"{row['questions']:,}", *_rates(row, names)) for name, row in found["subjects"].items()]
    whole = found["all"]
    if len(found["subjects"]) > 1:
        rows.append(("mean of subjects", "", *_rates(found["mean_of_subjects"], names)))
    rows.append(("all questions", f"{whole['questions']:,}", *_rates(whole, names)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:<{width}}" if not at else f"{cell:>{width}}" for at, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    notes = []
    if whole["least_shots"] < shots:
        few = f"{whole['least_shots']} to {whole['most_shots']}"
        notes.append(
            f"{few} of {many(shots, 'example')} stood before a question: dev has no more, or the context is full."
        )
    if whole["graded"] < whole["questions"]:
        notes.append(f"{many(whole['questions'] - whole['graded'], 'question')} without a known answer.")
    if whole["cut"]:
        notes.append(f"{many(whole['cut'], 'prompt')} cut at the start: longer than the context even without examples.")
    return "\n".join(line.rstrip() for line in [*lines, *notes])


def _rates(row: dict[str, Any], names: list[str]) -> list[str]:
    return ["-" if row[name] is None else f"{100 * row[name]:.2f}%" for name in names]
