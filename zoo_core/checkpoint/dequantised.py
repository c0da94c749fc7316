"""Read quantised weights as the numbers they stand for: to convert a folder, or to add adapters to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from zoo_core.checkpoint.dtypes import Array, converted
from zoo_core.checkpoint.places import Place, whole_place
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.stored import Made, Stored
from zoo_core.layout import Rule, split
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import ROWS, quantised_layers, with_quantised
from zoo_core.quantized.pack import QuantisedWeight, unpack

__all__ = ["DequantisedReader", "open_weights"]


class DequantisedReader(Reader):
    """A folder of quantised weights, read as if it had the weights that these stand for.

    Args:
        folder: as `zoo_core.checkpoint.quantised.write_quantised` writes it.
        table: the rows of the model without quantisation.
        source_table: likewise, as `Reader` takes it.
        spec: how the weights are quantised.

    Raises:
        CheckpointError: as `Reader`.
    """

    def __init__(
        self, folder: str | Path, table: Mapping[str, Rule], source_table: Mapping[str, Rule] | None, spec: QuantSpec
    ) -> None:
        super().__init__(folder, table, source_table)
        self._spec = spec
        self._layers = {rule.name: module for module, rule in quantised_layers(table, spec).items()}
        self._rows = with_quantised(table, spec)
        fused = with_quantised(source_table, spec) if source_table else None
        self._integers = Reader(folder, self._rows, fused)

    def close(self) -> None:
        """Close the files."""
        self._integers.close()
        super().close()

    def has(self, name: str, role: str = "weight") -> bool:
        if name not in self._layers:
            return super().has(name, role)
        return role == "weight" and self._integers.has(f"{self._layers[name]}.quant_weight")

    def dtype_of(self, name: str, role: str = "weight") -> str:
        """Element type of a weight; of a quantised one, that of the other weights."""
        if name not in self._layers:
            return super().dtype_of(name, role)
        return next(
            (super(DequantisedReader, self).dtype_of(n) for n in self._table if n not in self._layers), "float32"
        )

    def check(self, names: Iterable[str] | None = None, role: str = "weight") -> tuple[str, ...]:
        if names is not None or role != "weight":
            return super().check([name for name in names or () if name not in self._layers], role)
        return self._integers.check()

    def read_local(
        self,
        name: str,
        degree: int = 1,
        rank: int = 0,
        flat: tuple[int, int] | None = None,
        dtype: str | None = None,
        role: str = "weight",
    ) -> Array:
        if name not in self._layers:
            return super().read_local(name, degree, rank, flat, dtype, role)
        dense = split(self._dense(self._layers[name]), self._table[name], degree, rank)
        values = converted(dense, "float32", dtype or self.dtype_of(name))
        return values if flat is None else np.ascontiguousarray(values.reshape(-1)[flat[0] : flat[1]])

    def _dense(self, module: str) -> Array:
        """The weight of a layer, float32 [I, O]."""
        own = {row: self._integers.read_local(f"{module}.{row}") for row in ROWS if f"{module}.{row}" in self._rows}
        weight, spec = self._rows[f"{module}.quant_weight"].weight, self._spec
        assert weight is not None
        q_IO = unpack(own["quant_weight"], spec.bits, weight.shape[0])
        zero, order, smooth = (own.get(row) for row in ("quant_zero", "g_idx", "smooth"))
        return QuantisedWeight(q_IO, own["quant_scale"], spec.group_size, zero, order, smooth).dense()

    def stored(self, name: str) -> tuple[tuple[Place, Stored], ...]:
        if name not in self._layers:
            return super().stored(name)
        rule, kind = self._table[name], self.dtype_of(name)
        file = self._integers.tensors[f"{self._layers[name]}.quant_weight"].file
        return ((whole_place(rule, name), Made(name, file, rule.shape, kind, partial(self.read_local, name))),)


def open_weights(
    folder: str | Path,
    table: Mapping[str, Rule],
    source_table: Mapping[str, Rule] | None,
    spec: QuantSpec | None,
    prefix: str = "",
) -> Reader:
    """Open a folder to read numbers, quantised or not.

    Args:
        table: the rows of the model without quantisation; `source_table` likewise, as `Reader` takes it.
        spec: how the folder's weights are quantised; `None` if they are not.
        prefix: as `Reader` takes it.
    """
    if spec is None:
        return Reader(folder, table, source_table, prefix)
    return DequantisedReader(folder, table, source_table, spec)
