"""What is compared: layouts, tiny models, and the batches of every step. No paddle; the workers read it too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo_core.capabilities import STRATEGIES
from zoo_core.plan import Request

DEFAULT_EPSILON = 1e-8
WEIGHTS_EPSILON = 1e-3
"""For weights: the default amplifies the rounding noise of gradients that are zero in exact arithmetic."""

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

STEPS = 10
HALFWAY = 5
FEW_STEPS = 5
"""Of the families after the first two: what takes time to go wrong is the engine's, and the first two show it."""
SAMPLES = 8
"""Samples of an optimizer step, whatever the layout."""
SEQUENCE = 16
CLIP = 0.2
"""Below every gradient norm of these runs, so that clipping bites at each step (asserted)."""
IGNORE = -100


@dataclass(frozen=True)
class Layout:
    """A plan's degrees, and how many samples of a replica are in a micro batch."""

    world: int
    degrees: dict[str, Any] = field(default_factory=dict)
    micro: int = 4

    @property
    def replicas(self) -> int:
        return self.world // (self.degrees.get("tensor", 1) * self.degrees.get("pipeline", 1))

    @property
    def accumulate(self) -> int:
        return SAMPLES // (self.replicas * self.micro)


def _sharded(stage: int, **degrees: Any) -> dict[str, Any]:
    return {"sharding": 2, "sharding_stage": stage, **degrees}


