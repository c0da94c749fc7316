"""The files of one folder with weights: which tensors they hold, under which names, and their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo_core.checkpoint.disk import read_json
from zoo_core.checkpoint.dtypes import Array, storage
from zoo_core.checkpoint.foreign import as_single, foreign_weights, form_of, is_distributed, presented
from zoo_core.checkpoint.names import ADAPTERS, MANIFEST, PREFIX
from zoo_core.checkpoint.shards import read_header
from zoo_core.checkpoint.stored import Files, Stored, fill
from zoo_core.errors import CheckpointError
from zoo_core.layout import Rule

__all__ = ["Source"]


class Source:
    """A folder with weights, opened for reading: a zoo checkpoint, Hugging Face's, PyTorch's or Paddle's.

    Args:
        folder: or one file of PyTorch or Paddle.
        table: every parameter of the model; it tells the two forms of names apart.
        fused: the table of the model with its projections fused.
        prefix: the entry of a distributed checkpoint of Paddle that is the model; by default it is found.

    Attributes:
        is_zoo: it is a zoo checkpoint.
        single_names: tensors have the names and shapes of the table, instead of Hugging Face's.
        what: what kind of folder it is, in words.
        was_split: the files hold shards of parallel ranks.

    Raises:
        CheckpointError: no weights in the folder, or a file of it is truncated, foreign or missing; names the file.
    """

    def __init__(
        self,
        folder: Path,
        table: Mapping[str, Rule] | None = None,
        fused: Mapping[str, Rule] | None = None,
        prefix: str = "",
    ) -> None:
        file = folder.name if folder.is_file() else ""
        self.folder = folder.parent if file else folder
        self.is_zoo = not file and (folder / MANIFEST).is_file()
        self.single_names, self.what = self.is_zoo, "a zoo checkpoint" if self.is_zoo else "safetensors"
        self.was_split = False
        self._groups: dict[str, dict[str, Stored]] = {}
        self._files = Files(self.folder)
        table, fused = table or {}, fused or {}
        weights = {} if file or is_distributed(folder) else self.group("model")
        if weights and not self.is_zoo and table:
            rules = {**fused, **table}
            if form_of(weights, rules.values(), "hf") == "single":
                self.single_names, self.what = True, "safetensors with Paddle's names"
                weights = self._groups["model"] = as_single(weights, rules)
        foreign = None if weights else foreign_weights(self.folder, file, prefix)
        if foreign is not None:
            weights, form = presented(foreign, self.folder, table, fused)
            self._groups["model"], self.single_names, self.what = weights, form == "single", foreign.what
            self.was_split = bool(foreign.ranks)
        if not weights and not (self.is_zoo and (self.group(ADAPTERS) or self.group(PREFIX))):
            raise CheckpointError(
                f"no weights in {folder}",
                "it has neither safetensors nor files of PyTorch (.bin, .pt) or Paddle (.pdparams, .distcp)",
                "give a Hugging Face folder, a zoo checkpoint-N folder, or a folder of PaddleNLP",
            )
        self._short = {} if self.single_names else {k.split(".", 1)[1]: k for k in weights if k.count(".") > 1}

    def keep_strips(self) -> None:
        """Expect that all rows of every tensor are read in order."""
        self._files.whole_strips = True

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def group(self, group: str) -> dict[str, Stored]:
        """The tensors of a group of files, by the names they have there; empty where the folder has none."""
        if group in self._groups:
            return self._groups[group]
        index = self.folder / f"{group}.safetensors.index.json"
        weight_map: dict[str, str] = {}
        if index.is_file():
            listed = read_json(index).get("weight_map")
            if not isinstance(listed, dict):
                raise CheckpointError(f"{index} has no weight_map", "", "copy or download the file again")
            weight_map = listed
            files = sorted(set(weight_map.values()))
        else:
            files = [f"{group}.safetensors"] if (self.folder / f"{group}.safetensors").is_file() else []
            if not files and group == "model" and not self.is_zoo:
                files = sorted(path.name for path in self.folder.glob("*.safetensors"))
        tensors: dict[str, Stored] = {}
        for file in files:
            held = read_header(self.folder / file)[0]
            expected = [key for key, where in weight_map.items() if where == file] if weight_map else list(held)
            for key in expected:
                if key not in held:
                    raise CheckpointError(
                        f"tensor {key} is not in {self.folder / file}",
                        f"{index.name} says it is",
                        "the files are of different versions: copy or download the folder again",
                    )
                tensors[key] = held[key]
        self._groups[group] = tensors
        return tensors

    def find(self, group: str, key: str) -> str:
        """The name under which the files hold `key`; empty when they do not."""
        tensors = self.group(group)
        if not key or key in tensors:
            return key
        if self.single_names:
            return ""
        bare = key.split(".", 1)[-1]
        if "." in bare and bare in tensors:
            return bare
        return self._short.get(key, "")

    def fill(self, tensor: Stored, table: Array, target: Array) -> None:
        """Read `runs` of a tensor into a contiguous array of its element type."""
        fill(self._files, tensor, table, target)

    def whole(self, tensor: Stored) -> Array:
        """Read all of a tensor, in its element type."""
        found = np.zeros(tensor.shape, storage(tensor.dtype))
        self.fill(tensor, np.array([[0, 0, found.size]], np.int64), found)
        return found
