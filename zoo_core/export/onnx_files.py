"""Exported programs as ONNX files, converted by paddle2onnx and run by onnxruntime.

An ONNX file holds its weights: there are as many copies of them as programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from zoo_core.errors import ConfigError, MachineError
from zoo_core.export.spec import MODEL, Exported

__all__ = ["OnnxPrograms", "check_onnx", "write_onnx"]

_OPSET = 17

_CONVERT = """
import sys
from pathlib import Path
import paddle2onnx

folder, weights, opset, *names = sys.argv[1:]
for name in names:
    source = Path(folder) / f"model.{name}.json"
    paddle2onnx.export(
        str(source), weights, str(source.with_suffix(".onnx")), opset_version=int(opset), optimize_tool="None"
    )
"""

_TELLING = re.compile(r"not support|unsupported|[A-Z]\w+Error: (?!`Process)", re.IGNORECASE)

_MOST = 2 * 10**9
"""Bytes of weights: a file of ONNX, one message of protobuf, has no room for more."""


def check_onnx(dtype: str) -> None:
    """Refuse what cannot become ONNX before anything is traced.

    Raises:
        MachineError: a package is missing.
        ConfigError: the weights are no float32.
    """
    missing = [name for name in ("paddle2onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MachineError(
            f"{' and '.join(missing)} missing", "--onnx converts by paddle2onnx and compares by onnxruntime",
            'pip install "zoo-core[onnx]"',
        )  # fmt: skip
    if dtype != "float32":
        raise ConfigError(f"--onnx with {dtype}", "the files are compared on a CPU", "--dtype float32")


def write_onnx(folder: Path, spec: Exported, say: Callable[[str], None]) -> None:
    """Convert each program in a folder, `model.NAME.json`, to `model.NAME.onnx` beside it.

    Raises:
        ConfigError: the weights are too many, or paddle2onnx does not know an operation of the model.
    """
    weights = folder / f"{MODEL}.pdiparams"
    if weights.stat().st_size > _MOST:
        raise ConfigError(
            f"--onnx with {weights.stat().st_size / 1e9:.1f} GB of weights", "a file of ONNX holds at most 2 GB",
            "leave --onnx out",
        )  # fmt: skip
    say("converting them to ONNX")
    # In a process of its own, because an operation that it does not know ends the process.
    words = [sys.executable, "-W", "ignore", "-c", _CONVERT, str(folder), str(weights), str(_OPSET), *spec.programs]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    missing = [name for name in spec.programs if not (folder / f"{MODEL}.{name}.onnx").is_file()]
    if done.returncode or missing:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        # What it says of an operation is lost when it ends itself.
        told = next((line for line in lines if _TELLING.search(line)), "it does not know an operation of the model")
        raise ConfigError(
            "paddle2onnx does not take this model", f"{missing[0] if missing else ''}: {told}",
            "leave --onnx out; Paddle Inference runs the programs",
        )  # fmt: skip


class OnnxPrograms:
    """By onnxruntime, on CPU: a session a program, made when it is first asked for.

    Args:
        folder: of the exported model.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Any] = {}

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a program."""
        if name not in self._made:
            self._made[name] = self._make(name)
        session, wanted = self._made[name]
        names = ("ids", "positions", "mask", *(f"state_{number}" for number in range(len(inputs) - 3)))
        feeds = {own: tensor.numpy() for own, tensor in zip(names, inputs, strict=True) if own in wanted}
        return [paddle.to_tensor(values) for values in session.run(None, feeds)]

    def forget(self) -> None:
        """Give the memory of all sessions back."""
        self._made.clear()

    def _make(self, name: str) -> tuple[Any, set[str]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(self._folder / f"{MODEL}.{name}.onnx"), options)
        return session, {own.name for own in session.get_inputs()}
