"""A model run layer by layer, with the weights of one layer in memory at a time.

Several flows of batches pass through: what a layer gives for a batch replaces what it was given. So memory holds one
layer, and one hidden state for each token.

Shape legend: B batch, S sequence, H hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from zoo_core.checkpoint import Reader
from zoo_core.config import ModelConfig
from zoo_core.engine.batches import to_batch
from zoo_core.engine.build import Stage, build_layer
from zoo_core.engine.parts import read_weight
from zoo_core.pipeline import PipeLayer
from zoo_core.registry import Architecture
from zoo_ops import Batch
from zoo_ops.loss import IGNORE, cross_entropy

__all__ = ["Flow", "Walk"]


class Flow:
    """Batches on their way through the layers.

    Args:
        ids_NS: token ids, int64; `rows` of them make a batch.
    """

    def __init__(self, ids_NS: npt.NDArray[np.int64], rows: int) -> None:
        labels_NS = np.concatenate([ids_NS[:, 1:], np.full_like(ids_NS[:, :1], IGNORE)], axis=1)
        cuts = [slice(start, start + rows) for start in range(0, len(ids_NS), rows)]
        self.batches: list[Batch] = [to_batch({"input_ids": ids_NS[cut], "labels": labels_NS[cut]}) for cut in cuts]
        self.states: list[Any] = [None] * len(cuts)

    def pairs(self) -> Iterator[tuple[Any, Batch]]:
        """Each batch with its hidden states [B, S, H]; `None` before the first layer."""
        return zip(self.states, self.batches, strict=True)

    def through(self, layer: nn.Layer) -> None:
        """Let all batches pass a layer."""
        with paddle.no_grad():
            for number, (x, batch) in enumerate(self.pairs()):
                self.states[number] = layer(x, batch, None)

    def perplexity(self, head: nn.Layer) -> float:
        """The exponential of the mean loss of a token, when all that is left is the last layer."""
        total, tokens = 0.0, 0
        with paddle.no_grad():
            for x, batch in self.pairs():
                total += float(cross_entropy(head(x, batch, None), batch.labels).sum())
                tokens += int((batch.labels != IGNORE).sum())
        return math.exp(min(total / max(tokens, 1), 700.0))


class Walk:
    """The layers of a model, each built when its turn comes.

    Args:
        architecture, config: the model.
        reader: over its weights, which are read as float32.
    """

    def __init__(self, architecture: Architecture, config: ModelConfig, reader: Reader) -> None:
        self.table = architecture.table(config)
        self.elements = architecture.pipe_layers(config)
        self._stage = Stage(self.table, lambda rule: read_weight(reader, rule, 1, 0, "float32"))

    def layers(self) -> Iterator[tuple[PipeLayer, nn.Layer]]:
        """Build and yield the layers in order; of one that was passed, only weights that a later one shares stay."""
        for element in self.elements:
            layer = build_layer(element, self._stage)
            layer.eval()
            yield element, layer
            if element.is_block:
                for name in [name for name in self._stage.held if name.startswith(f"{element.prefix}.")]:
                    del self._stage.held[name]
