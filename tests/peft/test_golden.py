"""Adapters equal PEFT on transformers: logits, loss, every gradient, five steps of AdamW, and files both ways."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import GOLDEN, REPOSITORY, of_golden  # noqa: E402

from zoo_core.checkpoint.hf import hf_places  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.peft import is_adapter  # noqa: E402
from zoo_core.testing.models import next_token_loss  # noqa: E402
from zoo_ops import Batch, set_dropout_state  # noqa: E402

CASES = sorted(path.parent.name for path in GOLDEN.glob("*/golden.safetensors"))
FUSED_QKV = {"fuse_attention_qkv": True}
VARIANTS = [*((name, {}) for name in CASES), ("gpt2", FUSED_QKV)]


def base_of(case: str) -> Path:
    return REPOSITORY / json.loads((GOLDEN / case / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_there_are_the_families_of_the_agreement():
    assert {"llama", "qwen2", "bloom", "gpt2"} <= set(CASES)


@pytest.mark.parametrize(("case", "changes"), VARIANTS, ids=lambda value: str(value) if value else "")
def test_loss_and_gradients(case, changes):
    golden = load_file(GOLDEN / case / "golden.safetensors")
    engine = of_golden(GOLDEN / case, base_of(case), **changes)
    engine.layers.train()
    set_dropout_state(0, 0)
    ids = paddle.to_tensor(golden["input_ids"])
    logits = engine.layers.through(None, Batch(input_ids=ids))
    np.testing.assert_allclose(logits.numpy(), golden["logits"], rtol=1e-5, atol=1e-5)
    loss = next_token_loss(logits, ids)
    np.testing.assert_allclose(float(loss), golden["loss"], rtol=1e-5)
    loss.backward()
    compared = set()
    for name, held in engine.held.items():
        if not is_adapter(name):
            assert held.tensor.stop_gradient and held.tensor.grad is None, name
            continue
        grad = held.tensor.grad.numpy()
        for place in hf_places(held.rule):
            theirs = golden[f"grad.{place.key}"].T
            compared.add(place.key)
            if held.rule.hf_run is not None:
                theirs = theirs[:, place.offset : place.offset + grad.shape[1]]
            elif engine.held[name].rule.name.endswith("lora_A") and "c_attn" in place.key and not changes:
                continue  # q, k and v have an A each, of whose gradients theirs is the sum: below
            np.testing.assert_allclose(grad, theirs, rtol=1e-5, atol=1e-6, err_msg=name)
    assert compared == {name.removeprefix("grad.") for name in golden if name.startswith("grad.")}
    if case == "gpt2" and not changes:
        for layer in range(engine.config.num_hidden_layers):
            names = [f"gpt.decoder.layers.{layer}.self_attn.{part}_proj.lora_A" for part in "qkv"]
            summed = sum(engine.held[name].tensor.grad.numpy() for name in names)
            theirs = golden[f"grad.base_model.model.transformer.h.{layer}.attn.c_attn.lora_A.weight"].T
            np.testing.assert_allclose(summed, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_losses_of_training(case):
    """With PEFT's layout of layers (GPT-2 has q, k and v in one)."""
    golden = load_file(GOLDEN / case / "golden.safetensors")
    changes = FUSED_QKV if case == "gpt2" else {}
    engine = of_golden(GOLDEN / case, base_of(case), OptimizerSettings(max_grad_norm=0.0), **changes)
    ids = golden["input_ids"]
    fields = {"input_ids": ids[:, :-1], "labels": ids[:, 1:].copy()}
    found = [engine.train_step([fields], 1e-2).loss for _ in golden["losses"]]
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-5, atol=1e-5)
