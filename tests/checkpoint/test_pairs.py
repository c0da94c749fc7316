"""Random pairs of legal layouts over all families: save under one, load under the other, compare with the single card.

The ranks of both layouts are simulated here. Where what lies is decided by `zoo_core.engine.parts`, which the engine
asks too; how sharding deals out states is fleet's, done again below (that it is so is seen in tests/parallel).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from zoo_core.checkpoint import LocalTensor, Reader, contents, convert, save_checkpoint, storage
from zoo_core.engine.parts import Parts, element_type, read_state, read_weight
from zoo_core.layout import Column, Replicate, Row, local_shape, merge, split
from zoo_core.plan import Request, compose, facts, judge
from zoo_core.registry import registry

PAIRS, QUICK = 200, 40
SEED = 0
MOST_RANKS = {"quick": 8, "soak": 16}

_TINY = {"vocab_size": 101}  # padded over two ranks, three and four
_FUSED = {**_TINY, "fuse_attention_qkv": True, "fuse_attention_ffn": True}
MODELS = {
    "llama": ("meta-llama/Meta-Llama-3-8B", {**_TINY, "tie_word_embeddings": True}),  # two key/value heads, copied
    "llama-fused": ("meta-llama/Meta-Llama-3-8B", {**_FUSED, "attention_bias": True}),
    "qwen": ("qwen/qwen-7b", {**_TINY, "tie_word_embeddings": True}),
    "qwen3": ("Qwen/Qwen3-8B", {**_TINY, "head_dim": 24}),
    "gpt3": ("gpt3-345M", _TINY),
    "gpt3-fused": ("gpt3-345M", {**_TINY, "fuse_attention_qkv": True}),
    "bloom": ("bigscience/bloom-7b1", _TINY),
    "baichuan": ("baichuan-inc/Baichuan2-13B-Base", _TINY),
    "chatglm": (
        "THUDM/chatglm-6b",
        {**_TINY, "mask_token_id": 90, "gmask_token_id": 91, "bos_token_id": 92, "pad_token_id": 3, "eos_token_id": 4},
    ),
    "chatglm2": ("THUDM/chatglm2-6b", _TINY),
    "deepseek_v3": ("deepseek-ai/DeepSeek-V3", _TINY),  # experts and the prediction of a second token
    "deepseek_v3-tied": ("deepseek-ai/DeepSeek-V3", {**_TINY, "tie_word_embeddings": True}),
    "opt": ("facebook/opt-125m", _TINY),
    "opt-350m": ("facebook/opt-350m", {**_TINY, "word_embed_proj_dim": 32}),
    "glm": ("THUDM/glm-10b", {**_TINY, "start_token_id": 90, "mask_token_ids": (91, 92, 93)}),
    "glm-130b": ("THUDM/glm-130b", {**_TINY, "start_token_id": 90, "mask_token_ids": (91, 92, 93)}),
}
FAMILIES = {"llama", "qwen", "gpt3", "bloom", "baichuan", "chatglm", "deepseek_v3", "opt", "glm"}
PRECISIONS = ("float32", "float32", "bfloat16", "float16")
"""Of the weights; half-precision ones have fp32 copies."""


@cache
def model_of(name, layers):
    """Architecture, configuration and facts of a tiny model."""
    published, changes = MODELS[name]
    found = registry().find(published)
    scale = found.architecture.capabilities.scales["tiny"]
    config = found.config.replace(**{**scale, **changes, "num_hidden_layers": layers})
    return found.architecture, config, facts(found.architecture, config)


def random_plan(rng, name, layers, most, interleaved=False):
    """A legal plan of at most `most` ranks; with `interleaved` one that has virtual stages."""
    architecture, config, model = model_of(name, layers)
    while True:
        stage = rng.choice((0, 0, 1, 1, 2, 3))
        request = Request(
            tensor=rng.choice((1, 2, 2, 3, 4)),
            pipeline=rng.choice((1, 1, 2, 3, 4)),
            sharding=rng.choice((2, 3, 4)) if stage else 1,
            sharding_stage=stage,
            expert=rng.choice((1, 2, 2, 4)) if model.experts else 1,
            virtual_stages=rng.choice((1, 1, 2)),
            sequence_parallel=rng.random() < 0.5,
            accumulate=8,
        )
        request = replace(request, world=request.wanted_world * rng.choice((1, 1, 2, 4)))
        if request.virtual_stages == 1 and interleaved:
            continue
        if request.world <= most and all(verdict.legal for verdict in judge(request, model)):
            return compose(request, architecture, config)


def states_of(dtype):
    return ("moment1", "moment2") if dtype == "float32" else ("moment1", "moment2", "master")


def rounded(array, dtype):
    """Float32 values as elements of `dtype`."""
    out = np.empty(array.shape, storage(dtype))
    convert(array, "float32", out, dtype)
    return out


def single_card(table, dtype, seed):
    """Every weight and state of a training run on one card, by (role, single name)."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, rule in table.items():
        if rule.single != name:
            continue
        exact = rng.standard_normal(rule.shape, dtype=np.float32)
        values["weight", name] = rounded(exact, element_type(rule, dtype))
        for role in () if rule.buffer else states_of(dtype):
            values[role, name] = exact if role == "master" else rng.standard_normal(rule.shape, dtype=np.float32)
    return values