LAYOUTS = {
    "single": Layout(1),
    "dp2": Layout(2, micro=2),
    "tp2": Layout(2, {"tensor": 2}),
    "tp2+sp": Layout(2, {"tensor": 2, "sequence_parallel": True}),
    "pp2": Layout(2, {"pipeline": 2}),
    "pp2-cut": Layout(2, {"pipeline": 2, "pipeline_cuts": (1,)}),
    "sharding2-stage1": Layout(2, _sharded(1), micro=2),
    "sharding2-stage2": Layout(2, _sharded(2), micro=2),
    "sharding2-stage3": Layout(2, _sharded(3), micro=2),
    "tp4": Layout(4, {"tensor": 4}),
    "tp4+sp": Layout(4, {"tensor": 4, "sequence_parallel": True}),
    "pp4": Layout(4, {"pipeline": 4}, micro=2),
    "pp4-interleaved": Layout(4, {"pipeline": 4, "virtual_stages": 2}, micro=1),
    "dp2xtp2": Layout(4, {"tensor": 2}, micro=2),
    "dp2xpp2": Layout(4, {"pipeline": 2}, micro=2),
    "tp2xpp2": Layout(4, {"tensor": 2, "pipeline": 2}),
    "tp2+spxpp2": Layout(4, {"tensor": 2, "pipeline": 2, "sequence_parallel": True}),
    "tp2xsharding2-stage1": Layout(4, _sharded(1, tensor=2), micro=2),
    "tp2xsharding2-stage2": Layout(4, _sharded(2, tensor=2), micro=2),
    "tp2xsharding2-stage3": Layout(4, _sharded(3, tensor=2), micro=2),
    "pp2xsharding2-stage1": Layout(4, _sharded(1, pipeline=2), micro=2),
    "dp2xsharding2-stage1": Layout(4, _sharded(1), micro=1),
    "dp2xsharding2-stage2": Layout(4, _sharded(2), micro=1),
    "dp2xsharding2-stage3": Layout(4, _sharded(3), micro=1),
    "ep2": Layout(2, {"expert": 2}, micro=2),
    "ep2xsharding2-stage1": Layout(2, _sharded(1, expert=2), micro=2),
    "ep2xtp2": Layout(4, {"expert": 2, "tensor": 2}, micro=2),
    "ep2xtp2+sp": Layout(4, {"expert": 2, "tensor": 2, "sequence_parallel": True}, micro=2),
    "ep2xpp2": Layout(4, {"expert": 2, "pipeline": 2}, micro=2),
    # four replicas, each expert on two of them
    "ep2xdp4": Layout(4, {"expert": 2}, micro=1),
    "ep4xdp2xsharding2-stage1": Layout(4, _sharded(1, expert=4), micro=1),
    "tp2xpp2xsharding2-stage1": Layout(8, _sharded(1, tensor=2, pipeline=2), micro=2),
    "nodes2-dp2xtp2": Layout(4, {"tensor": 2, "nodes": 2}, micro=2),
    "nodes2-pp2xtp2": Layout(4, {"tensor": 2, "pipeline": 2, "nodes": 2}),
    "auto-dp2": Layout(2, {"semi_auto": True}, micro=2),
    "auto-tp2": Layout(2, {"tensor": 2, "semi_auto": True}),
    "auto-tp2+sp": Layout(2, {"tensor": 2, "sequence_parallel": True, "semi_auto": True}),
    "auto-sharding2-stage1": Layout(2, _sharded(1, semi_auto=True), micro=2),
    "auto-sharding2-stage2": Layout(2, _sharded(2, semi_auto=True), micro=2),
    "auto-sharding2-stage3": Layout(2, _sharded(3, semi_auto=True), micro=2),
    "auto-dp2xtp2": Layout(4, {"tensor": 2, "semi_auto": True}, micro=2),
    "auto-tp2+spxsharding2-stage3": Layout(4, _sharded(3, tensor=2, sequence_parallel=True, semi_auto=True), micro=2),
    "auto-dp2xsharding2-stage2": Layout(4, _sharded(2, semi_auto=True), micro=1),
    "auto-pp2": Layout(2, {"pipeline": 2, "semi_auto": True}),
    "auto-tp2+spxpp2": Layout(4, {"tensor": 2, "pipeline": 2, "sequence_parallel": True, "semi_auto": True}),
    "auto-pp2xsharding2-stage2": Layout(4, _sharded(2, pipeline=2, semi_auto=True), micro=2),
    "static-dp2": Layout(2, {"to_static": True}, micro=2),
    "static-sharding2-stage2": Layout(2, _sharded(2, to_static=True), micro=2),
    "static-auto-dp2": Layout(2, {"semi_auto": True, "to_static": True}, micro=2),
    "static-auto-tp2": Layout(2, {"tensor": 2, "semi_auto": True, "to_static": True}),
    "static-auto-tp2+sp": Layout(2, {"tensor": 2, "sequence_parallel": True, "semi_auto": True, "to_static": True}),
    "static-auto-sharding2-stage1": Layout(2, _sharded(1, semi_auto=True, to_static=True), micro=2),
    "static-auto-sharding2-stage2": Layout(2, _sharded(2, semi_auto=True, to_static=True), micro=2),
    "static-auto-sharding2-stage3": Layout(2, _sharded(3, semi_auto=True, to_static=True), micro=2),
    "static-auto-dp2xtp2": Layout(4, {"tensor": 2, "semi_auto": True, "to_static": True}, micro=2),
    "static-auto-tp2+spxsharding2-stage3": Layout(
        4, _sharded(3, tensor=2, sequence_parallel=True, semi_auto=True, to_static=True), micro=2
    ),
}

BOTH = ("dp2", "tp2", "tp2+sp", "dp2xtp2", "sharding2-stage1", "sharding2-stage2", "sharding2-stage3")
"""Layouts under which the two engines are compared with one another as well; `auto-` names those of the second."""

_SHORT: dict[str, Any] = {
    "num_hidden_layers": 2,
    "vocab_size": 510,  # even over two ranks, padded over four
}
_SIZES: dict[str, Any] = {**_SHORT, "hidden_size": 64, "intermediate_size": 96}
_TIED = {**_SIZES, "tie_word_embeddings": True}
_DEEP = {**_TIED, "num_hidden_layers": 4}
_DEEPER = {**_TIED, "num_hidden_layers": 8}

