"""Adapters that Hugging Face's PEFT made, and what PEFT on transformers computes with them.

    /path/to/oracle/python tests/peft/golden/make_golden.py

Needs torch==2.13.0, transformers==5.23.0, peft==0.21.2 (CPU). Each case takes the tiny model of a plugin's golden
folder and writes a folder with `adapter_config.json` and `adapter_model.safetensors` as PEFT saves them, and
`golden.safetensors`: `input_ids` int64 [B, S], `logits` [B, S, V], `loss` (mean next-token cross entropy), `grad.NAME`
of every adapter tensor, and `losses` [STEPS] of AdamW training (learning rate 1e-2, no weight decay) on the same ids;
all computed in float64 by the reference and rounded to float32. Writes the same bytes again.
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
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

from golden import NOISE, double_precision  # noqa: E402

STEPS, LEARNING_RATE = 5, 1e-2
SIZE = 0.1


@dataclass(frozen=True)
class Case:
    """The base's folder, and what LoraConfig is given."""

    base: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "llama": Case("plugins/llama/tests/golden/llama3_gqa", 1, {"r": 4, "lora_alpha": 8}),
    "qwen2": Case("plugins/qwen/tests/golden/qwen2_gqa", 2, {"r": 3, "lora_alpha": 4, "use_rslora": True}),
    "bloom": Case("plugins/bloom/tests/golden/four_heads", 3, {"r": 4, "lora_alpha": 12}),
    "gpt2": Case("plugins/gpt3/tests/golden/gpt2", 4, {"r": 4, "lora_alpha": 8, "fan_in_fan_out": True}),
    "llama_some": Case(
        "plugins/llama/tests/golden/llama3_gqa", 5,
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"],
         "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 5}},
    ),
}  # fmt: skip


def loss_of(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(input_ids=ids, use_cache=False).logits
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return logits, torch.nn.functional.cross_entropy(flat, ids[:, 1:].reshape(-1))


def make(name: str, case: Case) -> None:
    folder = REPOSITORY / case.base
    ids = torch.tensor(load_file(folder / "golden.safetensors")["input_ids"])
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", **case.options}
    wrapped = get_peft_model(model, LoraConfig(**options))
    for key, tensor in wrapped.named_parameters():
        if tensor.requires_grad:
            rng = np.random.default_rng([case.seed, zlib.crc32(key.encode())])
            tensor.data = torch.tensor(rng.standard_normal(tuple(tensor.shape)).astype(np.float32) * SIZE)
    wrapped.peft_config["default"].base_model_name_or_path = case.base
    out = HERE / name
    wrapped.save_pretrained(out)
    (out / "README.md").unlink()
    settings = json.loads((out / "adapter_config.json").read_text())
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()  # PEFT keeps a set
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    found = {"input_ids": ids.numpy()}
    narrow = loss_of(wrapped, ids)[0].detach().numpy()
    with double_precision():
        wrapped = wrapped.double()
        logits, loss = loss_of(wrapped, ids)
        loss.backward()
        noise = float(np.abs(narrow - logits.detach().numpy()).max())
        if noise > NOISE:
            raise SystemExit(f"{name}: float32 moves logits by {noise:.1e}, too much to compare at 1e-5")
        found |= {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
        trained = {key: tensor for key, tensor in wrapped.named_parameters() if tensor.requires_grad}
        found |= {f"grad.{key.replace('.default', '')}": t.grad.numpy().copy() for key, t in trained.items()}
        optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, weight_decay=0.0)
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(wrapped, ids)[1]
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    found["losses"] = np.array(losses)
    floats = {key: v.astype(np.float32) if v.dtype == np.float64 else v for key, v in found.items()}
    save_file({key: np.ascontiguousarray(values) for key, values in floats.items()}, out / "golden.safetensors")
    print(name, len(trained), "tensors, losses", [round(x, 5) for x in losses])


if __name__ == "__main__":
    for chosen in sys.argv[1:] or CASES:
        make(chosen, CASES[chosen])
