"""A small model with every kind of row, and ranks simulated by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from zoo_core.checkpoint import LocalTensor, Ranks
from zoo_core.config import ModelConfig
from zoo_core.layout import Column, FusedColumn, Part, Replicate, Row, Rule, Vocab, expand, split


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    family: ClassVar[str] = "toy"


def toy_config(**changes: Any) -> ToyConfig:
    sizes = {
        "vocab_size": 37,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 36,
    }
    return ToyConfig(**{**sizes, **changes})


def toy_table(config: ModelConfig, fused: bool = False) -> dict[str, Rule]:
    """Grouped-query attention, an uneven vocabulary, and q/k/v separate or fused; `w1`/`w2` always separate."""
    hidden, ffn, head = config.hidden_size, config.intermediate_size, config.head_size
    wide, narrow = config.num_attention_heads * head, config.kv_heads * head
    widths = {"q": (wide, config.num_attention_heads), "k": (narrow, config.kv_heads), "v": (narrow, config.kv_heads)}

    def name(part: str, kind: str) -> str:
        return f"toy.layers.*.attn.{part}_proj.{kind}"

    def published(part: str, kind: str) -> str:
        return f"model.layers.*.attn.{part}_proj.{kind}"

    attention: list[Rule] = []
    for kind, shape in (("weight", (hidden,)), ("bias", ())):
        parts = tuple(
            Part(name(p, kind), width, units, published(p, kind), "refuse" if p == "q" else "replicate")
            for p, (width, units) in widths.items()
        )
        if fused:
            attention.append(FusedColumn(name("qkv", kind), (*shape, wide + 2 * narrow), parts=parts))
        else:
            attention += [
                Column(p.name, (*shape, p.width), p.hf, units=p.units, on_indivisible=p.on_indivisible) for p in parts
            ]
    tied = config.tie_word_embeddings
    embedding = "toy.embed.weight"
    rules = [
        Vocab(embedding, (config.vocab_size, hidden), "model.embed.weight"),
        *attention,
        Row(name("o", "weight"), (wide, hidden), published("o", "weight"), units=config.num_attention_heads),
        Replicate(name("o", "bias"), (hidden,), published("o", "bias")),
        Column("toy.layers.*.mlp.w1.weight", (hidden, ffn), "model.layers.*.mlp.w1.weight"),
        Row("toy.layers.*.mlp.w2.weight", (ffn, hidden), "model.layers.*.mlp.w2.weight"),
        Replicate("toy.layers.*.norm.weight", (hidden,), "model.layers.*.norm.weight"),
        Replicate("toy.router.bias", (5,), "model.router.bias", buffer=True),
        Replicate("toy.out.scale", (), "model.out.scale"),
        Vocab("lm_head.weight", (config.vocab_size, hidden), "lm_head.weight", tied_to=embedding if tied else ""),
    ]
    return expand(rules, config.num_hidden_layers)


Values = dict[tuple[str, str], np.ndarray]


def random_values(table: Mapping[str, Rule], seed: int, states: tuple[str, ...] = ()) -> Values:
    """Whole parameters and states of a single card, by (role, name); a tied head has its embedding's."""
    rng = np.random.default_rng(seed)
    values: Values = {}
    for role in ("weight", *states):
        for name, rule in table.items():
            if role == "weight" or not rule.buffer:
                values[role, name] = rng.standard_normal(rule.shape).astype(np.float32)
        for name, rule in table.items():
            values[role, name] = values.get((role, rule.single), np.zeros(0, np.float32))
    return values


@dataclass(frozen=True)
class World:
    """A layout: tensor x pipeline x sharding x data; `flat` shards states (and at stage 3 weights) by flat range."""

    tp: int = 1
    pp: int = 1
    sharding: int = 1
    dp: int = 1
    flat: bool = False
    stage3: bool = False

    @property
    def size(self) -> int:
        return self.tp * self.pp * self.sharding * self.dp

    def coordinates(self, rank: int) -> tuple[int, int, int, int]:
        tp, rest = rank % self.tp, rank // self.tp
        pp, rest = rest % self.pp, rest // self.pp
        return tp, pp, rest % self.sharding, rest // self.sharding

    def holds(self, table: Mapping[str, Rule], rank: int, role: str) -> Iterator[tuple[Rule, tuple[int, int] | None]]:
        """The parameters of this rank's stage, and which flat range of each it holds in `role`."""
        tp, pp, sharding, _ = self.coordinates(rank)
        for index, (name, rule) in enumerate(table.items()):
            if index * self.pp // len(table) != pp or (role != "weight" and rule.buffer):
                continue
            whole = role == "weight" and not self.stage3
            if whole or self.sharding == 1:
                yield rule, None
            elif self.flat:
                size = split(np.zeros(rule.shape, np.int8), rule, self.tp, tp).size
                share = -(-size // self.sharding)
                yield rule, (sharding * share, (sharding + 1) * share)
            elif index % self.sharding == sharding:
                yield table[name], None

    def local(self, table: Mapping[str, Rule], values: Values, rank: int) -> Iterator[LocalTensor]:
        """What this rank holds of every role, as it would be saved."""
        tp, _, sharding, dp = self.coordinates(rank)
        for role in dict.fromkeys(role for role, _ in values):
            for rule, flat in self.holds(table, rank, role):
                array = split(values[role, rule.name], rule, self.tp, tp)
                if flat is not None:
                    array = flat_of(array, flat)
                first = dp == 0 and (flat is not None or role != "weight" or sharding == 0)
                if role != "weight" and flat is None and self.sharding == 1:
                    first = dp == 0
                yield LocalTensor(rule, array, "float32", role, self.tp, tp, flat, first)


def flat_of(array: np.ndarray, flat: tuple[int, int]) -> np.ndarray:
    padded = np.zeros(max(flat[1], array.size), array.dtype)
    padded[: array.size] = array.reshape(-1)
    return padded[flat[0] : flat[1]]


def run_ranks(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Call `work` for each of `size` ranks at once; return what each returned, or the exception it raised."""
    said: list[list[str]] = [[] for _ in range(size)]
    told, gone = threading.Condition(), set()

    def exchange(rank: int, text: str) -> list[str]:
        """A rank that went after it spoke is heard; one that went before breaks the exchange."""
        with told:
            said[rank].append(text)
            turn = len(said[rank])
            told.notify_all()

            def silent() -> set[int]:
                return {r for r in range(size) if len(said[r]) < turn}

            if not told.wait_for(lambda: not silent() or gone & silent(), 30) or silent():
                raise threading.BrokenBarrierError
            return [texts[turn - 1] for texts in said]

    def one(rank: int) -> Any:
        try:
            return work(Ranks(rank, size, lambda text: exchange(rank, text)))
        except Exception as error:
            if not hasattr(error, "what"):
                with told:
                    gone.add(rank)
                    told.notify_all()
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


class Toys:
    """What the tests of this folder share."""

    config = staticmethod(toy_config)
    table = staticmethod(toy_table)
    values = staticmethod(random_values)
    run = staticmethod(run_ranks)
    flat_of = staticmethod(flat_of)
    World = World


@pytest.fixture(scope="session")
def toys() -> type[Toys]:
    return Toys
