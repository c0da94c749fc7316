"""What the tests of adapters share: tiny models, engines over them, batches."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint import Reader
from zoo_core.engine.build import from_both, from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.engine.state import from_checkpoint
from zoo_core.peft import LoraSpec
from zoo_core.peft.files import AdapterFiles
from zoo_core.plan import Request, compose
from zoo_core.registry import find, registry

REPOSITORY = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"

FAMILIES = {
    "llama": ("meta-llama/Meta-Llama-3-8B", {}),
    "llama-fused": ("meta-llama/Meta-Llama-3-8B", {"fuse_attention_qkv": True, "fuse_attention_ffn": True}),
    "qwen": ("qwen/qwen-7b", {}),
    "gpt3": ("gpt3-345M", {}),
    "gpt3-fused": ("gpt3-345M", {"fuse_attention_qkv": True}),
    "bloom": ("bigscience/bloom-7b1", {}),
    "baichuan": ("baichuan-inc/Baichuan2-13B-Base", {}),
    "chatglm": ("THUDM/chatglm-6b", {}),
    "chatglm2": ("THUDM/chatglm2-6b", {}),
    "deepseek_v3": ("deepseek-ai/DeepSeek-V3", {}),
    "opt-350m": ("facebook/opt-350m", {}),
    "glm": ("THUDM/glm-10b", {}),
}
SEED = 7


def tiny(family: str, **changes: Any) -> tuple[Any, Any]:
    """The architecture and the tiny configuration of a family."""
    name, own = FAMILIES[family]
    found = registry().find(name)
    scale = found.architecture.capabilities.scales["tiny"]
    return found.architecture, found.config.replace(**{**scale, "num_hidden_layers": 2, **own, **changes})


def single(architecture: Any, config: Any, **more: Any) -> Any:
    """The mesh of one process."""
    return make_mesh(compose(Request(micro_batch=2, sequence=16, **more), architecture, config))


def seeded(
    family: str, spec: LoraSpec | None, settings: OptimizerSettings | None = None, recompute: str = "none"
) -> Engine:
    """A tiny model from the seed, with its adapters."""
    architecture, config = tiny(family)
    mesh = single(architecture, config, recompute=recompute)
    return Engine(mesh, architecture, config, from_seed(SEED, config, 1, 0), settings=settings, lora=spec)


def of_golden(case: Path, base: Path, settings: OptimizerSettings | None = None, **changes: Any) -> Engine:
    """The base model of a golden case, with the case's adapters."""
    found = find(str(base))
    dropouts = {f.name: 0.0 for f in fields(found.config) if "dropout" in f.name}  # PEFT ran in evaluation mode
    architecture, config = found.architecture, found.config.replace(**{**dropouts, **changes})
    table, mesh = architecture.table(config), single(architecture, config)
    with Reader(base, table) as reader, AdapterFiles(case, table) as files:
        source = from_both(from_checkpoint(reader, mesh), files.source())
        return Engine(mesh, architecture, config, source, settings=settings, lora=files.spec)


def batch(config: Any, step: int = 0, count: int = 2, length: int = 16) -> dict[str, np.ndarray]:
    """`input_ids` and `labels`, int64 [count, length]."""
    ids = np.random.default_rng(100 + step).integers(0, min(config.vocab_size, 400), (count, length + 1))
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:].copy()}
