"""AdamW under every sharding stage, behind one small face.

Sharding is fleet's: stage 1 is `HybridParallelOptimizer`, stages 2 and 3 are `GroupShardedStage2` and
`GroupShardedStage3`, constructed directly (Rajbhandari et al. 2020, ZeRO).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.base.framework import EagerParamBase, default_main_program
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group

from zoo_core.engine import cpu
from zoo_core.engine.build import Held
from zoo_core.engine.clip import GlobalNorm
from zoo_core.engine.loss_scale import LossScale
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.threaded import ThreadedAdamW
from zoo_core.layout import copied, is_norm
from zoo_ops import parallel

__all__ = [
    "OptimizerSettings",
    "State",
    "Updater",
    "beta_powers",
    "make_adamw",
    "set_beta_powers",
    "state_tensors",
]

_SLICED_ABOVE = 1024
"""Under stage 3, parameters of at most so many elements (norms, biases) stay whole."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter 2019).

    Args:
        beta1, beta2, epsilon: of Adam.
        weight_decay: decoupled decay of every trained parameter but biases and norms.
        max_grad_norm: clip the global norm to this; 0 does not clip.
        master_weights: keep fp32 copies of half-precision weights.
        master_grad: accumulate and reduce gradients of half-precision weights in fp32.
        loss_scale: first scale of the loss, which float16 needs; 0 does not scale.
        lora_plus: learning rate of the adapters' B over that of everything else (LoRA+, arXiv 2402.12354).
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    master_weights: bool = False
    master_grad: bool = False
    loss_scale: float = 0.0
    lora_plus: float = 1.0

    @staticmethod
    def decays(name: str) -> bool:
        """Whether weight decay applies: not to biases and norms."""
        return not name.endswith("bias") and not is_norm(name)


@dataclass(frozen=True)
class State:
    """An optimizer state of a parameter on this rank.

    Args:
        name: single-card name of the parameter.
        role: "moment1", "moment2" or "master".
        tensor: the local values, or a flat range of them.
        flat: [start, stop) of the flattened local parameter under stage 3, else `None`.
    """

    name: str
    role: str
    tensor: Any
    flat: tuple[int, int] | None


def make_adamw(settings: OptimizerSettings, device: str, parameters: list[Any], clip: GlobalNorm | None) -> Any:
    """Return AdamW over parameters that go by their single-card names, or by `slice@` and that."""
    kind = ThreadedAdamW if device == "cpu" else paddle.optimizer.AdamW
    return kind(
        learning_rate=0.0,
        beta1=settings.beta1,
        beta2=settings.beta2,
        epsilon=settings.epsilon,
        parameters=parameters,
        weight_decay=settings.weight_decay,
        apply_decay_param_fun=lambda name: settings.decays(name.removeprefix("slice@")),
        grad_clip=clip,
        multi_precision=settings.master_weights,
    )


