"""Folders of `paddle.distributed.save_state_dict`: the `dist_ckpt` of PaddleNLP's auto-parallel training. No paddle.

`N.metadata` says of every tensor which part of it lies in which file: a box, or a flat range of a box where a sharded
optimizer cut it. `R_N.distcp` (or `R_N.safetensors`) holds the parts of rank R. A nested state is saved flat, its keys
joined by dots, and `flat_mapping` keeps the way to each: ("model", "llama.norm.weight").
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.dtypes import SAFETENSORS, storage
from zoo_core.checkpoint.foreign.paddle_file import load_pickle, paddle_tensors
from zoo_core.checkpoint.foreign.parts import Part, assembled
from zoo_core.checkpoint.foreign.pickled import Record
from zoo_core.checkpoint.shards import read_header
from zoo_core.checkpoint.stored import Cast, Reshaped, Stored, Turned
from zoo_core.errors import CheckpointError

__all__ = ["Distributed", "distributed_folder", "distributed_weights", "is_distributed"]

_log = logging.getLogger("zoo")

_MODULES = ("paddle.distributed.flex_checkpoint.dcp.metadata", "paddle.distributed.checkpoint.metadata")
_RECORDS = {
    f"{module}.{kind}": kind for module in _MODULES for kind in ("Metadata", "LocalTensorMetadata", "LocalTensorIndex")
}
_WITHIN = ("dist_ckpt", "model_state", "model")
"""Where PaddleNLP puts it: in a checkpoint, in one of its flexible form, and at the end of a run."""
_MODEL = "model"
_STATES = re.compile(r"optim|opt($|_)|master|lr_|scheduler|scaler|ema($|_)|rng", re.IGNORECASE)
_AGAIN = "copy the folder again, with the files of all ranks"


@dataclass(frozen=True)
class Distributed:
    """The model of a distributed checkpoint.

    Args:
        tensors: whole, without the entry's name; their `file` is relative to the folder that was asked for.
        files: how many files hold the parts.
        entry: of a nested state, the entry that is the model; empty where it is not nested.
        left: the other entries -> how many tensors each has.
    """

    tensors: Mapping[str, Stored]
    files: int
    entry: str
    left: Mapping[str, int]

    def describe(self) -> str:
        """What it is, and what of it is not read, in words."""
        files = f"{self.files} file{'s' if self.files != 1 else ''}"
        found = f"a distributed checkpoint of Paddle ({files}"
        if self.entry:
            found += f', its entry "{self.entry}"'
        if self.left:
            found += "; left out: " + ", ".join(f'{count:,} tensors of "{name}"' for name, count in self.left.items())
            if any(_STATES.match(name) for name in self.left):
                found += ", since states of another suite's optimizer do not come over"
        return found + ")"


def is_distributed(folder: Path) -> bool:
    """Whether a folder itself holds a distributed checkpoint, or a part of one."""
    return _metadata_file(folder) is not None or any(folder.glob("*.distcp"))


def distributed_folder(folder: Path) -> Path | None:
    """The folder with the parts: `folder`, or the one in it that PaddleNLP makes; `None` where there is none."""
    return next((at for at in (folder, *(folder / name for name in _WITHIN)) if is_distributed(at)), None)


def _metadata_file(folder: Path) -> Path | None:
    """The newest description in a folder."""
    numbered = [path for path in folder.glob("*.metadata") if re.fullmatch(r"\d+", path.stem)]
    return max(numbered, key=lambda path: int(path.stem), default=None)


def distributed_weights(folder: Path, prefix: str = "", file: str = "") -> Distributed:
    """Return the model of a folder of `paddle.distributed.save_state_dict`, put together from the parts of all ranks.

    Args:
        folder: with the parts, or a checkpoint of PaddleNLP around it.
        prefix: where the state was nested, the entry that is the model; by default it is found: "model", or the only
            entry that is no state of an optimizer. The other entries are left, and named in the log.
        file: the description to go by, `3.metadata`; by default the one with the largest number.

    Raises:
        CheckpointError: a file or a part of a tensor is missing, the description is damaged or does not fit the files,
            a file holds anything but tensors, or it is not clear which entry is the model.
    """
    at = distributed_folder(folder) or folder
    path = at / file if file else _metadata_file(at)
    if path is None:
        raise _undescribed(at)
    whole, ways = _described(path)
    entry, names = _named(path, whole, ways, prefix)
    left = Counter(ways[key][0] if len(ways[key]) > 1 else key.partition(".")[0] for key in whole if key not in names)
    files: dict[str, dict[str, Stored]] = {}
    tensors: dict[str, Stored] = {}
    for key, name in names.items():
        tensor = whole[key]
        for part in tensor.parts:
            if part.file not in files:
                files[part.file] = _file_tensors(folder, at, part.file, path)
        tensors[name] = _assembled(path, key, tensor, files)
    if left:
        _log.info("%s: %s left beside %s", at, ", ".join(f"{n} tensors of {k}" for k, n in left.items()), entry)
    return Distributed(tensors, len(files), entry, dict(left))


def _undescribed(folder: Path) -> CheckpointError:
    if any(folder.glob("__*.distcp")):
        return CheckpointError(
            f"{folder} is a distributed checkpoint of PyTorch",
            "its parts are not pickled tensors",
            "write one file first: torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
        )
    return CheckpointError(
        f"{folder} has .distcp files and no 0.metadata", "it says which parts they hold", "copy it too"
    )


@dataclass(frozen=True)
class _Whole:
    """A tensor as the description has it."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def _described(path: Path) -> tuple[dict[str, _Whole], dict[str, tuple[str, ...]]]:
    """Every tensor of a checkpoint, and the way to it in the state that was saved."""
    try:
        held = load_pickle(path, _RECORDS)
        if not isinstance(held, Record) or held.kind != "Metadata":
            raise CheckpointError(f"{path} does not describe a distributed checkpoint", "", _AGAIN)
        rows = {str(key): [row.fields for row in found] for key, found in held.fields["state_dict_metadata"].items()}
        local = {key: {_sizes(row["global_offset"]): _sizes(row["local_shape"]) for row in rows[key]} for key in rows}
        parts: dict[str, list[Part]] = {key: [] for key in rows}
        for index, file in held.fields["storage_metadata"].items():
            key, at = index.fields["tensor_key"], _sizes(index.fields["global_offset"])
            span = index.fields.get("flattened_range") if index.fields.get("is_flattened") else None
            shape = index.fields.get("local_shape")
            parts[key].append(
                Part(
                    _plain_name(file),
                    at,
                    local[key][at] if shape is None else _sizes(shape),
                    None if span is None else _sizes(span),
                )
            )
        whole = {key: _Whole(_dtype(rows[key]), _shape(rows[key]), tuple(parts[key])) for key in rows}
        given = held.fields.get("flat_mapping") or {}
        ways = {key: tuple(map(str, given.get(key) or (key,))) for key in whole}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged", f"{type(error).__name__}: {error}", _AGAIN) from error
    return whole, ways


