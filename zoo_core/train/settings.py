"""From arguments to what the engine takes: optimizer, kernels, precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.plan import Plan
from zoo_ops.kernels import Kernels

__all__ = ["Precision", "chosen_kernels", "optimizer_settings", "precision"]


@dataclass(frozen=True)
class Precision:
    """How numbers are held.

    Args:
        dtype: of the weights.
        amp: what `paddle.amp.auto_cast` is given.
        master_weights, master_grad: whether fp32 weights and gradients are kept beside half-precision weights.
        loss_scale: the first one; 0 does not scale.
    """

    dtype: str = "float32"
    amp: Mapping[str, Any] = field(default_factory=lambda: {"enable": False})
    master_weights: bool = False
    master_grad: bool = False
    loss_scale: float = 0.0


def precision(arguments: Arguments, device: str) -> Precision:
    """Return the precision of a run; fp32 on CPU, whatever was asked for (the run's warnings say so)."""
    training = arguments.training
    if device == "cpu" or not (training.bf16 or training.fp16) or training.fp16_opt_level == "O0":
        return Precision()
    dtype = "float16" if training.fp16 else "bfloat16"
    amp = {
        "enable": True,
        "dtype": dtype,
        "level": training.fp16_opt_level,
        "custom_black_list": training.amp_custom_black_list or None,
        "custom_white_list": training.amp_custom_white_list or None,
    }
    half = training.fp16_opt_level == "O2"
    return Precision(
        dtype if half else "float32",
        amp,
        master_weights=half,
        master_grad=half and training.amp_master_grad,
        loss_scale=training.scale_loss if training.fp16 else 0.0,
    )


def optimizer_settings(arguments: Arguments, chosen: Precision) -> OptimizerSettings:
    """Return AdamW's settings."""
    training = arguments.training
    return OptimizerSettings(
        beta1=training.adam_beta1,
        beta2=training.adam_beta2,
        epsilon=training.adam_epsilon,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        master_weights=chosen.master_weights,
        master_grad=chosen.master_grad,
        loss_scale=chosen.loss_scale,
        lora_plus=arguments.finetune.lora_plus_scale,
    )


def chosen_kernels(arguments: Arguments, plan: Plan) -> Kernels:
    """Return which fused kernels model code may use."""
    model = arguments.model
    return Kernels(
        flash_attention=model.use_flash_attention,
        fused_rms_norm=model.use_fused_rms_norm,
        fused_rope=model.use_fused_rope,
        recompute_core_attention=plan.recompute == "core_attn",
    )
