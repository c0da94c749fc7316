"""Write Hugging Face folders: the published names, shapes and transposes, from one card or from all ranks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.disk import Disk, as_json
from zoo_core.checkpoint.dtypes import Array
from zoo_core.checkpoint.places import Place, published_place, stored_shape
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.shards import DEFAULT_SHARD_SIZE, Entry, index_json, plan_files
from zoo_core.checkpoint.writer import Extras, LocalTensor, Ranks, Sums, write_folder
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError
from zoo_core.layout import Rule

__all__ = ["export_hf", "hf_places", "published_places", "save_hf", "whole_tensors"]


def hf_places(rule: Rule) -> tuple[Place, ...]:
    """Where a parameter lies in Hugging Face files: in one tensor, a run of one, or each part in its own.

    A tied head lies nowhere (but see `_copies`); nor does a parameter that has no published name.
    """
    if rule.single != rule.name:
        return ()
    if rule.hf:
        return (published_place(rule, rule.hf),)
    places, start = [], 0
    for part in rule.segments():
        if part.hf:
            shape = (*rule.shape[:-1], part.width)
            places.append(Place(part.hf, shape, start, start + part.width, 0, rule.hf_transposed))
        start += part.width
    return tuple(places)


def _copies(table: Mapping[str, Rule]) -> dict[str, tuple[Place, ...]]:
    """For each parameter, where the published files hold it once more: the tied rows that have a name of their own."""
    found: dict[str, tuple[Place, ...]] = {}
    for rule in table.values():
        if rule.single != rule.name and rule.hf:
            found[rule.single] = (*found.get(rule.single, ()), published_place(rule, rule.hf))
    return found


def published_places(table: Mapping[str, Rule]) -> Iterator[tuple[Rule, Place]]:
    """Every parameter with each place it has in the published files."""
    copies = _copies(table)
    for rule in table.values():
        for place in (*hf_places(rule), *copies.get(rule.name, ())):
            yield rule, place


def whole_tensors(table: Mapping[str, Rule], weights: Mapping[str, Array], dtype: str) -> Iterator[LocalTensor]:
    """Present weights held whole on one card, by single-card name, to `save_hf` or `save_checkpoint`."""
    for name, array in weights.items():
        yield LocalTensor(table[name], array, dtype)


def save_hf(
    folder: str | Path,
    tensors: Iterable[LocalTensor],
    *,
    table: Mapping[str, Rule],
    config: ModelConfig | Mapping[str, Any],
    dtype: str | Callable[[str], str],
    ranks: Ranks | None = None,
    files: Extras | None = None,
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    disk: Disk | None = None,
) -> Path:
    """Write a folder that Hugging Face transformers loads; called by all ranks together, or by one.

    Args:
        folder: must not exist, or be empty.
        tensors: the weights this rank holds, taken one at a time. No flat ranges of transposed parameters (sharding
            stage 3): save a checkpoint and use `export_hf`.
        table: every parameter of the model.
        config: written as `config.json`.
        dtype: element type in the files, or a function of the single-card name; values are converted to it.
        files: small files to add (the tokenizer's), written by rank 0.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder is in use, the disk is full, or a tensor was not given whole; nothing is left.
    """
    folder, ranks, disk = Path(folder).absolute(), ranks or Ranks(), disk or Disk()
    copies = _copies(table)

    def places(rule: Rule) -> tuple[Place, ...]:
        return hf_places(rule) + copies.get(rule.name, ())

    entries: dict[str, Entry] = {}
    for name, rule in table.items():
        kind = dtype if isinstance(dtype, str) else dtype(name)
        # several parameters may be runs of one tensor
        entries |= {place.key: Entry("model", place.key, stored_shape(place), kind) for place in places(rule)}
    plan = plan_files(entries.values(), max_shard_size, {"format": "pt"}, bare_single=True)

    def locate(tensor: LocalTensor) -> Sequence[tuple[str, Place]]:
        return [("model", place) for place in places(tensor.rule)] if tensor.role == "weight" else []

    def finish(sums: Sums) -> dict[str, bytes]:
        values = config.to_hf() if isinstance(config, ModelConfig) else config
        last = {name: c.read_bytes() if isinstance(c, Path) else c for name, c in (files or {}).items()}
        last["config.json"] = as_json(values)
        for group, held in plan.items():
            if len(held) > 1:
                last[f"{group}.safetensors.index.json"] = index_json(held)
        return last

    def prepare() -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(f"{folder} is not empty", "", "choose another folder, or remove it")

    def replace(beside: Path, at: Path) -> None:
        if at.exists():
            at.rmdir()
        disk.rename(beside, at)

    write_folder(folder, plan, tensors, locate, finish, ranks, disk, None, prepare, replace)
    return folder


def export_hf(
    source: str | Path,
    folder: str | Path,
    *,
    table: Mapping[str, Rule],
    config: ModelConfig | Mapping[str, Any],
    source_table: Mapping[str, Rule] | None = None,
    dtype: str | None = None,
    files: Extras | None = None,
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    disk: Disk | None = None,
) -> Path:
    """Turn a zoo checkpoint (or another Hugging Face folder) into a Hugging Face folder, one tensor at a time.

    Args:
        source: a `checkpoint-N` folder or a Hugging Face folder.
        dtype: element type to write; by default each tensor's own.

    Raises:
        CheckpointError: as `Reader` and `save_hf`.
    """
    with Reader(source, table, source_table) as reader:
        reader.check()
        kinds = {name: dtype or reader.dtype_of(name) for name in table}
        tensors = (
            LocalTensor(rule, reader.read_local(name, dtype=kinds[name]), kinds[name])
            for name, rule in table.items()
            if hf_places(rule)
        )
        return save_hf(
            folder,
            tensors,
            table=table,
            config=config,
            dtype=kinds.__getitem__,
            files=files,
            max_shard_size=max_shard_size,
            disk=disk,
        )
