"""Make the golden folders beside this file from modelscope's torch code of ChatGLM-6B and ChatGLM2-6B.

The logits of every case are computed a second time, from the published description in float64 numpy (`described`).

Python 3.11, torch==2.13.0 (CPU), modelscope==1.9.5, transformers==4.33.3, safetensors==0.8.0, numpy==1.26.4
(the README says how to install them). Run it as `python make_golden.py` or `python make_golden.py NAME ...`;
it writes the same bytes every time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
from modelscope.models.nlp.chatglm import text_generation as v1  # noqa: E402
from modelscope.models.nlp.chatglm.tokenization import ChatGLMTokenizer  # noqa: E402
from modelscope.models.nlp.chatglm2 import text_generation as v2  # noqa: E402
from transformers.utils import PaddingStrategy  # noqa: E402

V1: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "bos_token_id": 64,
    "eos_token_id": 65,
    "gmask_token_id": 61,
    "hidden_size": 32,
    "inner_hidden_size": 32,
    "layernorm_epsilon": 1e-05,
    "mask_token_id": 60,
    "max_sequence_length": 64,
    "model_type": "chatglm",
    "num_attention_heads": 4,
    "num_layers": 2,
    "pad_token_id": 3,
    "position_encoding_2d": True,
    "torch_dtype": "float32",
    "transformers_version": "4.23.1",
    "use_cache": True,
    "vocab_size": 67,
}
V2: dict[str, Any] = {
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["ChatGLMModel"],
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "eos_token_id": 2,
    "ffn_hidden_size": 24,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 32,
    "kv_channels": 8,
    "layernorm_epsilon": 1e-05,
    "model_type": "chatglm",
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "pad_token_id": 0,
    "padded_vocab_size": 67,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 64,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.27.1",
    "use_cache": True,
}
GMASK, MASK = "gmask_token_id", "mask_token_id"
WIDE_HEAD = {"hidden_size": 24, "num_attention_heads": 1}


@dataclass(frozen=True)
class Case:
    """`config` over the base of its generation.

    A row of `rows` is (length, then for v1: the kind of mask, its place, the place of bos); shorter rows are padded
    on the left to the longest, as the model's own tokenizer does. `rounded`: it must matter that v1's rotary
    frequencies are float16.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[tuple[Any, ...], ...] = ()
    second: bool = False
    rounded: bool = False

    @property
    def published(self) -> dict[str, Any]:
        return {**(V2 if self.second else V1), **self.config}


CASES = {
    "chatglm1_gmask": Case(rows=((20, GMASK, 9, 10), (20, GMASK, 13, 14))),
    "chatglm1_mask": Case(
        rows=((20, MASK, 4, 10), (20, GMASK, 6, 12)), config={"tie_word_embeddings": False, **WIDE_HEAD}
    ),
    # Two rounds of chat (the first is part of the prompt) beside one that is shorter.
    "chatglm1_rounds_padded": Case(
        rows=((54, GMASK, 39, 40), (30, GMASK, 21, 22)),
        config={"num_layers": 3, "inner_hidden_size": 24, **WIDE_HEAD},
        rounded=True,
    ),
    "chatglm1_odd_heads": Case(
        rows=((18, MASK, 3, 9), (13, GMASK, 5, 6)),
        config={
            "hidden_size": 24,
            "num_attention_heads": 3,
            "vocab_size": 101,
            "bos_token_id": 98,
            "eos_token_id": 99,
            "gmask_token_id": 95,
            "mask_token_id": 94,
        },
    ),
    "chatglm1_plain_positions": Case(
        rows=((18, MASK, 3, 9), (18, GMASK, 11, 12)), config={"position_encoding_2d": False, "hidden_size": 24}
    ),
    "chatglm2_groups": Case(rows=((20,), (20,)), second=True),
    "chatglm2_one_group": Case(
        rows=((18,), (18,)),
        second=True,
        config={"num_attention_heads": 5, "multi_query_group_num": 1, "hidden_size": 24, "padded_vocab_size": 101},
    ),
    "chatglm2_padded": Case(
        rows=((22,), (15,)),
        second=True,
        config={"num_attention_heads": 6, "add_bias_linear": True, "num_layers": 3, "hidden_size": 20},
    ),
}


