"""What `zoo convert` and `zoo merge` share: the model of a folder, its tokenizer, sizes in words, and the report."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from zoo_core.checkpoint import latest_checkpoint
from zoo_core.checkpoint.conversion import To, check_free, convert_folder
from zoo_core.checkpoint.dequantised import open_weights
from zoo_core.checkpoint.dtypes import item_size
from zoo_core.checkpoint.foreign import is_distributed
from zoo_core.checkpoint.names import MANIFEST
from zoo_core.cli._text import bytes_text
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.layout import Rule
from zoo_core.quantization import QuantSpec
from zoo_core.registry import registry
from zoo_core.train.prepare import other_fusing

__all__ = ["DTYPES", "byte_count", "convert_weights", "described_at", "tokenizer_files", "tokenizer_of", "weights_at"]

DTYPES = {
    "float32": "float32", "fp32": "float32", "float16": "float16", "fp16": "float16", "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}  # fmt: skip

_TOKENIZERS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "chat_template.jinja", "chat_template.json", "*.tiktoken", "*.model",
)  # fmt: skip

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def byte_count(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Parse a size: 500MB, 5GB, 2GiB, or bytes.

    Raises:
        BadParameter: it is none.
    """
    if value is None:
        return None
    found = re.fullmatch(r"([\d.]+)\s*([KMGT]?I?)B?", value.strip().upper())
    if not found or found[2] not in _UNITS or found[1].count(".") > 1 or not float(found[1]):
        raise click.BadParameter(f"{value!r} is no size; write 5GB, 500MB or 2GiB")
    return max(1, int(float(found[1]) * _UNITS[found[2]]))


def weights_at(path: str) -> Path:
    """The folder or file with weights that a word means; of a run's output folder, its newest checkpoint.

    Raises:
        CheckpointError: nothing is there.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise CheckpointError(f"there is no {path}", "", "give a folder with weights, or one file of them")
    if found.is_dir() and not (found / MANIFEST).is_file() and not (found / "config.json").is_file():
        return latest_checkpoint(found) or found
    return found


def described_at(source: Path) -> Path:
    """The folder that has the configuration and the tokenizer of weights: of a distributed checkpoint, around it."""
    folder = source if source.is_dir() else source.parent
    around = is_distributed(folder) and not (folder / "config.json").is_file()
    return folder.absolute().parent if around and (folder.absolute().parent / "config.json").is_file() else folder


def tokenizer_files(source: Path) -> dict[str, Path]:
    """The files of the tokenizer beside weights; empty where there is none."""
    folder = described_at(source)
    return {path.name: path for name in _TOKENIZERS for path in sorted(folder.glob(name)) if path.is_file()}


def tokenizer_of(source: Path) -> dict[str, Path]:
    """The files of the tokenizer beside weights.

    Raises:
        CheckpointError: there is none.
    """
    files = tokenizer_files(source)
    if not files:
        raise CheckpointError(
            f"no tokenizer in {described_at(source)}",
            "--with_tokenizer copies its files",
            "leave it out, or put them there",
        )
    return files


def _model(
    source: Path, model: str | None
) -> tuple[Mapping[str, Rule], Mapping[str, Rule], ModelConfig, QuantSpec | None]:
    """The tables of the model, with projections apart and fused, its configuration, and what of it is quantised.

    Tables and configuration are those of numbers, which quantised weights are converted to.
    """
    folder = described_at(source)
    if model is None and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} has no config.json", "it says which model the weights are of",
            "--model NAME, or --model FOLDER with the model's config.json",
        )  # fmt: skip
    found = registry().find(model or str(folder))
    apart = {name: False for name in ("fuse_attention_qkv", "fuse_attention_ffn") if hasattr(found.config, name)}
    config = found.config.replace(quantization_config=None, **apart)
    return found.architecture.table(config), other_fusing(found, config), config, found.config.quantization_config


def convert_weights(
    source: Path,
    folder: Path,
    to: To,
    *,
    model: str | None = None,
    dtype: str | None = None,
    max_shard_size: int | None = None,
    split_num: int | None = None,
    with_tokenizer: bool = False,
    drop_extra: bool = False,
    prefix: str = "",
    split_only: bool = False,
    as_they_are: bool = False,
) -> None:
    """Convert and say what was written.

    Args:
        split_only: refuse a source whose tensors are not split.
        as_they_are: keep names and shapes, without a model.

    Raises:
        CheckpointError: as `convert_folder`.
        ConfigError: the model is not known.
    """
    check_free(folder.expanduser().absolute())
    files: dict[str, bytes | Path] = dict(tokenizer_of(source)) if with_tokenizer else {}
    generation = described_at(source) / "generation_config.json"
    if generation.is_file() and not as_they_are:
        files[generation.name] = generation
    table, fused, config, quantised = ({}, {}, None, None) if as_they_are else _model(source, model)
    begin = time.perf_counter()
    with open_weights(source, table, fused, quantised, prefix) as reader:
        if split_only and not reader.was_split:
            raise CheckpointError(
                f"{source} holds {reader.what}, not shards",
                "shards are model_state.tp00.pdparams ..., or mp_00_sharding_00_pp_00/model.pdparams ...",
                "zoo convert changes the form of whole weights",
            )
        total = sum(math.prod(tensor.shape) * item_size(dtype or tensor.dtype) for tensor in reader.tensors.values())
        shown = total > 2 * 10**9 and sys.stderr.isatty()
        with click.progressbar(length=total, file=sys.stderr, hidden=not shown, show_pos=False) as bar:
            done = convert_folder(
                reader, folder.expanduser(), to, table=table, config=config, dtype=dtype, max_shard_size=max_shard_size,
                split_num=split_num, drop_extra=drop_extra, files=files, progress=bar.update,
            )  # fmt: skip
    seconds = time.perf_counter() - begin
    many = f"{len(done.files)} files" if len(done.files) > 1 else done.files[0]
    click.echo(f"read {done.what} at {source}" + (f", {quantised.describe()}, as numbers" if quantised else ""))
    click.echo(f"wrote {folder}: {done.tensors:,} tensors, {bytes_text(done.size)} in {many}, in {seconds:.1f} s")
    if done.left:
        click.echo(f"left out {len(done.left)} tensors that are not part of the model: {', '.join(done.left)}")
