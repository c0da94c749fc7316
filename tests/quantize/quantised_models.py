"""What the tests of quantised models share: tiny folders before and after, and engines over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint import Reader, save_hf, whole_tensors
from zoo_core.checkpoint.quantised import write_quantised
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.state import from_checkpoint
from zoo_core.layout import Rule
from zoo_core.plan import Request, compose
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import quantised_layers
from zoo_core.quantized.pack import QuantisedWeight, quantise_rtn
from zoo_core.registry import find, registry
from zoo_core.testing.models import random_weights

FAMILIES = {
    "llama": "meta-llama/Meta-Llama-3-8B", "qwen": "qwen/qwen-7b", "gpt3": "gpt3-345M", "bloom": "bigscience/bloom-7b1",
    "baichuan": "baichuan-inc/Baichuan2-13B-Base", "chatglm": "THUDM/chatglm-6b", "chatglm2": "THUDM/chatglm2-6b",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3", "opt": "facebook/opt-350m", "glm": "THUDM/glm-10b",
}  # fmt: skip


def tiny(family: str, **changes: Any) -> tuple[Any, Any]:
    """The architecture and a tiny configuration of a family."""
    found = registry().find(FAMILIES[family])
    scale = found.architecture.capabilities.scales["tiny"]
    return found.architecture, found.config.replace(**{**scale, "num_hidden_layers": 2, **changes})


def plain_folder(family: str, path: Path, files: Any = None, **changes: Any) -> Path:
    """A Hugging Face folder of random weights."""
    architecture, config = tiny(family, **changes)
    table = architecture.table(config)
    tensors = whole_tensors(table, random_weights(table), "float32")
    return save_hf(path, tensors, table=table, config=config, dtype="float32", files=files)


def rounded(rule: Rule, weight: np.ndarray, spec: QuantSpec, seed: int = 0) -> QuantisedWeight:
    """A layer rounded to nearest; what a spec has besides is made up."""
    random, features = np.random.default_rng(seed), rule.shape[0]
    smooth = random.uniform(0.5, 2, features).astype(np.float32) if spec.smooth else None
    if smooth is not None:
        weight = weight * smooth[:, None]
    q_IO, scale_GO, zero_GO = quantise_rtn(weight, spec.bits, spec.group_size, spec.symmetric)
    order = random.integers(0, len(scale_GO), features).astype(np.int32) if spec.ordered else None
    act_scale = 0.05 if spec.activations == "static" else None
    return QuantisedWeight(q_IO, scale_GO, spec.group_size, zero_GO, order, smooth, act_scale)


def quantise(base: Path, path: Path, spec: QuantSpec, files: Any = None) -> tuple[Path, dict[str, QuantisedWeight]]:
    """The folder with quantised weights, and its arrays."""
    found = find(str(base))
    table = found.architecture.table(found.config)
    with Reader(base, table) as reader:
        arrays = {
            module: rounded(rule, reader.read_local(rule.name, dtype="float32"), spec)
            for module, rule in quantised_layers(table, spec).items()
        }
        return write_quantised(path, reader, found.architecture, found.config, spec, arrays, files), arrays


def single_mesh(architecture: Any, config: Any) -> Any:
    """The mesh of one process."""
    return make_mesh(compose(Request(micro_batch=2, sequence=16, device="cpu"), architecture, config))


def engine_over(folder: Path, **changes: Any) -> Engine:
    """The model in a folder, on one process; `changes` are to its configuration."""
    found = find(str(folder))
    config = found.config.replace(**changes)
    mesh = single_mesh(found.architecture, config)
    with Reader(folder, found.architecture.table(config)) as reader:
        reader.check()
        return Engine(mesh, found.architecture, config, from_checkpoint(reader, mesh))


def with_dense(engine: Engine, arrays: dict[str, QuantisedWeight]) -> Engine:
    """The model before, with the weights that the quantised ones stand for."""
    for module, array in arrays.items():
        engine.held[f"{module}.weight"].tensor.set_value(array.dense())
    return engine


def fields(config: Any, length: int = 12, count: int = 2, seed: int = 1) -> dict[str, np.ndarray]:
    """`input_ids` [count, length], of a prompt that every family takes."""
    ids = np.random.default_rng(seed).integers(10, min(200, config.vocab_size), (count, length))
    mask = getattr(config, "gmask_token_id", None) or (getattr(config, "mask_token_ids", None) or (None,))[-1]
    if mask is not None:
        ids[:, -2:] = mask, getattr(config, "start_token_id", None) or config.bos_token_id
    return {"input_ids": ids}
