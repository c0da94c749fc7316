"""Three ways to run the programs of an exported folder: as a loaded layer, replayed, and by Paddle Inference."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import paddle
from paddle import Tensor

from zoo_core.export.spec import MODEL
from zoo_core.replay.program import CannotReplay, Replay

__all__ = ["JitPrograms", "PredictorPrograms", "Programs", "ReplayPrograms", "replay_of"]

_log = logging.getLogger("zoo")


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
        self.layer = paddle.jit.load(str(folder / MODEL))
        self.layer.eval()

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a program."""
        with paddle.no_grad():
            return list(getattr(self.layer, name)(*inputs))

    def forget(self) -> None:
        """There is nothing to give back: the weights are there once."""


def replay_of(layer: Any, name: str) -> Replay:
    """Return a program of what `paddle.jit.load` has returned, for numpy; it reads the layer's weights where they are.

    Raises:
        CannotReplay: the program has an operation that is not known.
    """
    holder, own = layer._program_holder_dict[name], layer._persistable_var_name_dict
    weights = {used: getattr(layer, own[said]) for used, said in holder._suffix_varname_dict.items()}
    given, made = ([value.id for value in values] for values in (holder.input_vars, holder.output_vars))
    return Replay(holder.infer_program, given, made, weights)


class ReplayPrograms:
    """As a loaded layer, but the programs of one token are replayed by numpy, which is much quicker on CPU.

    One that does what numpy is not told here to do, and any on another device, runs as the layer does.

    Args:
        loaded: the layer; its weights are those of the replays.
        device: "cpu", "gpu" or "xpu".
    """

    def __init__(self, loaded: JitPrograms, device: str = "cpu") -> None:
        self._loaded, self._on_cpu = loaded, device == "cpu"
        self._replays: dict[str, Replay | None] = {}

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a program."""
        replay = self.replayed(name)
        return self._loaded.run(name, inputs) if replay is None else replay.run(inputs)

    def replayed(self, name: str) -> Replay | None:
        """The program as numpy runs it; `None` where it does not."""
        if not self._on_cpu or not name.startswith("decode"):
            return None
        if name not in self._replays:
            try:
                self._replays[name] = replay_of(self._loaded.layer, name)
            except CannotReplay as missing:
                _log.info("%s is not replayed by numpy, which is not told here to do %s", name, missing)
                self._replays[name] = None
        return self._replays[name]

    def forget(self) -> None:
        """Give back what has been made for the replays."""
        self._replays.clear()


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