def modelscope_model(config: Mapping[str, Any]) -> torch.nn.Module:
    """modelscope's class in the precision of the moment, without a tokenizer."""
    dtype, is_v2 = torch.get_default_dtype(), "padded_vocab_size" in config
    values = {name: value for name, value in config.items() if name != "torch_dtype"}
    stub = SimpleNamespace(from_pretrained=lambda *_args, **_kw: None)
    if is_v2:
        v2.ChatGLM2Tokenizer = stub
        settings = v2.ChatGLM2Config(**{**values, "bias_dropout_fusion": False}, torch_dtype=dtype)
        return v2.ChatGLM2ForConditionalGeneration(settings, empty_init=False)
    v1.ChatGLMTokenizer = stub
    model = v1.ChatGLMForConditionalGeneration(v1.ChatGLMConfig(**values)).to(dtype)
    for layer in model.transformer.layers:
        layer.num_layers = config["num_layers"]
    if config.get("tie_word_embeddings", True):
        model.lm_head.weight = model.transformer.word_embeddings.weight
    return model


def make_ids(case: Case, seed: int) -> list[list[int]]:
    """The rows without padding; none holds a special token by chance."""
    config = case.published
    special = {config.get(name) for name in (GMASK, MASK, "bos_token_id", "pad_token_id")}
    vocab = config["padded_vocab_size" if case.second else "vocab_size"]
    usable = np.array([token for token in range(vocab) if token not in special])
    rows = []
    for number, (length, *places) in enumerate(case.rows):
        row = usable[golden.random_ids(len(usable), 1, length, seed + 100 * number)[0]].tolist()
        if places:
            kind, mask_at, bos_at = places
            row[mask_at], row[bos_at] = config[kind], config["bos_token_id"]
        rows.append(row)
    return rows


