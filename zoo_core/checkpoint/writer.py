"""All ranks write one folder together, each its own slices at their places in the files; nothing is gathered.

1. Rank 0 makes `FOLDER.XXXX.tmp` with every file at its full size. 2. Every rank writes its slices and syncs them.
3. The files are shared out and their checksums taken. 4. Rank 0 adds the small files, syncs and renames the folder.
After each stage the ranks tell each other how it went, so a full disk on one of them is the same error on all, and
no stage begins before the last has ended everywhere.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint.disk import Disk, checksum, side_by_side
from zoo_core.checkpoint.dtypes import Array, convert, item_size, storage
from zoo_core.checkpoint.manifest import share_out
from zoo_core.checkpoint.places import Place, runs
from zoo_core.checkpoint.ranks import Ranks
from zoo_core.checkpoint.shards import Located, ShardFile
from zoo_core.errors import CheckpointError, ZooError
from zoo_core.layout import Rule, local_shape

__all__ = ["Extras", "LocalTensor", "Locate", "Ranks", "Sums", "measured", "what_to_do", "write_files", "write_folder"]

Extras = Mapping[str, bytes | Path]
"""Relative file name -> its bytes, or the file to copy."""

_MARGIN = 1 << 20


@dataclass(frozen=True)
class LocalTensor:
    """What this rank holds of a parameter, or of a state that has the parameter's shape.

    Args:
        rule: the parameter's row (of `zoo_core.layout.expand`, so without `*`).
        array: the local parameter, or 1-D for a flat range of it; bfloat16 as uint16 bits, float8 as uint8 bits.
        dtype: element type of `array`: "float32", "bfloat16", ...
        role: `weight`, `master`, `moment1`, `moment2`, or any other word: an optimizer state `NAME/ROLE`.
        degree: size of the tensor axis this parameter is split over; `rank` is the place on it.
        flat: `array` is elements [start, stop) of the flattened local parameter (sharding); what goes beyond its end
            is padding and not written.
        writes: this rank is the one that stores these elements, of those that hold the same by data parallelism,
            sharding or a tie. Copies over the tensor axis, and tied heads, are sorted out by the writer.
    """

    rule: Rule
    array: Array
    dtype: str = "float32"
    role: str = "weight"
    degree: int = 1
    rank: int = 0
    flat: tuple[int, int] | None = None
    writes: bool = True


@contextmanager
def _told(ranks: Ranks, report: dict[str, Any], what: str) -> Iterator[dict[str, Any]]:
    """Run a stage, exchange what it reports, and raise everywhere what failed anywhere.

    Afterwards `report["all"]` holds the reports of all ranks.
    """
    failure: Exception | None = None
    try:
        yield report
    except Exception as error:
        failure = error
        report.clear()
        report["error"], report["todo"] = _reason(error)
    try:
        everyone = [json.loads(text) for text in ranks.exchange(json.dumps(report))]
    except ZooError as error:  # a rank has died
        raise CheckpointError(what, *_reason(error)) from error
    if failure is not None and not isinstance(failure, OSError | ZooError):
        raise failure
    for rank, told in enumerate(everyone):
        if "error" in told:
            where = f"rank {rank}: " if ranks.world > 1 else ""
            raise CheckpointError(what, where + told["error"], told["todo"]) from failure
    report["all"] = everyone


_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def what_to_do(error: OSError) -> str:
    """What helps where a file could not be written."""
    if error.errno in _NOT_ALLOWED:
        return "choose another folder, or have this one made writable"
    return "free space or choose another folder"


def _reason(error: Exception) -> tuple[str, str]:
    """Why a stage failed, and what to do."""
    if isinstance(error, ZooError):
        return ": ".join(filter(None, (error.what, error.why))), error.todo
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is not there", "all processes must see one folder: choose one on a shared file system"
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}", what_to_do(error)
    return f"{type(error).__name__}: {error}", ""


Locate = Callable[[LocalTensor], Sequence[tuple[str, Place]]]
"""The file group and place of each stored tensor that a local one is part of; empty for what is not stored."""

Sums = dict[str, dict[str, int]]
"""Relative file name -> its `size` in bytes and `crc32`."""


def measured(content: bytes) -> dict[str, int]:
    """The manifest's facts of a small file."""
    return {"size": len(content), "crc32": zlib.crc32(content)}


