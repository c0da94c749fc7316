"""Element types, memory while loading, and where weights are looked for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from zoo_core.checkpoint import LocalTensor, Reader, contents, convert, find_weights, save_checkpoint, save_hf, storage
from zoo_core.checkpoint.places import runs
from zoo_core.errors import CheckpointError
from zoo_core.layout import Column, FusedColumn, Part, Row, local_shape, merge, split


def converted(array, source, target):
    out = np.zeros(array.shape, storage(target))
    convert(array, source, out, target)
    return out


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    bits = {
        0x3F800000: 0x3F80,  # 1
        0x3F808000: 0x3F80,  # a tie goes down to the even neighbour
        0x3F818000: 0x3F82,  # a tie goes up to the even neighbour
        0x3F808001: 0x3F81,  # just above a tie
        0x3F80FFFF: 0x3F81,
        0xBF808001: 0xBF81,
        0x7F7FFFFF: 0x7F80,  # the largest float32 is nearest to infinity
        0x7F800000: 0x7F80,
        0x00000001: 0x0000,
        0x80000000: 0x8000,
    }
    found = converted(np.array(list(bits), np.uint32).view(np.float32), "float32", "bfloat16")
    assert [hex(x) for x in found] == [hex(x) for x in bits.values()]
    nan = converted(np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32), "float32", "bfloat16")
    assert np.isnan(converted(nan, "bfloat16", "float32")).all()
    every = np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(converted(converted(every, "bfloat16", "float32"), "float32", "bfloat16"), every)


def test_float8_has_the_published_values():
    def value(bits, dtype):
        return converted(np.array([bits], np.uint8), dtype, "float32")[0]

    e4m3 = {0x00: 0.0, 0x01: 2.0**-9, 0x08: 2.0**-6, 0x38: 1.0, 0x7E: 448.0, 0xFE: -448.0}
    e5m2 = {0x01: 2.0**-16, 0x04: 2.0**-14, 0x3C: 1.0, 0x7B: 57344.0, 0x7C: np.inf, 0xFC: -np.inf}
    assert {bits: value(bits, "float8_e4m3fn") for bits in e4m3} == e4m3
    assert {bits: value(bits, "float8_e5m2") for bits in e5m2} == e5m2
    assert np.isnan([value(0x7F, "float8_e4m3fn"), value(0xFF, "float8_e4m3fn"), value(0x7D, "float8_e5m2")]).all()


@pytest.mark.parametrize("pair", [("float32", "int64"), ("float32", "float8_e4m3fn"), ("bfloat16", "uint8")])
def test_a_conversion_that_loses_the_values_is_refused(pair):
    with pytest.raises(CheckpointError, match="cannot convert"):
        converted(np.zeros(3, storage(pair[0])), *pair)


def test_runs_are_few_and_cover_each_element_once():
    fused = FusedColumn("w", (5, 40), parts=(Part("q", 24, 12), Part("k", 8, 2, "", "replicate"), Part("v", 8, 2)))
    assert runs(fused, 1, 0).tolist() == [[0, 0, 200]]
    assert runs(Row("w", (8, 6)), 4, 1).tolist() == [[12, 0, 12]]
    assert runs(Column("w", (2, 8)), 4, 1).tolist() == [[2, 0, 2], [10, 2, 2]]
    assert runs(Column("w", (2, 8)), 4, 1, flat=(1, 3)).tolist() == [[3, 0, 1], [10, 1, 1]]
    for degree, flat_parts in ((1, 3), (2, 1), (2, 4)):
        seen = np.zeros(200, int)
        for rank in range(degree):
            size = int(np.prod(local_shape(fused, degree)))
            for part in range(flat_parts):
                share = -(-size // flat_parts)
                for start, _, length in runs(fused, degree, rank, None, (part * share, (part + 1) * share), True):
                    seen[start : start + length] += 1
        assert (seen == 1).all()


def test_runs_agree_with_split():
    rule = FusedColumn("w", (3, 40), parts=(Part("q", 24, 12), Part("k", 8, 2, "", "replicate"), Part("v", 8, 4)))
    whole = np.arange(120).reshape(3, 40)
    shards = []
    for rank in range(4):
        local = np.zeros(local_shape(rule, 4), int)
        for stored, at, length in runs(rule, 4, rank):
            local.reshape(-1)[at : at + length] = whole.reshape(-1)[stored : stored + length]
        assert np.array_equal(local, split(whole, rule, 4, rank))
        shards.append(local)
    assert np.array_equal(merge(shards, rule), whole)


@pytest.mark.parametrize("source", ["zoo", "hf"])
def test_loading_holds_the_shard_and_at_most_one_tensor_more(source, toys, tmp_path):
    config = toys.config(vocab_size=4000, hidden_size=192, intermediate_size=768, num_key_value_heads=12)
    table = toys.table(config)
    rng = np.random.default_rng(0)
    tensors = (LocalTensor(rule, rng.standard_normal(rule.shape, np.float32)) for rule in table.values())
    if source == "zoo":
        folder = save_checkpoint(
            tmp_path, 1, tensors, entries=contents(table), table=table, config=config, state={}, layout={}
        )
    else:
        folder = save_hf(tmp_path / "hf", tensors, table=table, config=config, dtype="float32")
    shard = sum(4 * int(np.prod(local_shape(rule, 4))) for rule in table.values())
    largest = max(4 * int(np.prod(rule.shape)) for rule in table.values())
    tracemalloc.start()
    try:
        with Reader(folder, table) as reader:
            held = [reader.read_local(name, 4, 2) for name in table]
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(array.nbytes for array in held) == shard
    assert peak < shard + largest


def weights_in(folder, toys):
    table = toys.table(toys.config())
    tensors = (LocalTensor(rule, np.zeros(rule.shape, np.float32)) for rule in table.values())
    return save_hf(folder, tensors, table=table, config={}, dtype="float32")


def test_weights_are_looked_for_in_order(toys, tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    places = [here / "qwen-7b", here / "qwen/qwen-7b", home / "qwen/qwen-7b"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        weights_in(place, toys)
        assert find_weights("qwen/qwen-7b", None, {"ZOO_HOME": str(home)}, here) == place
    mine = weights_in(tmp_path / "mine", toys)
    assert find_weights("qwen/qwen-7b", mine, {"ZOO_HOME": str(home)}, here) == mine
    assert find_weights(str(mine), None, {}, here) == mine


def test_an_output_folder_stands_for_its_newest_checkpoint(toys, tmp_path):
    table = toys.table(toys.config())
    for step in (2, 1):
        tensors = (LocalTensor(rule, np.zeros(rule.shape, np.float32)) for rule in table.values())
        save_checkpoint(
            tmp_path, step, tensors, entries=contents(table), table=table, config=toys.config(), state={}, layout={}
        )
    assert find_weights("toy", tmp_path) == tmp_path / "checkpoint-1"


def test_missing_weights_are_an_error_that_says_where_to_put_them(tmp_path):
    (tmp_path / "qwen-7b").mkdir()
    with pytest.raises(CheckpointError, match="no weights of qwen/qwen-7b") as caught:
        find_weights("qwen/qwen-7b", None, {"ZOO_HOME": "/data/zoo"}, tmp_path)
    for place in ("/data/zoo/qwen/qwen-7b (no such folder)", f"{tmp_path}/qwen-7b (no weights in it)"):
        assert place in caught.value.why
    assert "$ZOO_HOME/qwen/qwen-7b" in caught.value.todo and "in place of the name" in caught.value.todo
    with pytest.raises(CheckpointError, match=r"\$ZOO_HOME \(not set\)"):
        find_weights("qwen/qwen-7b", None, {}, tmp_path)
    with pytest.raises(CheckpointError, match="/nowhere"):
        find_weights("qwen/qwen-7b", "/nowhere", {}, tmp_path)
