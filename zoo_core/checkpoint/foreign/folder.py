"""What kind of weights a folder holds that zoo did not write, and the tensors of each file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoo_core.checkpoint.disk import read_json
from zoo_core.checkpoint.foreign.dist_ckpt import distributed_folder, distributed_weights, is_distributed
from zoo_core.checkpoint.foreign.paddle_file import paddle_tensors
from zoo_core.checkpoint.foreign.torch_file import torch_tensors
from zoo_core.checkpoint.stored import Stored
from zoo_core.errors import CheckpointError

__all__ = ["Foreign", "foreign_weights", "has_foreign"]

Kind = Literal["paddle", "torch"]

_SHARD = re.compile(r"model_state\.(?:tp(\d+))?_?(?:pp(\d+))?(?:_?shard\d+)?\.pdparams$")
_FLEETX = re.compile(r"mp_(\d+)_sharding_(\d+)_pp_(\d+)$")
_PADDLE = ("model_state.pdparams", "model.pdparams")


@dataclass(frozen=True)
class Foreign:
    """Tensors by the names that the files have for them.

    Args:
        kind: who wrote them: it decides where names do not tell.
        what: of what form the files are, in words.
        tensors: of all files, where each tensor is whole.
        ranks: (tensor rank, pipeline stage) -> its tensors, where they are split.
        files: the same keys -> the file, for messages.
        tensor_degree: of a split folder.
        stages: pipeline stages of a split folder.
        is_fleetx: names are those of FleetX's pipeline.
    """

    kind: Kind
    what: str
    tensors: Mapping[str, Stored] = field(default_factory=dict)
    ranks: Mapping[tuple[int, int], Mapping[str, Stored]] = field(default_factory=dict)
    files: Mapping[tuple[int, int], str] = field(default_factory=dict)
    tensor_degree: int = 1
    stages: int = 1
    is_fleetx: bool = False


def _split_files(folder: Path) -> tuple[dict[tuple[int, int], str], bool]:
    """(tensor rank, stage) -> file of shards in a folder, and whether they are FleetX's."""
    found: dict[tuple[int, int], str] = {}
    for path in sorted(folder.glob("model_state.*.pdparams")):
        named = _SHARD.match(path.name)
        if named and (named[1] or named[2]):
            found.setdefault((int(named[1] or 0), int(named[2] or 0)), path.name)
    if found:
        return found, False
    # every rank of the sharding axis has the same weights: the first counts
    for path in sorted(folder.glob("mp_*_sharding_*_pp_*")):
        if (named := _FLEETX.match(path.name)) and (path / "model.pdparams").is_file():
            found.setdefault((int(named[1]), int(named[3])), f"{path.name}/model.pdparams")
    return found, bool(found)


def has_foreign(folder: Path) -> bool:
    """Whether a folder holds weights of another framework that zoo can read."""
    return bool(distributed_folder(folder) or _listed(folder)[1] or _split_files(folder)[0])


def _listed(folder: Path) -> tuple[Kind, list[str], dict[str, str]]:
    """The whole files of a folder: who wrote them, their names, and the index if there is one."""
    for kind, index, names in (
        ("paddle", "model_state.pdparams.index.json", [*_PADDLE, "*.pdparams"]),
        ("torch", "pytorch_model.bin.index.json", ["pytorch_model*.bin", "*.pt", "*.pth"]),
    ):  # fmt: skip
        if (folder / index).is_file():
            weight_map = read_json(folder / index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise CheckpointError(f"{folder / index} has no weight_map", "", "copy or download the file again")
            return kind, sorted(set(weight_map.values())), weight_map  # type: ignore[return-value]
        for name in names:
            found = sorted(path.name for path in folder.glob(name))
            if found:
                return kind, found, {}  # type: ignore[return-value]
    return "paddle", [], {}


def foreign_weights(folder: Path, file: str = "", prefix: str = "") -> Foreign | None:
    """Return the weights of a folder that are neither safetensors nor zoo's; `None` when there are none.

    Args:
        file: only this file of the folder.
        prefix: the entry of a distributed checkpoint that is the model; by default it is found.

    Raises:
        CheckpointError: a file is missing, damaged, or holds more than weights.
    """
    if file.endswith(".distcp"):
        raise CheckpointError(
            f"{folder / file} holds the parts of one rank", "the other files have the rest", f"give {folder}"
        )
    if file.endswith(".metadata") or (not file and is_distributed(folder)):
        return _distributed(folder, prefix, file)
    split, is_fleetx = ({}, False) if file else _split_files(folder)
    if split:
        return _split(folder, split, is_fleetx)
    kind, names, weight_map = _listed(folder)
    if file:
        kind, names, weight_map = "paddle" if file.endswith(".pdparams") else "torch", [file], {}
    if not names:
        return _distributed(folder, prefix) if distributed_folder(folder) else None
    read: Callable[[Path, str], dict[str, Stored]] = paddle_tensors if kind == "paddle" else torch_tensors
    tensors: dict[str, Stored] = {}
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing", "the index names it", "copy or download it again")
        held = read(folder, name)
        for key, tensor in held.items():
            if weight_map and weight_map.get(key, name) != name:
                continue
            if key in tensors:
                where = f"{tensors[key].file} and {name}"
                raise CheckpointError(f"tensor {key} is in {where} of {folder}", "", "leave one model in the folder")
            tensors[key] = tensor
    lost = [key for key in weight_map if key not in tensors]
    if lost:
        raise CheckpointError(
            f"tensor {lost[0]} is not in {folder / weight_map[lost[0]]}",
            "the index says it is" + (f", and so it is with {len(lost) - 1} more" if len(lost) > 1 else ""),
            "the files are of different versions: copy or download the folder again",
        )
    return Foreign(kind, {"paddle": "files of Paddle", "torch": "files of PyTorch"}[kind], tensors)


def _distributed(folder: Path, prefix: str, file: str = "") -> Foreign:
    found = distributed_weights(folder, prefix, file)
    return Foreign("paddle", found.describe(), found.tensors)


def _split(folder: Path, files: dict[tuple[int, int], str], is_fleetx: bool) -> Foreign:
    degree, stages = 1 + max(rank for rank, _ in files), 1 + max(stage for _, stage in files)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if not is_fleetx:
        degree = max(degree, int(config.get("tensor_parallel_degree") or 1))
        stages = max(stages, int(config.get("pipeline_parallel_degree") or 1) if stages > 1 else 1)
    lost = [(rank, stage) for rank in range(degree) for stage in range(stages) if (rank, stage) not in files]
    if lost:
        rank, stage = lost[0]
        name = f"mp_{rank:02d}_sharding_00_pp_{stage:02d}/model.pdparams"
        if not is_fleetx:
            name = f"model_state.tp{rank:02d}" + (f"_pp{stage:02d}" if stages > 1 else "") + ".pdparams"
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise CheckpointError(
            f"the shard {folder / name} is missing{more}",
            f"the model was split over {degree} tensor-parallel ranks"
            + (f" and {stages} pipeline stages" if stages > 1 else ""),
            "copy the files of all ranks",
        )
    ranks = {place: paddle_tensors(folder, name) for place, name in files.items()}
    what = f"shards of {'FleetX' if is_fleetx else 'PaddleNLP'} (tensor {degree}, pipeline {stages})"
    return Foreign("paddle", what, {}, ranks, files, degree, stages, is_fleetx)
