"""Which fused kernels the run asked for, and the one warning when a kernel does not exist on this device."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["Kernels", "cpu_path", "kernels", "on_gpu", "say_once", "set_kernels"]

_log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Kernels:
    """The user's choice of kernels.

    Args:
        flash_attention: flash attention (`use_flash_attention`).
        fused_rms_norm: one kernel for RMSNorm (`use_fused_rms_norm`).
        fused_rope: one kernel for the rotary embedding of queries and keys (`use_fused_rope`).
        recompute_core_attention: forget the attention scores and compute them again in the backward pass.
        fast_cpu: on CPU, the hand-written passes of `zoo_ops.cpu`; False for tracing (`to_static`, export).
    """

    flash_attention: bool = False
    fused_rms_norm: bool = False
    fused_rope: bool = False
    recompute_core_attention: bool = False
    fast_cpu: bool = True


_chosen = Kernels()
_said: set[str] = set()


def set_kernels(chosen: Kernels) -> None:
    """Set the kernels of this process; models already built follow at their next forward pass."""
    global _chosen
    _chosen = chosen
    _said.clear()


def kernels() -> Kernels:
    """Return the kernels of this process."""
    return _chosen


def say_once(kernel: str, reason: str) -> None:
    """Warn, once for each kernel and choice, that `kernel` was asked for and the plain path is used."""
    if kernel not in _said:
        _said.add(kernel)
        _log.warning("%s was asked for but %s; the plain implementation is used", kernel, reason)


def on_gpu(x: Tensor) -> bool:
    """Whether a tensor lies on a GPU; one that is only traced lies nowhere."""
    import paddle

    return paddle.in_dynamic_mode() and bool(x.place.is_gpu_place())


def cpu_path(*tensors: Tensor) -> bool:
    """Whether the hand-written CPU passes apply: plain float32 CPU tensors, computed now and not traced."""
    import paddle

    if not _chosen.fast_cpu or not paddle.in_dynamic_mode():
        return False
    float32, anywhere = paddle.float32, not _has_cpu_alone()
    for x in tensors:  # a loop, and `is`: this is asked a hundred times a generated token
        if x.dtype is not float32 or x.is_dist() or (anywhere and not x.place.is_cpu_place()):
            return False
    return True


@lru_cache(maxsize=1)
def _has_cpu_alone() -> bool:
    """Whether Paddle sees no other device, so that tensors need not be asked where they are, which takes a while."""
    import paddle

    return not paddle.device.get_available_device()  # it leaves out the CPU
