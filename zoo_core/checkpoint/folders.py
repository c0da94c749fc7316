"""The folders of a run: which checkpoint is the newest whole one, which are too many, whose they are."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.disk import Disk, read_json, side_by_side
from zoo_core.checkpoint.manifest import file_problem, read_manifest, share_out
from zoo_core.checkpoint.names import LATEST, MANIFEST, STATE
from zoo_core.checkpoint.ranks import Ranks
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError

__all__ = [
    "SMALL",
    "Saved",
    "check_output",
    "checkpoints",
    "clean",
    "damaged",
    "identity",
    "last_good",
    "latest_checkpoint",
    "newest_folder",
    "point",
    "pointed",
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


def problems(folder: Path, checksums: int = 0) -> list[str]:
    """Say what is wrong with the files of a checkpoint, by its manifest; empty when nothing is.

    Args:
        checksums: also read every file of at most so many bytes and compare its crc32.
    """
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return [f"{error.what}: {error.why}"]
    listed = manifest.files.items()
    return list(filter(None, (file_problem(folder, name, *facts, facts[0] <= checksums) for name, facts in listed)))


SMALL = 1 << 20
"""Bytes up to which a file's checksum is compared whenever a run looks at its checkpoint."""


def damaged(folder: Path, found: Sequence[str]) -> CheckpointError:
    """The error that names the files that are wrong and another checkpoint to use."""
    others = [saved.path for saved in checkpoints(folder.parent) if saved.path.name != folder.name]
    todo = f"use {others[0]}, saved before" if others else "copy the folder again from where it was saved"
    return CheckpointError(f"{folder} is damaged", "; ".join(found), todo)


_STATES = re.compile(r"(\w+_)?(optimizer|master_weights)-\d+-of-\d+\.safetensors$")


def verify(folder: str | Path, ranks: Ranks | None = None, states: bool = True) -> int:
    """Read every file of a checkpoint and compare it with what was written.

    Args:
        ranks: the processes that do it together, each its share of the files; all of them call it.
        states: also the files of optimizer states and master weights; inference does without.

    Returns:
        Bytes read by this process.

    Raises:
        CheckpointError: on every rank; names each file that is missing, truncated or altered, and another checkpoint.
    """
    folder, ranks = Path(folder), ranks or Ranks()
    found, read = [], 0
    try:
        files = read_manifest(folder).files
    except CheckpointError as error:
        found = [f"{error.what}: {error.why}"]
    else:
        sizes = {name: size for name, (size, _) in files.items() if states or not _STATES.match(name)}
        mine = share_out(sizes, ranks.world)[ranks.rank]
        found = side_by_side(lambda name: file_problem(folder, name, *files[name], True), mine)
        read = sum(sizes[name] for name in mine)
    told = [json.loads(text) for text in ranks.exchange(json.dumps([each for each in found if each]))]
    wrong = list(dict.fromkeys(each for one in told for each in one))
    if wrong:
        raise damaged(folder, wrong)
    return read


def checkpoints(root: str | Path) -> list[Saved]:
    """Return the whole checkpoints in the output folder of a run, the newest first."""
    found = []
    for path in Path(root).iterdir() if Path(root).is_dir() else ():
        named = _NAME.match(path.name)
        if named and path.is_dir():
            if problems(path):
                continue
            found.append(Saved(path, int(named[1]), read_manifest(path).saved_at))
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
    if named := pointed(Path(root) / LATEST):
        for saved in found:
            if saved.path in (named, named.with_name(named.name + ".old")):
                return saved.path
    return found[0].path if found else None


def pointed(pointer: Path) -> Path | None:
    """The folder that a file `latest` or `best` names, whether it exists or not; `None` without such a file."""
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return pointer.with_name(name) if _NAME.match(name) else None


def newest_folder(root: str | Path) -> Path | None:
    """Return the checkpoint that was saved last, whole or damaged; `None` when there is none.

    It is the one that `latest` names, or its `.old` where a kill came between two renames; else the one of the highest
    step. What has no manifest is none of ours.
    """
    there = {}
    for path in Path(root).iterdir() if Path(root).is_dir() else ():
        if (named := _NAME.match(path.name)) and (path / MANIFEST).is_file():
            there[path] = int(named[1])
    latest = pointed(Path(root) / LATEST)
    for path in (latest, latest.with_name(latest.name + ".old")) if latest else ():
        if path in there:
            return path
    return max(there, key=lambda path: (there[path], path.suffix != ".old"), default=None)


def last_good(root: str | Path) -> Path | None:
    """Return the newest checkpoint whose every file has its checksum; reads them, the newest first."""
    for saved in checkpoints(root):
        try:
            verify(saved.path)
        except CheckpointError as error:
            _log.warning("%s is passed over: %s", saved.path, error.why)
        else:
            return saved.path
    return None


def read_state(folder: str | Path) -> dict[str, Any]:
    """Return the `trainer_state.json` of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is not whole, or the file is not JSON.
    """
    found = problems(Path(folder), SMALL)
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
    pointing = _pointing(pointer, target.name, disk)
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


def _pointing(pointer: Path, name: str, disk: Disk) -> Path:
    beside = pointer.with_name(pointer.name + ".tmp")
    disk.write(beside, f"{name}\n".encode())
    return beside


def point(pointer: Path, name: str, disk: Disk) -> None:
    """Make the file `pointer` name the checkpoint `name` beside it, at once."""
    if pointed(pointer) == pointer.with_name(name):
        return
    disk.rename(_pointing(pointer, name, disk), pointer)
    disk.sync_folder(pointer.parent)


def _discard(path: Path, disk: Disk) -> None:
    """Remove a checkpoint so that a kill leaves it whole or unmistakably gone."""
    gone = path.with_name(path.name + ".gone.tmp")
    if gone.exists():
        disk.remove(gone)
    disk.rename(path, gone)
    disk.remove(gone)


def prune(newest: Path, limit: int | None, keep: Collection[str], disk: Disk) -> None:
    """Delete the oldest whole checkpoints beyond `limit`; never `newest`, never those named in `keep`.

    Damaged ones are not counted, so that they do not push out a good one.
    """
    if limit is None or limit <= 0:
        return
    found = checkpoints(newest.parent)
    protected = [saved for saved in found if saved.path == newest or saved.path.name in keep]
    others = [saved for saved in found if saved not in protected]
    for saved in others[max(0, limit - len(protected)) :]:
        _discard(saved.path, disk)
