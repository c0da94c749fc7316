"""`zoo compress`: quantise a trained model, calibrated on text, and say what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli._options import device_option, tokenizer_option
from zoo_core.environment import ready_device
from zoo_core.quantization import PER_CHANNEL, QuantSpec
from zoo_core.registry import registry

if TYPE_CHECKING:
    from zoo_core.quantize.compress import Job
    from zoo_core.quantize.report import Report

__all__ = ["command"]

_KINDS = {"weight_only_int8": ("weight_only", 8), "weight_only_int4": ("weight_only", 4), "a8w8": ("w8a8", 8)}
"""PaddleNLP's `quant_type` -> method and bits."""

_IN_VAIN = {
    "shift": "zoo smooths, and does not shift activations",
    "smooth_piecewise_search": "one alpha for all features is what the paper has: --alpha sets it",
    "do_awq": "zoo has round to nearest, GPTQ and smoothing",
}


@click.group(name="compress")
def command() -> None:
    """Quantise a trained model, and say what that costs: after training (ptq, gptq), or as it was trained (qat).

    The result is a folder that every command takes as a model, with a report in it (compression.txt,
    compression.json): the error of each layer, and the perplexity of held-out text before and after.
    """


def _common(function: Callable[..., None]) -> Callable[..., None]:
    """The options that ptq and gptq share."""
    options = (
        click.argument("model", metavar="MODEL"),
        click.option("--data", required=True,
                     help="Text to calibrate with: a .txt or .jsonl file, a folder of them, or a corpus."),
        click.option("--output", "--out", "folder", required=True, type=click.Path(path_type=Path),
                     help="Folder to write; it must not exist yet."),
        click.option("--samples", type=click.IntRange(1), default=128, show_default=True,
                     help="Samples to calibrate with."),
        click.option("--length", type=click.IntRange(8), default=512, show_default=True,
                     help="Tokens of a sample; fewer where the model's context is shorter."),
        click.option("--eval_data", "--eval-data", help="Text to measure on; by default the end of --data."),
        click.option("--eval_samples", "--eval-samples", type=click.IntRange(1), default=32, show_default=True,
                     help="Samples to measure on, never used to calibrate."),
        click.option("--json_key", "--json-key", default="text", show_default=True,
                     help="Key of the text in JSON lines."),
        tokenizer_option,
        click.option("--targets", multiple=True,
                     help="Ends of names, or patterns, of layers to quantise; else every linear one of the blocks."),
        click.option("--skip", multiple=True, help="The same of layers to leave as they are."),
        click.option("--batch_size", "--batch-size", type=click.IntRange(1), default=4, show_default=True,
                     help="Samples of a pass."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
                     help="Chooses where in the data the samples are."),
        device_option(),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command.command(name="ptq")
@_common
@click.option("--quant_type", "--quant-type", type=click.Choice(tuple(_KINDS)), default="weight_only_int8",
              show_default=True, help="Weights of 8 or 4 bits, or weights and activations of 8 (a8w8).")  # fmt: skip
@click.option("--bits", type=int, help="Bits of a weight, 3, 4 or 8; instead of --quant_type.")
@click.option("--group_size", "--group-size", type=int, default=PER_CHANNEL, show_default=True,
              help="Input features that share a scale; -1 is all.")  # fmt: skip
@click.option("--asymmetric", is_flag=True, help="With zero points.")
@click.option("--smooth/--no-smooth", default=None,
              help="a8w8: move outliers of activations into the weights; on by default.")  # fmt: skip
@click.option("--alpha", type=float, default=0.5, show_default=True,
              help="Smoothing: how much of the difficulty goes to the weights.")  # fmt: skip
@click.option("--smooth_all_linears", "--smooth-all-linears", is_flag=True,
              help="Smooth layers without a norm before them too, by dividing their input.")  # fmt: skip
@click.option("--activations", type=click.Choice(("dynamic", "static")), default="dynamic", show_default=True,
              help="a8w8: a scale for each token as it comes, or one for a layer from calibration.")  # fmt: skip
@click.option("--shift", is_flag=True, hidden=True)
@click.option("--smooth_piecewise_search", is_flag=True, hidden=True)
@click.option("--do_awq", is_flag=True, hidden=True)
def post_training(
    quant_type: str, bits: int | None, group_size: int, asymmetric: bool, smooth: bool | None, alpha: float,
    smooth_all_linears: bool, activations: str, **common: Any,
) -> None:  # fmt: skip
    """Round the weights to the nearest, and with a8w8 the activations too (SmoothQuant, arXiv 2211.10438).

    \b
      zoo compress ptq ./llama-7b --data ./text.txt --output ./llama-7b-int8
      zoo compress ptq ./llama-7b --data ./corpus --output ./llama-7b-w8a8 --quant_type a8w8
    """
    for name, why in _IN_VAIN.items():
        if common.pop(name):
            raise click.UsageError(f"--{name}: {why}")
    method, own = _KINDS[quant_type]
    integers = method == "w8a8"
    if (smooth or smooth_all_linears) and not integers:
        raise click.UsageError("--smooth is for activations: --quant_type a8w8")
    spec = QuantSpec(
        "w8a8" if integers else "weight_only",
        own if bits is None else bits,
        group_size,
        not asymmetric,
        targets=common.pop("targets"),
        skip=common.pop("skip"),
        activations="static" if activations == "static" else "dynamic",
        smooth=smooth_all_linears,
    )
    smooths = integers and smooth is not False
    _compress(spec, alpha=alpha if smooths else None, **common)


@command.command(name="gptq")
@_common
@click.option("--bits", type=int, default=4, show_default=True, help="Bits of a weight: 3, 4 or 8.")
@click.option("--group_size", "--group-size", type=int, default=128, show_default=True,
              help="Input features that share a scale; -1 is all.")  # fmt: skip
@click.option("--act_order/--no-act-order", "--desc_act", default=False, show_default=True,
              help="Round the features with the largest activations first.")  # fmt: skip
@click.option("--asymmetric", is_flag=True, help="With zero points.")
@click.option("--percdamp", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True,
              help="Damping: share of the mean diagonal of X^T X.")  # fmt: skip
@click.option("--true_sequential/--no-true-sequential", default=True, show_default=True,
              help="Calibrate each layer of a block with the quantised ones before it.")  # fmt: skip
def second_order(
    bits: int, group_size: int, act_order: bool, asymmetric: bool, percdamp: float, true_sequential: bool, **common: Any
) -> None:
    """Round the weights one input feature at a time, and let the rest make up for it (GPTQ, arXiv 2210.17323).

    \b
      zoo compress gptq ./llama-7b --data ./text.txt --output ./llama-7b-gptq4 --bits 4 --group_size 128 --act_order
    """
    spec = QuantSpec(
        "gptq", bits, group_size, not asymmetric, act_order, targets=common.pop("targets"), skip=common.pop("skip")
    )
    _compress(spec, percdamp=percdamp, true_sequential=true_sequential, **common)


def _compress(
    spec: QuantSpec, *, model: str, data: str, folder: Path, samples: int, length: int, eval_data: str | None,
    eval_samples: int, json_key: str, tokenizer: Path | None, batch_size: int, seed: int, device: str,
    **recipe: Any,
) -> None:  # fmt: skip
    from zoo_core.checkpoint.conversion import check_free
    from zoo_core.cli._weights import tokenizer_files, weights_at

    begin = time.perf_counter()
    target = folder.expanduser().absolute()
    check_free(target)
    source = weights_at(model)
    found = registry().find(str(source if source.is_dir() else source.parent))
    from zoo_core.data.encode import TokenizerSource
    from zoo_core.quantize.calibration import calibration_texts

    length = min(length, found.config.max_position_embeddings)
    names = TokenizerSource(tokenizer, str(found.path or source))
    texts = calibration_texts(
        data, names, found.config.vocab_size, samples=samples, length=length, held=eval_samples, held_data=eval_data,
        json_key=json_key, seed=seed,
    )  # fmt: skip
    _start_paddle(device)
    from zoo_core.quantize.compress import Job, compress
    from zoo_core.quantize.recipe import Recipe

    job = Job(found, source, target, tokenizer_files(source))
    click.echo(f"model        {source}")
    click.echo(f"becomes      {spec.describe()}")
    report = compress(job, texts, Recipe(spec, rows=batch_size, **recipe), click.echo)
    _say(job, report, time.perf_counter() - begin)


def _say(job: Job, report: Report, seconds: float) -> None:
    click.echo()
    click.echo(report.summary())
    click.echo(f"\nwrote        {job.folder} in {seconds:.1f} s; compression.txt in it has every layer")


def _start_paddle(device: str) -> None:
    device = ready_device(device, "float32")
    from zoo_core.engine.quiet import import_paddle

    import_paddle(device)


@command.command(name="qat")
@_common
def as_trained(**common: Any) -> None:
    """Write what quantisation-aware training trained (zoo run ... --do_qat) with weights of integers.

    The weights are rounded as they were in its last step, and activations by the spans that it found. The text is only
    measured on.

    \b
      zoo run pretrain --model gpt3-345M --input_dir ./corpus --output_dir ./output --do_qat
      zoo compress qat ./output --data ./corpus --output ./gpt3-345M-int8
    """
    from zoo_core.cli._weights import weights_at
    from zoo_core.quantize.qat import trained_rounding

    at = weights_at(common["model"])
    named = [common.pop("targets"), common.pop("skip")]
    if any(named):
        raise click.UsageError("--targets and --skip are for ptq and gptq: training has rounded what it has rounded")
    trained = trained_rounding(at)
    _compress(trained.spec, spans=trained.spans, per_channel=trained.per_channel, **common)
