"""`zoo merge`: put together what parallel training of other suites left in pieces."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.checkpoint.conversion import To
from zoo_core.cli._weights import DTYPES, byte_count, convert_weights, weights_at

__all__ = ["command"]


@click.group(name="merge")
def command() -> None:
    """Put together what parallel training left in pieces."""


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
