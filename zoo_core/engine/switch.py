"""Several adapters over one model that is only run: they take turns, the model is built once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from zoo_core.checkpoint import Reader
from zoo_core.config import ModelConfig
from zoo_core.engine.build import Source, from_both
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.state import from_checkpoint
from zoo_core.errors import ConfigError, nearest
from zoo_core.layout import Rule, local_shape
from zoo_core.peft import Adapter, LoraSpec
from zoo_core.peft.files import AdapterFiles
from zoo_core.registry import Architecture

__all__ = ["AdapterSwitch", "with_adapters_to_switch"]


class AdapterSwitch:
    """The adapters of a model by name; at first none is in use.

    Args:
        engine: whose layers they are of.
        adapters: folders by name, as `zoo_core.peft.files.adapter_folder` gives them.
        table: the rows of the base model.
        dtype: of the weights.

    Raises:
        CheckpointError: a folder's adapters are damaged or of another model.
    """

    def __init__(self, engine: Engine, adapters: Mapping[str, Path], table: Mapping[str, Rule], dtype: str) -> None:
        self._layers, self.name = engine.adapted, ""
        self._held: dict[str, dict[str, tuple[Any, Any, float]]] = {}
        degree, rank = engine.mesh.plan.tensor, engine.mesh.place.tensor
        for name, folder in adapters.items():
            with AdapterFiles(folder, table) as files:
                mine = [module for module in files.modules if module in self._layers]
                self._held[name] = {
                    module: (
                        *(_tensor(files.read(f"{module}.lora_{which}", degree, rank, dtype)) for which in "AB"),
                        files.spec.scale(module),
                    )
                    for module in mine
                }
        self.use("")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters there are."""
        return tuple(self._held)

    def use(self, name: str) -> None:
        """Run with this adapter from now on; with none where the name is empty.

        Raises:
            ConfigError: there is none of this name.
        """
        if name and name not in self._held:
            near = nearest(name, self._held)
            raise ConfigError(
                f"there is no adapter {name}", f"there are {', '.join(self._held) or 'none'}",
                f"did you mean {near}?" if near else "",
            )  # fmt: skip
        own = self._held.get(name, {})
        for module, layer in self._layers.items():
            layer.set_adapter(*own.get(module, (None, None, 1.0)))
        self.name = name


def _tensor(values: np.ndarray[Any, Any]) -> Any:
    tensor = paddle.to_tensor(values)
    return tensor.view("bfloat16") if values.dtype == np.uint16 else tensor


def with_adapters_to_switch(
    mesh: Mesh,
    architecture: Architecture,
    config: ModelConfig,
    reader: Reader,
    adapters: Mapping[str, Path],
    dtype: str = "float32",
    **more: Any,
) -> tuple[Engine, AdapterSwitch]:
    """Build a model that is only run, and the adapters over it; none of these is in use.

    Args:
        reader: over the base model.
        adapters: folders by name.
        more: as `Engine` takes it.

    Raises:
        CheckpointError: weights or adapters are missing, damaged or of another model.
    """
    table, layers = architecture.table(config), dict[str, Adapter]()
    for folder in adapters.values():
        with AdapterFiles(folder, table) as files:
            layers |= {module: Adapter(1, 1.0) for module in files.modules}
    source = from_both(from_checkpoint(reader, mesh, dtype), _nothing(mesh))
    lora = LoraSpec(modules=layers) if layers else None
    engine = Engine(mesh, architecture, config, source, dtype, lora=lora, **more)
    return engine, AdapterSwitch(engine, adapters, table, dtype)


def _nothing(mesh: Mesh) -> Source:
    """What the places of adapters hold until one is used."""
    return lambda rule: np.zeros(local_shape(rule, mesh.plan.tensor), np.float32)