_DROPOUT = {"embedding_dropout_prob": 0.1, "attention_dropout_prob": 0.1, "output_dropout_prob": 0.1}
_MASK, _GMASK, _START, _SMASK = 500, 501, 502, 503
PROMPTED = ("chatglm", "glm")
"""Families that read a prompt both ways: their samples have one (see `samples`)."""

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # two key/value heads: over four ranks each is held twice
    "llama": ("meta-llama/Meta-Llama-3-8B", _TIED),
    "llama-4": ("meta-llama/Meta-Llama-3-8B", _DEEP),
    "llama-8": ("meta-llama/Meta-Llama-3-8B", _DEEPER),
    "llama-untied": ("meta-llama/Meta-Llama-3-8B", _SIZES),
    "llama-fused": (
        "meta-llama/Meta-Llama-3-8B",
        {**_SIZES, "fuse_attention_qkv": True, "fuse_attention_ffn": True, "attention_bias": True, "mlp_bias": True},
    ),
    "qwen": ("qwen/qwen-7b", _TIED),
    "qwen-4": ("qwen/qwen-7b", _DEEP),
    "qwen-8": ("qwen/qwen-7b", _DEEPER),
    "qwen-untied": ("qwen/qwen-7b", {**_SIZES, "no_bias": False}),
    "qwen3": ("Qwen/Qwen3-8B", {**_SIZES, "head_dim": 24}),
    "gpt3": ("gpt3-345M", _SHORT),
    "gpt3-fused": ("gpt3-345M", {**_SHORT, "fuse_attention_qkv": True}),
    "bloom": ("bigscience/bloom-7b1", _SHORT),
    "baichuan": ("baichuan-inc/Baichuan2-13B-Base", _SHORT),
    "baichuan-7b": ("baichuan-inc/Baichuan-7B", _SHORT),
    "chatglm": (
        "THUDM/chatglm-6b",
        {**_SHORT, "mask_token_id": _MASK, "gmask_token_id": _GMASK, "bos_token_id": _START},
    ),
    "chatglm2": ("THUDM/chatglm2-6b", _SHORT),
    # one dense block, one with experts, and the layer that predicts a second token
    "deepseek_v3": ("deepseek-ai/DeepSeek-V3", _SHORT),
    # the gradient of OPT's ReLU jumps where rounding carries a unit over 0, which moves a norm by 3e-4
    "opt": ("facebook/opt-125m", {**_SHORT, "activation_function": "gelu"}),
    "opt-350m": ("facebook/opt-350m", {**_SHORT, "activation_function": "gelu", "word_embed_proj_dim": 32}),
    "glm": (
        "THUDM/glm-10b",
        {**_SHORT, "start_token_id": _START, "mask_token_ids": (_MASK, _SMASK, _GMASK), **_DROPOUT},
    ),
    "glm-130b": ("THUDM/glm-130b", {**_SHORT, "start_token_id": _START, "mask_token_ids": (_MASK, _SMASK, _GMASK)}),
}
MODELS |= {
    f"{name}-8": (of, {**MODELS[name][1], "num_hidden_layers": 8})
    for name, (of, _) in list(MODELS.items())
    if not name.startswith(("llama", "qwen"))
}

_TEN = ("gpt3", "deepseek_v3")
"""Families that take ten steps under the semi-automatic engine, where dropout and routing are placed otherwise."""
MODELS |= {f"{name}-ten": MODELS[name] for name in _TEN}

_BLOCKS = {"pp4": "-4", "pp4-interleaved": "-8"}
"""Layouts that need more than two blocks."""

_BOTH = (
    "dp2", "tp2", "tp2+sp", "pp2", "sharding2-stage1", "sharding2-stage2", "sharding2-stage3", "tp4", "pp4",
    "pp4-interleaved", "dp2xtp2", "tp2xpp2", "tp2xsharding2-stage1", "tp2xsharding2-stage2", "pp2xsharding2-stage1",
    "tp2xpp2xsharding2-stage1",
)  # fmt: skip
"""Layouts that both families show, with tied embeddings."""

_MORE = {
    "llama": ["nodes2-dp2xtp2", "dp2xsharding2-stage2"],
    "llama-4": ["pp2-cut"],
    "llama-untied": ["dp2xpp2"],
    "llama-fused": ["tp2", "tp4", "tp4+sp", "tp2xsharding2-stage3"],
    "qwen": ["nodes2-pp2xtp2", "dp2xsharding2-stage1", "dp2xsharding2-stage3"],
    "qwen-untied": ["pp2", "sharding2-stage2", "tp2+spxpp2"],
    "qwen3": ["tp2", "tp2+sp", "tp2xpp2"],
}


