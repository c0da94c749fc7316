"""Which base model an adapter belongs to: a digest of its weights that does not read them whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest"]

_SAMPLES, _BYTES = 64, 4096


def digest(folder: Path) -> str:
    """Return a digest of the weights in a folder: names and sizes of its files, and samples spread over each.

    A model that was trained further differs in every sample; reading 140 GB to be surer is not worth the minutes.
    Optimizer states and small files do not count.
    """
    kinds = ("*.safetensors", "*.bin", "*.pdparams", "*.pdiparams", "*.distcp")
    files = sorted(path for kind in kinds for path in folder.glob(kind) if "optimizer" not in path.name)
    found = hashlib.blake2b(digest_size=16)
    for path in files:
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(max(0, size - _BYTES) * sample // (_SAMPLES - 1))
                found.update(file.read(_BYTES))
    return found.hexdigest()
