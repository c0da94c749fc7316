"""Adapters in files: zoo's checkpoints, PEFT's folders and PaddleNLP's, opened over the table of the base model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from zoo_core.checkpoint import Reader, latest_checkpoint
from zoo_core.checkpoint.disk import read_json
from zoo_core.checkpoint.dtypes import Array
from zoo_core.checkpoint.names import ADAPTERS, MANIFEST, STATE
from zoo_core.checkpoint.source import Source
from zoo_core.checkpoint.stored import Stored
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError
from zoo_core.layout import Rule
from zoo_core.peft.spec import Adapter, LoraSpec, module_of
from zoo_core.peft.targets import PEFT_PREFIX, adapter_rows
from zoo_core.registry import Architecture
from zoo_core.tables import linear_layers, weight_row

__all__ = [
    "PADDLE_CONFIG",
    "PADDLE_FILE",
    "PEFT_CONFIG",
    "PEFT_FILE",
    "AdapterFiles",
    "adapter_folder",
    "adapter_spec",
    "base_and_adapter",
    "fused_table",
    "open_adapter",
]

PEFT_CONFIG, PEFT_FILE = "adapter_config.json", "adapter_model.safetensors"
PADDLE_CONFIG, PADDLE_FILE = "lora_config.json", "lora_model_state.pdparams"
_WEIGHT = ".weight"
_FUSING = ("fuse_attention_qkv", "fuse_attention_ffn")


def adapter_folder(path: str | Path) -> Path:
    """Return the folder of an adapter: a LoRA checkpoint, PEFT's or PaddleNLP's folder, or a run's newest checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {path}", "an adapter is a folder", "give the folder of one")
    if _kind(folder):
        return folder
    latest = latest_checkpoint(folder)
    if latest is not None and _kind(latest):
        return latest
    raise CheckpointError(
        f"no adapter in {path}",
        f"it has neither {PEFT_CONFIG} (PEFT), {PADDLE_CONFIG} (PaddleNLP) nor checkpoints of a LoRA run",
        "give the folder of an adapter, or the output folder of a LoRA run",
    )


def _kind(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        return "zoo" if (folder / f"{ADAPTERS}.safetensors.index.json").is_file() else ""
    if (folder / PEFT_CONFIG).is_file():
        return "peft"
    return "paddle" if (folder / PADDLE_CONFIG).is_file() else ""


def adapter_spec(folder: Path) -> LoraSpec:
    """What a folder's own files say of its adapters, without the tensors: of PEFT's, what all layers have in common.

    Raises:
        CheckpointError: a file is missing or damaged, or the adapter is of a kind that zoo does not have.
    """
    kind = _kind(folder)
    try:
        if kind == "zoo":
            return LoraSpec.from_dict(read_json(folder / STATE)["lora"])
        if kind == "peft":
            values = read_json(folder / PEFT_CONFIG)
            _refuse(folder / PEFT_CONFIG, values)
            rslora, base = bool(values.get("use_rslora")), str(values.get("base_model_name_or_path") or "")
            return LoraSpec(int(values["r"]), float(values["lora_alpha"]), rslora=rslora, base=base)
        values = read_json(folder / PADDLE_CONFIG)
        _refuse(folder / PADDLE_CONFIG, values)
        base = str(values.get("base_model_name_or_path") or "")
        return LoraSpec(int(values["r"]), float(values["lora_alpha"]), rslora=bool(values.get("rslora")), base=base)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the settings of the adapter in {folder} are not whole", f"{type(error).__name__}: {error}",
            "copy or download the folder again",
        ) from error  # fmt: skip


_OTHER = {
    "use_dora": "DoRA", "lora_bias": "adapters with biases", "use_qalora": "QALoRA", "modules_to_save": "whole layers",
    "layer_replication": "replicated layers", "use_bdlora": "block-diagonal adapters", "pissa": "PiSSA",
    "trainable_token_indices": "trained embeddings", "trainable_bias": "trained biases",
    "trainable_modules": "whole layers", "do_qat": "quantised weights",
}  # fmt: skip


