"""T1: the model as the ranks of a tensor axis build it from the table gives the single card's logits.

Each rank is built by the engine, and runs as a thread that takes turns with the others. Where a row of the table has
the wrong axis, the widths that meet in its layer tell which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from zoo_core.config import ModelConfig
from zoo_core.engine.build import Stage, build_layer
from zoo_core.layout import Row, Rule, objection, split
from zoo_core.pipeline import PipeLayer
from zoo_core.registry import Architecture
from zoo_core.testing.models import random_ids, random_weights, set_weights
from zoo_core.testing.turns import Turns
from zoo_ops import Batch
from zoo_ops.linear import ColumnLinear, RowLinear

__all__ = ["check_ranks"]

Outputs = dict[str, "np.ndarray[Any, Any]"]
"""Single-card name of a layer -> what it returned, in the order in which the layers ended."""


def check_ranks(arch: Architecture, config: ModelConfig, degree: int = 2, sequence_parallel: bool = False) -> None:
    """Logits of `degree` ranks equal those of one card: 1e-5 + 1e-5 |single|.

    Raises:
        AssertionError: a row splits the wrong dim (names it, and the split that its layer needs), or the numbers
            differ (names the first layer where they do).
        LayoutError: a row does not suit the layer that holds its parameter.
    """
    table = arch.table(config)
    for rule in table.values():
        why = objection(rule, degree)
        assert not why, f"{rule.name} cannot be split over {degree} ranks at these sizes: {why}"
    weights, ids = random_weights(table), random_ids(config, 2, 12)
    layers = [entry.factory() for entry in arch.pipe_layers(config)]
    for entry, layer in zip(arch.pipe_layers(config), layers, strict=True):
        set_weights(layer, table, weights, entry.single)
    single: Outputs = {}
    wanted = _logits(arch.pipe_layers(config), layers, ids, single)

    def rank_logits(rank: int) -> tuple[np.ndarray[Any, Any], Outputs]:
        stage = Stage(table, lambda rule: split(weights[rule.single], rule, degree, rank), degree, rank)
        stage.gather_logits = True
        built = [build_layer(entry, stage) for entry in arch.pipe_layers(config)]
        for entry, layer in zip(arch.pipe_layers(config), built, strict=True):
            _check_widths(entry, layer, table, degree)
        seen: Outputs = {}
        return _logits(arch.pipe_layers(config), built, ids, seen), seen

    for found, seen in Turns(degree, sequence_parallel).run(rank_logits):
        if _close(found, wanted):
            continue
        whole = (name for name, y in single.items() if name in seen and y.shape == seen[name].shape)
        first = next((name for name in whole if not _close(seen[name], single[name])), "the head")
        raise AssertionError(
            f"logits on {degree} ranks differ from the single card's by {np.abs(found - wanted).max():.2e}; the first "
            f"output that differs is that of {first}: look at its row of the table, and at those of what it reads: "
            "their units (heads, say) stay whole, and lie on the same rank"
        )


def _close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    return bool((np.abs(found - wanted) <= 1e-5 + 1e-5 * np.abs(wanted)).all())


def _logits(entries: Sequence[PipeLayer], layers: Sequence[Any], ids: Tensor, seen: Outputs) -> np.ndarray[Any, Any]:
    """Run the layers in order; `seen` gets what each of them and of their sublayers returned."""

    def note(name: str) -> Any:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen[name] = output.numpy()

        return hook

    batch, x = Batch(ids), None
    with paddle.no_grad():
        for entry, layer in zip(entries, layers, strict=True):
            layer.eval()
            for path, sublayer in layer.named_sublayers(include_self=True):
                if path or entry.is_block:  # of the others several may have the same prefix
                    sublayer.register_forward_post_hook(note(entry.single(path) if path else entry.prefix))
            x = layer(x, batch, None)
    assert x is not None, "the last layer of the pipeline list returned nothing"
    return np.asarray(x.numpy())


def _check_widths(entry: PipeLayer, layer: nn.Layer, table: Mapping[str, Rule], degree: int) -> None:
    """Let every parallel projection check, when it is called, that its input is as wide as its row says."""

    def check(rule: Rule) -> Any:
        kind, other = ("Row", "Column") if isinstance(rule, Row) else (type(rule).__name__, "Row")

        def hook(layer: Any, inputs: Any) -> None:
            has, needs = inputs[0].shape[-1], layer.weight.shape[0]
            state = "whole" if kind == "Row" else "split already"
            assert has == needs, (
                f"{rule.name} is {kind} in the table, and its input is {state}: {has} features come in where {needs} "
                f"are expected on each of {degree} ranks; it looks like {other}"
            )

        return hook

    for path, sublayer in layer.named_sublayers():
        if isinstance(sublayer, ColumnLinear | RowLinear):
            sublayer.register_forward_pre_hook(check(table[entry.single(f"{path}.weight")]))
