"""T1: logits, loss and every gradient against files that another implementation made.

A case is a Hugging Face folder with `golden.safetensors` beside its weights: `input_ids`, perhaps `position_ids`,
`attention_mask`, `labels` and `sequence_lengths`, and what the other implementation computed: `logits`, `loss`, and
`grad.NAME` by Hugging Face name.

The rule: |ours - theirs| <= 1e-5 + 1e-5 |theirs| for logits and loss, and 1e-6 + 1e-5 |theirs| for gradients, which are
smaller. Everything is float32 on one card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors.numpy import load_file

from zoo_core.checkpoint import Reader
from zoo_core.checkpoint.hf import hf_places
from zoo_core.checkpoint.places import Place
from zoo_core.layout import Rule
from zoo_core.registry import Architecture
from zoo_core.testing.models import Weights, build, gradients, next_token_loss
from zoo_ops import Batch

__all__ = ["check_golden", "check_gradients", "golden_cases", "load_case", "read_weights"]

Array = np.ndarray[Any, Any]


def golden_cases(folder: Path) -> list[Path]:
    """The cases in a folder, by name.

    Raises:
        AssertionError: there are none, so the test that goes through them would prove nothing.
    """
    found = sorted(file.parent for file in folder.glob("*/golden.safetensors"))
    assert found, f"no golden case in {folder}"
    return found


def load_case(folder: Path) -> tuple[dict[str, Any], dict[str, Array], Batch]:
    """Return the parsed `config.json`, the golden tensors, and the batch they were computed from."""
    golden = load_file(folder / "golden.safetensors")
    tensors: dict[str, Any] = {
        name: paddle.to_tensor(golden[name]) if name in golden else None
        for name in ("input_ids", "position_ids", "attention_mask")
    }
    if "sequence_lengths" in golden:
        lengths = golden["sequence_lengths"]
        tensors["segment_ids"] = paddle.to_tensor(np.repeat(np.arange(len(lengths)), lengths)[None])
    return json.loads((folder / "config.json").read_text()), golden, Batch(**tensors)


def read_weights(folder: Path, table: dict[str, Rule]) -> Weights:
    """The weights of a Hugging Face folder, by single-card name and in our shapes."""
    with Reader(folder, table) as reader:
        unused = reader.check()
        assert not unused, f"{folder.name}: the table has no place for {unused}"
        return {name: reader.read_local(name) for name, rule in table.items() if rule.single == name}


def check_golden(arch: Architecture, folder: Path, training: bool = False, **changes: Any) -> None:
    """Load a case and compare.

    Args:
        training: compare the logits of training mode with `logits_train` instead of everything in evaluation mode.
        changes: configuration fields to replace (`fuse_attention_qkv=True`); the numbers must stay.
    """
    published, golden, batch = load_case(folder)
    config = arch.capabilities.config_class.from_hf(published).replace(**changes)
    table = arch.table(config)
    model = build(arch, config, read_weights(folder, table))
    model.train() if training else model.eval()
    logits = model(batch).logits
    real = golden.get("attention_mask", np.ones_like(golden["input_ids"]))[..., None]
    _compare("logits", logits.numpy() * real, golden["logits_train" if training else "logits"] * real, 1e-5)
    if training:
        return
    loss = next_token_loss(logits, paddle.to_tensor(golden.get("labels", golden["input_ids"])))
    _compare("loss", loss.numpy(), golden["loss"], 1e-5)
    loss.backward()
    check_gradients(table, gradients(model, lambda name: table[name].single), golden)


def check_gradients(table: Mapping[str, Rule], found: Mapping[str, Array], golden: Mapping[str, Array]) -> None:
    """Compare gradients, by single-card name, with every `grad.NAME` of the golden tensors."""
    compared = set()
    for name, gradient in found.items():
        for place in hf_places(table[name]):
            run = slice(place.start, place.stop)
            ours = gradient[(slice(None),) * (table[name].dim or 0) + (run,)]
            theirs = golden[f"grad.{place.key}"]
            if table[name].hf_run is not None:
                theirs = np.take(
                    theirs, range(place.offset, place.offset + place.stop), _stored_dim(table[name], place)
                )
            _compare(f"gradient of {place.key}", ours.T if place.transposed else ours, theirs, 1e-6)
            compared.add(f"grad.{place.key}")
    missed = {name for name in golden if name.startswith("grad.")} - compared
    assert not missed, f"no gradient of ours for {sorted(missed)}"


def _stored_dim(rule: Rule, place: Place) -> int:
    """The split dim, as the file has it."""
    return len(rule.shape) - 1 - (rule.dim or 0) if place.transposed else rule.dim or 0


def _compare(what: str, ours: Array, theirs: Array, absolute: float) -> None:
    assert ours.shape == theirs.shape, f"{what}: ours is {ours.shape}, theirs {theirs.shape}"
    excess = np.abs(ours - theirs) - (absolute + 1e-5 * np.abs(theirs))
    worst = float(np.abs(ours - theirs).max())
    assert excess.max() <= 0, f"{what}: differs by {worst:.2e} where theirs reaches {np.abs(theirs).max():.2e}"