_EACH = (
    "tp2", "tp2+sp", "pp2", "sharding2-stage1", "sharding2-stage2", "sharding2-stage3", "pp4-interleaved", "tp2xpp2",
    "tp2xsharding2-stage1",
)  # fmt: skip
"""Layouts that every other family shows."""

_FAMILIES = ("gpt3", "bloom", "baichuan", "chatglm", "chatglm2", "deepseek_v3", "opt", "glm")

_MORE |= {
    "gpt3-fused": ["tp2xpp2"],
    "baichuan-7b": ["tp2+sp", "tp2xpp2"],
    "chatglm2": ["tp4"],
    "deepseek_v3": [layout for layout in LAYOUTS if layout.startswith("ep")],
    "opt-350m": ["tp2+sp", "tp2xpp2"],
    "glm-130b": ["tp2+sp", "tp2xpp2"],
}


_DATA_SHARDED = ("dp2xsharding2-stage1", "dp2xsharding2-stage2", "dp2xsharding2-stage3")
_AUTO = tuple(name for name in LAYOUTS if name.startswith("auto-"))
for name in ("llama", "qwen", *(f"{family}-ten" for family in _TEN)):
    _MORE.setdefault(name, []).extend(_AUTO)
for name in _TEN:
    _MORE.setdefault(name, []).append("auto-tp2+spxsharding2-stage3")
for name in ("llama-fused", "gpt3-fused", "bloom", "baichuan", "chatglm", "chatglm2", "opt", "glm"):
    _MORE.setdefault(name, []).extend(["auto-tp2+sp", "auto-tp2+spxsharding2-stage3"])
_STATIC = tuple(name for name in LAYOUTS if name.startswith("static-"))
for name in ("llama", "qwen", "gpt3-ten"):
    _MORE.setdefault(name, []).extend(_STATIC)
for name in ("bloom", "baichuan", "chatglm", "chatglm2", "deepseek_v3", "opt", "glm"):
    placed = [] if name == "deepseek_v3" else ["static-auto-tp2+spxsharding2-stage3"]  # no experts there
    _MORE.setdefault(name, []).extend(["static-dp2", *placed])
_RECORDED = [
    (family, layout)
    for family in ("llama", "qwen", *_FAMILIES)
    for layout in _DATA_SHARDED
    if layout not in _MORE.get(family, ())
]
"""For cells of the capability matrix that no other case of the family proves."""


def _pairs() -> list[tuple[str, str]]:
    """(model, layout) of every case; the models of a layout stand together, so that they share its groups."""
    found = [(family + _BLOCKS.get(layout, ""), layout) for layout in _BOTH for family in ("llama", "qwen")]
    found += [(name + ("-8" if layout == "pp4-interleaved" else ""), layout) for name in _FAMILIES for layout in _EACH]
    found += [(model, layout) for model, layouts in _MORE.items() for layout in layouts]
    found += _RECORDED
    return sorted(found, key=lambda case: list(LAYOUTS).index(case[1]))


CASES = _pairs()

_ALWAYS = ("tp2+sp", "tp2xpp2")
_IN_TURN = ("sharding2-stage3", "pp4-interleaved", "tp2xsharding2-stage1", "sharding2-stage2")


def _quick(family: str) -> tuple[str, ...]:
    """The layouts of `_EACH` that `make test` shows of a family: two of every one, the others in turn."""
    return (*_ALWAYS, _IN_TURN[_FAMILIES.index(family) % len(_IN_TURN)])


