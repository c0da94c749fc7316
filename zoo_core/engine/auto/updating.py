"""AdamW over placed parameters: each rank updates the part that the sharding stage leaves it.

Sharding (Rajbhandari et al. 2020, ZeRO) is one more cut of a parameter, by the axis of the replicas, along a dim that
the tensor axis leaves alone. Stage 1 cuts the optimizer's states so, stage 2 the gradients as well, stage 3 the
parameters themselves. What no dim allows to be cut (small ones) stays whole on every replica.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle.base.framework import EagerParamBase, default_main_program

from zoo_core.engine.auto.moving import REPLICA, as_global, dim_of, moved, placements_of
from zoo_core.engine.build import Held
from zoo_core.engine.clip import GlobalNorm
from zoo_core.engine.loss_scale import LossScale
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.optimizer import (
    OptimizerSettings,
    State,
    beta_powers,
    make_adamw,
    set_beta_powers,
    state_tensors,
)

__all__ = ["AutoUpdater", "shard_dim"]

_WHOLE_BELOW = 1024
"""Parameters of fewer elements are not cut."""


def shard_dim(shape: tuple[int, ...], taken: int | None, replicas: int) -> int | None:
    """The dim along which a parameter is cut by the replicas; `None` where it stays whole.

    Args:
        shape: of this rank's part, the replicas aside.
        taken: the dim that the tensor axis cuts.
    """
    if replicas == 1 or int(np.prod(shape)) < _WHOLE_BELOW:
        return None
    return next((dim for dim, size in enumerate(shape) if dim != taken and size % replicas == 0), None)


class _Norm(GlobalNorm):
    """The global norm of placed gradients."""

    def __init__(self, placements: Mapping[str, list[Any]], held: Mapping[str, Held], mesh: Mesh, *more: Any) -> None:
        super().__init__(held, mesh, *more)
        self._placements = placements

    def _counted(self, name: str, grad: Any, square: Any) -> Any:
        plan = self._mesh.plan
        for placement, degree in zip(self._placements[name], (plan.tensor, plan.replicas), strict=True):
            square = square if dim_of(placement) is not None else square / degree
        return square / 2 if name in self.tied else square


class AutoUpdater:
    """Clips and steps; the counterpart of `zoo_core.engine.optimizer.Updater` for placed parameters.

    Args:
        layers: the model.
        held: its parameters by single-card name; those that are placed are tensors over the mesh.
        mesh: the groups.
        settings: of AdamW.
        tied: names of parameters that the first and the last layer of the model share, on different stages.
    """

    def __init__(
        self,
        layers: Any,
        held: Mapping[str, Held],
        mesh: Mesh,
        settings: OptimizerSettings,
        tied: frozenset[str] = frozenset(),
    ) -> None:
        self.model, self._held, self._mesh = layers, held, mesh
        self._trained = {n: h.tensor for n, h in held.items() if not h.rule.buffer and not h.tensor.stop_gradient}
        self._placements = {name: self._sharded(tensor) for name, tensor in self._trained.items()}
        self._parts = {name: self._part(name) for name in self._trained}
        for name, part in self._parts.items():
            if settings.lora_plus != 1.0 and name.endswith(".lora_B"):
                part.optimize_attr["learning_rate"] = settings.lora_plus
        self.loss_scale = LossScale(settings.loss_scale)
        self._tied = [name for name in self._trained if mesh.ends is not None and name in tied]
        self.clip = _Norm(self._placements, held, mesh, settings.max_grad_norm, self.loss_scale)
        self.clip.tied = frozenset(self._tied)
        self.adamw = make_adamw(settings, mesh.plan.device, list(self._parts.values()), self.clip)

    def _sharded(self, tensor: Any) -> list[Any]:
        """How the states of a parameter are placed."""
        plan, wanted = self._mesh.plan, placements_of(tensor)
        if plan.sharding_stage and dim_of(wanted[REPLICA]) is None:
            dim = shard_dim(tuple(tensor._local_value().shape), dim_of(wanted[0]), plan.replicas)
            wanted[REPLICA] = wanted[REPLICA] if dim is None else dist.Shard(dim)
        return wanted

    def _is_cut(self, name: str) -> bool:
        """Whether this rank updates less of a parameter than it holds."""
        return list(self._trained[name].placements) != self._placements[name]

    def _part(self, name: str) -> Any:
        """What this rank updates of a parameter; it shares the parameter's memory where that is all of it."""
        local = moved(self._trained[name].detach(), self._placements[name])._local_value()
        part = EagerParamBase.from_tensor(local, name=name)
        if not self._is_cut(name):
            part.get_tensor()._share_data_with(local.get_tensor())
        return part

    def collect(self) -> None:
        """Add the gradients of a backward pass to those of this rank's parts, and let go of the others.

        It is done after each micro batch: so a stage that shares gradients out keeps no more than its part of them,
        and Paddle does not add up placed gradients, which it would do with a collective that gloo lacks.
        """
        with paddle.no_grad():
            for name, tensor in self._trained.items():
                grad = tensor.grad
                if grad is None or not grad._is_initialized():
                    continue
                part, new = self._parts[name], moved(grad, self._placements[name])._local_value()
                part.grad = new if part.grad is None else part.grad + new
                tensor.clear_gradient(False)
                tensor.grad = None

    def step(self, learning_rate: float, stop: bool = False) -> Any:
        """Update the parameters from their gradients, clear these, and return the global norm before clipping.

        Args:
            learning_rate: of this step.
            stop: told to all ranks together with the norm.
        """
        self.clip.stopping = stop
        self.collect()
        for name in self._tied:
            dist.all_reduce(self._parts[name].grad, group=self._mesh.ends)
        self.adamw.set_lr(learning_rate)
        self.adamw.step()
        self.loss_scale.update(self.clip.overflowed)
        if self.clip.overflowed:
            self.make_states()
        for part in self._parts.values():
            part.clear_gradient(False)
        with paddle.no_grad():
            for name in filter(self._is_cut, self._trained):
                tensor = self._trained[name]
                whole = moved(as_global(self._parts[name].detach(), tensor.process_mesh, self._placements[name]),
                              tensor.placements)  # fmt: skip
                tensor._local_value().set_value(whole._local_value())
        return self.clip.norm

    def flat_range(self, name: str) -> None:
        """What the replicas share out is put together before it is written."""

    def weight(self, name: str) -> Any:
        """This rank's values of a parameter, those that the replicas share out put together."""
        tensor = self._held[name].tensor
        if not tensor.is_dist():
            return tensor
        return moved(tensor.detach(), [tensor.placements[0], dist.Replicate()])._local_value()

    def states(self) -> Iterator[State]:
        """Every optimizer state, as this rank of the tensor axis has it; all replicas ask for them in turn."""
        for name in self._trained:
            for role, part in state_tensors(self.adamw, name):
                yield State(name, role, self._joined(name, part), None)

    def _joined(self, name: str, part: Any) -> Any:
        return part if dim_of(self._placements[name][REPLICA]) is None else _Joined(self, name, part)

    def make_states(self) -> None:
        """Make the optimizer states now, zero, so that a checkpoint can fill them before the first step."""
        self.adamw._create_accumulators(default_main_program().global_block(), list(self._parts.values()))

    def powers(self) -> tuple[float, float]:
        """beta1 and beta2 to the power of the steps taken and one more, as AdamW holds them."""
        return beta_powers(self.adamw)

    def set_powers(self, beta1: float, beta2: float) -> None:
        """Set the powers of every state, after `make_states`."""
        set_beta_powers(self.adamw, beta1, beta2)


class _Joined:
    """A state that the replicas share out, as if it were whole here; it is put together when it is read."""

    def __init__(self, updater: AutoUpdater, name: str, part: Any) -> None:
        self._part = part
        self._tensor, self._placements = updater._trained[name], updater._placements[name]
        self._rank, self._replicas = updater._mesh.replica, updater._mesh.plan.replicas
        self._dim = int(dim_of(self._placements[REPLICA]) or 0)
        self.dtype = part.dtype

    @property
    def shape(self) -> list[int]:
        """Of the whole."""
        shape = list(self._part.shape)
        shape[self._dim] *= self._replicas
        return shape

    def detach(self) -> Any:
        """Put together, on all replicas."""
        cut = as_global(self._part.detach(), self._tensor.process_mesh, self._placements)
        return moved(cut, [self._placements[0], dist.Replicate()])._local_value()

    def set_value(self, values: Any) -> None:
        """Take this replica's part of the whole."""
        mine = np.array_split(np.asarray(values), self._replicas, axis=self._dim)[self._rank]
        self._part.set_value(np.ascontiguousarray(mine))
