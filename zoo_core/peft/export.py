"""Write adapters as PEFT loads them: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint.disk import Disk, as_json
from zoo_core.checkpoint.dtypes import Array
from zoo_core.checkpoint.places import Place, stored_shape, whole_place
from zoo_core.checkpoint.ranks import Ranks
from zoo_core.checkpoint.shards import Entry, plan_files
from zoo_core.checkpoint.writer import LocalTensor, Sums, write_folder
from zoo_core.errors import CheckpointError
from zoo_core.layout import Replicate, Rule
from zoo_core.peft.files import PEFT_CONFIG, PEFT_FILE
from zoo_core.peft.spec import LoraSpec
from zoo_core.peft.targets import PEFT_PREFIX
from zoo_core.tables import weight_row

__all__ = ["write_peft"]

Read = Callable[[str], Array]
"""The whole of a parameter of an adapter, float32, by single-card name."""

_GROUP = PEFT_FILE.removesuffix(".safetensors")


def write_peft(folder: Path, table: Mapping[str, Rule], spec: LoraSpec, modules: Sequence[str], read: Read) -> Path:
    """Write a folder that PEFT's `PeftModel.from_pretrained` loads over the published base; replaces one of its own.

    Projections that are fused here and apart in the published files get one adapter each, which share A. Those that
    are apart here and one tensor there (GPT-2's `c_attn`) get one of as many times the rank, whose B is 0 outside the
    blocks: the product is the same.

    Args:
        folder: to be written.
        table: the rows of the base model.
        modules: single-card names of the layers that have adapters.
        read: gives the values, one tensor at a time.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder holds something else, a layer has no published name, or the disk is full.
    """
    layers = _layers(table, modules)
    rank_pattern, alpha_pattern, tensors = {}, {}, list[tuple[str, tuple[int, int], Callable[[], Array]]]()
    for layer, held in layers.items():
        rank = sum(spec.of(module).rank for module, _ in held)
        alphas = {spec.scale(module) for module, _ in held}
        if len(alphas) > 1:
            raise CheckpointError(f"the adapters of {layer} have different scales", "PEFT has one for them", "")
        alpha = alphas.pop() * (math.sqrt(rank) if spec.rslora else rank)
        if rank != spec.rank:
            rank_pattern[layer] = rank
        if not math.isclose(alpha, spec.alpha):
            alpha_pattern[layer] = alpha
        rows, columns = weight_row(table, held[0][0]).shape[0], held[0][1].shape[1]
        tensors.append((f"{PEFT_PREFIX}{layer}.lora_A.weight", (rank, rows), _joined_A(held, read)))
        tensors.append((f"{PEFT_PREFIX}{layer}.lora_B.weight", (columns, rank), _joined_B(held, spec, read)))
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": spec.base or None, "r": spec.rank,
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha, "lora_dropout": spec.dropout,
        "target_modules": sorted(layers), "bias": "none", "use_rslora": spec.rslora, "inference_mode": True,
        "fan_in_fan_out": any(not weight_row(table, held[0][0]).hf_transposed for held in layers.values()),
        "rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern, "modules_to_save": None, "use_dora": False,
        "init_lora_weights": True,
    }  # fmt: skip
    _write(folder, settings, tensors)
    return folder


def _layers(table: Mapping[str, Rule], modules: Sequence[str]) -> dict[str, list[tuple[str, Place]]]:
    """The published layers, each with ours that make it and the columns these are of it."""
    found: dict[str, list[tuple[str, Place]]] = {}
    for module in modules:
        rule = weight_row(table, module)
        if rule.hf:
            start, width = rule.hf_run or (0, rule.shape[1])
            place = Place(rule.hf, (rule.shape[0], width), 0, rule.shape[1], start)
            found.setdefault(rule.hf.removesuffix(".weight"), []).append((module, place))
            continue
        start = 0
        for part in rule.segments():
            if not part.hf:
                raise CheckpointError(f"{module} has no published name", "", "PEFT cannot have its adapter")
            place = Place(part.hf, (rule.shape[0], part.width), start, start + part.width)
            found.setdefault(part.hf.removesuffix(".weight"), []).append((module, place))
            start += part.width
    return found


def _joined_A(held: Sequence[tuple[str, Place]], read: Read) -> Callable[[], Array]:
    return lambda: np.ascontiguousarray(np.concatenate([read(f"{module}.lora_A").T for module, _ in held]))


def _joined_B(held: Sequence[tuple[str, Place]], spec: LoraSpec, read: Read) -> Callable[[], Array]:
    def make() -> Array:
        width, rank = held[0][1].shape[1], sum(spec.of(module).rank for module, _ in held)
        whole, at = np.zeros((width, rank), np.float32), 0
        for module, place in held:
            part = read(f"{module}.lora_B")[:, place.start : place.stop].T
            whole[place.offset : place.offset + len(part), at : at + part.shape[1]] = part
            at += part.shape[1]
        return whole

    return make


def _write(
    folder: Path, settings: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, int], Callable[[], Array]]]
) -> None:
    entries = [Entry(_GROUP, key, shape, "float32") for key, shape, _ in tensors]
    most = 1 << 62  # PEFT reads one file
    disk = Disk()

    def each() -> Iterator[LocalTensor]:
        for key, shape, make in tensors:
            yield LocalTensor(Replicate(key, shape), make())

    def locate(tensor: LocalTensor) -> Sequence[tuple[str, Place]]:
        place = whole_place(tensor.rule, tensor.rule.name)
        assert stored_shape(place) == tensor.rule.shape
        return [(_GROUP, place)]

    def finish(_: Sums) -> dict[str, bytes]:
        return {PEFT_CONFIG: as_json(settings)}

    def prepare() -> None:
        if folder.exists() and not (folder / PEFT_CONFIG).is_file() and any(folder.iterdir()):
            raise CheckpointError(f"{folder} holds something else", "an adapter would replace it", "move it away")

    def replace(beside: Path, at: Path) -> None:
        if at.exists():
            disk.remove(at)
        disk.rename(beside, at)

    plan = plan_files(entries, most, {"format": "pt"}, bare_single=True)
    write_folder(folder.absolute(), plan, each(), locate, finish, Ranks(), disk, None, prepare, replace)
