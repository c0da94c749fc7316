"""A small family for tests of the core: grouped-query heads, a gated MLP, plain data, no paddle."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, Exclusion, ModelEntry, Support
from zoo_core.config import ModelConfig
from zoo_core.hookspecs import hookimpl
from zoo_core.layout import Column, Replicate, Row, Vocab
from zoo_core.pipeline import PipeLayer


@dataclass(frozen=True, kw_only=True)
class FakeConfig(ModelConfig):
    family: ClassVar[str] = "fake"


def config(**changes: Any) -> FakeConfig:
    sizes: dict[str, Any] = {
        "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 96,
    }  # fmt: skip
    return FakeConfig(**{**sizes, **changes})


def rules(c: ModelConfig) -> tuple[Any, ...]:
    block, hidden, kv = "fake.layers.*", c.hidden_size, c.kv_heads * c.head_size
    tied = {"tied_to": "fake.embed.weight"} if c.tie_word_embeddings else {}
    return (
        Vocab("fake.embed.weight", (c.vocab_size, hidden), hf="model.embed.weight"),
        Column(f"{block}.attn.q.weight", (hidden, hidden), units=c.num_attention_heads),
        Column(f"{block}.attn.k.weight", (hidden, kv), units=c.kv_heads, on_indivisible="replicate"),
        Row(f"{block}.attn.o.weight", (hidden, hidden), units=c.num_attention_heads),
        Column(f"{block}.mlp.up.weight", (hidden, c.intermediate_size)),
        Row(f"{block}.mlp.down.weight", (c.intermediate_size, hidden)),
        Replicate(f"{block}.norm.weight", (hidden,), sequence_parallel_grad=True),
        Replicate("fake.norm.weight", (hidden,), sequence_parallel_grad=True),
        Vocab("lm_head.weight", (c.vocab_size, hidden), hf="lm_head.weight", **tied),
    )


def layers(c: ModelConfig) -> tuple[PipeLayer, ...]:
    blocks = tuple(PipeLayer(object, f"fake.layers.{i}", is_block=True) for i in range(c.num_hidden_layers))
    return (PipeLayer(object, "fake.embed"), *blocks, PipeLayer(object, "fake.norm"), PipeLayer(object, "lm_head"))


def plugin(
    family: str = "fake",
    models: tuple[str, ...] = ("zoo/fake-1b", "zoo/fake-2b"),
    model_types: tuple[str, ...] | None = None,
    cells: dict[str, Support] | None = None,
    exclusions: tuple[Exclusion, ...] = (),
    **attributes: Any,
) -> ModuleType:
    """Return a plugin; `attributes` replace or add to what the module holds, `None` removes."""
    entries = tuple(ModelEntry(name, config(num_hidden_layers=8 + i), "for tests") for i, name in enumerate(models))
    said = Capabilities(
        family, FakeConfig, model_types if model_types is not None else (family,), entries,
        scales={"tiny": {"hidden_size": 32}}, cells=cells or {}, exclusions=exclusions,
    )  # fmt: skip
    module = ModuleType(f"zoo_{family}")

    @hookimpl
    def capabilities() -> Capabilities:
        return said

    @hookimpl
    def build_model(config: ModelConfig) -> Any:
        return (family, config)

    @hookimpl
    def tp_mappings(config: ModelConfig) -> Any:
        return rules(config)

    @hookimpl
    def pipe_layers(config: ModelConfig) -> Any:
        return layers(config)

    @hookimpl
    def tokenizer(config: ModelConfig, path: Any) -> Any:
        return (family, path)

    hooks = {"capabilities": capabilities, "build_model": build_model, "tp_mappings": tp_mappings,
             "pipe_layers": pipe_layers, "tokenizer": tokenizer}  # fmt: skip
    for name, value in {**hooks, **attributes}.items():
        if value is not None:
            setattr(module, name, value)
    return module