_SECOND = ("auto-", "static-")
IN_SOAK = (
    {
        ("qwen", layout)
        for layout in (
            "dp2", "tp2", "pp2", "tp4", "dp2xtp2", "sharding2-stage1", "sharding2-stage2", "sharding2-stage3",
            "tp2xsharding2-stage1", "tp2xsharding2-stage2", "pp2xsharding2-stage1", "tp2xpp2xsharding2-stage1",
            "dp2xsharding2-stage1", "dp2xsharding2-stage3",
        )
    }
    | {("qwen-4", "pp4"), ("llama-8", "pp4-interleaved"), ("qwen3", "tp2")}
    | {("llama-fused", layout) for layout in ("tp2", "tp4")}
    | set(_RECORDED)
    | {(family, layout) for family in _FAMILIES for layout in _EACH if layout not in _quick(family)}
    | {(f"{family}-8", "pp4-interleaved") for family in _FAMILIES if "pp4-interleaved" not in _quick(family)}
    | {(model, layout) for model, layouts in _MORE.items() for layout in layouts if layout.startswith(_SECOND)}
    - {
        ("llama", f"auto-{layout}")
        for layout in ("dp2", "sharding2-stage1", "tp2+spxpp2", "pp2xsharding2-stage2")
    }
    - {(model, "auto-tp2+spxsharding2-stage3") for model in ("llama", "llama-fused", "gpt3", "deepseek_v3")}
    - {("llama", f"static-{layout}") for layout in ("sharding2-stage2", "auto-dp2xtp2", "auto-tp2+spxsharding2-stage3")}
    - {("deepseek_v3", "static-dp2")}
)  # fmt: skip
"""Cases that others show in `make test` in the same or a harder form, and those for the capability matrix alone;
`make soak` runs them, and `make record`."""

RECOMPUTE = ("full", "full_attn", "core_attn")


def steps_of(model: str) -> int:
    """How many optimizer steps the cases of a model take."""
    return STEPS if model.startswith(("llama", "qwen")) or model.endswith("-ten") else FEW_STEPS


def weight_steps_of(model: str) -> int:
    """After how many steps weights are compared."""
    return STEPS if steps_of(model) == STEPS else FEW_STEPS - 2


def halfway_of(model: str) -> int:
    """After how many steps the cases of a model save what others go on from; three steps or more follow."""
    return HALFWAY if steps_of(model) == STEPS else FEW_STEPS - 3


def task_id(model: str, layout: str) -> str:
    return f"{model}@{layout}"


def recompute_of(case: tuple[str, str]) -> str:
    """What a case recomputes; the kinds take turns, the other family of a layout has the next one. A graph nothing."""
    model, layout = case
    if LAYOUTS[layout].degrees.get("to_static"):
        return "none"
    return RECOMPUTE[(list(LAYOUTS).index(layout) + list(MODELS).index(model)) % 3]


def cells_of(case: tuple[str, str]) -> list[str]:
    """The strategies of the capability matrix that a case runs, as the planner names what is on.

    A traced graph proves itself alone: what it holds is proved by the model as it is.
    """
    layout = LAYOUTS[case[1]]
    if layout.degrees.get("to_static"):
        return ["to_static"]
    on = Request(world=layout.world, recompute=recompute_of(case), **layout.degrees).resolved().strategies
    return [cell.name for cell in STRATEGIES if cell.name in on]


def learning_rate(step: int) -> float:
    """Of step `step` from 0: a warm-up of three steps."""
    return 1e-3 * min(1.0, (step + 1) / 3)


def samples(step: int, vocabulary: int, count: int = SAMPLES, prompt: bool = False) -> dict[str, np.ndarray]:
    """`input_ids` and `labels`, int64 [count, SEQUENCE], of a step; the samples bear unequal numbers of labels.

    With `prompt` all samples but some begin with a prompt of their own length: words, a mask, the start token.
    """
    rng = np.random.default_rng(1000 + step)
    ids = rng.integers(0, vocabulary, (count, SEQUENCE + 1))
    if prompt:
        ids[:, :] = np.where(ids >= _MASK, 0, ids)
        for row in range(0, count, 2):
            end = 2 + (row * 3 + step) % (SEQUENCE - 6)
            ids[row, end // 2 if row % 4 else end] = _MASK if row % 4 else _GMASK
            ids[row, end + 1] = _START
    labels = ids[:, 1:].copy()
    for row in range(count):
        labels[row, : (row * 5 + step) % SEQUENCE] = IGNORE
    return {"input_ids": ids[:, :-1], "labels": labels}


def micro_batches(fields: dict[str, np.ndarray], layout: Layout, replica: int) -> list[dict[str, np.ndarray]]:
    """The micro batches of one replica."""
    parted = {name: values.reshape(-1, layout.replicas, layout.micro, SEQUENCE) for name, values in fields.items()}
    return [{name: v[i, replica] for name, v in parted.items()} for i in range(len(parted["labels"]))]