def own_inputs(row: list[int], length: int, config: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mask [1, S, S] (true hides) and positions [2, S] that v1's own tokenizer makes of a row, padded to `length`."""
    names = {"<sop>": "bos_token_id", "[MASK]": MASK, "[gMASK]": GMASK}
    tokenizer = SimpleNamespace(
        sp_tokenizer={text: config[name] for text, name in names.items()},
        bos_token="<sop>",
        mask_token="[MASK]",
        gmask_token="[gMASK]",
        pad_token_id=config["pad_token_id"],
        padding_side="left",
        model_input_names=["input_ids"],
    )
    made = ChatGLMTokenizer._pad(
        tokenizer, {"input_ids": list(row)}, max_length=length, padding_strategy=PaddingStrategy.MAX_LENGTH
    )
    return made["attention_mask"], made["position_ids"]


def plain_positions(row: list[int], config: Mapping[str, Any]) -> np.ndarray:
    """One row of positions, where `position_encoding_2d` is false: what modelscope's code means.

    Its assignment for [MASK] indexes the batch instead of the sequence, so that nothing happens.
    """
    positions = np.arange(len(row), dtype=np.int64)
    if config[GMASK] not in row:
        positions[row.index(config["bos_token_id"]) :] = row.index(config[MASK])
    return positions


def make(name: str, seed: int) -> None:
    case = CASES[name]
    config, folder, rows = case.published, HERE / name, make_ids(case, seed)
    length = max(len(row) for row in rows)
    shapes = {parameter: value.shape for parameter, value in modelscope_model(config).named_parameters()}
    weights = golden.random_weights(shapes, seed)
    for key in weights:
        if "query_key_value.weight" in key:
            weights[key] *= 1.5 if case.second else 2.5
    files = dict(weights)
    if not case.second:
        # The published files of v1 hold a tied head too.
        files.setdefault("lm_head.weight", weights["transformer.word_embeddings.weight"])
    golden.write_model_folder(folder, config, files)

    real = np.array([[0] * (length - len(row)) + [1] * len(row) for row in rows], np.int64)
    ids = np.array([[config["pad_token_id"]] * (length - len(row)) + row for row in rows], np.int64)
    labels = np.where(real == 1, ids, golden.IGNORED)
    for number, row in enumerate(rows):
        if len(row) < length:
            labels[number, length - len(row)] = golden.IGNORED
    keep = torch.from_numpy(real)[:, :, None]
    arguments: dict[str, torch.Tensor] = {"input_ids": torch.from_numpy(ids)}
    tensors = {"input_ids": ids}
    if case.second:
        arguments["position_ids"] = torch.from_numpy(np.maximum(real.cumsum(1) - 1, 0))
        arguments["attention_mask"] = torch.from_numpy(real)
    else:
        masks, positions = zip(*(own_inputs(row, length, config) for row in rows), strict=True)
        if not config["position_encoding_2d"]:
            positions = tuple(plain_positions(row, config) for row in rows)
        arguments["attention_mask"] = torch.from_numpy(np.stack(masks))
        arguments["position_ids"] = torch.from_numpy(np.stack(positions))
    if not real.all():
        tensors |= {"attention_mask": real, "labels": labels}
        if case.second:
            tensors["position_ids"] = arguments["position_ids"].numpy()

    def loaded() -> torch.nn.Module:
        model = modelscope_model(config)
        missing = model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
        if [key for key in missing.missing_keys if key != "lm_head.weight" and "inv_freq" not in key]:
            raise SystemExit(f"{name}: {missing}")
        return model

    def forward(model: torch.nn.Module) -> torch.Tensor:
        return model(**arguments, use_cache=False).logits * keep

    single = golden.reference(loaded(), forward, labels, list(shapes))
    with golden.double_precision():
        exact = golden.reference(loaded(), forward, labels, list(shapes))
        alone(name, loaded().eval(), rows, exact.logits, config)
        for number, row in enumerate(rows):
            other = described(config, weights, row)
            difference = np.abs(other - exact.logits[number, -len(row) :]).max()
            if difference > 1e-11:
                raise SystemExit(f"{name}: modelscope and the description differ by {difference:.1e}")
        if case.rounded:
            finer = golden.reference(unrounded(loaded()), forward, labels, list(shapes))
            change = np.abs(finer.logits - exact.logits).max()
            if change < 1e-4:
                raise SystemExit(f"{name}: rounding the frequencies moves logits by {change:.0e} only")
    golden.write_case(folder, exact, single, tensors)


def turned(x: np.ndarray, positions: np.ndarray, frequencies: np.ndarray, neighbours: bool) -> np.ndarray:
    """Rotate pairs of features of x [S, heads, width]: pairs of neighbours, or of the same place in both halves."""
    half = x.shape[-1] // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if neighbours else (slice(0, half), slice(half, None))
    angle = positions[:, None, None] * frequencies
    out = np.empty_like(x)
    out[..., first] = x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle)
    out[..., second] = x[..., second] * np.cos(angle) + x[..., first] * np.sin(angle)
    return out


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, prompt: int) -> np.ndarray:
    """[S, heads * width]; every query sees what is before it and the first `prompt` keys."""
    length, heads, width = q.shape
    out = np.empty(q.shape)
    for at in range(length):
        seen = max(prompt, at + 1)
        for head in range(heads):
            group = head // (heads // k.shape[1])
            scores = np.exp(k[:seen, group] @ q[at, head] / math.sqrt(width))
            out[at, head] = scores @ v[:seen, group] / scores.sum()
    return out.reshape(length, heads * width)


