"""`zoo convert`: weights from one form into another."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core.checkpoint.conversion import To
from zoo_core.cli._weights import DTYPES, byte_count, convert_weights, described_at, weights_at

__all__ = ["command"]


@click.command(name="convert")
@click.argument("source", required=False, metavar="SRC")
@click.argument("folder", required=False, metavar="DST", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(("hf", "zoo", "pdparams")),
              help="Hugging Face's safetensors, a zoo checkpoint, or Paddle's .pdparams.")  # fmt: skip
@click.option("--model", help="Name of the model, or a folder with its config.json; by default the config.json in SRC.")
@click.option("--dtype", type=click.Choice(tuple(DTYPES)), help="Type to write; by default each tensor's own.")
@click.option("--max_shard_size", "--max-shard-size", callback=byte_count, help="Size of a file: 5GB, 500MB.")
@click.option("--split_num", "--split-num", type=click.IntRange(1),
              help="Number of files, instead of their size; 1 with --input_path.")  # fmt: skip
@click.option("--with_tokenizer", "--with-tokenizer", is_flag=True, help="Copy the tokenizer's files too.")
@click.option("--drop_extra", "--drop-extra", is_flag=True,
              help="Leave out tensors that are not part of the model, instead of refusing.")  # fmt: skip
@click.option("--prefix", default="", metavar="ENTRY",
              help="The entry of a distributed checkpoint that is the model; by default it is found.")  # fmt: skip
@click.option("--input_path", "old_source", help="Old name of SRC.")
@click.option("--output_path", "old_folder", type=click.Path(path_type=Path),
              help="Old name of DST; ./temp with --input_path alone.")  # fmt: skip
@click.option("--as_safetensors", is_flag=True, help="Old way to say --to hf.")
@click.option("--offload", is_flag=True, help="Accepted and not needed: memory stays small without it.")
def command(
    source: str | None,
    folder: Path | None,
    to: To | None,
    model: str | None,
    dtype: str | None,
    max_shard_size: int | None,
    split_num: int | None,
    with_tokenizer: bool,
    drop_extra: bool,
    prefix: str,
    old_source: str | None,
    old_folder: Path | None,
    as_safetensors: bool,
    offload: bool,
) -> None:
    """Convert weights from one form into another.

    SRC is a Hugging Face folder (.safetensors or .bin), a zoo checkpoint or the output folder of a run, Paddle's
    .pdparams (whole or in files), shards of PaddleNLP or FleetX, a folder of paddle.distributed.save_state_dict (the
    dist_ckpt of PaddleNLP's auto-parallel training, or the checkpoint around it), or one file. Its form is found by
    looking. DST must not exist yet.

    \b
      zoo convert ./output/checkpoint-100 ./my-model --to hf --dtype bfloat16 --with_tokenizer
      zoo convert ./llama-7b ./llama-7b-paddle --to pdparams
      zoo convert model_state.pdparams ./out --to hf --model facebook/llama-7b
      zoo convert ./output/checkpoint-100/dist_ckpt ./merged --to pdparams
      zoo convert --input_path ./output/checkpoint-100/dist_ckpt --as_safetensors

    Without a model (no config.json and no --model), Paddle's weights become .pdparams, or with --as_safetensors
    .safetensors, with their names and shapes as they are. Memory stays below a gigabyte, whatever the size of the
    model.
    """
    old = old_source is not None
    source, folder = source or old_source, folder or old_folder or (Path("./temp") if old else None)
    if as_safetensors and to not in (None, "hf"):
        raise click.UsageError(f"--as_safetensors and --to {to} contradict each other")
    to = to or ("hf" if as_safetensors else "pdparams" if old else None)
    if not (source and folder and to):
        missing = [name for name, value in (("SRC", source), ("DST", folder), ("--to", to)) if not value]
        raise click.UsageError(f"{' and '.join(missing)} missing: zoo convert SRC DST --to hf|zoo|pdparams")
    if split_num and max_shard_size:
        raise click.UsageError("--split_num and --max_shard_size contradict each other")
    if offload:
        click.echo("--offload has no effect: tensors are never held whole", err=True)
    if old and not max_shard_size:
        split_num = split_num or 1
    found = weights_at(source)
    bare = model is None and not (described_at(found) / "config.json").is_file()
    convert_weights(
        found, folder, to, model=model, dtype=DTYPES[dtype] if dtype else None, max_shard_size=max_shard_size,
        split_num=split_num, with_tokenizer=with_tokenizer, drop_extra=drop_extra, prefix=prefix,
        as_they_are=bare and (to == "pdparams" or as_safetensors),
    )  # fmt: skip
