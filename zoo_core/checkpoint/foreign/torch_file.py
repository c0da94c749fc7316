"""Files that `torch.save` wrote: archives (since 1.6) and the older plain form. No torch."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from zoo_core.checkpoint.dtypes import SAFETENSORS, item_size
from zoo_core.checkpoint.foreign.arrays import place_array, place_span
from zoo_core.checkpoint.foreign.pickled import Global, RawArray, refused, walk
from zoo_core.checkpoint.stored import Stored
from zoo_core.errors import CheckpointError

__all__ = ["torch_tensors"]

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_NESTED = ("state_dict", "model_state_dict", "model", "module")
_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


def _rebuilt(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides), storage.dtype)


def _rebuilt_typed(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], _: Any, __: Any, dtype: Global,
    *___: Any,
) -> _Tensor:  # fmt: skip
    if dtype.name not in SAFETENSORS:
        raise ValueError(f"element type {dtype}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides), dtype.name)


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_tensor_v3": _rebuilt_typed,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes=(): tuple(sizes),
}


def _storage(reference: Any) -> _Storage:
    kind, storage, key, _, length, *more = reference
    if kind != "storage" or not isinstance(storage, Global) or storage.name not in _STORAGES or any(more):
        raise ValueError(f"a reference to {kind} {storage}")
    return _Storage(str(key), _STORAGES[storage.name], int(length))


def torch_tensors(folder: Path, file: str) -> dict[str, Stored]:
    """Return the tensors of a file that `torch.save` wrote, without reading their elements.

    Raises:
        CheckpointError: it holds anything but tensors, numbers and their containers, or it is truncated.
    """
    path = folder / file
    try:
        with path.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
            stream.seek(0)
            found, places = (_archive if zipped else _plain)(stream, path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", str(error.strerror), "") from error
    tensors: dict[str, Stored] = {}
    for key, value in _weights(found, path).items():
        if isinstance(value, RawArray):
            tensors[key] = place_array(key, file, folder, value)
        elif isinstance(value, _Tensor):
            tensors[key] = _placed(key, file, path, value, places)
    return tensors


def _archive(stream: BinaryIO, path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """What the pickle stands for, and of each storage the byte it begins at and its bytes."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is not a whole file of PyTorch", str(error), _AGAIN) from error
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in entries:
        raise refused(path, "an archive without data.pkl")
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise refused(path, "numbers in big-endian order")
    places: dict[str, tuple[int, int]] = {}
    for name, info in entries.items():
        if info.compress_type != zipfile.ZIP_STORED:
            raise refused(path, f"a compressed entry ({info.filename})")
        stream.seek(info.header_offset + 26)
        lengths = stream.read(4)
        at = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        places[name.removeprefix("data/") if name.startswith("data/") else f"/{name}"] = (at, info.file_size)
    stream.seek(places["/data.pkl"][0])
    return walk(stream, path, _CALLS, persistent=_storage), places


def _plain(stream: BinaryIO, path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    sizes: dict[str, int] = {}

    def storage(reference: Any) -> _Storage:
        found = _storage(reference)
        sizes[found.key] = item_size(found.dtype)
        return found

    if walk(stream, path) != _MAGIC:
        raise refused(path, "something that torch.save did not write")
    walk(stream, path)
    if not walk(stream, path).get("little_endian", True):
        raise refused(path, "numbers in big-endian order")
    found = walk(stream, path, _CALLS, persistent=storage)
    places: dict[str, tuple[int, int]] = {}
    for key in walk(stream, path):
        length = int.from_bytes(stream.read(8), "little") * sizes.get(key, 1)
        places[key] = (stream.tell(), length)
        stream.seek(length, 1)
    end = stream.tell()
    if end > stream.seek(0, 2):
        raise CheckpointError(f"{path} ends early", f"its tensors take {end} bytes", _AGAIN)
    return found, places


def _weights(found: Any, path: Path) -> Mapping[str, Any]:
    """The state dict: the object itself, or the one entry of it that is."""
    held = found
    for _ in range(2):
        if isinstance(held, dict) and any(isinstance(value, _Tensor | RawArray) for value in held.values()):
            return {str(key): value for key, value in held.items()}
        inner = [held[name] for name in _NESTED if isinstance(held, dict) and isinstance(held.get(name), dict)]
        if len(inner) != 1:
            break
        held = inner[0]
    raise refused(path, f"a {type(found).__name__} without tensors")


def _placed(key: str, file: str, path: Path, tensor: _Tensor, places: Mapping[str, tuple[int, int]]) -> Stored:
    size = item_size(tensor.dtype)
    span = 1 + sum((width - 1) * step for width, step in zip(tensor.shape, tensor.strides, strict=True))
    at, length = places.get(tensor.storage.key, (0, -1))
    # a view counts in its own elements, an untyped storage in bytes
    begin = tensor.offset * size
    wanted = 0 if math.prod(tensor.shape) == 0 else begin + span * size
    if wanted > length or begin < 0 or min((*tensor.shape, *tensor.strides), default=0) < 0:
        raise CheckpointError(
            f"{path} is damaged",
            f"tensor {key} {list(tensor.shape)} takes {wanted} bytes and its storage has {max(length, 0)}",
            _AGAIN,
        )
    return place_span(key, file, at + begin, tensor.shape, tensor.dtype, tensor.strides)
