"""From arguments to what the engine takes: optimizer, kernels, precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.errors import ConfigError
from zoo_core.plan import Plan
from zoo_ops.kernels import Kernels

__all__ = ["Precision", "chosen_kernels", "optimizer_settings", "precision"]


@dataclass(frozen=True)
class Precision:
    """Element type of the weights, what `paddle.amp.auto_cast` is given, and whether fp32 masters are kept."""

    dtype: str = "float32"
    amp: Mapping[str, Any] = field(default_factory=lambda: {"enable": False})
    master_weights: bool = False


def precision(arguments: Arguments, device: str) -> Precision:
    """Return the precision of a run; fp32 on CPU, whatever was asked for (the run's warnings say so).

    Raises:
        ConfigError: fp16 on a GPU, which needs a loss scale that the engine does not keep.
    """
    training = arguments.training
    if device == "cpu" or not (training.bf16 or training.fp16) or training.fp16_opt_level == "O0":
        return Precision()
    if training.fp16:
        raise ConfigError(
            "fp16 training is not in this version", "its gradients vanish without a loss scale", "use --bf16 true"
        )
    amp = {
        "enable": True,
        "dtype": "bfloat16",
        "level": training.fp16_opt_level,
        "custom_black_list": training.amp_custom_black_list or None,
        "custom_white_list": training.amp_custom_white_list or None,
    }
    half = training.fp16_opt_level == "O2"
    return Precision("bfloat16" if half else "float32", amp, master_weights=half)


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
