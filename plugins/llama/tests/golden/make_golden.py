"""Make the Llama golden folders beside this file from Hugging Face transformers.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0, safetensors==0.8.0, numpy==2.3.5.
Run it as `python make_golden.py` (all cases) or `python make_golden.py NAME ...`; it writes the same bytes every time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.43.0",
    "use_cache": True,
    "vocab_size": 67,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
    "rope_type": "llama3",
}


@dataclass(frozen=True)
class Case:
    """`config` over BASE, less the keys of `without`; `control` is a change that must visibly change the logits."""

    config: Mapping[str, Any]
    without: tuple[str, ...] = ()
    length: int = 20
    shards: int = 1
    control: Mapping[str, Any] = field(default_factory=dict)
    inputs: str = "plain"


CASES = {
    # Llama 1 published 1e-6 and no num_key_value_heads, rope_theta or rope_scaling.
    "llama1_mha": Case(
        {"rms_norm_eps": 1e-06, "transformers_version": "4.28.1"},
        without=(
            "attention_bias",
            "attention_dropout",
            "num_key_value_heads",
            "pretraining_tp",
            "rope_scaling",
            "rope_theta",
        ),
        control={"rope_theta": 500000.0},
    ),
    "llama3_gqa": Case(
        {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 2, "rope_theta": 500000.0},
        control={"rope_theta": 10000.0},
    ),
    "llama31_rope_llama3": Case(
        {
            "head_dim": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_theta": 10000.0,
            "rope_scaling": LLAMA3_SCALING,
            "max_position_embeddings": 128,
        },
        length=40,
        control={"rope_scaling": None},
    ),
    "rope_linear": Case({"rope_scaling": {"type": "linear", "factor": 4.0}}, control={"rope_scaling": None}),
    "rope_dynamic": Case(
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
        length=36,
        control={"rope_scaling": None},
    ),
    "tied": Case(
        {"tie_word_embeddings": True, "num_key_value_heads": 2, "num_hidden_layers": 3},
        control={"num_key_value_heads": 2, "rope_theta": 100.0},
    ),
    "bias_odd_heads": Case(
        {
            "attention_bias": True,
            "hidden_size": 40,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "head_dim": 6,
            "vocab_size": 101,
        },
    ),
    "sharded": Case({"num_hidden_layers": 3, "num_key_value_heads": 2}, length=16, shards=3),
    "left_padded": Case({"num_key_value_heads": 2}, inputs="left_padded"),
    "packed": Case({"num_key_value_heads": 2}, inputs="packed"),
}


def load(folder: Path) -> torch.nn.Module:
    """The float32 model of `folder`, read as any user would; a missing or surplus tensor stops the script."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(info.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{folder.name}: {info}")
    return model


def rebuild(model: torch.nn.Module, published: Mapping[str, Any]) -> torch.nn.Module:
    """A model of the same weights in the precision of the moment, from a published configuration."""
    config = type(model.config)(**{k: v for k, v in published.items() if v is not None and k != "torch_dtype"})
    config._attn_implementation = "eager"
    other = type(model)(config)
    other.load_state_dict(model.state_dict())
    return other


def published_config(name: str) -> dict[str, Any]:
    case = CASES[name]
    return {key: value for key, value in {**BASE, **case.config}.items() if key not in case.without}


def make_inputs(case: Case, vocab: int, seed: int) -> tuple[golden.Forward, dict[str, np.ndarray], np.ndarray]:
    """A function that runs a model, the tensors to store, and the labels."""
    ids = golden.random_ids(vocab, 2, case.length, seed)
    if case.inputs == "left_padded":
        mask = np.ones_like(ids)
        mask[1, :7] = 0
        ids[mask == 0] = 0
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        labels = np.where(mask == 1, ids, golden.IGNORED)
        # The first real token has no real context that could predict it.
        labels[1, 7] = golden.IGNORED
        tensors = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels}
        arguments = {k: torch.from_numpy(tensors[k]) for k in ("input_ids", "attention_mask", "position_ids")}
        keep = torch.from_numpy(mask)[:, :, None]
        return lambda model: model(**arguments, use_cache=False).logits * keep, tensors, labels
    if case.inputs == "packed":
        lengths = (case.length - 7, 7)
        parts = [row[None, :n] for row, n in zip(ids, lengths, strict=True)]
        packed = np.concatenate(parts, axis=1)
        labels = packed.copy()
        labels[0, lengths[0]] = golden.IGNORED
        positions = np.concatenate([np.arange(n) for n in lengths])[None]
        tensors = {
            "input_ids": packed,
            "position_ids": positions,
            "labels": labels,
            "sequence_lengths": np.array(lengths, dtype=np.int64),
        }

        def separately(model: torch.nn.Module) -> torch.Tensor:
            runs = [model(input_ids=torch.from_numpy(part.copy()), use_cache=False).logits for part in parts]
            return torch.cat(runs, dim=1)

        return separately, tensors, labels
    return lambda model: model(input_ids=torch.from_numpy(ids), use_cache=False).logits, {"input_ids": ids}, ids


def make(name: str) -> None:
    case, folder, seed = CASES[name], HERE / name, 1000 + list(CASES).index(name)
    config = published_config(name)
    plain = {k: v for k, v in config.items() if v is not None and k != "torch_dtype"}
    empty = transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain))
    shapes = {parameter: value.shape for parameter, value in empty.named_parameters()}
    golden.write_model_folder(folder, config, golden.random_weights(shapes, seed), case.shards)
    forward, inputs, labels = make_inputs(case, config["vocab_size"], seed)
    model = load(folder)
    single = golden.reference(model, forward, labels, list(shapes))
    with golden.double_precision():
        exact = golden.reference(rebuild(model, config), forward, labels, list(shapes))
        if case.control:
            other = golden.reference(rebuild(model, {**config, **case.control}), forward, labels, list(shapes))
            if np.abs(other.logits - exact.logits).max() < 1e-2:
                raise SystemExit(f"{name}: {case.control} changes nothing, so the case proves nothing")
    golden.write_case(folder, exact, single, inputs)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CASES:
        make(wanted)