def described(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], row: list[int]) -> np.ndarray:
    """Logits [S, V] of one row without padding."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    return (described_v2 if "padded_vocab_size" in config else described_v1)(config, w, row)


def described_v1(config: Mapping[str, Any], w: Mapping[str, np.ndarray], row: list[int]) -> np.ndarray:
    heads, length = config["num_attention_heads"], len(row)
    width = config["hidden_size"] // heads
    prompt, is_gmask = row.index(config["bos_token_id"]), config[GMASK] in row
    blank, place = row.index(config[GMASK] if is_gmask else config[MASK]), np.arange(length)
    stays = config["position_encoding_2d"] or not is_gmask
    positions = [np.where(place < prompt, place, blank) if stays else place]
    if config["position_encoding_2d"]:
        positions.append(np.maximum(place - prompt + 1, 0))
    share = width // len(positions)
    frequencies = (1.0 / 10000.0 ** (np.arange(0, share, 2) / share)).astype(np.float16).astype(np.float64)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + config["layernorm_epsilon"]) * w[name + ".weight"]
            + w[name + ".bias"]
        )

    def rotated(x: np.ndarray) -> np.ndarray:
        parts = np.split(x, len(positions), axis=-1)
        return np.concatenate([turned(p, at, frequencies, False) for p, at in zip(parts, positions, strict=True)], -1)

    alpha, hidden = math.sqrt(2 * config["num_layers"]), w["transformer.word_embeddings.weight"][row]
    for number in range(config["num_layers"]):
        block = f"transformer.layers.{number}."
        x = norm(hidden, block + "input_layernorm")
        fused = linear(x, block + "attention.query_key_value").reshape(length, heads, 3, width)
        mixed = attended(rotated(fused[:, :, 0]), rotated(fused[:, :, 1]), fused[:, :, 2], prompt)
        x = norm(alpha * x + linear(mixed, block + "attention.dense"), block + "post_attention_layernorm")
        inner = linear(x, block + "mlp.dense_h_to_4h")
        inner = 0.5 * inner * (1 + np.tanh(0.7978845608028654 * (inner + 0.044715 * inner**3)))
        hidden = alpha * x + linear(inner, block + "mlp.dense_4h_to_h")
    head = w.get("lm_head.weight", w["transformer.word_embeddings.weight"])
    return norm(hidden, "transformer.final_layernorm") @ head.T


def described_v2(config: Mapping[str, Any], w: Mapping[str, np.ndarray], row: list[int]) -> np.ndarray:
    heads, groups, width = config["num_attention_heads"], config["multi_query_group_num"], config["kv_channels"]
    length, share = len(row), width // 2
    frequencies = 1.0 / 10000.0 ** (np.arange(0, share, 2) / share)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["layernorm_epsilon"]) * w[name + ".weight"]

    def rotated(x: np.ndarray) -> np.ndarray:
        return np.concatenate([turned(x[..., :share], np.arange(length), frequencies, True), x[..., share:]], -1)

    hidden = w["transformer.embedding.word_embeddings.weight"][row]
    for number in range(config["num_layers"]):
        block = f"transformer.encoder.layers.{number}."
        fused = linear(norm(hidden, block + "input_layernorm"), block + "self_attention.query_key_value")
        q, k, v = np.split(fused.reshape(length, -1, width), [heads, heads + groups], axis=1)
        mixed = attended(rotated(q), rotated(k), v, 0)
        hidden = hidden + linear(mixed, block + "self_attention.dense")
        gate, up = np.split(
            linear(norm(hidden, block + "post_attention_layernorm"), block + "mlp.dense_h_to_4h"), 2, -1
        )
        hidden = hidden + linear(gate / (1 + np.exp(-gate)) * up, block + "mlp.dense_4h_to_h")
    return norm(hidden, "transformer.encoder.final_layernorm") @ w["transformer.output_layer.weight"].T


def unrounded(model: torch.nn.Module) -> torch.nn.Module:
    """v1 with rotary frequencies that were never float16."""
    for layer in model.transformer.layers:
        frequencies = layer.attention.rotary_emb.inv_freq
        width = 2 * len(frequencies)
        frequencies.copy_(1.0 / 10000 ** (torch.arange(0, width, 2) / width))
    return model


def alone(
    name: str, model: torch.nn.Module, rows: list[list[int]], logits: np.ndarray, config: Mapping[str, Any]
) -> None:
    """Stop unless each row by itself, masks and positions left to the model's own code, has the same logits."""
    for number, row in enumerate(rows):
        if not config.get("position_encoding_2d", True) and config[GMASK] not in row:
            continue
        with torch.no_grad():
            own = model(input_ids=torch.tensor([row]), use_cache=False).logits.numpy()[0]
        difference = np.abs(own - logits[number, -len(row) :]).max()
        if difference > 1e-12:
            raise SystemExit(f"{name}: row {number} alone differs by {difference:.1e}")


if __name__ == "__main__":
    for number, case_name in enumerate(CASES):
        if not sys.argv[1:] or case_name in sys.argv[1:]:
            make(case_name, 4000 + number)
