"""Two ways to run the programs of an exported folder: as a loaded layer, and by Paddle Inference."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import paddle
from paddle import Tensor

from zoo_core.export.spec import MODEL

__all__ = ["JitPrograms", "PredictorPrograms", "Programs"]


class Programs(Protocol):
    """Runs a program by its name."""

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a program; inputs are in its order, and are not changed."""


class JitPrograms:
    """By `paddle.jit.load`: all programs share one copy of the weights.

    Args:
        folder: of the exported model.
    """

    def __init__(self, folder: Path) -> None:
        self._layer = paddle.jit.load(str(folder / MODEL))
        self._layer.eval()

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a program."""
        with paddle.no_grad():
            return list(getattr(self._layer, name)(*inputs))

    def forget(self) -> None:
        """There is nothing to give back: the weights are there once."""


class PredictorPrograms:
    """By Paddle Inference: a predictor a program, each with a copy of the weights, made when it is first asked for.

    On CPU its default is silently wrong (Paddle 3.3.1): a pass of oneDNN lets an operation write over a tensor that is
    still read. So oneDNN is off, which is also faster here.

    Args:
        folder: of the exported model.
        device: "cpu", "gpu" or "xpu".
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._folder, self._device = folder, device
        self._made: dict[str, Any] = {}

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a program."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return list(self._made[name].run(list(inputs)))

    def forget(self) -> None:
        """Give the memory of all predictors back."""
        self._made.clear()

    def _make(self, name: str) -> Any:
        from paddle import inference

        config = inference.Config(str(self._folder / f"{MODEL}.{name}.json"), str(self._folder / f"{MODEL}.pdiparams"))
        config.disable_glog_info()
        if self._device == "gpu":
            config.enable_use_gpu(256, 0)
        elif self._device == "xpu":
            config.enable_xpu()
        else:
            config.disable_gpu()
            config.disable_mkldnn()
            config.set_cpu_math_library_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        return inference.create_predictor(config)
