"""Where the weights of a named model are looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zoo_core.checkpoint.folders import latest_checkpoint
from zoo_core.checkpoint.foreign import has_foreign
from zoo_core.checkpoint.names import MANIFEST
from zoo_core.errors import CheckpointError

__all__ = ["find_weights"]


def _weights_in(path: Path) -> Path | None:
    """The folder with weights that `path` means: itself, or the newest checkpoint of a run's output folder."""
    if not path.is_dir():
        return None
    if (path / MANIFEST).is_file() or any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return path
    return latest_checkpoint(path) or (path if has_foreign(path) else None)


def find_weights(
    name: str,
    model_path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Path:
    """Return the folder of a model's weights: `model_path`, `$ZOO_HOME/NAME`, `./NAME`, then `./` its last part.

    Args:
        name: the model's name, `qwen/qwen-7b`, or a folder.

    Raises:
        CheckpointError: no weights there; lists the places and says where to put them. Nothing is downloaded.
    """
    environ = os.environ if environ is None else environ
    here = Path.cwd() if cwd is None else Path(cwd)
    home = environ.get("ZOO_HOME", "")
    places = [Path(model_path)] if model_path else []
    if not model_path:
        places += [Path(home).expanduser() / name] if home else []
        places += [here / name, here / Path(name).name]
    for place in places:
        found = _weights_in(place.expanduser())
        if found is not None:
            return found
    looked = [f"{place} ({'no weights in it' if place.is_dir() else 'no such folder'})" for place in places]
    looked += [] if home or model_path else ["$ZOO_HOME (not set)"]
    raise CheckpointError(
        f"no weights of {name}",
        "looked in " + ", ".join(looked),
        f"put config.json and *.safetensors in {'$ZOO_HOME' if home else here}/{name}, or give their folder "
        "in place of the name; zoo downloads nothing",
    )
