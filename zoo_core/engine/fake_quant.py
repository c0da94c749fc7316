"""Quantisation-aware training on the mesh: the spans that layers round by, the same on every layout.

See `zoo_ops.fake_quant`. Between steps two collectives are taken: the largest magnitudes of split weights over the
tensor axis, and those of inputs, of all layers together, over all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import paddle
import paddle.distributed as dist

from zoo_core.engine.mesh import Mesh
from zoo_core.engine.qat import QatSpec
from zoo_core.errors import CheckpointError
from zoo_ops.linear import RowLinear

__all__ = ["Rounding"]


class Rounding:
    """The spans of all layers that are rounded in training.

    Args:
        spec: how they are rounded.
        layers: those that this rank holds, by single-card name.
        names: of all of the model, in table order, the same on every rank.
        mesh: of the run.
    """

    def __init__(self, spec: QatSpec, layers: Mapping[str, Any], names: Sequence[str], mesh: Mesh) -> None:
        self.spec, self._layers, self._names, self._mesh = spec, layers, tuple(names), mesh
        self._averages: dict[str, tuple[float, float]] = {}
        self.measure_weights()

    def measure_weights(self) -> None:
        """Find the spans of the weights as they are now; every rank of the tensor axis calls it."""
        measured = {name: layer.measure() for name, layer in self._layers.items()}
        if self._mesh.plan.tensor > 1:
            split = [
                name
                for name, layer in self._layers.items()
                if isinstance(layer, RowLinear) or not self.spec.per_channel
            ]
            if split:
                together = paddle.concat([measured[name] for name in split])
                group = self._mesh.hcg.get_model_parallel_group()
                dist.all_reduce(together, op=dist.ReduceOp.MAX, group=group)
                sizes = [measured[name].shape[0] for name in split]
                measured |= dict(zip(split, paddle.split(together, sizes), strict=True))
        for name, span in measured.items():
            self._layers[name].span = span

    def after_step(self) -> None:
        """Take in what the layers saw in a step, and measure the new weights; every rank calls it."""
        zero = paddle.zeros([1])
        seen = [self._layers[name].seen if name in self._layers else zero for name in self._names]
        together = paddle.concat(seen)
        for group in self._groups():
            dist.all_reduce(together, op=dist.ReduceOp.MAX, group=group)
        rate = self.spec.moving_rate
        for name, largest in zip(self._names, together.tolist(), strict=True):
            if largest > 0:  # an expert that no token chose has seen nothing
                total, weight = self._averages.get(name, (0.0, 0.0))
                self._averages[name] = (rate * total + largest, rate * weight + 1.0)
        for layer in self._layers.values():
            layer.seen = paddle.zeros([1])
        self._set_inputs()
        self.measure_weights()

    def _groups(self) -> list[Any]:
        """Groups over which a maximum, one after the other, is one over all ranks."""
        plan, hcg = self._mesh.plan, self._mesh.hcg
        axes = {
            "get_model_parallel_group": plan.tensor,
            "get_pipe_parallel_group": plan.pipeline,
            "get_data_parallel_group": plan.data,
            "get_sharding_parallel_group": plan.sharding,
        }
        return [getattr(hcg, name)() for name, degree in axes.items() if degree > 1]

    def _set_inputs(self) -> None:
        for name, layer in self._layers.items():
            total, weight = self._averages.get(name, (0.0, 0.0))
            layer.input_span = total / weight if weight else 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values: the spec, and for each layer the moving average's sum and weight."""
        return {**self.spec.to_dict(), "inputs": {name: list(kept) for name, kept in self._averages.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            CheckpointError: it is of a run that rounded otherwise.
        """
        other = {key: state.get(key) for key, value in self.spec.to_dict().items() if state.get(key) != value}
        if other:
            differ = ", ".join(f"{key} was {value}" for key, value in other.items())
            raise CheckpointError(
                "the checkpoint was trained with another rounding", differ, "give what it was trained with"
            )
        self._averages = {name: (float(total), float(weight)) for name, (total, weight) in state["inputs"].items()}
        self._set_inputs()
