"""The folders of a run: which checkpoint is the newest whole one, which are too many, whose they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.disk import Disk, checksum, read_json
from zoo_core.checkpoint.names import LATEST, MANIFEST, STATE
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError

__all__ = [
    "Saved",
    "check_output",
    "checkpoints",
    "clean",
    "identity",
    "latest_checkpoint",
    "problems",
    "prune",
    "put_in_place",
    "read_state",
    "verify",
]

_log = logging.getLogger("zoo")
_NAME = re.compile(r"checkpoint-(\d+)(\.old)?$")
_LEFT = re.compile(r"checkpoint-\d+\S*\.tmp$")


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint: its folder, its step, and when it was saved, in seconds since 1970."""

    path: Path
    step: int
    saved_at: float


def problems(folder: Path, checksums: bool = False) -> list[str]:
    """Say what is wrong with the files of a checkpoint, by its manifest; empty when nothing is.

    Args:
        checksums: also read every file and compare its crc32.
    """
    unfinished = [f"{folder / MANIFEST} is missing or not a manifest: the checkpoint was never finished"]
    try:
        listed = read_json(folder / MANIFEST).get("files")
    except CheckpointError:
        return unfinished
    if not isinstance(listed, dict):
        return unfinished
    found = []
    for name, facts in listed.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path} is missing")
        elif path.stat().st_size != facts["size"]:
            found.append(f"{path} has {path.stat().st_size} bytes, {facts['size']} were written")
        elif checksums and checksum(path) != facts["crc32"]:
            found.append(f"{path} does not hold the bytes that were written (its checksum differs)")
    return found


def verify(folder: str | Path) -> None:
    """Read every file of a checkpoint and compare it with what was written.

    Raises:
        CheckpointError: names each file that is missing, truncated or altered, and another checkpoint to use.
    """
    found = problems(Path(folder), checksums=True)
    if found:
        others = [saved.path for saved in checkpoints(Path(folder).parent) if saved.path != Path(folder)]
        todo = f"resume from {others[0]}" if others else "no other checkpoint is beside it"
        raise CheckpointError(f"{folder} is damaged", "; ".join(found), todo)


def checkpoints(root: str | Path) -> list[Saved]:
    """Return the whole checkpoints in the output folder of a run, the newest first."""
    found = []
    for path in Path(root).iterdir() if Path(root).is_dir() else ():
        named = _NAME.match(path.name)
        if named and path.is_dir():
            if problems(path):
                continue
            saved_at = float(read_json(path / MANIFEST).get("saved_at", 0.0))
            found.append(Saved(path, int(named[1]), saved_at))
    # `checkpoint-N.old` was moved aside for a new `checkpoint-N`; it counts only while that one is absent.
    present = {saved.path for saved in found}
    found = [s for s in found if not s.path.name.endswith(".old") or s.path.with_suffix("") not in present]
    return sorted(found, key=lambda saved: (saved.saved_at, saved.step), reverse=True)


def latest_checkpoint(root: str | Path) -> Path | None:
    """Return the newest whole checkpoint of a run: the one `latest` names, else by time; `None` when there is none.

    A checkpoint whose files are missing or have another size than the manifest says is passed over with a warning.
    """
    found = checkpoints(root)
    for path in Path(root).glob("checkpoint-*"):
        if _NAME.match(path.name) and (wrong := problems(path)):
            _log.warning("%s is passed over: %s", path, wrong[0])
    pointer = Path(root) / LATEST
    if pointer.is_file():
        named = Path(root) / pointer.read_text(encoding="utf-8").strip()
        for saved in found:
            if saved.path in (named, named.with_name(named.name + ".old")):
                return saved.path
    return found[0].path if found else None


def read_state(folder: str | Path) -> dict[str, Any]:
    """Return the `trainer_state.json` of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is not whole, or the file is not JSON.
    """
    found = problems(Path(folder))
    if found:
        raise CheckpointError(f"{folder} is not a whole checkpoint", "; ".join(found), "use another checkpoint")
    return read_json(Path(folder) / STATE)


def identity(config: ModelConfig, parameters: int) -> dict[str, Any]:
    """What makes two checkpoints ones of the same model; fusing projections or another context does not change it."""
    return {
        "family": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.intermediate_size,
        "tie_word_embeddings": config.tie_word_embeddings,
        "parameters": parameters,
    }


def check_output(root: str | Path, config: ModelConfig, parameters: int | None = None) -> None:
    """Refuse an output folder that holds checkpoints of another model, before anything is trained.

    Args:
        parameters: number of elements of all weights, if it is to be compared too.

    Raises:
        CheckpointError: names the checkpoint and the settings that differ.
    """
    for saved in checkpoints(root):
        there = read_json(saved.path / STATE).get("model")
        if not isinstance(there, Mapping):
            continue
        here = identity(config, parameters if parameters is not None else int(there.get("parameters", 0)))
        differ = [
            f"{key} is {there.get(key)} there, {value} here" for key, value in here.items() if there.get(key) != value
        ]
        if differ:
            raise CheckpointError(
                f"{root} holds a checkpoint of another model, {saved.path.name}",
                "; ".join(differ),
                "choose another output_dir, or move the old one away",
            )


def clean(root: Path, disk: Disk) -> None:
    """Remove what runs that died while saving have left, and what was moved aside for a finished checkpoint."""
    whole = {saved.path for saved in checkpoints(root)}
    for path in sorted(root.iterdir()):
        if path.is_dir() and _LEFT.match(path.name):
            disk.remove(path)
        elif path.is_dir() and _NAME.match(path.name) and path.suffix == ".old" and path.with_suffix("") in whole:
            disk.remove(path)


def put_in_place(beside: Path, target: Path, disk: Disk) -> None:
    """Rename a finished folder to `target` and make `latest` name it.

    What needs space is written first, so that nothing but renames is left when the checkpoint appears. An older
    `target` stays beside it, whole, until `latest` has moved.
    """
    old, pointer = target.with_name(target.name + ".old"), target.with_name(LATEST)
    pointing = pointer.with_name(LATEST + ".tmp")
    disk.write(pointing, f"{target.name}\n".encode())
    if target.exists():
        if old.exists():
            disk.remove(old)
        disk.rename(target, old)
    disk.rename(beside, target)
    disk.sync_folder(target.parent)
    disk.rename(pointing, pointer)
    disk.sync_folder(target.parent)
    if old.exists():
        _discard(old, disk)


def _discard(path: Path, disk: Disk) -> None:
    """Remove a checkpoint so that a kill leaves it whole or unmistakably gone."""
    gone = path.with_name(path.name + ".gone.tmp")
    if gone.exists():
        disk.remove(gone)
    disk.rename(path, gone)
    disk.remove(gone)


def prune(newest: Path, limit: int | None, keep: Collection[str], disk: Disk) -> None:
    """Delete the oldest whole checkpoints beyond `limit`; never `newest`, never those named in `keep`."""
    if limit is None or limit <= 0:
        return
    found = checkpoints(newest.parent)
    protected = [saved for saved in found if saved.path == newest or saved.path.name in keep]
    others = [saved for saved in found if saved not in protected]
    for saved in others[max(0, limit - len(protected)) :]:
        _discard(saved.path, disk)
