"""Models as static programs: written by `export_model`, read back by `load_static`, equal to what they were."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.export.spec import Exported, is_exported, read_exported
    from zoo_core.export.static import StaticModel, load_static
    from zoo_core.export.write import export_model

__all__ = ["Exported", "StaticModel", "export_model", "is_exported", "load_static", "read_exported"]

_HOMES = {
    "zoo_core.export.spec": ("Exported", "is_exported", "read_exported"),
    "zoo_core.export.static": ("StaticModel", "load_static"),
    "zoo_core.export.write": ("export_model",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for; `spec` needs no paddle."""
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
