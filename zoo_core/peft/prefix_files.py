"""Prefixes in files: zoo's checkpoints and PEFT's folders.

PEFT keeps one tensor, `prompt_embeddings` [P, 2 x layers x heads x width]: for each layer its keys and then its values.
Of a projection it saves what that gives, so such a prefix is read as one without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint import Reader, latest_checkpoint
from zoo_core.checkpoint.disk import Disk, as_json, read_json
from zoo_core.checkpoint.dtypes import Array, converted
from zoo_core.checkpoint.names import MANIFEST, PREFIX, STATE
from zoo_core.checkpoint.places import whole_place
from zoo_core.checkpoint.ranks import Ranks
from zoo_core.checkpoint.shards import Entry, plan_files
from zoo_core.checkpoint.source import Source
from zoo_core.checkpoint.writer import LocalTensor, write_folder
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError
from zoo_core.layout import Replicate, Rule, split
from zoo_core.peft.prefix import SHARED, PrefixSpec, attention_names, prefix_rows
from zoo_core.pipeline import PipeLayer

__all__ = ["PrefixFiles", "base_and_prefix", "peft_objection", "prefix_folder", "prefix_spec", "write_peft_prefix"]

_CONFIG, _GROUP, _TENSOR = "adapter_config.json", "adapter_model", "prompt_embeddings"


def _kind(folder: Path) -> str:
    if (folder / MANIFEST).is_file():
        return "zoo" if (folder / f"{PREFIX}.safetensors.index.json").is_file() else ""
    if not (folder / _CONFIG).is_file():
        return ""
    return "peft" if read_json(folder / _CONFIG).get("peft_type") == "PREFIX_TUNING" else ""


def prefix_folder(path: str | Path) -> Path:
    """Return the folder of a prefix: a checkpoint of prefix tuning, PEFT's folder, or a run's newest checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {path}", "a prefix is a folder", "give --prefix_path one")
    if _kind(folder):
        return folder
    latest = latest_checkpoint(folder)
    if latest is not None and _kind(latest):
        return latest
    if (folder / "prefix_config.json").is_file():
        raise CheckpointError(
            f"{path} is a prefix of PaddleNLP",
            "whether its positions begin at 0 or after the prefix depends on how it was trained, and no file says it",
            "train it again here, or save it as PEFT's",
        )
    raise CheckpointError(
        f"no prefix in {path}",
        f"it has neither {_CONFIG} of PEFT's PREFIX_TUNING nor checkpoints of prefix tuning",
        "give the folder of a prefix, or the output folder of a run of prefix tuning",
    )


def base_and_prefix(path: str | Path, prefix_path: str | Path | None = None) -> tuple[Path, Path | None]:
    """Return what holds the model, and the folder of its prefix, if it has one.

    Args:
        path: a model, or a prefix, which knows its base.
        prefix_path: the prefix, where `path` is the model.

    Raises:
        CheckpointError: there is no prefix in `prefix_path`, or the base of the one in `path` is gone.
    """
    if prefix_path:
        return Path(path), prefix_folder(prefix_path)
    folder = Path(path).expanduser()
    if folder.is_dir() and not _kind(folder) and not (folder / "config.json").is_file():
        folder = latest_checkpoint(folder) or folder
    if not folder.is_dir() or not _kind(folder) or list(folder.glob("model*.safetensors")):
        return Path(path), None
    base = prefix_spec(folder).base
    if not base or not Path(base).is_dir():
        raise CheckpointError(
            f"{path} is a prefix, and its base model is not there",
            f"it was trained on {base or 'a model that it does not name'}",
            f"give the base model, and --prefix_path {path}",
        )
    return Path(base), folder


def prefix_spec(folder: Path) -> PrefixSpec:
    """What a folder's own files say of its prefix.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        if _kind(folder) == "zoo":
            return PrefixSpec.from_dict(read_json(folder / STATE)[PREFIX])
        values = read_json(folder / _CONFIG)
        return PrefixSpec(int(values["num_virtual_tokens"]), base=str(values.get("base_model_name_or_path") or ""))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the settings of the prefix in {folder} are not whole", f"{type(error).__name__}: {error}",
            "copy or download the folder again",
        ) from error  # fmt: skip


class PrefixFiles:
    """The prefix in a folder, of a model. Close it, or use it as a context manager.

    Args:
        folder: what `prefix_folder` gives.
        elements: the model's pipeline list.
        config: of the model.

    Attributes:
        spec: what it is.
        rows: its rows, by single-card name.
        reader: of a checkpoint, which has optimizer states too; `None` for PEFT's folders.

    Raises:
        CheckpointError: it is of a model of another size, or damaged.
    """

    def __init__(self, folder: Path, elements: Sequence[PipeLayer], config: ModelConfig) -> None:
        self.spec = prefix_spec(folder)
        self.rows = prefix_rows(elements, config, self.spec)
        self._values: dict[str, Array] = {}
        self.reader: Reader | None = None
        if _kind(folder) == "zoo":
            self.reader = Reader(folder, self.rows)
            self.reader.check(self.rows, f"{PREFIX}:weight")
        else:
            self._values = _unstacked(_stacked(folder), self.rows, attention_names(elements), folder)

    def __enter__(self) -> PrefixFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        if self.reader is not None:
            self.reader.close()

    def read(self, name: str, degree: int = 1, rank: int = 0, dtype: str = "float32") -> Array:
        """Read this rank's part of a parameter, by its single-card name; from its fp32 copy where one was saved."""
        if self.reader is None:
            return converted(split(self._values[name], self.rows[name], degree, rank), "float32", dtype)
        return self.reader.read_weight(name, degree, rank, dtype, PREFIX)

    def source(self, degree: int = 1, rank: int = 0, dtype: str = "float32") -> Callable[[Rule], Array]:
        """This rank's parts, as the engine takes them."""
        return lambda rule: self.read(rule.name, degree, rank, dtype)

    def flat(self, attention: str) -> tuple[Array, Array]:
        """The keys and the values of a block, float32 [P, heads x width], by the name of its attention module."""
        if not self.spec.hidden:
            return self.read(f"{attention}.prefix_key"), self.read(f"{attention}.prefix_value")
        shared = next(iter(self.rows)).removesuffix(SHARED[0])
        embedding, weight, bias = (self.read(shared + name) for name in SHARED)
        hidden = np.tanh(embedding @ weight + bias)

        def project(which: str) -> Array:
            own = f"{attention}.prefix_{which}"
            return np.asarray(hidden @ self.read(f"{own}_weight") + self.read(f"{own}_bias"))

        return project("key"), project("value")


