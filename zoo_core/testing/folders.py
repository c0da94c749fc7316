"""T1: a Hugging Face folder, loaded and saved again, is the same folder, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from zoo_core.checkpoint import save_hf, whole_tensors
from zoo_core.checkpoint.hf import hf_places
from zoo_core.config import ModelConfig
from zoo_core.registry import Architecture
from zoo_core.testing.golden import read_weights
from zoo_core.testing.models import build, random_weights

__all__ = ["check_hf_round_trip", "check_random_round_trip"]


def check_random_round_trip(arch: Architecture, config: ModelConfig, folder: Path) -> None:
    """Export random weights to `folder / "first"` and hold that folder to `check_hf_round_trip`.

    Every parameter that is its own must be in the files: one without a Hugging Face name would be lost.
    """
    table = arch.table(config)
    for name, rule in table.items():
        assert hf_places(rule) or rule.single != name, (
            f"{name} has no Hugging Face name, so exports lose it; give its row hf= (or its parts hf=)"
        )
    weights = random_weights(table)
    save_hf(folder / "first", whole_tensors(table, weights, "float32"), table=table, config=config, dtype="float32")
    check_hf_round_trip(arch, folder / "first", folder / "second")


def check_hf_round_trip(arch: Architecture, folder: Path, target: Path, **changes: Any) -> None:
    """Load `folder` into a model, save the model to `target`, and compare names, bits and the configuration.

    Args:
        changes: configuration fields to replace (`fuse_attention_qkv=True`); the files must stay the same.
    """
    config = arch.capabilities.config_class.from_hf(json.loads((folder / "config.json").read_text()))
    changed = config.replace(**changes)
    table = arch.table(changed)
    model = build(arch, changed, read_weights(folder, table))
    weights = {table[name].single: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_hf(target, whole_tensors(table, weights, "float32"), table=table, config=config, dtype="float32")
    before, after = _tensors(folder), _tensors(target)
    assert set(before) == set(after), f"tensors differ: {sorted(set(before) ^ set(after))}"
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and np.array_equal(tensor, after[name]), f"{name} changed"
    published = json.loads((folder / "config.json").read_text())
    written = json.loads((target / "config.json").read_text())
    wrong = {k: (published[k], v) for k, v in written.items() if k in published and published[k] != v}
    wrong.pop("rope_scaling", None)
    assert not wrong, f"config.json changed (published, written): {wrong}"
    assert arch.capabilities.config_class.from_hf(written) == config, "config.json says another model"


def _tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()}
