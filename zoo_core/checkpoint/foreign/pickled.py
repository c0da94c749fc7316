"""Walk through a pickle without running it: containers, strings and numbers are built, arrays stay in the file.

A pickle is a program whose `REDUCE` calls any function it names (Python's documentation of `pickle` warns of it). Here
names are only compared with the few that tensors need; every other name refuses the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from zoo_core.checkpoint.dtypes import SAFETENSORS
from zoo_core.errors import CheckpointError

__all__ = ["Blob", "Dtype", "Global", "Record", "RawArray", "Scalar", "refused", "walk"]

_KEPT = 256
"""Bytes up to which a string of bytes is read at once; longer ones stay in the file."""

_MOST = 1 << 26


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Blob:
    """Bytes in the file.

    Args:
        encoded: they are UTF-8 of latin-1 characters, as protocol 2 writes bytes.
    """

    offset: int
    length: int
    encoded: bool = False


@dataclass
class Dtype:
    """An element type of numpy: `f4`, `u2`."""

    kind: str


@dataclass(eq=False)
class RawArray:
    """A numpy array; its elements are a `Blob`, or a few bytes."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    fortran: bool = False
    data: Blob | bytes = b""


@dataclass(eq=False)
class Scalar:
    """A numpy number."""

    dtype: str
    data: Blob | bytes


@dataclass(eq=False)
class Record:
    """An object of one of the classes that were allowed by name; its attributes, and nothing of its code."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


def refused(path: Path, what: str) -> CheckpointError:
    """The error for a pickle that holds more than weights."""
    return CheckpointError(
        f"{path} holds {what}, which is not a tensor",
        "zoo reads tensors, arrays, dicts, lists, strings and numbers out of pickled files, and runs nothing in them",
        "save the state dict alone, as the framework's own state_dict() gives it",
    )


def _broken(path: Path, offset: int, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a whole pickled file", f"{why}, at byte {offset}", "copy or download the file again"
    )


_MARK = object()

Calls = Mapping[str, Callable[..., Any]]
"""Functions that stand for the names a file may call."""


def walk(
    stream: BinaryIO,
    path: Path,
    calls: Calls | None = None,
    records: Mapping[str, str] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Return what a pickle at the stream's position stands for, and leave the stream behind it.

    Args:
        stream: a seekable file.
        path: its name, for messages.
        calls: what may be called besides numpy's and the containers' own, by dotted name.
        records: classes whose objects become `Record`s: dotted name -> kind.
        persistent: gives what a persistent id stands for.

    Raises:
        CheckpointError: the file is truncated, no pickle, or refers to anything else; names it.
    """
    try:
        return _Walk(stream, path, {**_CALLS, **(calls or {})}, records or {}, persistent).run()
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error, RecursionError) as error:
        raise _broken(path, stream.tell(), f"its program is wrong ({type(error).__name__}: {error})") from error


