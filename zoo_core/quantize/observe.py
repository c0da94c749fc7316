"""What the Linear layers of a block get to see: magnitudes of their inputs, X^T X, and some of the inputs themselves.

Layers that read the same tensor (queries, keys and values; gate and up) share what is collected: one X^T X for all.

Shape legend: I input features, T tokens of a pass, R kept rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

__all__ = ["Input", "Observer"]


class Input:
    """One input of Linear layers, over all passes.

    Args:
        features: I.
        norm: path of the norm whose output it is; empty where it is none's.
        wants_hessian: whether X^T X is added up.
        rows: most rows to keep of a pass.

    Attributes:
        layers: paths of the layers that read it, the first that was called first.
        tokens: how many rows were seen.
        absmax_I: largest magnitude of each feature.
        hessian_II: X^T X, float64; zeros where it is not wanted.
    """

    def __init__(self, features: int, norm: str, wants_hessian: bool, rows: int) -> None:
        self.layers: list[str] = []
        self.norm, self.tokens = norm, 0
        self.absmax_I: npt.NDArray[np.float32] = np.zeros(features, np.float32)
        self.hessian_II: npt.NDArray[np.float64] = np.zeros([features, features] if wants_hessian else [0, 0])
        self._wants_hessian, self._rows = wants_hessian, rows
        self._kept: list[npt.NDArray[np.float32]] = []

    def add(self, x: Any) -> None:
        """Take in a tensor [..., I]."""
        x_TI = x.reshape([-1, x.shape[-1]]).astype("float32")
        if not x_TI.shape[0]:
            return
        self.tokens += int(x_TI.shape[0])
        self.absmax_I = np.maximum(self.absmax_I, x_TI.abs().max(axis=0).numpy())
        if self._wants_hessian:
            self.hessian_II += paddle.matmul(x_TI, x_TI, transpose_x=True).numpy()
        step = max(1, x_TI.shape[0] // max(1, self._rows))
        self._kept.append(np.array(x_TI[::step][: self._rows].numpy()))

    def rows(self) -> npt.NDArray[np.float32]:
        """The kept rows, float32 [R, I]."""
        return np.concatenate([*self._kept, np.zeros([0, len(self.absmax_I)], np.float32)])


class Observer:
    """Collects what Linear layers of a block are given, while it runs.

    Args:
        linears: the layers, by their path in the block.
        norms: norms, likewise; see `Input.norm`.
        wants_hessian: whether X^T X is added up.
        rows: most rows of an input to keep of a pass.
    """

    def __init__(
        self, linears: Mapping[str, nn.Layer], norms: Mapping[str, nn.Layer], wants_hessian: bool, rows: int = 64
    ) -> None:
        self._linears, self._norms = linears, norms
        self._options = (wants_hessian, rows)
        self._by_layer: dict[str, Input] = {}
        self._here: dict[int, tuple[Any, Input]] = {}
        self._normed: dict[int, tuple[Any, str]] = {}

    @property
    def inputs(self) -> list[Input]:
        """The inputs in the order in which they were first read."""
        return list(dict.fromkeys(self._by_layer.values()))

    def of(self, layer: str) -> Input | None:
        """The input of a layer; `None` of one that was never called."""
        return self._by_layer.get(layer)

    def one_pass(self) -> None:
        """A pass ends: tensors of the next are others."""
        self._here, self._normed = {}, {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Collect while this lasts."""
        hooks = [layer.register_forward_pre_hook(self._reads(path)) for path, layer in self._linears.items()]
        hooks += [layer.register_forward_post_hook(self._gives(path)) for path, layer in self._norms.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.one_pass()

    def _gives(self, path: str) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            self._normed[id(output)] = (output, path)

        return hook

    def _reads(self, path: str) -> Callable[[Any, Any], None]:
        def hook(_: Any, inputs: Any) -> None:
            x = inputs[0] if isinstance(inputs, tuple | list) else inputs
            known = self._by_layer.get(path)
            if known is None:
                known = self._shared(x)
                known.layers.append(path)
                self._by_layer[path] = known
            if known.layers[0] == path:
                known.add(x)

        return hook

    def _shared(self, x: Any) -> Input:
        """The input that this tensor is in this pass. Tensors are held until the pass ends, so no id comes twice."""
        if id(x) not in self._here:
            normed = self._normed.get(id(x))
            self._here[id(x)] = (x, Input(int(x.shape[-1]), normed[1] if normed else "", *self._options))
        return self._here[id(x)][1]
