"""What the checkpoints of a folder are, for people who look: steps, sizes, who wrote them, what is wrong. No paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_core.checkpoint.disk import read_json
from zoo_core.checkpoint.folders import SMALL, pointed, problems
from zoo_core.checkpoint.manifest import read_manifest
from zoo_core.checkpoint.names import BEST, GROUPS, LATEST, MANIFEST, STATE
from zoo_core.checkpoint.shards import Located, read_header
from zoo_core.errors import CheckpointError

__all__ = ["Looked", "Tensor", "layout_text", "look", "look_all", "tensors"]

_DEGREES = (
    ("data_parallel_degree", "dp"),
    ("sharding_parallel_degree", "sharding"),
    ("tensor_parallel_degree", "tp"),
    ("pipeline_parallel_degree", "pp"),
    ("virtual_pp_degree", "vpp"),
    ("expert_parallel_degree", "ep"),
)


@dataclass(frozen=True)
class Looked:
    """A checkpoint as it was found.

    Args:
        path: the folder.
        step: its optimizer step; -1 where that is not known.
        saved_at: seconds since 1970; 0 where that is not known.
        size: bytes of all files that were written.
        files: how many they are.
        wrong: what is wrong with it; empty when nothing is known to be.
        finished: whether its manifest was written.
        marks: `latest`, `best`.
        state: its `trainer_state.json`, empty where that cannot be read.
    """

    path: Path
    step: int
    saved_at: float = 0.0
    size: int = 0
    files: int = 0
    wrong: tuple[str, ...] = ()
    finished: bool = True
    marks: tuple[str, ...] = ()
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> Mapping[str, int]:
        """The degrees that wrote it."""
        found = self.state.get("layout")
        return found if isinstance(found, Mapping) else {}


def layout_text(layout: Mapping[str, int]) -> str:
    """A layout as people say it: `tp2 x pp2`, `sharding4-stage2`, `1 process`."""
    parts = []
    for name, short in _DEGREES:
        if (degree := int(layout.get(name, 1))) > 1:
            stage = f"-stage{layout['sharding_stage']}" if short == "sharding" and layout.get("sharding_stage") else ""
            parts.append(f"{short}{degree}{stage}")
    if layout.get("sequence_parallel"):
        parts.append("sp")
    return " x ".join(parts) or ("1 process" if layout else "")


def look(folder: Path) -> Looked:
    """Look at one checkpoint: its manifest, its small files, the sizes of all."""
    step = folder.name.split("-")[-1].split(".")[0]
    number = int(step) if step.isdigit() else -1
    marks = tuple(name for name in (LATEST, BEST) if pointed(folder.with_name(name)) == folder)
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        finished = (folder / MANIFEST).is_file()
        return Looked(folder, number, wrong=(f"{error.what}: {error.why}",), finished=finished, marks=marks)
    wrong = problems(folder, SMALL)
    try:
        state = read_json(folder / STATE)
    except CheckpointError:
        state = {}
    size, count = manifest.size, len(manifest.files)
    return Looked(folder, manifest.step, manifest.saved_at, size, count, tuple(wrong), True, marks, state)


def look_all(root: Path) -> list[Looked]:
    """Look at every checkpoint in the output folder of a run, finished or not, by step."""
    names = root.iterdir() if root.is_dir() else ()
    found = [look(path) for path in names if path.is_dir() and path.name.startswith("checkpoint-")]
    return sorted(found, key=lambda one: (one.step, one.path.name))


@dataclass(frozen=True)
class Tensor:
    """A stored tensor: the file group it is in, its parameter, and what it is of that.

    Args:
        role: `weight`, `master`, `moment1`, ...
    """

    group: str
    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    file: str


def tensors(folder: Path) -> list[Tensor]:
    """Every tensor of a checkpoint, from the headers of its files: weights first.

    Raises:
        CheckpointError: a file is missing or is not safetensors.
    """
    held: list[tuple[str, Located]] = []
    for path in sorted(folder.glob("*.safetensors")):
        group = path.name.split("-")[0].removesuffix(".safetensors")
        held += [(group, tensor) for tensor in read_header(path)[0].values()]
    order = list(GROUPS)
    held.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return [_tensor(group, located) for group, located in held]


def _tensor(group: str, located: Located) -> Tensor:
    name, role = located.key, "weight"
    if group.endswith("master_weights"):
        role = "master"
    elif group.endswith("optimizer"):
        name, _, role = located.key.rpartition("/")
    return Tensor(group, name, role, located.shape, located.dtype, located.file)