def _refuse(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse what would give other numbers than the adapter's author saw.

    Raises:
        CheckpointError: names it.
    """
    found = [what for key, what in _OTHER.items() if values.get(key)]
    if str(values.get("peft_type", "LORA")).upper() != "LORA":
        found.append(f"a {values['peft_type']} adapter")
    if values.get("bias", "none") != "none":
        found.append("trained biases")
    if found:
        raise CheckpointError(
            f"{path} asks for {', '.join(found)}", "zoo has plain LoRA and rsLoRA",
            "merge it into its base with the library that made it, and use the merged model",
        )  # fmt: skip


class AdapterFiles:
    """The adapters in a folder, read slice by slice. Close it, or use it as a context manager.

    Args:
        folder: what `adapter_folder` gives.
        table: the rows of the base model, without adapters.

    Attributes:
        spec: what they are.
        rows: their rows, by single-card name.

    Raises:
        CheckpointError: they are of another model, damaged, or not of a kind that zoo has; names the tensor.
    """

    def __init__(self, folder: Path, table: Mapping[str, Rule]) -> None:
        self.folder, self.kind = folder, _kind(folder)
        self.spec = adapter_spec(folder)
        path, group = _stored(folder, self.kind)
        self._group = group
        if self.kind != "zoo":
            source = Source(path)
            try:
                tensors = source.group(group or "model")
                self.spec = replace(self.spec, modules=self._modules(table, tensors))
                if self.kind == "peft":
                    self._check_fused(table, source, tensors)
            finally:
                source.close()
        self.rows = adapter_rows(table, self.spec)
        reading = self.rows
        if self.kind == "peft":
            reading = {name: _first(rule, table) for name, rule in self.rows.items()}
        self.reader = Reader(path, reading)
        self.reader.check(self.rows, f"{group}:weight" if group else "weight")

    def __enter__(self) -> AdapterFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reader.close()

    @property
    def modules(self) -> tuple[str, ...]:
        """Single-card names of the layers that have adapters."""
        return tuple(dict.fromkeys(module_of(name) for name in self.rows))

    def read(self, name: str, degree: int = 1, rank: int = 0, dtype: str = "float32") -> Array:
        """Read this rank's part of a parameter, by its single-card name; from its fp32 copy where one was saved."""
        return self.reader.read_weight(name, degree, rank, dtype, self._group)

    def source(self, degree: int = 1, rank: int = 0, dtype: str = "float32") -> Callable[[Rule], Array]:
        """This rank's parts, as the engine takes them."""
        return lambda rule: self.read(rule.name, degree, rank, dtype)

    def product(self, module: str) -> Array:
        """What the adapter of a layer adds to its weight, float32 [in, out]: scale A B."""
        A, B = (self.read(f"{module}.lora_{which}") for which in "AB")
        return np.asarray(A @ B * np.float32(self.spec.scale(module)))

    def _modules(self, table: Mapping[str, Rule], tensors: Mapping[str, Stored]) -> dict[str, Adapter]:
        """The layers that the files have adapters of, with rank and scale."""
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        alphas: dict[str, float] = {}
        if self.kind == "peft":
            alphas = read_json(self.folder / PEFT_CONFIG).get("alpha_pattern") or {}
        found, known = {}, set()
        for module, rule in linear_layers(table).items():
            pairs = _keys(module, rule, self.kind)
            present = [key in shapes for pair in pairs for key in pair]
            known |= {key for pair in pairs for key in pair}
            if not any(present):
                continue
            if not all(present):
                raise CheckpointError(
                    f"{self.folder} has adapters of a part of {module} only",
                    "its projections are fused in one layer, which has one adapter",
                    "turn fuse_attention_qkv and fuse_attention_ffn off",
                )
            rank = shapes[pairs[0][0]][0 if self.kind == "peft" else 1]
            layer = pairs[0][0].removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
            own = [alpha for pattern, alpha in alphas.items() if re.match(rf"(.*\.)?({pattern})$", layer)]
            found[module] = Adapter(int(rank), float(own[0] if own else self.spec.alpha))
        left = [key for key in shapes if key not in known]
        if left or not found:
            raise CheckpointError(
                f"{self.folder} has {left[0] if left else 'no adapters'}",
                f"this model has no linear layer for it ({len(left)} of {len(shapes)} tensors do not belong)",
                "give the base model that the adapter was trained on",
            )
        return found

    def _check_fused(self, table: Mapping[str, Rule], source: Source, tensors: Mapping[str, Stored]) -> None:
        """Compare the A's of projections that are fused in one layer here.

        Raises:
            CheckpointError: they differ, so that no one A could stand for them.
        """
        for module in self.spec.modules:
            pairs = _keys(module, weight_row(table, module), self.kind)
            for key, _ in pairs[1:]:
                first, other = (source.whole(tensors[k]) for k in (pairs[0][0], key))
                if first.shape != other.shape or not np.array_equal(first, other):
                    raise CheckpointError(
                        f"the adapters of {pairs[0][0]} and {key} are not of one layer",
                        f"{module} has these projections fused, with one lora_A for all of them; theirs differ",
                        "turn fuse_attention_qkv and fuse_attention_ffn off",
                    )


def _stored(folder: Path, kind: str) -> tuple[Path, str]:
    """What to open, and the group of files that the adapters are in there; empty for the only one."""
    if kind == "zoo":
        return folder, ADAPTERS
    if kind == "paddle":
        return folder / PADDLE_FILE, ""
    if (folder / PEFT_FILE).is_file():
        return folder, PEFT_FILE.removesuffix(".safetensors")
    return folder / "adapter_model.bin", ""


def _first(rule: Rule, table: Mapping[str, Rule]) -> Rule:
    """The row to read an adapter by: A of a fused layer is in the files once for each projection, all equal."""
    if rule.hf or not rule.name.endswith(".lora_A"):
        return rule
    module = module_of(rule.name)
    return replace(rule, hf=_keys(module, weight_row(table, module), "peft")[0][0])


def _keys(module: str, rule: Rule, kind: str) -> list[tuple[str, str]]:
    """The names that A and B of a layer have in the files: one pair, or one for each projection of a fused layer."""
    if kind == "paddle":
        return [(f"{module}.lora_A", f"{module}.lora_B")]
    published = [rule.hf] if rule.hf else [part.hf for part in rule.segments() if part.hf]
    heads = [f"{PEFT_PREFIX}{name.removesuffix(_WEIGHT)}" for name in published]
    return [(f"{head}.lora_A.weight", f"{head}.lora_B.weight") for head in heads]


def fused_table(architecture: Architecture, config: ModelConfig) -> Mapping[str, Rule]:
    """The table of a model with its projections fused, in which its parts may be stored; empty where none can be."""
    names = [name for name in _FUSING if hasattr(config, name)]
    return architecture.table(config.replace(**dict.fromkeys(names, True))) if names else {}


def open_adapter(architecture: Architecture, config: ModelConfig, folder: Path) -> tuple[AdapterFiles, ModelConfig]:
    """Open the adapters in a folder over a model, with its projections fused or apart as the adapters have them.

    Returns:
        The adapters, and the configuration whose table they were opened with.

    Raises:
        CheckpointError: as `AdapterFiles`; of the configuration as it was given.
    """
    names = [name for name in _FUSING if hasattr(config, name)]
    tried = [config, *(config.replace(**dict.fromkeys(names, fused)) for fused in (False, True))]
    failed: CheckpointError | None = None
    for one in tried:
        try:
            return AdapterFiles(folder, architecture.table(one)), one
        except CheckpointError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def base_and_adapter(path: str | Path, lora_path: str | Path | None = None) -> tuple[Path, Path | None]:
    """Return what holds the model, and the folder of its adapter, if it has one.

    Args:
        path: a model, or an adapter, which knows its base.
        lora_path: the adapter, where `path` is the model.

    Raises:
        CheckpointError: there is no adapter in `lora_path`, or the base of the one in `path` is gone.
    """
    if lora_path:
        return Path(path), adapter_folder(lora_path)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return Path(path), None
    if not _kind(folder):
        latest = latest_checkpoint(folder) if not (folder / "config.json").is_file() else None
        if latest is None or not _kind(latest):
            return Path(path), None
        folder = latest
    if list(folder.glob("model*.safetensors")):
        return Path(path), None  # a whole model, with an adapter's files beside it
    base = adapter_spec(folder).base
    if not base or not Path(base).is_dir():
        raise CheckpointError(
            f"{path} is an adapter, and its base model is not there",
            f"it was trained on {base or 'a model that it does not name'}",
            f"give the base model, and --lora_path {path}",
        )
    return Path(base), folder
