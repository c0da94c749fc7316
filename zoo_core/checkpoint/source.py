"""The files of one folder with weights: which tensors they hold, under which names, and their bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from zoo_core.checkpoint.disk import read_exactly, read_json
from zoo_core.checkpoint.dtypes import Array, item_size
from zoo_core.checkpoint.names import MANIFEST
from zoo_core.checkpoint.shards import Located, read_header
from zoo_core.errors import CheckpointError

__all__ = ["Source"]


class Source:
    """A Hugging Face folder or a zoo checkpoint, opened for reading.

    Raises:
        CheckpointError: no weights in the folder, or a file of it is truncated, foreign or missing; names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_zoo = (folder / MANIFEST).is_file()
        self._groups: dict[str, dict[str, Located]] = {}
        self._handles: dict[str, int] = {}
        weights = self.group("model")
        if not weights:
            raise CheckpointError(
                f"no weights in {folder}",
                "it has neither model.safetensors nor model.safetensors.index.json"
                + (", only pickled .bin files" if any(folder.glob("*.bin")) else ""),
                "give a Hugging Face folder with .safetensors files or a zoo checkpoint-N folder",
            )
        self._short = {} if self.is_zoo else {key.split(".", 1)[1]: key for key in weights if key.count(".") > 1}

    def close(self) -> None:
        """Close the files."""
        while self._handles:
            os.close(self._handles.popitem()[1])

    def group(self, group: str) -> dict[str, Located]:
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
        tensors: dict[str, Located] = {}
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
        if self.is_zoo:
            return ""
        bare = key.split(".", 1)[-1]
        if "." in bare and bare in tensors:
            return bare
        return self._short.get(key, "")

    def fill(self, tensor: Located, table: Array, target: Array) -> None:
        """Read `runs` of a tensor into a contiguous array of its element type."""
        if target.size == 0:
            return
        handle, size = self._handle(tensor.file), item_size(tensor.dtype)
        view = target.reshape(-1).view(np.uint8).data
        for stored, local, length in (table * size).tolist():
            read_exactly(handle, self.folder / tensor.file, view[local : local + length], tensor.offset + stored)

    def _handle(self, file: str) -> int:
        if file not in self._handles:
            self._handles[file] = os.open(self.folder / file, os.O_RDONLY)
        return self._handles[file]
