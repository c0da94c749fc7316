"""Save under one layout, load under another: every element of every weight and state is the single card's."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file

from zoo_core.checkpoint import Reader, contents, save_checkpoint, verify
from zoo_core.layout import local_shape, split

STATES = ("moment1", "moment2", "master")


def save_under(toys, world, root, config, table, values, step=3, states=STATES, **more):
    entries = contents(table, states=states)

    def work(ranks):
        return save_checkpoint(
            root,
            step,
            world.local(table, values, ranks.rank),
            entries=entries,
            table=table,
            config=config,
            state={"consumed_samples": 12},
            layout={"tensor_parallel_degree": world.tp},
            ranks=ranks,
            extras={f"rng/rank-{ranks.rank:05d}.bin": bytes([ranks.rank])},
            max_shard_size=9000,
            **more,
        )

    found = toys.run(world.size, work)
    assert found == [root / f"checkpoint-{step}"] * world.size, found
    return found[0]


def assert_loads_under(toys, world, reader, table, values):
    compared = 0
    for rank in range(world.size):
        tp = world.coordinates(rank)[0]
        for role in ("weight", *STATES):
            for rule, flat in world.holds(table, rank, role):
                expected = split(values[role, rule.name], rule, world.tp, tp)
                expected = expected if flat is None else toys.flat_of(expected, flat)
                found = reader.read_local(rule.name, world.tp, tp, flat, role=role)
                assert found.shape == expected.shape and found.tobytes() == expected.tobytes(), (rule.name, role, rank)
                compared += found.size
    return compared


def random_world(toys, rng):
    """A layout of at most 16 ranks."""
    while True:
        world = toys.World(
            tp=rng.choice((1, 2, 3, 4)),
            pp=rng.choice((1, 2, 3)),
            sharding=rng.choice((1, 2, 3)),
            dp=rng.choice((1, 2)),
            flat=(flat := rng.random() < 0.6),
            stage3=flat and rng.random() < 0.5,
        )
        if world.size <= 16:
            return world


@pytest.mark.parametrize("seed", range(16))
def test_any_layout_loads_what_any_layout_saved(seed, toys, tmp_path):
    rng = random.Random(seed)
    config = toys.config(tie_word_embeddings=seed % 2 == 1, num_key_value_heads=rng.choice((1, 2, 12)))
    if config.kv_heads == 2:
        worlds = [w for w in (random_world(toys, rng) for _ in range(40)) if w.tp != 3][:3]
    else:
        worlds = [random_world(toys, rng) for _ in range(3)]
    source = toys.table(config, fused=rng.random() < 0.5)
    values = toys.values(source, seed, STATES)
    folder = save_under(toys, worlds[0], tmp_path, config, source, values)
    verify(folder)
    with Reader(folder, source) as reader:
        assert reader.check() == ()
        for world in (toys.World(), *worlds):
            assert assert_loads_under(toys, world, reader, source, values) > 10_000


@pytest.mark.parametrize("saved_fused", [True, False])
def test_fused_and_separate_projections_load_into_each_other(saved_fused, toys, tmp_path):
    config = toys.config()
    fused, separate = toys.table(config, fused=True), toys.table(config)
    source, target = (fused, separate) if saved_fused else (separate, fused)
    values = toys.values(source, 5, STATES)
    folder = save_under(toys, toys.World(tp=2, sharding=2, flat=True), tmp_path, config, source, values)

    def joined(role, name):
        if (role, name) in values:
            return values[role, name]
        if "qkv_proj" in name:
            return np.concatenate([values[role, name.replace("qkv", part)] for part in "qkv"], axis=-1)
        part = next(p for p in "qkv" if f".{p}_proj" in name)
        widths = np.cumsum([24, 4])
        whole = values[role, name.replace(f"{part}_proj", "qkv_proj")]
        return np.split(whole, widths, axis=-1)["qkv".index(part)]

    expected = {(role, n): joined(role, n) for role in ("weight", *STATES) for n in target if "router" not in n}
    with Reader(folder, target, source) as reader:
        assert reader.check() == ()
        for world in (toys.World(tp=4, sharding=2, flat=True), toys.World(tp=2), toys.World()):
            for rank in range(world.size):
                tp = world.coordinates(rank)[0]
                for (role, name), whole in expected.items():
                    local = split(whole, target[name], world.tp, tp)
                    assert np.array_equal(reader.read_local(name, world.tp, tp, role=role), local), (name, role)
                    part = reader.read_local(name, world.tp, tp, (3, 11), role=role)
                    assert np.array_equal(part, toys.flat_of(local, (3, 11)))


def test_files_are_named_as_on_one_card_and_open_elsewhere(toys, tmp_path):
    config = toys.config()
    table = toys.table(config)
    values = toys.values(table, 1, STATES)
    folder = save_under(toys, toys.World(tp=4, pp=2), tmp_path, config, table, values)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(table)
    found = {}
    for file in set(index["weight_map"].values()):
        found.update(load_file(folder / file))
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in found.values())
    for name in table:
        assert np.array_equal(found[name], values["weight", name])
    optimizer = {}
    for file in folder.glob("optimizer-*.safetensors"):
        optimizer.update(load_file(file))
    assert np.array_equal(
        optimizer["toy.layers.1.mlp.w1.weight/moment2"], values["moment2", "toy.layers.1.mlp.w1.weight"]
    )
    assert not any("router" in name for name in optimizer)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["step"] == 3 and state["consumed_samples"] == 12
    assert state["model"]["family"] == "toy" and state["model"]["parameters"] == sum(map(np.size, found.values()))
    assert state["remarks"]["toy.embed.weight"] == "37 rows padded to 40"
    assert state["remarks"]["toy.layers.*.attn.k_proj.weight"] == "2 units on 4 ranks: each held 2 times"
    assert [(folder / f"rng/rank-{r:05d}.bin").read_bytes() for r in range(8)] == [bytes([r]) for r in range(8)]


def test_a_rank_reads_its_share_of_the_bytes(toys, tmp_path, monkeypatch):
    config = toys.config(num_key_value_heads=12, vocab_size=40)
    table = toys.table(config)
    folder = save_under(toys, toys.World(), tmp_path, config, table, toys.values(table, 1), states=())
    from zoo_core.checkpoint import stored as module

    read = []
    real = module.read_exactly
    monkeypatch.setattr(module, "read_exactly", lambda h, p, view, at: (read.append(len(view)), real(h, p, view, at)))
    with Reader(folder, table) as reader:
        for name in table:
            reader.read_local(name, 4, 1)
    assert sum(read) == sum(4 * int(np.prod(local_shape(rule, 4))) for rule in table.values())


def test_the_same_bits_come_out_of_bfloat16(toys, tmp_path):
    config = toys.config()
    table = toys.table(config)
    rng = np.random.default_rng(0)
    whole = {name: rng.integers(0, 1 << 16, rule.shape).astype(np.uint16) for name, rule in table.items()}
    from zoo_core.checkpoint import LocalTensor

    tensors = [
        LocalTensor(rule, split(whole[name], rule, 2, tp), "bfloat16", degree=2, rank=tp)
        for tp in range(2)
        for name, rule in table.items()
    ]
    folder = save_checkpoint(
        tmp_path, 1, tensors, entries=contents(table, "bfloat16"), table=table, config=config, state={}, layout={}
    )
    with Reader(folder, table) as reader:
        for name in table:
            assert reader.dtype_of(name) == "bfloat16"
            assert np.array_equal(reader.read_local(name), whole[name])
            wide = reader.read_local(name, dtype="float32")
            assert np.array_equal(wide.view(np.uint32), whole[name].astype(np.uint32) << 16)
