"""`zoo merge`: put together what parallel training of other suites left in pieces, and adapters with their base."""

from __future__ import annotations

import time
from pathlib import Path

import click

from zoo_core._counting import many
from zoo_core.checkpoint import verify as verify_files
from zoo_core.checkpoint.conversion import To, check_free
from zoo_core.checkpoint.dequantised import open_weights
from zoo_core.checkpoint.names import MANIFEST
from zoo_core.cli._weights import DTYPES, byte_count, convert_weights, tokenizer_files, weights_at
from zoo_core.peft.digest import digest
from zoo_core.peft.files import adapter_folder, adapter_spec, fused_table, open_adapter
from zoo_core.peft.merge import merge_lora
from zoo_core.registry import registry

__all__ = ["command"]


@click.group(name="merge")
def command() -> None:
    """Put together shards of a model, or an adapter and its base."""


@command.command(name="tp")
@click.argument("source", required=False, metavar="SRC")
@click.argument("folder", required=False, metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(("pdparams", "hf", "zoo")), default="pdparams", show_default=True,
              help="Paddle's .pdparams, Hugging Face's safetensors, or a zoo checkpoint.")  # fmt: skip
@click.option("--model", help="Name of the model, or a folder with its config.json; by default the config.json in SRC.")
@click.option("--dtype", type=click.Choice(tuple(DTYPES)), help="Type to write; by default each tensor's own.")
@click.option("--max_shard_size", "--max-shard-size", callback=byte_count, help="Size of a file: 5GB, 500MB.")
@click.option("--with_tokenizer", "--with-tokenizer", is_flag=True, help="Copy the tokenizer's files too.")
@click.option("--drop_extra", "--drop-extra", is_flag=True,
              help="Leave out tensors that are not part of the model, instead of refusing.")  # fmt: skip
@click.option("--model_name_or_path", "old_source", help="Old name of SRC.")
@click.option("--merge_model_path", "old_folder", type=click.Path(path_type=Path), help="Old name of DST.")
@click.option("--device", default="cpu", help="Accepted and not needed: merging is done on the CPU.")
def tensor_parallel(
    source: str | None,
    folder: Path | None,
    to: To,
    model: str | None,
    dtype: str | None,
    max_shard_size: int | None,
    with_tokenizer: bool,
    drop_extra: bool,
    old_source: str | None,
    old_folder: Path | None,
    device: str,
) -> None:
    """Merge tensor-parallel (and pipeline) shards to one model.

    SRC holds PaddleNLP's model_state.tp00.pdparams ... (or .tp00_pp00. ...), or FleetX's folders
    mp_00_sharding_00_pp_00 ... DST must not exist yet.

    \b
      zoo merge tp ./output/checkpoint-100 ./merged
      zoo merge tp ./epoch_0_step_1000 ./merged --model gpt3-345M --to hf
    """
    source, folder = source or old_source, folder or old_folder
    if not (source and folder):
        missing = [name for name, value in (("SRC", source), ("DST", folder)) if not value]
        raise click.UsageError(f"{' and '.join(missing)} missing: zoo merge tp SRC DST")
    if device != "cpu":
        click.echo(f"--device {device} has no effect: merging is done on the CPU", err=True)
    convert_weights(
        weights_at(source), folder, to, model=model, dtype=DTYPES[dtype] if dtype else None,
        max_shard_size=max_shard_size, with_tokenizer=with_tokenizer, drop_extra=drop_extra, split_only=True,
    )  # fmt: skip


@command.command(name="lora")
@click.argument("base", required=False, metavar="BASE")
@click.argument("adapter", required=False, metavar="ADAPTER")
@click.argument("folder", required=False, metavar="DST", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(tuple(DTYPES)), help="Type to write; by default each tensor's own.")
@click.option("--model_name_or_path", "old_base", help="Old name of BASE; by default the base that ADAPTER names.")
@click.option("--lora_path", "old_adapter", help="Old name of ADAPTER.")
@click.option("--merge_model_path", "old_folder", type=click.Path(path_type=Path), help="Old name of DST.")
@click.option("--device", default="cpu", help="Accepted and not needed: merging is done on the CPU.")
def low_rank(
    base: str | None,
    adapter: str | None,
    folder: Path | None,
    dtype: str | None,
    old_base: str | None,
    old_adapter: str | None,
    old_folder: Path | None,
    device: str,
) -> None:
    """Add a LoRA adapter to its base model, and write the sum as a Hugging Face folder.

    ADAPTER is a LoRA checkpoint, the output folder of a LoRA run, or a folder of PEFT or PaddleNLP. DST must not exist
    yet. What was written is read back: merged minus base has to be scale A B, up to rounding. The base stays as it is.

    \b
      zoo merge lora ./llama-7b ./output ./merged
      zoo merge lora --model_name_or_path ./llama-7b --lora_path ./output/adapter --merge_model_path ./merged
    """
    base, adapter, folder = base or old_base, adapter or old_adapter, folder or old_folder
    if not (adapter and folder):
        missing = [name for name, value in (("ADAPTER", adapter), ("DST", folder)) if not value]
        raise click.UsageError(f"{' and '.join(missing)} missing: zoo merge lora BASE ADAPTER DST")
    if device != "cpu":
        click.echo(f"--device {device} has no effect: merging is done on the CPU", err=True)
    at = adapter_folder(adapter)
    spec = adapter_spec(at)
    base = base or spec.base
    if not base:
        raise click.UsageError(f"BASE missing, and {adapter} does not name it: zoo merge lora BASE ADAPTER DST")
    source = weights_at(base)
    target = folder.expanduser().absolute()
    check_free(target)
    if (at / MANIFEST).is_file():  # of a run: a damaged adapter would be added as it is
        verify_files(at, states=False)
    begin = time.perf_counter()
    found = registry().find(str(source if source.is_dir() else source.parent))
    quantised = found.config.quantization_config
    files, config = open_adapter(found.architecture, found.config.replace(quantization_config=None), at)
    table, fused = found.architecture.table(config), fused_table(found.architecture, config)
    small = tokenizer_files(source) | tokenizer_files(at)
    with files, open_weights(source, table, fused, quantised) as reader:
        done = merge_lora(
            reader, files, target, table=table, fused=fused, config=config,
            dtype=DTYPES[dtype] if dtype else None, files=small,
        )  # fmt: skip
    click.echo(f"base       {source}" + (f", {quantised.describe()}, as numbers" if quantised else ""))
    if spec.base_digest and source.is_dir() and digest(source) != spec.base_digest:
        click.echo(f"other base the adapter was trained on {spec.base}, whose files are not those of {source}")
    click.echo(f"adapter    {at}: {many(done.layers, 'layer')}, largest change of a weight {done.change:.3g}")
    click.echo(
        f"wrote      {folder} in {time.perf_counter() - begin:.1f} s, tokenizer {'copied' if small else 'not found'}"
    )
    click.echo(
        f"checked    merged - base = scale A B to {done.error:.3g}, {done.worst:.0%} of what rounding allows; "
        "the base is as it was"
    )
