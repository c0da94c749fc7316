"""Make the GLM golden folders beside this file from modelscope and SwissArmyTransformer, and check them a second time.

Python 3.11, torch==2.13.0 (CPU), modelscope==1.9.5, swissarmytransformer==0.4.12, transformers==4.33.3,
safetensors==0.8.0, numpy==1.26.4 (the README says how to install them). Run it as `python make_golden.py` or
`python make_golden.py NAME ...`; it writes the same bytes every time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[3] / "tools"))

import golden  # noqa: E402
import oracles  # noqa: E402

Array = np.ndarray[Any, Any]
Config = Mapping[str, Any]

MASK, SMASK, GMASK, START, END = 3, 4, 5, 6, 7
IDS = {"MASK": MASK, "sop": START, "eop": END}
GLM: dict[str, Any] = {
    "architectures": ["GLMModel"],
    "attention_dropout_prob": 0.1,
    "attention_scale": 1.0,
    "block_position_encoding": True,
    "checkpoint_num_layers": 1,
    "embedding_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "mask_token_ids": [MASK, SMASK, GMASK],
    "max_sequence_length": 24,
    "model_type": "glm",
    "num_attention_heads": 4,
    "num_layers": 2,
    "output_dropout_prob": 0.1,
    "output_predict": True,
    "parallel_output": True,
    "pool_token": "cls",
    "relative_encoding": False,
    "spell_func": "lstm",
    "spell_length": None,
    "start_token_id": START,
    "torch_dtype": "float32",
    "vocab_size": 53,
}
GLM_130B: dict[str, Any] = {
    "architectures": ["GLM130B"],
    "hidden_size": 32,
    "inner_hidden_size": 20,
    "layernorm_order": "post",
    "mask_token_ids": [MASK, SMASK, GMASK],
    "max_sequence_length": 24,
    "model_type": "glm-130b",
    "num_attention_heads": 4,
    "num_layers": 2,
    "start_token_id": START,
    "torch_dtype": "float32",
    "vocab_size": 53,
}
ODD = {"hidden_size": 20, "num_attention_heads": 5, "vocab_size": 101}
ODD_130B = {"hidden_size": 30, "num_attention_heads": 5, "vocab_size": 101}
X = -1
"""In a row below: a random word."""


@dataclass(frozen=True)
class Case:
    """`rows` of one length; `pads` is what stands on the left of each, `packed` the lengths of the samples in row 0."""

    base: Config
    config: Config
    rows: tuple[tuple[int, ...], ...]
    pads: tuple[int, ...] = ()
    packed: tuple[int, ...] = ()
    control: bool = field(default=True)


def text(words: int) -> tuple[int, ...]:
    return (X,) * words


BLANKS = (
    (
        *text(2),
        MASK,
        *text(2),
        SMASK,
        *text(1),
        GMASK,
        START,
        *text(2),
        END,
        START,
        *text(1),
        END,
        START,
        *text(2),
        END,
    ),
    # One blank for two texts; the second stays there too.
    (*text(5), SMASK, *text(2), START, *text(3), END, START, *text(4), END),
)
SHORT = (
    (*text(3), MASK, *text(5), START, *text(5), END),
    (*text(5), SMASK, *text(1), GMASK, *text(1), START, *text(5), END),
)
LONG = ((*text(6), GMASK, START, *text(6), END), (*text(2), GMASK, START, *text(10), END))
PADDED = ((*text(7), GMASK, START, *text(6), END), (*text(2), MASK, *text(2), START, *text(3), END))
PACKED = ((*text(2), MASK, *text(2), START, *text(2), END, *text(4), GMASK, START, *text(3), END, *text(4)),)
CASES = {
    "glm_gmask": Case(GLM, {}, LONG),
    "glm_mask_odd_heads": Case(GLM, ODD, SHORT),
    "glm_blanks": Case(GLM, {}, BLANKS),
    "glm_no_mask": Case(GLM, {}, ((*text(5), START, *text(6)),)),
    "glm_left_padded": Case(GLM, {}, PADDED, pads=(0, 6)),
    "glm_packed": Case(GLM, {}, PACKED, packed=(9, 10, 4)),
    "glm_causal": Case(GLM, {}, (text(12), text(12)), control=False),
    "glm130b_gmask": Case(GLM_130B, {}, LONG),
    "glm130b_mask_odd_heads": Case(GLM_130B, ODD_130B, SHORT),
    "glm130b_blanks": Case(GLM_130B, {}, (BLANKS[0], BLANKS[0][:6] + (MASK,) + BLANKS[0][7:])),
    "glm130b_left_padded": Case(GLM_130B, {}, PADDED, pads=(0, 6)),
    "glm130b_packed": Case(GLM_130B, {}, PACKED, packed=(9, 10, 4)),
}


def stand(tokens: list[int], model_type: str) -> tuple[list[int], list[int], int]:
    """Position and block position of each token of one sample, and the length of what is read both ways.

    Token after token, from the papers' words: nothing of zoo is here.
    """
    if START not in tokens:
        return list(range(len(tokens))), [0] * len(tokens), 0
    prefix = tokens.index(START)
    if model_type == "glm":
        blanks = [i for i in range(prefix) if tokens[i] in (MASK, SMASK, GMASK)] or [prefix - 1]
    else:
        wanted = MASK if MASK in tokens[:prefix] else SMASK
        blanks = [i for i in range(prefix) if tokens[i] == wanted]
    positions, block, filling, inside = list(range(prefix)), [0] * prefix, -1, 0
    for i, token in enumerate(tokens[prefix:], start=prefix):
        if token == START:
            filling, inside = min(filling + 1, len(blanks) - 1), 0
        inside += 1
        positions.append(blanks[filling] if blanks else i)
        block.append(inside)
    return positions, block, prefix


def check_rule() -> None:
    """Stop unless `stand` says what GLM's pretraining, and GLM-130B's inference, say of the same tokens."""
    for spans in ([(2, 4), (6, 9)], [(1, 2)], [(3, 7), (8, 9), (9, 12)]):
        tokens, places, prefix = oracles.block_data(list(range(20, 34)), spans, IDS)
        positions, block, length = stand(tokens.tolist(), "glm")
        if (positions, block, length) != (places[0].tolist(), places[1].tolist(), prefix):
            raise SystemExit(f"the positions of {spans} are not those of GLM's pretraining")
    for prompt, at, gmask in (([20, 21, GMASK], 2, True), ([20, MASK, 21, 22], 1, False), ([20, SMASK, 21], 1, False)):
        wanted = oracles.inference_positions([*prompt, START], at, 4, gmask)
        if stand([*prompt, START, 30, 31, 32, 33], "glm-130b")[0] != wanted:
            raise SystemExit(f"the positions of {prompt} are not those of GLM-130B's inference")


@dataclass(frozen=True)
class Inputs:
    """One sample without padding: ids, positions, block positions [S], what sees what, bool [S, S], and labels [S]."""

    ids: Array
    position: Array
    block: Array
    sees: Array
    labels: Array


def sample(tokens: Array, model_type: str) -> Inputs:
    position, block, prefix = (np.asarray(each) for each in stand(tokens.tolist(), model_type))
    sees = np.tril(np.ones((len(tokens), len(tokens)), bool))
    sees[:, : int(prefix)] = True
    # A blank's text is learned after its start token; a text without blanks after its first.
    learned = (block > 1) | (block.max() == 0)
    return Inputs(tokens, position, block, sees, np.where(learned, tokens, golden.IGNORED))


def described(config: Config, weights: Mapping[str, Array], x: Inputs) -> Array:
    """Logits [S, V] of one sample from the papers' description, in float64 numpy: the second opinion."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    heads, length, large = config["num_attention_heads"], len(x.ids), config["model_type"] == "glm-130b"
    head = config["hidden_size"] // heads
    alpha = math.sqrt(2 * config["num_layers"])

    def norm(h: Array, name: str) -> Array:
        centred = h - h.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def linear(h: Array, name: str) -> Array:
        return h @ w[name + ".weight"].T + w[name + ".bias"]

    def turn(h: Array) -> Array:
        angle = x.position[:, None] / 10000 ** (np.arange(0, head, 2) / head)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = np.split(h, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    words = w["transformer.word_embeddings.weight" if large else "word_embeddings.weight"]
    h = words[x.ids]
    if not large:
        h = h + w["transformer.position_embeddings.weight"][x.position]
        h = h + w["transformer.block_position_embeddings.weight"][x.block]
    for number in range(config["num_layers"]):
        layer = f"transformer.layers.{number}."
        y = norm(h, layer + "input_layernorm")
        fused = linear(y, layer + "attention.query_key_value")
        if large:
            q, k, v = np.split(fused.reshape(length, heads, 3 * head), 3, axis=-1)
            q, k = turn(q), turn(k)
        else:
            q, k, v = (part.reshape(length, heads, head) for part in np.split(fused, 3, axis=-1))
        scores = np.where(x.sees, np.einsum("qnd,knd->nqk", q, k) / math.sqrt(head), -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = np.einsum("nqk,knd->qnd", scores / scores.sum(-1, keepdims=True), v).reshape(length, -1)
        h = (alpha * y if large else h) + linear(seen, layer + "attention.dense")
        y = norm(h, layer + "post_attention_layernorm")
        wide = linear(y, layer + "mlp.dense_h_to_4h")
        if large:
            up, gate = np.split(wide, 2, axis=-1)
            wide = up * gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
        else:
            wide = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
        h = (alpha * y if large else h) + linear(wide, layer + "mlp.dense_4h_to_h")
    return norm(h, "transformer.final_layernorm") @ words.T


def run(model: torch.nn.Module, config: Config, x: Inputs) -> torch.Tensor:
    """The reference implementation's logits [S, V] of one sample."""
    ids, sees = torch.from_numpy(x.ids)[None], torch.from_numpy(x.sees)[None, None]
    if config["model_type"] == "glm":
        places = torch.from_numpy(np.stack([x.position, x.block]))[None]
        return model(ids, places, sees.to(torch.get_default_dtype()))[0][0]
    return model(ids, torch.from_numpy(x.position)[None], ~sees)[0][0]


def make(name: str, seed: int) -> None:
    case, folder = CASES[name], HERE / name
    config = {**case.base, **case.config}
    model_type = config["model_type"]
    build = oracles.mglm if model_type == "glm" else oracles.swiss
    shapes = {parameter: value.shape for parameter, value in build(config).named_parameters()}
    weights = golden.random_weights(shapes, seed)
    golden.write_model_folder(folder, config, weights)
    words = np.random.default_rng([seed, 1]).integers(END + 1, config["vocab_size"], 1000).tolist()
    rows = [np.asarray([words.pop() if token == X else token for token in row]) for row in case.rows]
    rows[0][0] = config["vocab_size"] - 1
    cuts = np.cumsum(case.packed)[:-1] if case.packed else []
    samples = [sample(part, model_type) for row in rows for part in np.split(row, cuts)]

    def logits(one: Any) -> torch.Tensor:
        """Each sample by itself; then padded, or side by side, as they stand in the rows."""
        found = [one(x) for x in samples]
        if case.packed:
            return torch.cat(found)[None]
        longest = max(map(len, found))
        return torch.stack([torch.nn.functional.pad(f, (0, 0, longest - len(f), 0)) for f in found])

    def arranged(values: list[Array], filling: int) -> Array:
        if case.packed:
            return np.concatenate(values)[None]
        longest = max(map(len, values))
        return np.stack([np.pad(v, (longest - len(v), 0), constant_values=filling) for v in values])

    labels = arranged([x.labels for x in samples], golden.IGNORED)
    if case.packed:
        labels[0, cuts] = golden.IGNORED
    inputs = {"input_ids": arranged([x.ids for x in samples], 0), "labels": labels}
    if case.pads:
        inputs["attention_mask"] = arranged([np.ones_like(x.ids) for x in samples], 0)
    if case.packed:
        inputs["sequence_lengths"] = np.asarray(case.packed, dtype=np.int64)

    def loaded() -> torch.nn.Module:
        model = build(config)
        model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=False)
        return model.eval()

    def forward(model: torch.nn.Module) -> torch.Tensor:
        return logits(lambda x: run(model, config, x))

    single = golden.reference(loaded(), forward, labels, list(shapes))
    with golden.double_precision():
        exact = golden.reference(loaded(), forward, labels, list(shapes))
    check(name, config, weights, samples, exact, logits)
    golden.write_case(folder, exact, single, inputs)


def check(name: str, config: Config, weights: Any, samples: list[Inputs], exact: golden.Golden, logits: Any) -> None:
    """Stop where the second opinion differs, or where the blanks' rules change nothing."""

    def plain(change: Any) -> Array:
        return logits(lambda x: torch.from_numpy(described(config, weights, change(x)))).numpy()

    disagreement = np.abs(plain(lambda x: x) - exact.logits).max()
    if disagreement > 1e-12:
        raise SystemExit(f"{name}: the reference and the description differ by {disagreement:.1e}")
    print(f"{'':24s} float64 numpy against the reference: {disagreement:.1e}")
    if not CASES[name].control:
        return
    one_way = plain(lambda x: Inputs(x.ids, x.position, x.block, np.tril(x.sees), x.labels))
    nothing = [("the prefix", one_way)]
    run_on = plain(lambda x: Inputs(x.ids, np.arange(len(x.ids)), x.block, x.sees, x.labels))
    if any((x.position != np.arange(len(x.ids))).any() for x in samples):
        nothing.append(("the blank's position", run_on))
    if config["model_type"] == "glm":
        nothing.append(
            ("the block position", plain(lambda x: Inputs(x.ids, x.position, 0 * x.block, x.sees, x.labels)))
        )
    for what, other in nothing:
        if np.abs(other - exact.logits).max() < 1e-2:
            raise SystemExit(f"{name}: {what} changes nothing, so the case proves nothing")


if __name__ == "__main__":
    check_rule()
    for number, case_name in enumerate(CASES):
        if not sys.argv[1:] or case_name in sys.argv[1:]:
            make(case_name, 8000 + number)
