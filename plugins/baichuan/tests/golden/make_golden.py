"""Make the golden folders with gradients beside this file: transformers' Llama (7B) and a plain ALiBi reference (13B).

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden.py` (all cases) or `python make_golden.py NAME ...`; it writes the same bytes every time.
Longer models without gradients come from llama.cpp: see `make_golden_llamacpp.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
from plain_baichuan import ParameterTree, by_llama, plain, shapes  # noqa: E402

BASE: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 20,
    "model_type": "baichuan",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.29.2",
    "use_cache": True,
    "vocab_size": 67,
}
ODD: dict[str, Any] = {"hidden_size": 30, "intermediate_size": 16, "num_attention_heads": 5, "vocab_size": 101}
ROPE: dict[str, Any] = {"architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 64}
ALIBI: dict[str, Any] = {"_from_model_config": True, "model_max_length": 64}
ROPE2: dict[str, Any] = {
    "_from_model_config": True,
    "max_position_embeddings": 64,
    "model_max_length": 64,
    "z_loss_weight": 0,
}
ALIBI2: dict[str, Any] = {**ALIBI, "z_loss_weight": 0}
PADS, SECOND_LENGTH = 7, 7


@dataclass(frozen=True)
class Case:
    """`config` over the base; `inputs` is plain, left_padded or packed; the generation and the size follow from it."""

    config: Mapping[str, Any]
    inputs: str = "plain"
    length: int = 20

    @property
    def published(self) -> dict[str, Any]:
        return {**BASE, **self.config}

    @property
    def alibi(self) -> bool:
        return "max_position_embeddings" not in self.config

    @property
    def normalised(self) -> bool:
        return "z_loss_weight" in self.config


CASES = {
    "v1_7b": Case(ROPE),
    "v1_7b_odd_heads": Case({**ROPE, **ODD}, length=16),
    "v1_7b_left_padded": Case(ROPE, "left_padded"),
    "v1_13b": Case(ALIBI, length=36),
    "v1_13b_odd_heads_left_padded": Case({**ALIBI, **ODD}, "left_padded", 16),
    "v1_13b_packed": Case(ALIBI, "packed"),
    "v2_7b_odd_heads": Case({**ROPE2, **ODD}, length=16),
    "v2_13b_left_padded": Case({**ALIBI2, "num_attention_heads": 6}, "left_padded"),
}


def weights_of(case: Case, seed: int) -> dict[str, np.ndarray]:
    """Random weights; attention is not flat, and a head to be normalised has rows of length 0.2 to 2."""
    weights = golden.random_weights(shapes(case.published), seed)
    for name in weights:
        if "W_pack" in name:
            weights[name] *= np.float32(1.6)
    if case.normalised:
        rows = np.exp(np.linspace(-1.0, 1.2, case.published["vocab_size"], dtype=np.float32))
        weights["lm_head.weight"] *= rows[:, None]
    return weights


def make(name: str, case: Case, seed: int) -> None:
    config, folder = case.published, HERE / name
    weights = weights_of(case, seed)
    golden.write_model_folder(folder, config, weights)
    ids = golden.random_ids(config["vocab_size"], 2, case.length, seed)
    labels, inputs, mask, positions, lengths = ids, {"input_ids": ids}, None, None, (case.length,)
    if case.inputs == "left_padded":
        real = np.ones_like(ids)
        real[1, :PADS] = 0
        ids[real == 0] = 0
        labels = np.where(real == 1, ids, golden.IGNORED)
        # The first real token has no real context that could predict it.
        labels[1, PADS] = golden.IGNORED
        place = np.maximum(real.cumsum(1) - 1, 0)
        inputs = {"input_ids": ids, "attention_mask": real, "position_ids": place, "labels": labels}
        mask, positions = torch.from_numpy(real), torch.from_numpy(place)
    elif case.inputs == "packed":
        lengths = (case.length - SECOND_LENGTH, SECOND_LENGTH)
        ids = np.concatenate([row[:n] for row, n in zip(ids, lengths, strict=True)])[None]
        labels = ids.copy()
        labels[0, lengths[0]] = golden.IGNORED
        place = np.concatenate([np.arange(n) for n in lengths])[None]
        inputs = {"input_ids": ids, "position_ids": place, "labels": labels, "sequence_lengths": np.array(lengths)}

    def run(tensors: Mapping[str, torch.Tensor], which: str, **changes: Any) -> torch.Tensor:
        normalised, alibi = changes.get("normalised", case.normalised), changes.get("alibi", case.alibi)
        logits = []
        for part in torch.from_numpy(ids.copy()).split(lengths, dim=1):
            if which == "llama":
                logits.append(by_llama(config, tensors, part, normalised, mask, positions))
            else:
                logits.append(plain(config, tensors, part, normalised, mask, alibi=alibi))
        return torch.cat(logits, 1) if mask is None else torch.cat(logits, 1) * mask[..., None]

    def forward(model: torch.nn.Module) -> torch.Tensor:
        return run(model.tensors(), "plain" if case.alibi else "llama")

    def tree() -> ParameterTree:
        default = torch.get_default_dtype()
        return ParameterTree({key: torch.from_numpy(value).to(default) for key, value in weights.items()})

    single = golden.reference(tree(), forward, labels, list(weights))
    with golden.double_precision():
        exact = golden.reference(tree(), forward, labels, list(weights))
        with torch.no_grad():
            second = run(tree().tensors(), "plain").numpy()
            controls = [run(tree().tensors(), "plain", alibi=not case.alibi).numpy()]
            controls.append(run(tree().tensors(), "plain", normalised=not case.normalised).numpy())
    disagreement = np.abs(second - exact.logits).max()
    if disagreement > 1e-12:
        raise SystemExit(f"{name}: transformers and the plain reference differ by {disagreement:.1e}")
    if min(np.abs(other - exact.logits).max() for other in controls) < 1e-2:
        raise SystemExit(f"{name}: other positions or another head change nothing, so the case proves nothing")
    golden.write_case(folder, exact, single, inputs)
    if not case.alibi:
        print(f"{'':24s} plain float64 against float64 transformers: {disagreement:.1e}")


if __name__ == "__main__":
    for number, (case_name, one) in enumerate(CASES.items()):
        if not sys.argv[1:] or case_name in sys.argv[1:]:
            make(case_name, one, 6000 + number)
