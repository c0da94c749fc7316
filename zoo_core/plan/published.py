"""The published runs, and what the planner predicts for them.

They are PaddleNLP's, of November 2023 on 8 x A100 80 GB (its `llm/docs/pretrain.rst`): sequence 4096, bfloat16 O2
without fp32 gradients, flash attention, fused RMSNorm. What its blocks kept is from its sources: mpu's column-parallel
layers copy their input (`c_identity`), so each projection has its own; silu and the product are two operations; the
loss casts logits to fp32. Its Qwen of that year rotated queries and keys in fp32 without a fused kernel. Its Baichuan
was converted to Llama, q, k and v apart, so Llama of Baichuan's vocabulary is what is counted. Memory is that of the
first process, which wrote the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo_core.plan.composer import compose
from zoo_core.plan.counts import counted
from zoo_core.plan.hardware import hardware
from zoo_core.plan.memory import owned_elements
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.predict import MB, Prediction, predict
from zoo_core.plan.request import Request
from zoo_core.registry import registry

__all__ = ["PUBLISHED", "Published", "predicted"]


@dataclass(frozen=True)
class Published:
    """A published run.

    Args:
        model: its name.
        micro_batch, accumulate: of the run.
        tokens: tokens a second on each card, as published.
        memory: `max_memory_allocated` in MB, as published.
        fitted: whether zoo's constants were fitted on this row.
        keeping: what its implementation kept.
        ran: the model whose code ran, of the same sizes but for the vocabulary; empty for the model's own.
    """

    model: str
    micro_batch: int
    accumulate: int
    tokens: float
    memory: int
    fitted: bool
    keeping: Keeping
    ran: str = ""


_LLAMA = Keeping(copies=True, fused_gate=False, logits=12)
_QWEN = Keeping(copies=True, fused_gate=False, logits=12, rope="float32", rope_copies=2)

PUBLISHED = (
    Published("facebook/llama-7b", 2, 8, 3754.73, 52092, True, _LLAMA),
    Published("facebook/llama-13b", 1, 16, 1969.64, 64278, True, _LLAMA),
    Published("qwen/qwen-7b", 2, 8, 3607.28, 65448, False, _QWEN),
    Published("baichuan-inc/Baichuan2-7B-Base", 2, 8, 3542.45, 58363, False, _LLAMA, "facebook/llama-7b"),
    Published("linly-ai/chinese-llama-2-7b", 2, 8, 3732.9, 51751, False, _LLAMA),
    Published("idea-ccnl/ziya-llama-13b-v1", 1, 16, 1968.34, 63983, False, _LLAMA),
)
"""The four rows of the requirements, and two more of the same table that change the vocabulary only."""


def predicted(row: Published) -> tuple[Prediction, float, float]:
    """Return the prediction of a published run, and how far its memory and speed are off, as parts of the published.

    Raises:
        UnknownModelError: the model's plugin is not installed.
    """
    found = registry().find(row.ran or row.model)
    config = found.config.replace(vocab_size=registry().find(row.model).config.vocab_size)
    request = Request(
        world=8,
        tensor=2,
        sharding_stage=2,
        micro_batch=row.micro_batch,
        accumulate=row.accumulate,
        sequence=4096,
        device="gpu",
    )
    plan = compose(request, found.architecture, config, row.model)
    counts = counted(found.architecture, config)
    numbers = Numbers("bfloat16", "bfloat16", master=True)
    first = [owned_elements(plan, counts, 0)[0]]
    made = predict(plan, counts, numbers, row.keeping, hardware("a100-80g"), owned=first)
    return made, made.fullest.total / MB / row.memory - 1, made.speed.tokens / row.tokens - 1
