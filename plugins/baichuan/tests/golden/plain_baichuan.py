"""Baichuan written plainly in torch, and by transformers' Llama: the two references of the golden scripts.

Both take the published tensors by name. The plain one follows the equations and nothing else: no cache, no fusing, one
loop over the layers; it computes in the precision of its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import transformers

__all__ = ["ParameterTree", "by_llama", "llama", "plain", "shapes"]

Tensors = Mapping[str, torch.Tensor]


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The published tensors of a configuration: those that transformers' Llama declares, with q, k and v in W_pack."""
    with torch.device("meta"):
        declared = {name: tuple(value.shape) for name, value in llama(config).named_parameters()}
    found = {}
    for name, shape in declared.items():
        if ".q_proj." in name:
            found[name.replace("q_proj", "W_pack")] = (3 * shape[0], shape[1])
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[name] = shape
    return found


def llama(config: Mapping[str, Any]) -> torch.nn.Module:
    """transformers' Llama of the same sizes."""
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    made = transformers.LlamaConfig(
        **{name: config[name] for name in sizes},
        rms_norm_eps=config["rms_norm_eps"],
        tie_word_embeddings=False,
        max_position_embeddings=4096,
        rope_theta=10000.0,
    )
    made._attn_implementation = "eager"
    return transformers.LlamaForCausalLM(made)


class ParameterTree(torch.nn.Module):
    """Parameters under dotted names, so that `named_parameters` gives those names back."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        for name, value in tensors.items():
            *path, last = name.split(".")
            module: torch.nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            module.register_parameter(last, torch.nn.Parameter(value.clone()))

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.named_parameters())


def head(w: Tensors, normalised: bool) -> torch.Tensor:
    """The weight that the logits are made with."""
    return F.normalize(w["lm_head.weight"], dim=-1) if normalised else w["lm_head.weight"]


def by_llama(
    config: Mapping[str, Any],
    w: Tensors,
    ids: torch.Tensor,
    normalised: bool,
    mask: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits [B, S, V] of the rope models by transformers' Llama, W_pack cut into its three parts."""
    mapped = {}
    for name, value in w.items():
        if "W_pack" in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                mapped[name.replace("W_pack", f"{part}_proj")] = piece
        else:
            mapped[name] = value
    mapped["lm_head.weight"] = head(w, normalised)
    arguments = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    return torch.func.functional_call(llama(config).eval(), mapped, kwargs=arguments).logits


def plain(
    config: Mapping[str, Any],
    w: Tensors,
    ids: torch.Tensor,
    normalised: bool,
    mask: torch.Tensor | None = None,
    *,
    alibi: bool,
) -> torch.Tensor:
    """Logits [B, S, V] by the equations; `mask` is 1 for a real token, and padding is on the left."""
    heads, batch, length = config["num_attention_heads"], *ids.shape
    width = config["hidden_size"] // heads
    dtype = w["lm_head.weight"].dtype
    real = torch.ones_like(ids) if mask is None else mask
    steps = torch.arange(length)
    # A token sees itself and what is before it and real; padding, which nobody sees, sees itself.
    seen = (steps[:, None] >= steps[None, :]) & (real[:, None, None, :] == 1) | torch.eye(length, dtype=torch.bool)
    bias = torch.zeros(heads, length, length, dtype=dtype)
    if alibi:
        distance = (steps[None, :] - steps[:, None]).to(dtype)
        bias = torch.tensor(slopes(heads), dtype=dtype)[:, None, None] * distance
    position = (real.cumsum(-1) - 1).clamp(min=0).to(dtype)
    angle = position[:, None, :, None] / 10000.0 ** (torch.arange(0, width, 2, dtype=dtype) / width)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return w[name] * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat(
            [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1
        )

    x = w["model.embed_tokens.weight"][ids]
    for number in range(config["num_hidden_layers"]):
        block = f"model.layers.{number}."
        packed = norm(x, block + "input_layernorm.weight") @ w[block + "self_attn.W_pack.weight"].T
        q, k, v = (t.reshape(batch, length, heads, width).transpose(1, 2) for t in packed.chunk(3, dim=-1))
        if not alibi:
            q, k = rotate(q), rotate(k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width) + bias
        weights = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)
        out = (weights @ v).transpose(1, 2).reshape(batch, length, -1)
        x = x + out @ w[block + "self_attn.o_proj.weight"].T
        y = norm(x, block + "post_attention_layernorm.weight")
        gate, up = y @ w[block + "mlp.gate_proj.weight"].T, y @ w[block + "mlp.up_proj.weight"].T
        x = x + (F.silu(gate) * up) @ w[block + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ head(w, normalised).T


def slopes(heads: int) -> Sequence[float]:
    """The slopes of ALiBi's paper; beyond a power of two, every second one of the next power's."""
    below = 2 ** math.floor(math.log2(heads))
    found = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    return found + [2 ** (-8 * (i + 1) / (2 * below)) for i in range(0, 2 * (heads - below), 2)]
