"""What makes `lm_eval --model zoo` know the model, in releases of lm-eval that do not read entry points (up to 0.4.13).

Those look `--model` up in a table that `lm_eval.models` fills when it is imported, and import nothing that others could
bring before that. `zoo_core_lm_eval.pth`, which is installed beside the package, imports this module when Python starts
with a command line that names lm_eval, and at no other start. It waits for `lm_eval.models` and adds one line to the
table. The class itself is imported by lm-eval, when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__ = ["ModelFinder"]

_TABLE = "lm_eval.models"
_NAME, _CLASS = "zoo", "zoo_core.evaluate.harness:ZooLM"


class ModelFinder(MetaPathFinder):
    """Finds `lm_eval.models` once, as whoever is asked next does, and has zoo's name added when it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_add(module: ModuleType) -> None:
                run(module)
                _add()

            # of this one loader, which belongs to this one spec
            spec.loader.exec_module = run_and_add  # type: ignore[method-assign]
        return spec


def _add() -> None:
    """Add the name to the table; releases that have read it from the entry point keep what they have."""
    from lm_eval.api.registry import model_registry

    if _NAME not in model_registry:
        model_registry.register(_NAME, target=_CLASS)


if _TABLE not in sys.modules:
    sys.meta_path.insert(0, ModelFinder())