def _sizes(found: Any) -> tuple[int, ...]:
    """A shape, offset or range.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(found, tuple | list) or any(type(size) is not int or size < 0 for size in found):
        raise ValueError(f"{found!r} is no shape")
    return tuple(found)


def _plain_name(file: Any) -> str:
    if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*", file):
        raise ValueError(f"{file!r} is no file of this folder")
    return file


def _dtype(rows: list[dict[str, Any]]) -> str:
    return str(rows[0]["dtype"]).rpartition(".")[2]


def _shape(rows: list[dict[str, Any]]) -> tuple[int, ...]:
    """The shape of the whole tensor; Paddle before 3.1 does not write it, but the ends of all parts do."""
    if rows[0].get("global_shape") is not None:
        return _sizes(rows[0]["global_shape"])
    ends = [[a + n for a, n in zip(row["global_offset"], row["local_shape"], strict=True)] for row in rows]
    return tuple(max(column) for column in zip(*ends, strict=True))


def _named(
    path: Path, whole: Mapping[str, _Whole], ways: Mapping[str, tuple[str, ...]], prefix: str
) -> tuple[str, dict[str, str]]:
    """The entry that is the model, and its tensors: key -> name in the model."""
    heads = [way[0] for way in ways.values() if len(way) > 1]
    if not heads:
        # Paddle 2.6 keeps no ways: "model.a" beside "optimizer.b" was nested, "model.a" alone may be a name
        first = {key.partition(".")[0] for key in whole}
        if prefix or (_MODEL in first and any(_STATES.match(name) for name in first)):
            entry = prefix or _MODEL
            heads = [entry for key in whole if key.startswith(f"{entry}.")]
            ways = {key: (entry, key[len(entry) + 1 :]) if key.startswith(f"{entry}.") else (key,) for key in whole}
    entries = dict(Counter(heads))
    if prefix and prefix not in entries:
        found = ", ".join(f"{name} ({count} tensors)" for name, count in entries.items()) or "none: it is not nested"
        raise CheckpointError(
            f"{path.parent} has no entry {prefix}", f"its entries: {found}", "leave out --prefix, or give another"
        )
    if not entries:
        return "", {key: key for key in whole}
    likely = [name for name in entries if not _STATES.match(name)]
    entry = prefix or (_MODEL if _MODEL in entries else likely[0] if len(likely) == 1 else "")
    if not entry:
        raise CheckpointError(
            f"which entry of {path.parent} is the model?",
            "it has " + ", ".join(f"{name} ({count} tensors)" for name, count in entries.items()),
            f"--prefix {(likely or list(entries))[0]}",
        )
    return entry, {key: ".".join(way[1:]) for key, way in ways.items() if len(way) > 1 and way[0] == entry}


def _file_tensors(folder: Path, at: Path, file: str, path: Path) -> dict[str, Stored]:
    """The parts that a file holds."""
    if not (at / file).is_file():
        raise CheckpointError(f"{at / file} is missing", f"{path} names it", "copy the files of all ranks")
    name = (at / file).relative_to(folder).as_posix()
    if file.endswith(".safetensors"):
        return {key: replace(tensor, file=name) for key, tensor in read_header(at / file)[0].items()}
    return paddle_tensors(folder, name)


def _assembled(path: Path, key: str, tensor: _Whole, files: Mapping[str, Mapping[str, Stored]]) -> Stored:
    sources = []
    for part in tensor.parts:
        if key not in files[part.file]:
            raise CheckpointError(f"tensor {key} is not in {path.parent / part.file}", f"{path} says it is", _AGAIN)
        sources.append(_typed(files[part.file][key], tensor.dtype))
    return assembled(path, key, tensor.shape, tensor.dtype, list(zip(tensor.parts, sources, strict=True)))


def _typed(tensor: Stored, dtype: str) -> Stored:
    """The tensor under the element type that the description says, where the file only has its bits (float8)."""
    bits = storage(dtype).name if dtype in SAFETENSORS else dtype
    if bits == dtype or tensor.dtype not in (bits, bits.removeprefix("u")):
        return tensor
    return tensor if isinstance(tensor, Reshaped | Turned | Cast) else replace(tensor, dtype=dtype)