def write_folder(
    target: Path,
    plan: Mapping[str, Sequence[ShardFile]],
    tensors: Iterable[LocalTensor],
    locate: Locate,
    finish: Callable[[Sums], Mapping[str, bytes]],
    ranks: Ranks,
    disk: Disk,
    extras: Extras | None = None,
    prepare: Callable[[], None] | None = None,
    replace: Callable[[Path, Path], None] | None = None,
) -> None:
    """Write the planned files and make them `target`, or leave `target` as it was.

    Args:
        tensors: what this rank holds; taken one at a time.
        locate: where each of them is stored.
        finish: given every file's size and checksum, returns the last small files; called on rank 0.
        extras: small files of this rank.
        prepare: called on rank 0 before anything is written.
        replace: puts the finished folder (first) at its place (second), on rank 0; by default a rename.

    Raises:
        CheckpointError: the disk is full, a rank failed, or a tensor was not written whole; on every rank. The
            temporary folder is gone.
    """
    # a name of its own: a process of an earlier run that was not killed with the others may still write to its folder
    beside = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    what = f"could not save {target}"
    files = [file for group in plan.values() for file in group]
    try:
        digest = f"{zlib.crc32(b''.join(file.header for file in files)):08x}"
        with _told(ranks, {"plan": digest, "beside": beside.name}, what) as report:
            if ranks.rank == 0:
                _sweep(target, disk)
                if prepare is not None:
                    prepare()
                _create(beside, files, disk)
        beside = target.with_name(report["all"][0]["beside"])
        if len({told["plan"] for told in report["all"]}) > 1:
            raise CheckpointError(what, "the ranks do not agree on which tensors there are", "")
        with _told(ranks, {"extras": list(extras or {})}, what) as report:
            report["counts"] = _write_slices(beside, plan, tensors, locate, disk)
            write_files(beside, extras or {}, disk)
        _check_whole(plan, [told["counts"] for told in report["all"]], what)
        sizes = {file.name: file.size for file in files}
        sizes |= {name: 0 for told in report["all"] for name in told["extras"]}
        with _told(ranks, {}, what) as report:
            mine = share_out(sizes, ranks.world)[ranks.rank]
            taken = side_by_side(checksum, [beside / name for name in mine])
            report["sums"] = {
                name: {"size": (beside / name).stat().st_size, "crc32": crc32}
                for name, crc32 in zip(mine, taken, strict=True)
            }
        sums: Sums = {name: facts for told in report["all"] for name, facts in told["sums"].items()}
        with _told(ranks, {}, what):
            if ranks.rank == 0:
                write_files(beside, finish(sums), disk)
                for folder in [*(path for path in beside.rglob("*") if path.is_dir()), beside]:
                    disk.sync_folder(folder)
                (replace or disk.rename)(beside, target)
                disk.sync_folder(target.parent)
    except BaseException:
        if ranks.rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
        raise


def _sweep(target: Path, disk: Disk) -> None:
    """Remove what saves of this target that were killed have left."""
    if target.parent.is_dir():
        for left in sorted(target.parent.glob(f"{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp")):
            disk.remove(left)


def _create(beside: Path, files: Sequence[ShardFile], disk: Disk) -> None:
    disk.folder(beside.parent)
    needed, free = sum(file.size for file in files) + _MARGIN, shutil.disk_usage(beside.parent).free
    if free < needed:
        why = f"it takes {needed / 1e6:,.1f} MB, {beside.parent} has {free / 1e6:,.1f} MB free"
        raise CheckpointError("the disk is too full", why, "free space or choose another folder")
    disk.folder(beside)
    for file in files:
        disk.create(beside / file.name, file.header, file.size)


def _write_slices(
    beside: Path, plan: Mapping[str, Sequence[ShardFile]], tensors: Iterable[LocalTensor], locate: Locate, disk: Disk
) -> dict[str, int]:
    """Write this rank's slices; return how many elements of each stored tensor, by `GROUP:KEY`."""
    index = {(group, t.key): t for group, files in plan.items() for file in files for t in file.tensors}
    handles: dict[str, int] = {}
    counts: dict[str, int] = {}
    try:
        for tensor in tensors:
            for group, place in locate(tensor) if tensor.writes else ():
                if (group, place.key) not in index:
                    raise CheckpointError(f"{place.key} is not among the {group} tensors to be saved")
                stored = index[group, place.key]
                table = runs(tensor.rule, tensor.degree, tensor.rank, place, tensor.flat, writing=True)
                if len(table) == 0:
                    continue
                if stored.file not in handles:
                    handles[stored.file] = os.open(beside / stored.file, os.O_WRONLY)
                _write_runs(handles[stored.file], beside / stored.file, stored, tensor, place, table, disk)
                name = f"{group}:{place.key}"
                counts[name] = counts.get(name, 0) + int(table[:, 2].sum())
        for file, handle in handles.items():
            disk.sync(handle, beside / file)
    finally:
        for handle in handles.values():
            os.close(handle)
    return counts


def _write_runs(
    handle: int, path: Path, stored: Located, tensor: LocalTensor, place: Place, table: Array, disk: Disk
) -> None:
    expected = local_shape(tensor.rule, tensor.degree)
    if tensor.flat is not None:
        expected = (tensor.flat[1] - tensor.flat[0],)
    if tensor.array.shape != expected or tensor.array.dtype != storage(tensor.dtype):
        raise CheckpointError(
            f"{tensor.rule.name} ({tensor.role}) is {list(tensor.array.shape)} of {tensor.array.dtype} on this rank",
            f"the table makes it {list(expected)} of {tensor.dtype}",
        )
    array = tensor.array
    if tensor.dtype != stored.dtype:
        array = np.empty(array.shape, storage(stored.dtype))
        convert(tensor.array, tensor.dtype, array, stored.dtype)
    flat = np.ascontiguousarray(array.T if place.transposed else array).reshape(-1)
    view, size = flat.view(np.uint8).data, item_size(stored.dtype)
    for offset, local, length in (table * size).tolist():
        disk.write_at(handle, path, view[local : local + length], stored.offset + offset)


def write_files(folder: Path, files: Extras, disk: Disk) -> None:
    """Write small files below `folder`, each synced."""
    for name, content in files.items():
        disk.folder((folder / name).parent)
        disk.write(folder / name, content.read_bytes() if isinstance(content, Path) else content)


def _check_whole(plan: Mapping[str, Sequence[ShardFile]], counts: Sequence[Mapping[str, int]], what: str) -> None:
    total: dict[str, int] = {}
    for count in counts:
        for name, written in count.items():
            total[name] = total.get(name, 0) + written
    for group, files in plan.items():
        for file in files:
            for tensor in file.tensors:
                written = total.get(f"{group}:{tensor.key}", 0)
                if written != int(np.prod(tensor.shape, dtype=np.int64)):
                    raise CheckpointError(
                        what,
                        f"of tensor {tensor.key} ({group}) {list(tensor.shape)} the ranks hold {written} elements",
                        "this is a defect of zoo: please report the plan you ran",
                    )