def as_resumed(values, table, saved, wanted):
    """What a run in precision `wanted` starts with, from what one in `saved` had."""
    if saved == wanted:
        return values
    found = {}
    for name, rule in table.items():
        if rule.single == name:
            found["weight", name] = values["weight", name]
            if rule.buffer:
                continue
            exact = values["weight" if saved == "float32" else "master", name]
            found["weight", name] = rounded(exact, wanted)
            for role in states_of(wanted):
                found[role, name] = exact if role == "master" else values[role, name]
    return found


@dataclass(frozen=True)
class Sharding:
    """Fleet's dealing out of states over the sharding axis, for one rank.

    Args:
        parts: of the rank.
        table: single-card name -> row.
        trained: names that have states.
        align: bytes to which stage 3 pads a parameter; fleet: 4096 on CPU, 256 on GPU.
    """

    parts: Parts
    table: dict
    trained: frozenset
    align: int

    def _size(self, name):
        return math.prod(local_shape(self.table[name], self.parts.plan.tensor))

    def owned(self):
        """Names of the parameters whose states this rank has, whole or a range."""
        plan = self.parts.plan
        here = [name for name in self.parts.names() if name in self.trained]
        if plan.sharding_stage not in (1, 2):
            return here
        experts = [name for name in here if plan.expert > 1 and self.table[name].expert is not None]
        dealt = [name for name in here if name not in experts]
        if plan.sharding_stage == 1:
            dealt.sort(key=self._size, reverse=True)
        filled, mine = [0] * plan.sharding, []
        for name in dealt:
            rank = filled.index(min(filled))
            filled[rank] += self._size(name)
            if rank == self.parts.place.sharding:
                mine.append(name)
        return mine + experts

    def flat(self, name):
        """The range of the flattened local parameter that this rank has under stage 3, where it is sliced."""
        plan, size = self.parts.plan, self._size(name)
        if plan.sharding_stage != 3 or size <= 1024 or name not in self.trained:
            return None
        step = self.align // 4
        each = -(-(-(-size // step) * step) // plan.sharding)
        return self.parts.place.sharding * each, (self.parts.place.sharding + 1) * each


def part(whole, rule, plan, tensor_rank, flat=None):
    """A rank's part of a whole parameter, padded with zeros."""
    local = split(whole, rule, plan.tensor, tensor_rank)
    if flat is None:
        return local
    padded = np.zeros(max(flat[1], local.size), local.dtype)
    padded[: local.size] = local.reshape(-1)
    return padded[flat[0] : flat[1]]


class World:
    """The ranks of a plan, each with its part of the table.

    Args:
        plan: the plan.
        table: single-card name -> row.
        trained: names that have states.
        group: of the files in which the trained parameters are kept; empty for the model's.
        align: see `Sharding`.
    """

    def __init__(self, plan, table, trained, group="", align=4096):
        self.plan, self.table = plan, table
        self._trained, self._group = trained, group
        self.ranks = []
        for rank in range(plan.world):
            parts = Parts(plan, rank, table)
            self.ranks.append((parts, Sharding(parts, table, trained, align)))

    def role(self, name, role):
        return f"{self._group}:{role}" if self._group and name in self._trained else role

    def local(self, rank, values, dtype):
        """What a rank saves, as `engine.state.local_tensors` yields it."""
        parts, sharding = self.ranks[rank]
        split_over = {"degree": self.plan.tensor, "rank": parts.place.tensor}
        for turn, name in enumerate(parts.names()):
            rule, flat = self.table[name], sharding.flat(name)
            array = part(values["weight", name], rule, self.plan, parts.place.tensor, flat)
            writes = parts.writes_weight(rule, turn, flat)
            kind = element_type(rule, dtype)
            yield LocalTensor(rule, array, kind, self.role(name, "weight"), flat=flat, writes=writes, **split_over)
        for name in sharding.owned():
            rule, flat = self.table[name], sharding.flat(name)
            for role in states_of(dtype):
                array = part(values[role, name], rule, self.plan, parts.place.tensor, flat)
                writes = parts.writes_state(rule, flat)
                yield LocalTensor(rule, array, "float32", self.role(name, role), flat=flat, writes=writes, **split_over)

    def save(self, toys, root, config, values, dtype, entries):
        def work(ranks):
            return save_checkpoint(
                root,
                7,
                self.local(ranks.rank, values, dtype),
                entries=entries,
                table=self.table,
                config=config,
                state={},
                layout={"tensor_parallel_degree": self.plan.tensor},
                ranks=ranks,
                max_shard_size=60_000,
            )

        found = toys.run(self.plan.world, work)
        assert found == [root / "checkpoint-7"] * self.plan.world, found
        return found[0]

    def check(self, reader, values, dtype):
        """Load every rank's parts; compare them, and what they are together, with the single card's.

        Returns:
            Number of elements compared.
        """
        shards, compared, seen = {}, 0, set()
        for parts, sharding in self.ranks:
            place = (self.plan.tensor, parts.place.tensor)
            for name in parts.names():
                rule = self.table[name]
                if (found := self._read_weight(reader, rule, *place, dtype)) is not None:
                    expected = part(values["weight", name], rule, self.plan, place[1])
                    _assert_same(found, expected, (name, "weight", parts.rank))
                    shards.setdefault(("weight", name), {})[place[1]] = found
                    compared += found.size
            for name in sharding.owned():
                rule, flat = self.table[name], sharding.flat(name)
                for role in states_of(dtype):
                    found = read_state(reader, name, self.role(name, role), *place, flat)
                    expected = part(values[role, name], rule, self.plan, place[1], flat)
                    _assert_same(found, expected, (name, role, parts.rank))
                    if flat is None:
                        shards.setdefault((role, name), {})[place[1]] = found
                    seen.add((role, name))
                    compared += found.size
        for (role, name), held in shards.items():
            whole = merge([held[rank] for rank in range(self.plan.tensor)], self.table[name])
            _assert_same(whole, values[role, name], (name, role, "whole"))
        assert seen | shards.keys() == values.keys()
        return compared

    def _read_weight(self, reader, rule, degree, rank, dtype):
        if self.role(rule.name, "") == "":
            return read_weight(reader, rule, degree, rank, dtype)
        role = self.role(rule.name, "weight")
        return reader.read_local(rule.name, degree, rank, dtype=element_type(rule, dtype), role=role)


def _assert_same(found, expected, what):
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    assert found.tobytes() == expected.tobytes(), what


def trained_of(table):
    return frozenset(name for name, rule in table.items() if rule.single == name and not rule.buffer)


@dataclass(frozen=True)
class Pair:
    model: str
    layers: int
    source: object
    target: object
    precisions: tuple
    align: int


@cache
def pair(number):
    """Pair `number`; every model has its turn, and a quarter of the pairs change the precision."""
    rng = random.Random(SEED + number)
    name, interleaved = list(MODELS)[number % len(MODELS)], number % 9 == 4
    layers = 6 if interleaved else rng.choice((2, 3, 4))
    most = MOST_RANKS["quick" if number < QUICK else "soak"]
    plans = [random_plan(rng, name, layers, most, interleaved and end == number % 2) for end in range(2)]
    saved = rng.choice(PRECISIONS)
    wanted = rng.choice(PRECISIONS) if rng.random() < 0.35 else saved
    return Pair(name, layers, *plans, (saved, wanted), rng.choice((256, 4096)))


def check_pair(number, toys, root):
    """Save and load pair `number`; return how many elements were compared."""
    p = pair(number)
    architecture, config, _ = model_of(p.model, p.layers)
    table = architecture.table(config)
    saved, wanted = p.precisions
    values, trained = single_card(table, saved, number), trained_of(table)
    kinds = {name: element_type(rule, saved) for name, rule in table.items()}
    entries = contents(table, saved, states_of(saved), dtypes=kinds)
    folder = World(p.source, table, trained, align=p.align).save(toys, root, config, values, saved, entries)
    with Reader(folder, table) as reader:
        assert reader.check() == ()
        resumed = as_resumed(values, table, saved, wanted)
        return World(p.target, table, trained, align=p.align).check(reader, resumed, wanted)


@pytest.mark.parametrize("number", range(QUICK))
def test_a_pair_of_layouts(number, toys, tmp_path):
    assert check_pair(number, toys, tmp_path) > 100_000


@pytest.mark.soak
def test_two_hundred_pairs_of_layouts(toys, tmp_path, capsys):
    compared = 0
    for number in range(PAIRS):
        compared += check_pair(number, toys, tmp_path / str(number))
    with capsys.disabled():
        print(f"\n{PAIRS} pairs of layouts, {compared:,} elements equal bit for bit")


def test_the_pairs_have_everything():
    """What is not drawn is not tested: every family, axis, stage, precision and change of size occurs, and mixed."""
    for numbers in (range(QUICK), range(PAIRS)):
        pairs = [pair(number) for number in numbers]
        plans = [plan for p in pairs for plan in (p.source, p.target)]
        assert {model_of(p.model, p.layers)[0].family for p in pairs} == FAMILIES
        assert {plan.sharding_stage for plan in plans} == {0, 1, 2, 3}
        assert {plan.pipeline for plan in plans} >= {1, 2, 3} and {plan.tensor for plan in plans} >= {1, 2, 4}
        assert any(plan.virtual_stages > 1 for plan in plans) and any(plan.sequence_parallel for plan in plans)
        assert any(plan.expert > 1 and plan.sharding_stage == 1 for plan in plans)
        assert any(plan.expert > 1 and plan.expert < plan.replicas for plan in plans)
        assert any(p.source.expert > 1 and p.target.expert == 1 for p in pairs)
        assert any(p.source.expert == 1 and p.target.expert > 1 for p in pairs)
        assert any(p.source.world < p.target.world for p in pairs)
        assert any(p.source.world > p.target.world for p in pairs)
        assert {p.precisions[0] != "float32" for p in pairs} == {True, False}
        changed = {(p.precisions[0] == "float32", p.precisions[1] == "float32") for p in pairs
                   if p.precisions[0] != p.precisions[1]}  # fmt: skip
        assert changed >= {(True, False), (False, True)}


def _adapted(table):
    """Rows of adapters beside those of every split Linear of the blocks, and of a prefix for each layer.

    LoRA (Hu et al. 2021): A [in, r] splits as its layer's input, B [r, out] as its output. A prefix (Li and Liang
    2021) [tokens, 2 x key/value width] splits by heads.
    """
    found = {}
    for name, rule in table.items():
        if rule.expert is not None or len(rule.shape) != 2 or not isinstance(rule, Column | Row):
            continue
        base = name.removesuffix(".weight")
        a, b = (rule.shape[0], 4), (4, rule.shape[1])
        if isinstance(rule, Row):
            found[f"{base}.lora_A"] = Row(f"{base}.lora_A", a, units=rule.units)
            found[f"{base}.lora_B"] = Replicate(f"{base}.lora_B", b)
        else:
            found[f"{base}.lora_A"] = Replicate(f"{base}.lora_A", a)
            found[f"{base}.lora_B"] = replace(rule, name=f"{base}.lora_B", shape=b, hf="", transpose=None)
        if name.endswith(("v_proj.weight", "value.weight")):
            prefix = f"{base.rpartition('.')[0]}.prefix"
            found[prefix] = Column(prefix, (5, rule.shape[1]), units=rule.units, on_indivisible=rule.on_indivisible)
    return found


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt3", "deepseek_v3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_go_through_the_same_pairs(name, dtype, toys, tmp_path):
    """LoRA and prefix states in files of their own, beside frozen weights without states."""
    rng = random.Random(name + dtype)
    architecture, config, _ = model_of(name, 4)
    base = architecture.table(config)
    adapters = _adapted(base)
    assert any("lora_A" in n for n in adapters) and any("prefix" in n for n in adapters) is (name != "deepseek_v3")
    # adapters stand among their block's own parameters, as the model has them
    blocks = list(base)
    table = {}
    for parameter in blocks:
        table[parameter] = base[parameter]
        stem = parameter.removesuffix(".weight")
        for adapter, rule in adapters.items():
            if adapter.startswith((stem + ".lora", stem.rpartition(".")[0] + ".prefix")) and parameter.endswith(
                "weight"
            ):
                table[adapter] = rule
    assert table.keys() == base.keys() | adapters.keys()
    trained = frozenset(adapters)
    values = single_card(table, dtype, 5)
    values = {(role, n): array for (role, n), array in values.items() if role == "weight" or n in trained}
    kinds = {n: element_type(rule, dtype) for n, rule in table.items()}
    entries = contents(base, dtype, dtypes=kinds) + contents(adapters, dtype, states_of(dtype), group="lora")
    plans = [random_plan(rng, name, 4, 8) for _ in range(3)]
    folder = World(plans[0], table, trained, "lora").save(toys, tmp_path, config, values, dtype, entries)
    assert {path.name.split("-")[0] for path in folder.glob("*-of-*.safetensors")} == {
        "model", "lora", "lora_optimizer", *(["lora_master_weights"] if dtype != "float32" else [])
    }  # fmt: skip
    with Reader(folder, table) as reader:
        for plan in plans[1:]:
            assert World(plan, table, trained, "lora").check(reader, values, dtype) > 100_000


@pytest.mark.parametrize(("heads", "most"), [(4, 0.251), (2, 0.28)], ids=["heads split", "key/value heads copied"])
def test_a_rank_of_tp4_reads_about_a_quarter_of_the_bytes(heads, most, toys, tmp_path, monkeypatch):
    """Weights and states, from what one process saved; norms, and heads that several ranks hold, are read whole.

    The matrices are wide enough for a rank's part of a row to be read alone: 512 bytes.
    """
    from zoo_core.checkpoint import stored as module

    architecture, config, _ = model_of("llama", 2)
    config = config.replace(hidden_size=512, intermediate_size=1024, num_key_value_heads=heads, vocab_size=512)
    table = architecture.table(config)
    plans = [compose(Request(world=tensor, tensor=tensor), architecture, config) for tensor in (1, 4)]
    values, trained = single_card(table, "float32", 1), trained_of(table)
    entries = contents(table, "float32", states_of("float32"))
    folder = World(plans[0], table, trained).save(toys, tmp_path, config, values, "float32", entries)
    whole = sum(array.nbytes for array in values.values())
    read, real = [], module.read_exactly
    monkeypatch.setattr(module, "read_exactly", lambda h, p, view, at: (read.append(len(view)), real(h, p, view, at)))
    for parts, sharding in World(plans[1], table, trained).ranks:
        read.clear()
        with Reader(folder, table) as reader:
            for parameter in parts.names():
                read_weight(reader, table[parameter], 4, parts.rank, "float32")
            for parameter in sharding.owned():
                for role in states_of("float32"):
                    read_state(reader, parameter, role, 4, parts.rank, sharding.flat(parameter))
        assert 0.25 <= sum(read) / whole < most, parts.rank
