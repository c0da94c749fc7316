"""Write a model with quantised weights: a zoo checkpoint whose `config.json` says how, read under any layout."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from zoo_core.checkpoint.conversion import check_free
from zoo_core.checkpoint.disk import Disk, as_json
from zoo_core.checkpoint.dtypes import Array, converted
from zoo_core.checkpoint.folders import identity
from zoo_core.checkpoint.manifest import sealed
from zoo_core.checkpoint.names import FORMAT, MANIFEST, STATE
from zoo_core.checkpoint.places import Place, whole_place
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.save import contents
from zoo_core.checkpoint.shards import DEFAULT_SHARD_SIZE, index_json, plan_files
from zoo_core.checkpoint.writer import Extras, LocalTensor, Ranks, Sums, measured, write_folder
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import quantised_layers
from zoo_core.quantized.pack import QuantisedWeight
from zoo_core.registry import Architecture

__all__ = ["write_quantised"]


def write_quantised(
    folder: str | Path,
    base: Reader,
    architecture: Architecture,
    config: ModelConfig,
    spec: QuantSpec,
    arrays: Mapping[str, QuantisedWeight],
    files: Extras | None = None,
    changed: Mapping[str, Array] | None = None,
    dtype: str | None = None,
    max_shard_size: int = DEFAULT_SHARD_SIZE,
    disk: Disk | None = None,
) -> Path:
    """Write a folder that every command takes as a model; it appears whole or not at all.

    Args:
        folder: must not exist, or be empty.
        base: over the model that was quantised, with the table of `config`; what is not quantised is read from it.
        config: of that model.
        spec: what of it is quantised, and how.
        arrays: by the single-card names of the layers, exactly those that `spec` means; whole, as on one card. They are
            taken one at a time.
        files: small files to add: the tokenizer's, a report.
        changed: parameters that are not quantised and not as in `base` either, float32, by single-card name: of norms.
        dtype: element type of what is not quantised; by default each tensor's own.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder is in use, the disk is full, or arrays are missing, left over or of another shape.
    """
    folder, disk = Path(folder).absolute(), disk or Disk()
    check_free(folder)
    config = config.replace(quantization_config=None)
    plain = architecture.table(config)
    written = config.replace(quantization_config=spec)
    table, layers = architecture.table(written), quantised_layers(plain, spec)
    if differ := set(layers) ^ set(arrays):
        name = min(differ)
        raise CheckpointError(
            f"{name} is {'not quantised' if name in layers else 'quantised'}",
            f"{spec.describe()} means {'it' if name in layers else 'other layers'}; {len(differ)} layers differ",
            "give a spec whose targets and skip are the layers that were quantised",
        )
    kinds = {name: rule.dtype or dtype or base.dtype_of(name) for name, rule in table.items()}
    entries = contents(table, dtypes=kinds)
    plan = plan_files(entries, max_shard_size, {"format": "zoo"})
    model = identity(written, sum(math.prod(rule.shape) for rule in plain.values() if rule.single == rule.name))

    def tensors() -> Iterator[LocalTensor]:
        for name, rule in table.items():
            if name in plain and rule.single == name:
                new = (changed or {}).get(name)
                values = (
                    base.read_local(name, dtype=kinds[name]) if new is None else converted(new, "float32", kinds[name])
                )
                yield LocalTensor(rule, values, kinds[name])
        for module in layers:
            for own, array in arrays[module].stored(spec).items():
                rule = table[f"{module}.{own}"]
                if array.shape != rule.shape:
                    raise CheckpointError(
                        f"{rule.name} has shape {list(array.shape)}", f"its row says {list(rule.shape)}", ""
                    )
                yield LocalTensor(rule, array, rule.dtype)

    def locate(tensor: LocalTensor) -> list[tuple[str, Place]]:
        return [("model", whole_place(tensor.rule, tensor.rule.name))]

    def finish(sums: Sums) -> dict[str, bytes]:
        last = {name: c.read_bytes() if isinstance(c, Path) else c for name, c in (files or {}).items()}
        last["model.safetensors.index.json"] = index_json(plan["model"])
        last[STATE] = as_json({"format": FORMAT, "step": 0, "model": model, "layout": {}, "remarks": {}})
        last["config.json"] = as_json(written.to_hf())
        listed = sums | {name: measured(content) for name, content in last.items()}
        return last | {MANIFEST: sealed(0, time.time(), listed)}

    def replace(beside: Path, at: Path) -> None:
        check_free(at)
        disk.rename(beside, at)

    write_folder(folder, plan, tensors(), locate, finish, Ranks(), disk, replace=replace)
    return folder
