"""How wide the numbers of a run are, and which kernels and habits decide what a block keeps for its backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo_core.arguments import Arguments

__all__ = ["Keeping", "Numbers", "keeping_of", "numbers_of"]

_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Numbers:
    """Element types of a run.

    Args:
        weights: of the parameters.
        compute: of activations and matrix products.
        master: fp32 copies of half-precision weights are kept.
        master_grad: gradients are accumulated in fp32.
    """

    weights: str = "float32"
    compute: str = "float32"
    master: bool = False
    master_grad: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of an element of a parameter."""
        return _WIDTH[self.weights]

    @property
    def compute_bytes(self) -> int:
        """Bytes of an element of an activation."""
        return _WIDTH[self.compute]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of an element of a gradient."""
        return 4 if self.master_grad else self.weight_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimizer's states of an element: two moments, and the master weight if there is one."""
        return 8 + (4 if self.master else 0)

    def __str__(self) -> str:
        if self.compute == "float32":
            return "float32"
        masters = ", float32 master weights" if self.master else ", float32 weights"
        return f"{self.compute}{masters}" + (" and gradients" if self.master_grad else "")


def numbers_of(arguments: Arguments, device: str) -> Numbers:
    """Return the element types of a run on a device; float32 on CPU, whatever was asked for."""
    training = arguments.training
    if device == "cpu" or not (training.bf16 or training.fp16) or training.fp16_opt_level == "O0":
        return Numbers()
    compute = "float16" if training.fp16 else "bfloat16"
    if training.fp16_opt_level != "O2":
        return Numbers("float32", compute)
    return Numbers(compute, compute, master=True, master_grad=training.amp_master_grad)


@dataclass(frozen=True)
class Keeping:
    """What an implementation of a block keeps until the backward pass.

    Args:
        flash_attention: attention keeps no scores, unless its weights are dropped out.
        scores: where it is above 0, scores are kept after all, in float32 and as far as causality leaves them, when
            those of a layer are at most so many bytes (zoo's kernel for the CPU).
        fused_norm: a norm keeps its input only, not float32 copies besides.
        rope: "fused" keeps nothing of its own, "float32" keeps `rope_copies` float32 copies of queries and keys.
        rope_copies: see `rope`.
        fused_gate: the gate's activation is not kept beside its product.
        copies: under tensor parallelism an input that several matrices share is kept, and its gradient summed, for each
            of them; else once.
        logits: bytes of each logit at the loss: the logit, its float32 copy, its exponential or softmax, its gradient.
    """

    flash_attention: bool = True
    scores: int = 0
    fused_norm: bool = True
    rope: Literal["fused", "float32"] = "fused"
    rope_copies: int = 1
    fused_gate: bool = True
    copies: bool = False
    logits: int = 10

    def copies_of(self, matrices: int, tensor: int) -> int:
        """Copies of an input that so many matrices share."""
        return matrices if self.copies and tensor > 1 else 1


_CPU_SCORES = 1 << 28
"""`zoo_ops.cpu.attention.KEEP_BYTES`, which this room cannot read: it imports paddle."""


def keeping_of(arguments: Arguments, device: str, fused_attention: bool = True) -> Keeping:
    """Return what zoo's blocks keep under these arguments.

    Args:
        fused_attention: as the model's configuration has it.
    """
    model = arguments.model
    gpu = device != "cpu"
    half = numbers_of(arguments, device).compute_bytes == 2
    return Keeping(
        flash_attention=not gpu or (model.use_flash_attention and half and fused_attention),
        fused_norm=not gpu or model.use_fused_rms_norm,
        rope="fused" if not gpu or model.use_fused_rope else "float32",
        fused_gate=gpu,
        scores=0 if gpu else _CPU_SCORES,
        logits=10 if half else 8 if gpu else 12,
    )
