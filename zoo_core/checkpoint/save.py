"""Save a zoo checkpoint: one format for every parallel layout, safe against a kill at any moment."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.disk import Disk, as_json
from zoo_core.checkpoint.folders import clean, identity, point, prune, put_in_place
from zoo_core.checkpoint.manifest import sealed
from zoo_core.checkpoint.names import BEST, FORMAT, MANIFEST, STATE, stored_as
from zoo_core.checkpoint.places import Place, whole_place
from zoo_core.checkpoint.shards import DEFAULT_SHARD_SIZE, Entry, index_json, plan_files
from zoo_core.checkpoint.writer import Extras, LocalTensor, Ranks, Sums, measured, write_folder
from zoo_core.config import ModelConfig
from zoo_core.layout import Rule, remarks

__all__ = ["contents", "save_checkpoint"]


def _tied(rule: Rule) -> bool:
    return rule.single != rule.name


def contents(
    table: Mapping[str, Rule],
    weight: str = "float32",
    states: Sequence[str] = (),
    state_dtype: str = "float32",
    trained: Callable[[str], bool] = lambda name: True,
    dtypes: Mapping[str, str] | None = None,
    group: str = "",
) -> tuple[Entry, ...]:
    """List every tensor of a checkpoint; the same on every rank.

    Args:
        table: every parameter, `zoo_core.layout.expand` of the model's rows.
        weight: element type of the weights; `dtypes` overrides it by name.
        states: roles each trained parameter has besides its weight: `("moment1", "moment2", "master")`.
        trained: whether a parameter is trained; buffers never are.
        group: files of their own for an adapter or a prefix: `lora`, `prefix`.
    """
    prefix = f"{group}:" if group else ""
    found = []
    for role in ("weight", *states):
        for name, rule in table.items():
            if _tied(rule) or (role != "weight" and (rule.buffer or not trained(name))):
                continue
            dtype = (dtypes or {}).get(name, weight) if role == "weight" else state_dtype
            found.append(Entry(*stored_as(prefix + role, name), rule.shape, dtype))
    return tuple(found)


def _locate(tensor: LocalTensor) -> Sequence[tuple[str, Place]]:
    if _tied(tensor.rule):
        return ()
    group, key = stored_as(tensor.role, tensor.rule.name)
    return [(group, whole_place(tensor.rule, key))]


def _remarks(table: Mapping[str, Rule], degree: int) -> dict[str, str]:
    """Padding and replication at this degree, once for all layers."""
    found: dict[str, str] = {}
    for name, rule in table.items():
        if said := remarks(rule, degree):
            found[re.sub(r"\.\d+(?=\.|$)", ".*", name)] = said
    return found


def _version() -> str:
    try:
        return version("zoo-core")
    except PackageNotFoundError:
        return "unknown"


def save_checkpoint(
    root: str | Path,
    step: int,
    tensors: Iterable[LocalTensor],
    *,
    entries: Sequence[Entry],
    table: Mapping[str, Rule],
    config: ModelConfig,
    state: Mapping[str, Any],
    layout: Mapping[str, int],
    ranks: Ranks | None = None,
    extras: Extras | None = None,
    files: Extras | None = None,
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    save_total_limit: int | None = None,
    keep: Collection[str] = (),
    best: str | None = None,
    disk: Disk | None = None,
) -> Path:
    """Write `ROOT/checkpoint-STEP`; called by every rank together, with the same `entries`, `table` and `step`.

    A checkpoint of the same step is replaced. `latest` is moved when the new one is whole, and only then are old ones
    deleted.

    Args:
        tensors: what this rank holds, taken one at a time (a generator keeps memory at one tensor).
        entries: every tensor of the checkpoint, from `contents`.
        state: JSON values for `trainer_state.json`: consumed samples, schedule, beta powers, seed, metrics.
        layout: degrees it is written under; `tensor_parallel_degree` also gives the padding remarks.
        extras: small files of this rank, under names no other rank uses (`rng/rank-00003.bin`).
        files: small files written by rank 0: the tokenizer's.
        keep: names of checkpoints that `save_total_limit` must not delete.
        best: name of the best checkpoint, this one or an older; the file `best` is made to name it, before any is
            deleted, and `save_total_limit` keeps it.

    Returns:
        The folder.

    Raises:
        CheckpointError: on every rank; what was there before is whole, `latest` unmoved, nothing is left over.
    """
    root, ranks, disk = Path(root), ranks or Ranks(), disk or Disk()
    target = root / f"checkpoint-{step}"
    plan = plan_files(entries, max_shard_size, {"format": "zoo"})
    parameters = sum(math.prod(entry.shape) for entry in entries if entry.group == "model")
    trainer_state = {
        **state,
        "format": FORMAT,
        "zoo_version": _version(),
        "step": step,
        "model": identity(config, parameters),
        "layout": dict(layout),
        "remarks": _remarks(table, layout.get("tensor_parallel_degree", 1)),
    }

    def finish(sums: Sums) -> dict[str, bytes]:
        last = {f"{group}.safetensors.index.json": index_json(held) for group, held in plan.items()}
        last[STATE] = as_json(trainer_state)
        last["config.json"] = as_json(config.to_hf())
        last.update({name: c.read_bytes() if isinstance(c, Path) else c for name, c in (files or {}).items()})
        listed = sums | {name: measured(content) for name, content in last.items()}
        return last | {MANIFEST: sealed(step, time.time(), listed)}

    def prepare() -> None:
        if root.is_dir():
            clean(root, disk)

    def replace(beside: Path, at: Path) -> None:
        put_in_place(beside, at, disk)
        if best is not None:
            point(root / BEST, best, disk)
        prune(at, save_total_limit, {*keep, best or ""}, disk)

    write_folder(target, plan, tensors, _locate, finish, ranks, disk, extras, prepare, replace)
    return target
