"""Prefixes that Hugging Face's PEFT made, and what PEFT on transformers computes with them.

    /path/to/oracle/python tests/peft/golden/make_prefix_golden.py

Needs torch==2.13.0, transformers==5.23.0, peft==0.21.2 (CPU). Each case takes the tiny model of a plugin's golden
folder and writes a folder with `adapter_config.json` and `adapter_model.safetensors` as PEFT saves them, and
`prefix.safetensors`: `input_ids` int64 [B, S], `logits` [B, S, V], `loss` (mean next-token cross entropy), `losses`
[STEPS] of AdamW training (learning rate 1e-2, no weight decay) on the same ids, and `grad.NAME` of every tensor of
PEFT's prompt encoder, of a projection `value.NAME` too (PEFT saves what the projection gives, not itself).
`padded_logits` are those of the same ids with `attention_mask`, by which the last sample begins with pads. All is
computed in float64 by the reference and rounded to float32. Writes the same bytes again.
"""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PrefixTuningConfig, get_peft_model
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

from golden import NOISE, double_precision  # noqa: E402

STEPS, LEARNING_RATE = 5, 1e-2
TOKENS, PADS = 5, 3


@dataclass(frozen=True)
class Case:
    """The base's folder, and what PrefixTuningConfig is given."""

    base: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "prefix_llama": Case("plugins/llama/tests/golden/llama3_gqa", 11),
    "prefix_qwen2": Case("plugins/qwen/tests/golden/qwen2_gqa", 12),
    "prefix_bloom": Case("plugins/bloom/tests/golden/four_heads", 13),
    "prefix_gpt2": Case("plugins/gpt3/tests/golden/gpt2", 14),
    "prefix_llama_projected": Case(
        "plugins/llama/tests/golden/llama3_gqa", 15, {"prefix_projection": True, "encoder_hidden_size": 24}
    ),
}


def loss_of(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return logits, torch.nn.functional.cross_entropy(flat, ids[:, 1:].reshape(-1))


def padded(model: Any, ids: torch.Tensor, has_positions: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask and the logits of the ids, of which the last sample's first are pads."""
    mask = torch.ones_like(ids)
    mask[-1, :PADS] = 0
    more = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if has_positions else {}
    with torch.no_grad():
        return mask, model(input_ids=ids, attention_mask=mask, **more).logits


def make(name: str, case: Case) -> None:
    folder = REPOSITORY / case.base
    ids = torch.tensor(load_file(folder / "golden.safetensors")["input_ids"])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    wrapped = get_peft_model(
        model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS, **case.options)
    )
    trained = {key: tensor for key, tensor in wrapped.named_parameters() if tensor.requires_grad}
    for key, tensor in trained.items():
        rng = np.random.default_rng([case.seed, zlib.crc32(key.encode())])
        size = 1.0 if "embedding" in key else 0.3
        tensor.data = torch.tensor(rng.standard_normal(tuple(tensor.shape)).astype(np.float32) * size)
    wrapped.peft_config["default"].base_model_name_or_path = case.base
    out = HERE / name
    wrapped.save_pretrained(out)
    (out / "README.md").unlink()
    settings = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    found: dict[str, Any] = {"input_ids": ids.numpy()}
    short = {key: key.replace("prompt_encoder.default.", "") for key in trained}
    if case.options.get("prefix_projection"):
        found |= {f"value.{short[key]}": tensor.detach().numpy().copy() for key, tensor in trained.items()}
    narrow = loss_of(wrapped, ids)[0].detach().numpy()
    with double_precision():
        wrapped = wrapped.double()
        trained = {key: tensor for key, tensor in wrapped.named_parameters() if tensor.requires_grad}
        logits, loss = loss_of(wrapped, ids)
        loss.backward()
        noise = float(np.abs(narrow - logits.detach().numpy()).max())
        if noise > NOISE:
            raise SystemExit(f"{name}: float32 moves logits by {noise:.1e}, too much to compare at 1e-5")
        found |= {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
        found |= {f"grad.{short[key]}": tensor.grad.numpy().copy() for key, tensor in trained.items()}
        mask, other = padded(wrapped, ids, "bloom" not in name)
        found |= {"attention_mask": mask.numpy(), "padded_logits": other.numpy()}
        optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, weight_decay=0.0)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(wrapped, ids)[1]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    found["losses"] = np.array(losses)
    floats = {key: v.astype(np.float32) if v.dtype == np.float64 else v for key, v in found.items()}
    save_file({key: np.ascontiguousarray(values) for key, values in floats.items()}, out / "prefix.safetensors")
    print(name, len(trained), "tensors, losses", [round(x, 5) for x in losses])


if __name__ == "__main__":
    for chosen in sys.argv[1:] or CASES:
        make(chosen, CASES[chosen])
