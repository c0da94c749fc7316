"""Models as static programs: written by `export_model`, read back by `load_static`, equal to what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core._lazy import importer

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

# `spec` needs no paddle
__getattr__ = importer(__name__, _HOMES)
