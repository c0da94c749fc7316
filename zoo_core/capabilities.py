"""What a family can do: its named models, and a cell of support for each task and strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo_core.config import ModelConfig

__all__ = [
    "CELLS",
    "MODES",
    "STRATEGIES",
    "TASKS",
    "Capabilities",
    "Cell",
    "Declaration",
    "Exclusion",
    "ModelEntry",
    "Support",
    "Tier",
    "declared",
]

Tier = Literal["T0", "T1", "T2", "T3"]
"""Where a test runs: without paddle, in one process, in several on CPU, on GPUs."""

Declaration = Literal["declared", "refused", "not applicable"]
"""What a plugin may say of a cell; the rest of the vocabulary (verified, stale, untested) follows from evidence."""


@dataclass(frozen=True)
class Cell:
    """One column of the capability matrix.

    Args:
        name: how plugins, plans and commands call it.
        title, chinese: how documents call it.
        tier: the lowest tier of a test that proves it.
    """

    name: str
    title: str
    chinese: str
    tier: Tier = "T2"


TASKS = (
    Cell("pretrain", "pretrain", "预训练"),
    Cell("sft", "SFT", "SFT"),
    Cell("lora", "LoRA", "LoRA"),
    Cell("prefix_tuning", "prefix tuning", "前缀微调"),
    Cell("dpo", "DPO", "DPO"),
    Cell("compression", "compression", "压缩", "T1"),
    Cell("generation", "generation", "生成", "T1"),
)
STRATEGIES = (
    Cell("data_parallel", "data parallel", "数据并行"),
    Cell("tensor_parallel", "tensor parallel", "张量并行"),
    Cell("pipeline_parallel", "pipeline parallel", "流水线并行"),
    Cell("sequence_parallel", "sequence parallel", "序列并行"),
    Cell("flash_attention", "flash attention", "flash attention", "T3"),
    Cell("selective_recompute", "selective recompute", "选择性重计算"),
    Cell("sharding_stage1_recompute", "stage 1 + recompute", "stage1 + 重计算"),
    Cell("sharding_stage1_dp", "stage 1 + DP", "stage1 + 数据并行"),
    Cell("sharding_stage2_recompute", "stage 2 + recompute", "stage2 + 重计算"),
    Cell("sharding_stage2_dp", "stage 2 + DP", "stage2 + 数据并行"),
    Cell("sharding_stage3_recompute", "stage 3 + recompute", "stage3 + 重计算"),
    Cell("sharding_stage3_dp", "stage 3 + DP", "stage3 + 数据并行"),
    Cell("virtual_pipeline", "interleaved pipeline", "交错流水线"),
    Cell("expert_parallel", "expert parallel", "专家并行"),
    Cell("semi_auto", "auto pretrain", "自动并行预训练"),
    Cell("semi_auto_sft", "auto SFT", "自动并行 SFT"),
    Cell("semi_auto_lora", "auto LoRA", "自动并行 LoRA"),
    Cell("semi_auto_dpo", "auto DPO", "自动并行 DPO"),
    Cell("to_static", "to static", "动转静"),
)
CELLS: Mapping[str, Cell] = {cell.name: cell for cell in (*TASKS, *STRATEGIES)}
"""The matrix's columns, by name: tasks, then strategies."""

MODES = (
    *("sharding", "sharding_stage1", "sharding_stage2", "sharding_stage3"),
    *("recompute", "offload", "generation_evaluation"),
)
"""What a plan may have on besides cells; exclusions may name it."""


@dataclass(frozen=True)
class Support:
    """What a plugin says of one cell.

    Args:
        state: "declared": it works, and recorded evidence or `why` says how far that is shown; "refused" and "not
            applicable" need a `why`.
        why: the reason of a refusal; of a declared cell, what is missing for a test to prove it ("a GPU").
    """

    state: Declaration
    why: str = ""


def declared(*others: str) -> dict[str, Support]:
    """Every cell but `others` as declared, for recorded evidence to prove."""
    return {name: Support("declared") for name in CELLS if name not in others}


@dataclass(frozen=True)
class Exclusion:
    """Two strategies or tasks, names of `CELLS` or `MODES`, that this family cannot combine, and why."""

    first: str
    second: str
    why: str


@dataclass(frozen=True)
class ModelEntry:
    """A named model: `qwen/qwen-7b`, its configuration, and where its weights are published.

    Args:
        name: what users type after `--model`.
        config: the published configuration.
        note: one line for `zoo models` (parameters, context, chat or base).
        cells: where this model's support differs from the family's.
    """

    name: str
    config: ModelConfig
    note: str = ""
    cells: Mapping[str, Support] = field(default_factory=dict)


@dataclass(frozen=True)
class Capabilities:
    """What `zoo_core` knows of a family before it builds anything.

    Args:
        family: short name, the prefix of nothing but errors and folders: `llama`.
        config_class: reads and writes this family's `config.json`.
        model_types: values of `model_type` in a Hugging Face `config.json` that this family loads.
        models: the named models.
        scales: sizes for `--scale tiny|small`: configuration fields to replace.
        cells: support by the names of `CELLS`; absent means untested.
        exclusions: pairs of strategies that do not combine in this family.
    """

    family: str
    config_class: type[ModelConfig]
    model_types: tuple[str, ...]
    models: tuple[ModelEntry, ...]
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cells: Mapping[str, Support] = field(default_factory=dict)
    exclusions: tuple[Exclusion, ...] = ()

    def support(self, cell: str, model: str = "") -> Support | None:
        """Return what the plugin says of a cell, for the named model where it differs; `None` when it says nothing."""
        for entry in self.models if model else ():
            if entry.name.casefold() == model.casefold():
                return entry.cells.get(cell, self.cells.get(cell))
        return self.cells.get(cell)