def state_tensors(adamw: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The states that an AdamW has of the parameter that it knows as `key`, by role."""
    master = adamw._master_weights.get(key) if adamw._multi_precision else None
    for role in ("moment1", "moment2"):
        # the moments of a weight with an fp32 copy go by the copy's name
        yield role, adamw._accumulators[role][key if master is None else master.name]
    if master is not None:
        yield "master", master


def beta_powers(adamw: Any) -> tuple[float, float]:
    """beta1 and beta2 to the power of the steps taken and one more, as an AdamW holds them."""
    states = adamw._accumulators
    for key in states["beta1_pow_acc"]:
        return states["beta1_pow_acc"][key].item(), states["beta2_pow_acc"][key].item()
    return adamw._beta1, adamw._beta2


def set_beta_powers(adamw: Any, beta1: float, beta2: float) -> None:
    """Set the powers of every state of an AdamW."""
    for role, value in (("beta1_pow_acc", beta1), ("beta2_pow_acc", beta2)):
        for tensor in adamw._accumulators[role].values():
            tensor.set_value(paddle.full(tensor.shape, value, tensor.dtype))


class Updater:
    """Reduces gradients over the mesh, clips, and steps.

    Args:
        layers: the local stage, a `paddle.nn.Layer` that holds every trained parameter of this rank.
        held: its parameters by single-card name.
        mesh: the groups.
        settings: of AdamW.
        tied: names of parameters that the first and the last layer of the model share.
    """

    def __init__(
        self, layers: Any, held: Mapping[str, Held], mesh: Mesh, settings: OptimizerSettings, tied: frozenset[str]
    ) -> None:
        self._tied_names = tied
        self._held, self._mesh, plan = held, mesh, mesh.plan
        self._trained = {n: h for n, h in held.items() if not h.rule.buffer and not h.tensor.stop_gradient}
        for name, h in self._trained.items():
            if settings.lora_plus != 1.0 and name.endswith(".lora_B"):
                h.tensor.optimize_attr["learning_rate"] = settings.lora_plus
        # Replicas hold different experts: fleet, which averages over all of them, must not see these.
        self._experts = {n: h for n, h in self._trained.items() if plan.expert > 1 and h.rule.expert is not None}
        common = [h.tensor for n, h in self._trained.items() if n not in self._experts]
        self.loss_scale = LossScale(settings.loss_scale)
        self.clip = GlobalNorm(held, mesh, settings.max_grad_norm, self.loss_scale)
        self.adamw = self._adamw(settings, common, self.clip)
        expert_tensors = [h.tensor for h in self._experts.values()]
        self._expert_adamw = self._adamw(settings, expert_tensors, None) if self._experts else None
        self.model: Any = layers
        self._stage3: Any = None
        self._optimizer: Any = self.adamw
        self._expert_optimizer: Any = self._expert_adamw
        if settings.master_grad:
            self._keep_fp32_gradients(layers)
        if plan.sharding_stage == 2:
            self._shard_gradients(layers)
        elif plan.sharding_stage == 3:
            self._shard_parameters(layers)
        elif plan.world > 1:
            from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer import HybridParallelOptimizer

            self._optimizer = HybridParallelOptimizer(self._optimizer, mesh.hcg, mesh.strategy)
            self._optimizer._dp_enable = plan.data > 1
        self._tied = self._ends()
        self.clip.tied = frozenset(self._tied)

    def _adamw(self, settings: OptimizerSettings, parameters: list[Any], clip: GlobalNorm | None) -> Any:
        return make_adamw(settings, self._mesh.plan.device, parameters, clip)

    def _keep_fp32_gradients(self, layers: Any) -> None:
        """Accumulate the gradients of half-precision parameters in fp32, and let AdamW read those."""
        from paddle.distributed.fleet.utils import mix_precision_utils

        dtype = str(next(iter(self._trained.values())).tensor.dtype).rsplit(".", 1)[-1]
        mix_precision_utils.MixPrecisionLayer(layers, dtype=dtype)
        self._optimizer = mix_precision_utils.MixPrecisionOptimizer(self.adamw)
        if self._expert_adamw is not None:
            self._expert_optimizer = mix_precision_utils.MixPrecisionOptimizer(self._expert_adamw)

    def _groups(self) -> dict[str, Any]:
        hcg, plan = self._mesh.hcg, self._mesh.plan
        return {
            "group": hcg.get_sharding_parallel_group(),
            "dp_group": hcg.get_data_parallel_group() if plan.data > 1 else None,
            "device": plan.device,
        }

    def _shard_gradients(self, layers: Any) -> None:
        from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_optimizer_stage2 import (
            GroupShardedOptimizerStage2,
        )
        from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage2 import GroupShardedStage2

        plan = self._mesh.plan
        if plan.device == "cpu":
            cpu.sharding_on_cpu()
        self._optimizer = GroupShardedOptimizerStage2(
            params=[h.tensor for h in self._trained.values()],
            optim=self._optimizer,
            offload=plan.offload,
            pretrain_sync_models=False,
            **self._groups(),
        )
        # gradient buffers are views that gloo's reduce does not keep
        size = 0 if plan.device == "cpu" else 2**23
        self.model = GroupShardedStage2(layers, self._optimizer, buffer_max_size=size, **self._groups())
        if plan.device == "cpu":
            cpu.drop_empty_buffers(self.model)

    def _shard_parameters(self, layers: Any) -> None:
        from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage3 import GroupShardedStage3

        plan = self._mesh.plan
        if plan.device == "cpu":
            cpu.sharding_on_cpu()
        self._stage3 = GroupShardedStage3(
            layers,
            self._optimizer,
            segment_size=_SLICED_ABOVE,
            pretrain_sync_models=False,
            sync_comm=plan.device == "cpu",
            offload=plan.offload,
            **self._groups(),
        )
        self.model, self._optimizer = self._stage3, self._stage3._optim
        self.clip.whole_on_all = frozenset(p.name for p in self._stage3._unslice_params)

    def _ends(self) -> list[str]:
        """Names of the trained parameters that both ends of the pipeline hold."""
        if self._mesh.ends is None:
            return []
        return [name for name in self._trained if name in self._tied_names]

    def _gradient(self, held: Held) -> Any:
        """The tensor that holds the parameter's gradient now: whole, this rank's slice of it, or None."""
        if self._stage3 is not None and getattr(held.tensor, "bw_storage", None) is not None:
            return held.tensor.bw_storage
        main = getattr(held.tensor, "main_grad", None)
        return held.tensor.grad if main is None else main

    def _sum_partial(self) -> None:
        """Sum, once a step, the gradients of which each rank of an axis has a part."""
        plan, place = self._mesh.plan, self._mesh.place
        for held in self._trained.values():
            grad = self._gradient(held)
            if grad is None:
                continue
            rule = held.rule
            partial = getattr(rule, "partial_grad", False)
            if plan.tensor > 1 and (
                partial or (plan.sequence_parallel and getattr(rule, "sequence_parallel_grad", False))
            ):
                dist.all_reduce(grad, group=parallel.tensor_axis().group)
            if plan.tensor > 1 and rule.dim is not None:
                for start, stop, copies in copied(rule, plan.tensor, place.tensor):
                    part = paddle.slice(grad, [rule.dim], [start], [stop]).contiguous()
                    dist.all_reduce(part, group=parallel.copies_group(copies))
                    index = (slice(None),) * rule.dim
                    grad[(*index, slice(start, stop))] = part
        for name in self._tied:
            dist.all_reduce(self._gradient(self._trained[name]), group=self._mesh.ends)

    def _mean_of_experts(self) -> None:
        """Give the experts' gradients the mean over the replicas, as the other gradients get it.

        Tokens of all replicas of an expert group came here already; other groups hold copies of these experts.
        """
        plan, copies = self._mesh.plan, self._mesh.expert_copies
        if copies is not None:
            tensors = [held.tensor for held in self._experts.values()]
            fused_allreduce_gradients_with_group(tensors, copies, scale=1.0 / plan.replicas)
            return
        for held in self._experts.values():
            self._gradient(held).multiply_(paddle.full([], 1.0 / plan.replicas, self._gradient(held).dtype))

    def step(self, learning_rate: float, stop: bool = False) -> Any:
        """Update the parameters from their gradients, clear these, and return the global norm before clipping.

        Args:
            learning_rate: of this step.
            stop: told to all ranks together with the norm, see `GlobalNorm.stopping`.
        """
        self.clip.stopping = stop
        with paddle.no_grad():
            self._sum_partial()
            if self._experts:
                self._mean_of_experts()
        self.clip.beside = [(held.tensor, self._gradient(held)) for held in self._experts.values()]
        self.adamw.set_lr(learning_rate)
        self._optimizer.step()
        if self._expert_adamw is not None and not self.clip.overflowed:
            self._expert_adamw.set_lr(learning_rate)
            self._expert_optimizer.step()
        self.loss_scale.update(self.clip.overflowed)
        if self.clip.overflowed:
            self.make_states()  # a checkpoint of this step has them even if no step was taken yet
        if self._mesh.plan.sharding_stage >= 2:
            self._optimizer.clear_grad()
            self._release_frozen()
            return self.clip.norm
        # gradients are dropped, not zeroed: a parameter without one must not reach the clip
        for held in self._trained.values():
            held.tensor.clear_gradient(False)
            if getattr(held.tensor, "main_grad", None) is not None:
                held.tensor.main_grad = None
        return self.clip.norm

    def _release_frozen(self) -> None:
        """Give up, under stage 3, the other ranks' parts of weights that are not trained.

        fleet gathers a weight for the backward pass and lets go of it when its gradient was reduced, which never comes
        here: without this the whole model would stay on every rank from the first step on.
        """
        if self._stage3 is None:
            return
        from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage3 import _release_param

        stage3 = self._stage3
        for held in self._held.values():
            tensor = held.tensor
            if tensor.stop_gradient and getattr(tensor, "status", "") == "all":
                tensor.use_count = 1
                _release_param([tensor], stage3._param2buffer, stage3._rank, stage3._task_flow, stage3._offload)

    def owns(self, name: str) -> bool:
        """Whether this rank of the sharding axis holds the optimizer states of a parameter (whole or a slice)."""
        plan = self._mesh.plan
        if name in self._experts:
            return True
        if plan.sharding_stage == 1:
            return bool(self._optimizer._param2rank[name] == self._mesh.place.sharding)
        if plan.sharding_stage == 2:
            return bool(self._optimizer.param2rank[name] == self._mesh.place.sharding)
        return True

    def flat_range(self, name: str) -> tuple[int, int] | None:
        """The range of the flattened local parameter that this rank holds under stage 3; `None` for the whole."""
        if self._stage3 is None or name not in self._stage3._param2buffer:
            return None
        start, stop = self._stage3._param2buffer[name][self._mesh.place.sharding]
        return int(start), int(stop)

    def weight(self, name: str) -> Any:
        """The local values of a parameter, or this rank's flat range of them under stage 3."""
        tensor = self._held[name].tensor
        return tensor if self.flat_range(name) is None else tensor.fw_storage

    def _adamw_of(self, name: str) -> Any:
        return self._expert_adamw if name in self._experts else self.adamw

    def states(self) -> Iterator[State]:
        """Every optimizer state that this rank holds."""
        for name in self._trained:
            if not self.owns(name):
                continue
            flat = self.flat_range(name)
            key, adamw = name if flat is None else f"slice@{name}", self._adamw_of(name)
            for role, tensor in state_tensors(adamw, key):
                yield State(name, role, tensor, flat)

    def make_states(self) -> None:
        """Make the optimizer states now, zero, so that `load` can fill them before the first step."""
        for name, held in self._trained.items():
            if not self.owns(name):
                continue
            target = held.tensor
            if self.flat_range(name) is not None:
                storage = held.tensor.fw_storage
                target = EagerParamBase(shape=storage.shape, dtype=storage.dtype, name=f"slice@{name}")
                if self.adamw._multi_precision:
                    target.set_value(storage)  # an fp32 copy is made from its values
            self._adamw_of(name)._create_accumulators(default_main_program().global_block(), [target])

    def powers(self) -> tuple[float, float]:
        """beta1 and beta2 to the power of the steps taken and one more, as AdamW holds them."""
        return beta_powers(self.adamw)

    def set_powers(self, beta1: float, beta2: float) -> None:
        """Set the powers of every state, after `make_states`."""
        for adamw in filter(None, (self.adamw, self._expert_adamw)):
            set_beta_powers(adamw, beta1, beta2)
