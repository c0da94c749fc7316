"""Read a rank's part of any parameter out of a folder with weights, whoever wrote it, and nothing else of it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from zoo_core.checkpoint.disk import read_json
from zoo_core.checkpoint.dtypes import Array, convert, storage
from zoo_core.checkpoint.names import ADAPTERS, GROUPS, PREFIX, STATE, stored_as
from zoo_core.checkpoint.places import Cut, Place, cuts, published_place, runs, stored_shape, whole_place
from zoo_core.checkpoint.source import Source
from zoo_core.checkpoint.stored import Made, Stored
from zoo_core.errors import CheckpointError, nearest
from zoo_core.layout import Column, FusedColumn, Part, Rule, Vocab, local_shape

__all__ = ["Reader"]

_log = logging.getLogger("zoo")

# Tables that old Hugging Face files carry along: rotary frequencies, causal masks. Computed, never loaded.
_DERIVED = re.compile(r"(rotary(_pos)?_emb\.inv_freq|\.attn\.bias|\.attn\.masked_bias|\.attention\.bias)$")


SCALE = "_scale_inv"
"""What the name of a block-quantised weight's scales ends with (DeepSeek-V3: float8 e4m3, blocks of 128 x 128)."""
_BLOCK = (128, 128)


class Reader:
    """The tensors of one folder, read slice by slice. Close it, or use it as a context manager.

    Block-quantised float8 weights are read as the values they stand for. A fused parameter is found in separate
    tensors and the reverse, a tied head in its embedding, a Linear weight in its transpose; Hugging Face names with or
    without their first component (`model.`, `transformer.`) are accepted.

    Args:
        folder: a Hugging Face folder (`.safetensors` or pickled `.bin`), a zoo `checkpoint-N` folder, or what
            PaddleNLP, FleetX and `paddle.distributed.save_state_dict` leave (see `zoo_core.checkpoint.foreign`).
        table: every parameter of the model to be loaded, `zoo_core.layout.expand` of its rows.
        source_table: the table of the model that wrote the folder, where it fuses what `table` holds separate.
        prefix: the entry of a distributed checkpoint of Paddle that is the model; by default it is found.

    Raises:
        CheckpointError: no weights in the folder, or a file of it is truncated, foreign or missing; names the file.
    """

    def __init__(
        self,
        folder: str | Path,
        table: Mapping[str, Rule],
        source_table: Mapping[str, Rule] | None = None,
        prefix: str = "",
    ) -> None:
        self._source = Source(Path(folder), table, source_table, prefix)
        self.folder = self._source.folder
        self.is_zoo, self.what = self._source.is_zoo, self._source.what
        self._single_names = self._source.single_names
        self._table = table
        self._found: dict[tuple[str, str], tuple[Place, ...]] = {}
        self._fused: dict[str, tuple[Rule, int]] = {}
        self._block_size: tuple[int, int] | None = None
        for row in (source_table or {}).values():
            start = 0
            for part in row.segments() if isinstance(row, FusedColumn) else ():
                self._fused[part.name] = (row, start)
                start += part.width

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._source.close()

    @property
    def config(self) -> dict[str, Any]:
        """The parsed `config.json`.

        Raises:
            CheckpointError: it is missing or not JSON.
        """
        return read_json(self.folder / "config.json")

    @property
    def state(self) -> dict[str, Any]:
        """The parsed `trainer_state.json` of a zoo checkpoint; empty for a Hugging Face folder."""
        return read_json(self.folder / STATE) if self.is_zoo else {}

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the weight tensors in the files."""
        return tuple(self._source.group("model"))

    @property
    def tensors(self) -> Mapping[str, Stored]:
        """The weight tensors in the files, by the names they have there."""
        return self._source.group("model")

    @property
    def was_split(self) -> bool:
        """Whether the files hold shards of parallel ranks, which the reader puts together."""
        return self._source.was_split

    def has(self, name: str, role: str = "weight") -> bool:
        """Whether the folder holds parameter `name` in this role."""
        group, _ = stored_as(role, name)
        return bool(self._source.group(group)) and bool(self._search(self._row(name), role))

    def read_weight(self, name: str, degree: int, rank: int, dtype: str, group: str = "") -> Array:
        """Read this rank's part of a weight in `dtype`.

        Half-precision weights that were saved with an fp32 copy are rounded values of it: whatever else than the saved
        type is wanted is read from the copy, so that no bit of it is lost.

        Args:
            degree: size of the tensor axis, `rank` the place on it.
            group: the files of a checkpoint that it is in, where they are not the model's.

        Raises:
            CheckpointError: the weight is missing or has another shape.
        """
        role, copy = (f"{group}:{own}" if group else own for own in ("weight", "master"))
        if self.dtype_of(name, role) != dtype and self.has(name, copy):
            role = copy
        return self.read_local(name, degree, rank, dtype=dtype, role=role)

    def dtype_of(self, name: str, role: str = "weight") -> str:
        """Element type of the stored tensor of parameter `name`; bfloat16 for a block-quantised one.

        Raises:
            CheckpointError: it is missing or has another shape.
        """
        group, _ = stored_as(role, name)
        place = self._places(name, role)[0]
        return "bfloat16" if self._is_scaled(place) else self._source.group(group)[place.key].dtype

    def check(self, names: Iterable[str] | None = None, role: str = "weight") -> tuple[str, ...]:
        """Look for every parameter before any is read, and say once which tensors of the files nothing uses.

        Args:
            names: the parameters wanted; by default all of the table.

        Returns:
            Names of weight tensors that no row of the table uses; rotary tables and causal masks do not count.

        Raises:
            CheckpointError: tensors are missing or have another shape; names the tensors and the shapes.
        """
        wanted = list(self._table) if names is None else list(names)
        failed = []
        for name in wanted:
            try:
                self._places(name, role)
            except CheckpointError as error:
                failed.append(error)
        if failed:
            more = f"; {len(failed) - 1} more tensors are missing or wrong" if len(failed) > 1 else ""
            raise CheckpointError(failed[0].what, failed[0].why + more, failed[0].todo)
        if names is not None or role != "weight":
            return ()
        used = {place.key for name in wanted for place in self._places(name, role)}
        used.update(key + SCALE for key in [*used])
        for row in self._table.values():
            used.update(filter(None, [self._source.find("model", self._key(row.name, row.hf or row.name))]))
        left = tuple(key for key in self.keys if key not in used and not _DERIVED.search(key))
        derived = [key for key in self.keys if key not in used and _DERIVED.search(key)]
        if derived:
            _log.info("%s: %d computed tables ignored (%s ...)", self.folder, len(derived), derived[0])
        if left:
            shown = ", ".join(left[:5]) + (" ..." if len(left) > 5 else "")
            _log.warning("%s: %d tensors are not part of this model and were left: %s", self.folder, len(left), shown)
        return left

    def read_local(
        self,
        name: str,
        degree: int = 1,
        rank: int = 0,
        flat: tuple[int, int] | None = None,
        dtype: str | None = None,
        role: str = "weight",
    ) -> Array:
        """Read what a rank holds of a parameter; only its bytes of the files, unless `flat` meets a transpose.

        Args:
            name: single-card name.
            degree: size of the tensor axis, `rank` the place on it.
            flat: elements [start, stop) of the flattened local parameter; beyond its end they are zero.
            dtype: element type wanted; by default as stored.
            role: `weight`, `master`, `moment1`, `moment2` or another role it was saved under.

        Returns:
            The local parameter [local shape], or [stop - start] for `flat`; zero where the table pads. bfloat16 as
            uint16 bits, float8 as uint8 bits.

        Raises:
            CheckpointError: the tensor is missing, has another shape, or cannot be converted.
            LayoutError: the parameter does not split over `degree` ranks.
        """
        rule, places = self._row(name), self._places(name, role)
        tensors = self._source.group(stored_as(role, name)[0])
        kind = dtype or self.dtype_of(name, role)
        if flat is not None and any(place.transposed or self._is_scaled(place) for place in places):
            return _flat_part(self.read_local(name, degree, rank, None, dtype, role), flat)
        shape = local_shape(rule, degree) if flat is None else (max(0, flat[1] - flat[0]),)
        out = np.zeros(shape, storage(kind))
        for place in places:
            tensor = tensors[place.key]
            table = runs(rule, degree, rank, place, flat)
            scaled = self._is_scaled(place)
            if tensor.dtype == kind and not place.transposed and not scaled:
                self._source.fill(tensor, table, out)
                continue
            raw = np.zeros(shape[::-1] if place.transposed else shape, storage(tensor.dtype))
            self._source.fill(tensor, table, raw)
            if flat is not None:
                for _, start, length in table:
                    convert(raw[start : start + length], tensor.dtype, out[start : start + length], kind)
                continue
            for cut in cuts(rule, place, degree, rank):
                at = (slice(None),) * (rule.dim or 0) + (slice(cut.local, cut.local + cut.length),) if shape else (...,)
                part, held = (raw.T if place.transposed else raw)[at], tensor.dtype
                if scaled:
                    part, held = self._dequantised(part, held, rule, place, cut), "float32"
                convert(part, held, out[at], kind)
        return out

    def stored(self, name: str) -> tuple[tuple[Place, Stored], ...]:
        """Where a weight lies: which of its columns, and the tensor that holds them; `fill` reads it.

        Raises:
            CheckpointError: it is missing or has another shape.
        """
        tensors, places = self._source.group("model"), self._places(name, "weight")
        if not any(self._is_scaled(place) for place in places):
            return tuple((place, tensors[place.key]) for place in places)
        rule = self._row(name)
        make = partial(self.read_local, name, dtype="bfloat16")
        return ((whole_place(rule, name), Made(name, tensors[places[0].key].file, rule.shape, "bfloat16", make)),)

    def keep_strips(self) -> None:
        """Expect that all rows of every tensor are read in order, by `fill`: turned matrices are then read once."""
        self._source.keep_strips()

    def fill(self, tensor: Stored, table: Array, target: Array) -> None:
        """Read runs of a tensor, as `zoo_core.checkpoint.stored.fill` does."""
        self._source.fill(tensor, table, target)

    def _is_scaled(self, place: Place) -> bool:
        """Whether the tensor is quantised in blocks, with a scale for each in a tensor beside it."""
        tensors = self._source.group("model")
        return place.key + SCALE in tensors and tensors[place.key].dtype.startswith("float8")

    def _block(self) -> tuple[int, int]:
        if self._block_size is None:
            rows, columns = self.config.get("quantization_config", {}).get("weight_block_size") or _BLOCK
            self._block_size = (int(rows), int(columns))
        return self._block_size

    def _dequantised(self, part: Array, dtype: str, rule: Rule, place: Place, cut: Cut) -> Array:
        """The values of a cut of a block-quantised matrix, in our orientation, float32."""
        tensor = self._source.group("model")[place.key + SCALE]
        scale = self._source.whole(tensor)
        block = self._block()
        stored, wanted = stored_shape(place), tuple(-(-n // b) for n, b in zip(stored_shape(place), block, strict=True))
        if tensor.shape != wanted:
            raise CheckpointError(
                f"tensor {place.key}{SCALE} in {self.folder / tensor.file} has shape {list(tensor.shape)}",
                f"{list(stored)} in blocks of {list(block)} has {list(wanted)} scales",
                "use the config.json that belongs to these weights",
            )
        if place.transposed:
            scale, block = scale.T, block[::-1]
        index = [np.arange(length) // size for length, size in zip(part.shape, block, strict=True)]
        index[rule.dim or 0] = (np.arange(cut.length) + cut.stored) // block[rule.dim or 0]
        values = np.empty(part.shape, np.float32)
        convert(part, dtype, values, "float32")
        factors = np.empty(scale.shape, np.float32)
        convert(scale, tensor.dtype, factors, "float32")
        values *= factors[np.ix_(*index)]
        return values

    def _row(self, name: str) -> Rule:
        if name not in self._table:
            near = nearest(name, self._table)
            raise CheckpointError(f"the table has no parameter {name}", "", f"did you mean {near}?" if near else "")
        return self._table[name]

    def _key(self, single: str, hf: str) -> str:
        return single if self._single_names else hf

    def _search(self, rule: Rule, role: str) -> tuple[Place, ...]:
        """The places that together hold `rule`; empty when one is missing."""
        group, _ = stored_as(role, rule.name)

        def find(single: str, hf: str) -> str:
            return self._source.find(group, stored_as(role, self._key(single, hf))[1]) if self._key(single, hf) else ""

        transposed = not self._single_names and rule.hf_transposed
        if isinstance(rule, Vocab) and rule.tied_to in self._table:
            tied = self._search(self._table[rule.tied_to], role)
            if tied:
                return tied
        if key := find(rule.single, rule.hf):
            return (whole_place(rule, key) if self._single_names else published_place(rule, key),)
        places, start = [], 0
        for part in rule.segments() if isinstance(rule, Column | FusedColumn) else ():
            place = self._part_place(rule, part, start, find(part.name, part.hf), transposed)
            if place is None and part.name in self._fused:
                row, offset = self._fused[part.name]
                if key := find(row.single, row.hf):
                    turned = not self._single_names and row.hf_transposed
                    place = Place(key, row.shape, start, start + part.width, offset, turned)
            if place is None:
                return ()
            places.append(place)
            start += part.width
        return tuple(places)

    @staticmethod
    def _part_place(rule: Rule, part: Part, start: int, key: str, transposed: bool) -> Place | None:
        if not key or part.name == rule.name:
            return None
        return Place(key, (*rule.shape[:-1], part.width), start, start + part.width, 0, transposed)

    def _places(self, name: str, role: str) -> tuple[Place, ...]:
        if (name, role) in self._found:
            return self._found[name, role]
        rule, (group, _) = self._row(name), stored_as(role, name)
        places = self._search(rule, role)
        tensors = self._source.group(group)
        if not places:
            if group == "model" and not tensors and self._source.group(PREFIX):
                raise CheckpointError(
                    f"{self.folder} holds a prefix, not a model",
                    "prefix tuning saves what it trains; the base model stays where it was",
                    "give the base model: a prefix is used beside it, and is no part of its weights",
                )
            if group == "model" and not tensors and self._source.group(ADAPTERS):
                raise CheckpointError(
                    f"{self.folder} holds adapters, not a model",
                    "LoRA saves what it trains; the base model stays where it was",
                    f"join it with its base first: zoo merge lora BASE {self.folder} DST",
                )
            key = self._key(rule.single, rule.hf or " + ".join(part.hf for part in rule.segments())) or name
            near = nearest(key, tensors)
            raise CheckpointError(
                f"tensor {stored_as(role, key)[1]} is missing in {self.folder}",
                f"parameter {name} {list(rule.shape)} is read from it"
                + ("" if tensors else f"; the folder has no {GROUPS.get(group, group)}"),
                f"the nearest name there is {near}" if near else "",
            )
        for place in places:
            found, expected = tensors[place.key].shape, stored_shape(place)
            if found != expected:
                raise CheckpointError(
                    f"tensor {place.key} in {self.folder / tensors[place.key].file} has shape {list(found)}",
                    f"the configuration makes it {list(expected)} (parameter {name})",
                    "use the config.json that belongs to these weights",
                )
        self._found[name, role] = places
        return places


def _flat_part(local: Array, flat: tuple[int, int]) -> Array:
    out = np.zeros(max(0, flat[1] - flat[0]), local.dtype)
    part = local.reshape(-1)[flat[0] : min(flat[1], math.prod(local.shape))]
    out[: len(part)] = part
    return out
