"""`zoo export`: a trained model as static programs, compared with the model before they are given their place."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from zoo_core._counting import many
from zoo_core.cli._options import tokenizer_option, tuned_options, weights_options
from zoo_core.environment import ready_device
from zoo_core.errors import PlanError

__all__ = ["command"]


@click.command(name="export")
@click.argument("path")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--batch_size", "--batch-size", type=click.IntRange(1), default=1, show_default=True,
              help="Rows that are decoded together; fewer are filled up.")  # fmt: skip
@click.option("--max_length", "--max-length", type=click.IntRange(2),
              help="Most tokens of a text, prompt and answer; by default the context, and at most 2048.")  # fmt: skip
@tuned_options(
    "Adapter of the model in PATH, to be part of the programs.",
    "Prefix of the model in PATH, to be part of the programs.",
)
@tokenizer_option
@weights_options("Where the programs are compared with the model.")
@click.option("--onnx", is_flag=True, help="Write each program as ONNX, too, each with a copy of the weights.")
@click.option("--tensor_parallel_degree", "--tp", type=click.IntRange(1), default=1, hidden=True)
@click.option("--pipeline_parallel_degree", "--pp", type=click.IntRange(1), default=1, hidden=True)
def command(
    path: str,
    folder: Path,
    batch_size: int,
    max_length: int | None,
    lora_path: Path | None,
    prefix_path: Path | None,
    tokenizer: Path | None,
    device: str,
    dtype: str,
    onnx: bool,
    tensor_parallel_degree: int,
    pipeline_parallel_degree: int,
) -> None:
    """Write the model in PATH to FOLDER as static programs.

    PATH is a zoo checkpoint, the output folder of a run, a Hugging Face folder, or a model's name. FOLDER
    is new, or empty. Its programs read prompts of several lengths and decode with a cache, for
    paddle.jit.load and for Paddle Inference; logits and greedy tokens are compared with those of the model, and
    nothing is left where they differ.

    \b
      zoo export ./output exported
      zoo run predict --static exported --data_file questions.json
    """
    if max(tensor_parallel_degree, pipeline_parallel_degree) > 1:
        raise PlanError(
            "a model that is split over processes is not exported",
            "its programs would hold collectives, and each process's another part of the weights",
            "leave --tp and --pp out; one process reads the weights of any run",
        )
    device = ready_device(device, dtype)
    from zoo_core.checkpoint.conversion import check_free
    from zoo_core.engine.quiet import import_paddle, quiet_environment

    check_free(folder.expanduser().absolute())
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle warns of how its own operations are called
    quiet_environment(os.environ)
    import_paddle(device)
    from zoo_core.export.write import export_model
    from zoo_core.generate.model import load_model

    begin = time.perf_counter()
    adapters = {"adapter": lora_path} if lora_path is not None else None
    model = load_model(path, tokenizer, device, dtype, adapters, prefix_path)
    for note in model.notes:
        click.echo(f"warning: {note}", err=True)
    spec = export_model(model, folder, batch_size, max_length, _say if sys.stderr.isatty() else None, onnx)
    click.echo(f"wrote {folder}, in {time.perf_counter() - begin:.0f} s")
    click.echo(f"prompts    of up to {_numbers(spec.prefill)} tokens")
    click.echo(f"decoding   of {many(batch_size, 'row')} over up to {_numbers(spec.decode)} tokens")
    for way, found in spec.equality.items():
        click.echo(
            f"compared   {way}: {found['tokens']:.0f} greedy tokens are the same; logits differ by at most "
            f"{found['difference']:.1e}, the largest is {found['largest_logit']:.1f}"
        )


def _say(text: str) -> None:
    click.echo(text, err=True)


def _numbers(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