def _stacked(folder: Path) -> Array:
    """PEFT's tensor, float32.

    Raises:
        CheckpointError: it is not there.
    """
    source = Source(folder if (folder / f"{_GROUP}.safetensors").is_file() else folder / f"{_GROUP}.bin")
    try:
        held = source.group(_GROUP) or source.group("model")
        if _TENSOR not in held:
            raise CheckpointError(f"{folder} has no {_TENSOR}", "PEFT keeps a prefix in it", "download it again")
        stored = held[_TENSOR]
        return converted(source.whole(stored), stored.dtype, "float32")
    finally:
        source.close()


def _unstacked(stacked: Array, rows: Mapping[str, Rule], names: Sequence[str], folder: Path) -> dict[str, Array]:
    """The keys and values of each block.

    Raises:
        CheckpointError: there are not as many as the model has.
    """
    found, start = {}, 0
    wanted = (next(iter(rows.values())).shape[0], sum(rule.shape[1] for rule in rows.values()))
    if stacked.shape != wanted:
        raise CheckpointError(
            f"{_TENSOR} of {folder} is {list(stacked.shape)}, this model's is {list(wanted)}",
            "it has a key and a value of each virtual token in every layer",
            "give the base model that the prefix was trained on",
        )
    for name in names:
        for which in ("key", "value"):
            rule = rows[f"{name}.prefix_{which}"]
            found[rule.name] = stacked[:, start : start + rule.shape[1]]
            start += rule.shape[1]
    return found


def peft_objection(config: ModelConfig) -> str:
    """Why PEFT cannot have prefixes of a model; empty when it can."""
    heads, key, value = config.cached_sizes
    if heads and key == value:
        return ""
    return f"the model caches {key} and {value} features for all heads, and PEFT takes keys and values of one width"


def write_peft_prefix(folder: Path, files: PrefixFiles, elements: Sequence[PipeLayer], config: ModelConfig) -> Path:
    """Write a folder that PEFT's `PeftModel.from_pretrained` loads over the published base; replaces one of its own.

    Raises:
        CheckpointError: PEFT has no such prefix, the folder holds something else, or the disk is full.
    """
    if objection := peft_objection(config):
        raise CheckpointError("PEFT cannot have this prefix", objection, "keep zoo's checkpoint")
    heads, key, _ = config.cached_sizes
    names = attention_names(elements)
    whole = np.ascontiguousarray(np.concatenate([part for name in names for part in files.flat(name)], axis=1))
    settings: dict[str, Any] = {
        "peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": files.spec.base or None,
        "num_virtual_tokens": files.spec.tokens, "token_dim": heads * key, "num_attention_heads": heads,
        "num_layers": len(names), "num_transformer_submodules": 1, "encoder_hidden_size": heads * key,
        "prefix_projection": False, "inference_mode": True, "init_weights": None,
    }  # fmt: skip
    disk, rule = Disk(), Replicate(_TENSOR, whole.shape)

    def prepare() -> None:
        if folder.exists() and not (folder / _CONFIG).is_file() and any(folder.iterdir()):
            raise CheckpointError(f"{folder} holds something else", "a prefix would replace it", "move it away")

    def replace(beside: Path, at: Path) -> None:
        if at.exists():
            disk.remove(at)
        disk.rename(beside, at)

    write_folder(
        folder.absolute(),
        plan_files([Entry(_GROUP, _TENSOR, whole.shape, "float32")], 1 << 62, {"format": "pt"}, bare_single=True),
        [LocalTensor(rule, whole)],
        lambda tensor: [(_GROUP, whole_place(tensor.rule, _TENSOR))],
        lambda sums: {_CONFIG: as_json(settings)},
        Ranks(),
        disk,
        prepare=prepare,
        replace=replace,
    )
    return folder
