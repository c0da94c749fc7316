"""How much memory a process took, and what part of its device's peak the model used (MFU)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import paddle

from zoo_core.config import ModelConfig
from zoo_core.layout import Rule, Vocab
from zoo_core.plan import Plan
from zoo_core.train.log import Speed

__all__ = ["Usage", "flops_per_token", "peak_flops", "usage"]

_PEAKS = {
    "H200": 989e12, "H100 PCIE": 756e12, "H100": 989e12, "H800": 989e12, "H20": 148e12, "A100": 312e12,
    "A800": 312e12, "A10": 125e12, "A30": 165e12, "A40": 149.7e12, "L40S": 362e12, "L40": 181e12, "L20": 119.5e12,
    "L4": 121e12, "V100": 125e12, "4090": 165.2e12, "3090": 71e12,
}  # fmt: skip
"""Dense half-precision tensor-core FLOP/s by a part of the device's name; a longer name comes before its beginning."""


def flops_per_token(config: ModelConfig, table: Mapping[str, Rule], sequence: int) -> float:
    """Return the floating-point operations of training on one token (Chowdhery et al. 2022, PaLM, appendix B).

    6 for each parameter that multiplies (of routed experts, those that a token passes), and 12 x layers x heads x head
    size x sequence for attention.
    """
    embedded = next((rule for rule in table.values() if isinstance(rule, Vocab)), None)
    multiplying = sum(
        prod(rule.shape) * _used(config, rule)
        for rule in table.values()
        if len(rule.shape) == 2 and not rule.buffer and rule is not embedded
    )
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_size * sequence
    return 6.0 * multiplying + attention


def _used(config: ModelConfig, rule: Rule) -> float:
    """The share of tokens that pass a parameter."""
    if rule.expert is None or rule.experts is None:
        return 1.0
    return float(config.experts_per_token) / len(rule.experts)


def peak_flops(device_name: str) -> float | None:
    """Return the half-precision peak of a GPU in FLOP/s; `None` when its name is not known."""
    words = device_name.upper().replace("-", " ")
    tokens = words.split()
    for name, peak in _PEAKS.items():
        if " " in name and name in words or name in tokens:
            return peak
    return None


@dataclass(frozen=True)
class Usage:
    """What a process has used so far.

    Args:
        memory: peak, in bytes: resident on CPU, allocated on a GPU.
        mfu: part of the device's peak that the model used, 0 to 1; `None` where the peak is not known.
    """

    memory: int
    mfu: float | None = None

    def says_more_than(self, earlier: Usage | None) -> bool:
        """Whether it is worth a line after `earlier`: memory has grown by a tenth, or there is an MFU."""
        return earlier is None or self.mfu is not None or self.memory > 1.1 * earlier.memory

    def __str__(self) -> str:
        name = "max_memory_allocated" if self.mfu is not None else "peak memory of a process"
        share = f", mfu: {100 * self.mfu:.1f}%" if self.mfu is not None else ""
        return f"{name}: {self.memory / 2**20:.0f} MB{share}"


def usage(plan: Plan, speed: Speed, flops: float) -> Usage:
    """Return what this process has used.

    Args:
        flops: of one token, see `flops_per_token`.
    """
    if plan.device != "gpu":
        unit = 1 if sys.platform == "darwin" else 1024
        return Usage(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    peak = peak_flops(paddle.device.cuda.get_device_name())
    return Usage(paddle.device.cuda.max_memory_allocated(), flops * speed.ips / peak if peak else None)
