"""Which files a cell exercises, and digests of them: evidence is as fresh as these files are unchanged."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib import util
from pathlib import Path

from zoo_core.capabilities import CELLS

__all__ = ["SOURCES", "digests", "rooms_of"]

SOURCES: dict[str, tuple[str, ...]] = {
    "layout": ("zoo_core/layout.py", "zoo_core/pipeline.py", "zoo_core/tables.py", "zoo_core/config.py"),
    "plan": ("zoo_core/plan/request.py", "zoo_core/plan/composer.py", "zoo_core/plan/cut.py"),
    "engine": ("zoo_core/engine/*.py",),
    "auto": ("zoo_core/engine/auto/*.py",),
    "checkpoint": ("zoo_core/checkpoint/*.py",),
    "generate": ("zoo_core/generate/*.py",),
    "peft": ("zoo_core/peft/**/*.py",),
    "quantize": (
        "zoo_core/quantize/**/*.py",
        "zoo_core/quantized/*.py",
        "zoo_core/quantization.py",
        "zoo_core/engine/integers.py",
    ),
    "train": ("zoo_core/train/*.py",),
    "ops": ("zoo_ops/**/*.py",),
    "plugin": ("*.py",),
}
"""Groups of files, below the folders of the packages; `plugin` is below the plugin's own. Commands, arguments, data
files, predictions and reports are in none: what they change is no part of what a cell claims."""

_LEFT_OUT = {
    "engine": ("launch.py", "pretrained.py", "quiet.py", "restart.py"),
    "checkpoint": ("background.py", "conversion.py", "disk.py", "hf.py", "inspect.py", "lock.py"),
    "plugin": ("__init__.py", "tokenizer.py"),
}
"""Files of a group that no cell exercises; any other, a new one too, counts."""

_PARALLEL = ("layout", "plan", "engine", "checkpoint", "ops", "plugin")
_TUNING = (*_PARALLEL, "train", "peft")
_SECOND = (*_PARALLEL, "auto")
_CELLS: dict[str, tuple[str, ...]] = {
    "pretrain": (*_PARALLEL, "train"),
    "sft": _TUNING,
    "lora": _TUNING,
    "prefix_tuning": _TUNING,
    "dpo": _TUNING,
    "compression": ("layout", "checkpoint", "quantize", "ops", "plugin"),
    "generation": ("layout", "generate", "ops", "plugin"),
    "flash_attention": ("layout", "engine", "ops", "plugin"),
    "semi_auto": _SECOND,
    "semi_auto_sft": (*_TUNING, "auto"),
    "semi_auto_lora": (*_TUNING, "auto"),
    "semi_auto_dpo": (*_TUNING, "auto"),
    "to_static": _SECOND,
}


def rooms_of(cell: str) -> tuple[str, ...]:
    """Return the groups of `SOURCES` that a cell exercises."""
    assert cell in CELLS
    return _CELLS.get(cell, _PARALLEL)


def digests(cell: str, folder: Path | None) -> dict[str, str]:
    """Return a digest of each group of files that a cell exercises: 10 hexadecimal digits by the group's name.

    Args:
        folder: that of the plugin's package; `None` leaves the plugin out.
    """
    return {
        room: _digest(room, folder if room == "plugin" else None)
        for room in rooms_of(cell)
        if room != "plugin" or folder is not None
    }


@cache
def _package(name: str) -> Path | None:
    found = util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


@cache
def _digest(room: str, folder: Path | None) -> str:
    made = hashlib.sha256()
    for pattern in SOURCES[room]:
        package, _, below = pattern.rpartition("/") if folder else pattern.partition("/")
        root = folder or _package(package)
        if root is None:
            continue
        for path in sorted(root.glob(below)):
            if path.name not in _LEFT_OUT.get(room, ()):
                text = _logic(path) if folder and path.name == "config.py" else path.read_bytes()
                made.update(f"{path.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return made.hexdigest()[:10]


def _logic(path: Path) -> bytes:
    """The classes and functions of a plugin's `config.py`; the rest is data: named models, scales, declarations."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    kept = [
        "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.parse(source).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    ]
    return "\n".join(kept).encode()
