"""The manifest of a checkpoint: every file with its size and checksum, sealed with a checksum of its own."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo_core.checkpoint.disk import as_json, checksum, read_json
from zoo_core.checkpoint.names import FORMAT, MANIFEST
from zoo_core.errors import CheckpointError

__all__ = ["Manifest", "file_problem", "read_manifest", "sealed", "share_out"]

_SEAL = "manifest_crc32"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Args:
        step: number of optimizer steps.
        saved_at: seconds since 1970.
        files: relative name -> `(size in bytes, crc32)`.
    """

    step: int
    saved_at: float
    files: Mapping[str, tuple[int, int]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def sealed(step: int, saved_at: float, files: Mapping[str, Mapping[str, int]]) -> bytes:
    """The bytes of a manifest."""
    values = {"format": FORMAT, "step": step, "saved_at": saved_at, "files": dict(sorted(files.items()))}
    return as_json({**values, _SEAL: zlib.crc32(as_json(values))})


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint.

    Raises:
        CheckpointError: it is missing (the checkpoint was never finished), or does not hold what was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", "the checkpoint was never finished", "use another checkpoint")
    try:
        values = read_json(path)
        seal = values.pop(_SEAL)
        whole = seal == zlib.crc32(as_json(values))
        files = {str(name): (int(f["size"]), int(f["crc32"])) for name, f in values["files"].items()}
        found = Manifest(int(values["step"]), float(values["saved_at"]), files)
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"{path} does not hold what was written", "its checksum differs", "use another checkpoint"
        )
    return found


def share_out(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Deal files out so that every share has about as many bytes; the same on every rank."""
    shares: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = loads.index(min(loads))
        shares[least].append(name)
        loads[least] += sizes[name] + 1
    return shares


def file_problem(folder: Path, name: str, size: int, crc32: int, checksums: bool) -> str:
    """What is wrong with a file of a checkpoint; empty when nothing is."""
    path = folder / name
    try:
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            return f"{path} is missing"
        if found != size:
            return f"{path} has {found} bytes, {size} were written"
        if checksums and checksum(path) != crc32:
            return f"{path} does not hold the bytes that were written (its checksum differs)"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    return ""