class _Walk:
    def __init__(
        self,
        stream: BinaryIO,
        path: Path,
        calls: Calls,
        records: Mapping[str, str],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.stream, self.path = stream, path
        self.calls, self.records, self.persistent = calls, records, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        here = stream.tell()
        self.end = stream.seek(0, 2)
        stream.seek(here)

    def run(self) -> Any:
        while (code := self._bytes(1)) != b".":
            step = _STEPS.get(code)
            if step is None:
                if code in _REFUSED:
                    raise refused(self.path, f"a pickled object ({_REFUSED[code]})")
                raise _broken(self.path, self.stream.tell() - 1, f"unknown instruction {code!r}")
            step(self)
        return self.stack.pop()

    def _bytes(self, count: int) -> bytes:
        if count > _MOST:
            raise _broken(self.path, self.stream.tell(), f"an entry of {count} bytes")
        found = self.stream.read(count)
        if len(found) < count:
            raise _broken(self.path, self.stream.tell(), "it ends early")
        return found

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _line(self) -> str:
        line = self.stream.readline(4096)
        if not line.endswith(b"\n"):
            raise _broken(self.path, self.stream.tell(), "it ends early")
        return line[:-1].decode("utf-8")

    def _marked(self) -> list[Any]:
        """What lies on the stack above the last mark, taken off with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def text(self, form: str) -> None:
        """A string; a long one is taken for encoded bytes and stays in the file."""
        length = self._number(form)
        self.push(self._blob(length, True) if length > _KEPT else self._bytes(length).decode("utf-8", "surrogatepass"))

    def binary(self, form: str) -> None:
        length = self._number(form)
        self.push(self._blob(length, False) if length > _KEPT else self._bytes(length))

    def old_text(self, form: str) -> None:
        """A string of Python 2: text or bytes."""
        length = self._number(form)
        self.push(self._blob(length, False) if length > _KEPT else self._bytes(length).decode("latin-1"))

    def _blob(self, length: int, encoded: bool) -> Blob:
        at = self.stream.tell()
        if at + length > self.end:
            raise _broken(self.path, at, f"it ends within an entry of {length} bytes")
        self.stream.seek(length, 1)
        return Blob(at, length, encoded)

    def tuple_of(self, count: int) -> None:
        found = tuple(self.stack[len(self.stack) - count :])
        if len(found) < count:
            raise ValueError("too few on the stack")
        del self.stack[len(self.stack) - count :]
        self.push(found)

    def keep(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def put_items(self, items: list[Any]) -> None:
        held = self.stack[-1]
        if not isinstance(held, dict):
            raise refused(self.path, f"an object with items ({held})")
        for key, value in zip(items[::2], items[1::2], strict=True):
            held[key] = value

    def add(self, items: list[Any]) -> None:
        self.stack[-1].extend(items)

    def name(self, module: str, name: str) -> None:
        found = Global(module, name)
        if str(found) not in self.calls and str(found) not in self.records and not _plain(found):
            raise refused(self.path, str(found))
        self.push(found)

    def stacked_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        action = self.calls.get(str(target)) if isinstance(target, Global) else None
        if action is None:
            raise refused(self.path, f"a call of {target}")
        self.push(action(*arguments))

    def new(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        kind = self.records.get(str(target)) if isinstance(target, Global) else None
        if kind is None or arguments:
            raise refused(self.path, f"an object of {target}")
        self.push(Record(kind))

    def build(self) -> None:
        state, held = self.stack.pop(), self.stack[-1]
        if isinstance(held, RawArray):
            _, shape, dtype, fortran, data = state
            if isinstance(data, list):
                raise refused(self.path, "an array of objects")
            held.shape, held.dtype, held.fortran, held.data = tuple(shape), dtype.kind, fortran, _raw(data)
        elif isinstance(held, Dtype):
            if state[1] == ">":
                raise refused(self.path, "an array in big-endian order")
            if state[3] is not None or state[4] is not None:
                raise refused(self.path, "a structured array")
        elif isinstance(held, Record) and isinstance(state, dict):
            held.fields.update(state)
        elif not isinstance(held, dict):
            raise refused(self.path, f"an object with a state ({held})")

    def reference(self) -> None:
        if self.persistent is None:
            raise refused(self.path, "a reference to something outside")
        self.push(self.persistent(self.stack.pop()))


def _plain(found: Global) -> bool:
    """Names that stand for themselves: classes of numpy, storages and element types of torch."""
    if found.module in ("torch", "torch.storage"):
        return found.name.endswith("Storage") or found.name in _TORCH_TYPES
    return str(found) in ("numpy.ndarray", "numpy.dtype", "ml_dtypes.bfloat16")


_TORCH_TYPES = frozenset(SAFETENSORS)


def _raw(data: Any) -> Blob | bytes:
    if isinstance(data, Blob | bytes):
        return data
    return bytes(data.encode("latin-1"))


def _array(*_: Any) -> RawArray:
    return RawArray()


def _dtype(kind: Any, *_: Any) -> Dtype:
    return Dtype("bfloat16" if isinstance(kind, Global) else str(kind).lstrip("<=|"))


def _encode(text: Any, encoding: Any) -> Blob | bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in {encoding}")
    return _raw(text)


def _scalar(dtype: Dtype, data: Any) -> Scalar:
    return Scalar(dtype.kind, _raw(data))


def _from_buffer(data: Any, dtype: Dtype, shape: tuple[int, ...], order: str) -> RawArray:
    return RawArray(tuple(shape), dtype.kind, order == "F", _raw(data))


def _evaluated(source: Any, names: Any) -> Any:
    """Paddle's way to save a tensor of a static program: the text `data`, evaluated where `data` is the array."""
    if source != "data" or set(names) != {"data"}:
        raise ValueError("an expression")
    return names["data"]


def _dict(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": _dict,
    "numpy.dtype": _dtype,
}
for _module in ("builtins", "__builtin__"):
    _CALLS |= {
        f"{_module}.tuple": lambda items=(): tuple(items),
        f"{_module}.list": lambda items=(): list(items),
        f"{_module}.dict": _dict,
        f"{_module}.bytes": lambda: b"",
        f"{_module}.bytearray": lambda data=b"": data,
        f"{_module}.eval": _evaluated,
    }
for _module in ("numpy.core", "numpy._core"):
    _CALLS |= {
        f"{_module}.multiarray._reconstruct": _array,
        f"{_module}.multiarray.scalar": _scalar,
        f"{_module}.numeric._frombuffer": _from_buffer,
    }


def _old_number(line: str) -> int:
    return line == "01" if line in ("00", "01") else int(line)


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


_STEPS: dict[bytes, Callable[[_Walk], object]] = {
    b"\x80": lambda w: w._bytes(1),
    b"\x95": lambda w: w._bytes(8),
    b"(": lambda w: w.push(_MARK),
    b"0": lambda w: w.stack.pop(),
    b"1": lambda w: w._marked(),
    b"2": lambda w: w.push(w.stack[-1]),
    b"N": lambda w: w.push(None),
    b"\x88": lambda w: w.push(True),
    b"\x89": lambda w: w.push(False),
    b"I": lambda w: w.push(_old_number(w._line())),
    b"J": lambda w: w.push(w._number("<i")),
    b"K": lambda w: w.push(w._number("<B")),
    b"M": lambda w: w.push(w._number("<H")),
    b"L": lambda w: w.push(int(w._line().rstrip("L"))),
    b"\x8a": lambda w: w.push(_long(w._bytes(w._number("<B")))),
    b"\x8b": lambda w: w.push(_long(w._bytes(w._number("<I")))),
    b"F": lambda w: w.push(float(w._line())),
    b"G": lambda w: w.push(struct.unpack(">d", w._bytes(8))[0]),
    b"U": lambda w: w.old_text("<B"),
    b"T": lambda w: w.old_text("<I"),
    b"X": lambda w: w.text("<I"),
    b"\x8c": lambda w: w.text("<B"),
    b"\x8d": lambda w: w.text("<Q"),
    b"C": lambda w: w.binary("<B"),
    b"B": lambda w: w.binary("<I"),
    b"\x8e": lambda w: w.binary("<Q"),
    b"\x96": lambda w: w.binary("<Q"),
    b"]": lambda w: w.push([]),
    b")": lambda w: w.push(()),
    b"}": lambda w: w.push({}),
    b"t": lambda w: w.push(tuple(w._marked())),
    b"l": lambda w: w.push(w._marked()),
    b"\x85": lambda w: w.tuple_of(1),
    b"\x86": lambda w: w.tuple_of(2),
    b"\x87": lambda w: w.tuple_of(3),
    b"a": lambda w: w.add([w.stack.pop()]),
    b"e": lambda w: w.add(w._marked()),
    b"s": lambda w: w.put_items([w.stack.pop(), w.stack.pop()][::-1]),
    b"u": lambda w: w.put_items(w._marked()),
    b"g": lambda w: w.push(w.memo[int(w._line())]),
    b"h": lambda w: w.push(w.memo[w._number("<B")]),
    b"j": lambda w: w.push(w.memo[w._number("<I")]),
    b"p": lambda w: w.keep(int(w._line())),
    b"q": lambda w: w.keep(w._number("<B")),
    b"r": lambda w: w.keep(w._number("<I")),
    b"\x94": lambda w: w.keep(len(w.memo)),
    b"c": lambda w: w.name(w._line(), w._line()),
    b"\x93": lambda w: w.stacked_name(),
    b"R": lambda w: w.call(),
    b"\x81": lambda w: w.new(),
    b"b": lambda w: w.build(),
    b"Q": lambda w: w.reference(),
}

_REFUSED = {
    b"i": "INST",
    b"o": "OBJ",
    b"P": "a persistent id",
    b"\x82": "an extension",
    b"\x83": "an extension",
    b"\x84": "an extension",
    b"\x8f": "a set",
    b"\x90": "a set",
    b"\x91": "a frozen set",
    b"\x92": "NEWOBJ_EX",
    b"\x97": "a buffer outside the file",
    b"\x98": "a buffer",
    b"S": "a string of protocol 0",
    b"V": "a string of protocol 0",
    b"d": "a dict of protocol 0",
}
