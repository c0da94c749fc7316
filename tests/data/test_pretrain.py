"""Packed samples: the index against a naive one, splits, caching, blending."""

from __future__ import annotations

import json
import multiprocessing
import shutil

import numpy as np
import pytest

from zoo_core.data import IndexStore, build_pretrain_datasets, builds_index, open_corpus
from zoo_core.data.blend import blend_counts, blend_order
from zoo_core.data.index_cache import build_or_load, cache_folder, key_of
from zoo_core.data.pretrain import PretrainDataset
from zoo_core.data.sample_index import build_sample_index
from zoo_core.data.splits import split_bounds
from zoo_core.errors import DataError


def naive_index(lengths, first, last, seq_length, num_samples, seed):
    """Megatron's procedure, token by token and epoch by epoch."""
    per_epoch = int(sum(lengths[first:last]))
    epochs = 1
    while num_samples is not None and (epochs * per_epoch - 1) // seq_length < num_samples:
        epochs += 1
    separate, before = False, 0
    if epochs > 1:
        before = ((epochs - 1) * per_epoch - 1) // seq_length
        separate = num_samples - before < int(0.80 * ((per_epoch - 1) // seq_length))
    random = np.random.RandomState(seed)
    order = []
    for count in [epochs - 1, 1] if separate else [epochs]:
        part = np.array(list(range(first, last)) * count, dtype=np.int32)
        random.shuffle(part)
        order += part.tolist()
    stream = [(place, offset) for place, sequence in enumerate(order) for offset in range(lengths[sequence])]
    total = (len(stream) - 1) // seq_length
    begins = [stream[number * seq_length] for number in range(total + 1)]
    begins[0] = (0, 0)  # Megatron begins at the first sequence even if that one is empty
    shuffle = []
    for begin, end in [(0, before), (before, total)] if separate else [(0, total)]:
        part = np.arange(begin, end)
        random.shuffle(part)
        shuffle += part.tolist()
    return order, begins, shuffle, [(order[place], offset) for place, offset in stream]


CASES = [
    (0, 200, 16, None),
    (0, 200, 16, 500),
    (13, 90, 7, 1000),
    (0, 200, 1, None),
    (150, 151, 3, 40),
    (0, 5, 2000, 9),
]


@pytest.mark.parametrize(("first", "last", "seq_length", "num_samples"), CASES)
@pytest.mark.parametrize("seed", [1, 1234])
def test_index_equals_the_naive_one(lengths, first, last, seq_length, num_samples, seed):
    lengths = lengths.copy()
    lengths[150] = 33
    lengths[first] = max(lengths[first], 1)
    ours = build_sample_index(lengths, first, last, seq_length, num_samples, seed)
    order, begins, shuffle, _ = naive_index(lengths, first, last, seq_length, num_samples, seed)
    assert ours.order.tolist() == order
    assert [tuple(row) for row in ours.begins.tolist()] == begins
    assert ours.shuffle.tolist() == shuffle
    assert len(ours) == len(shuffle) >= (num_samples or 0)


def test_last_epoch_is_kept_apart_below_four_fifths_only(lengths):
    per_epoch = (int(lengths.sum()) - 1) // 16
    for part, apart in [(0.5, True), (0.9, False)]:
        wanted = per_epoch + int(part * per_epoch)
        index = build_sample_index(lengths, 0, 200, 16, wanted, 3)
        whole = (int(lengths.sum()) - 1) // 16
        assert bool(max(index.shuffle[:whole]) < whole) is apart


def test_samples_are_the_stream_of_tokens(tmp_path, make_corpus, lengths):
    tokens = make_corpus(tmp_path / "c", lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    made = build_pretrain_datasets(str(tmp_path), split="949,50,1", seq_length=16, num_samples=(500, None, 0), seed=5)
    first, last = 0, split_bounds("949,50,1", 200)[1]
    _, _, shuffle, stream = naive_index(lengths, first, last, 16, 500, 5)
    assert len(made.train) == len(shuffle)
    for number in range(len(made.train)):
        begin = shuffle[number] * 16
        want = [int(tokens[starts[sequence] + offset]) for sequence, offset in stream[begin : begin + 17]]
        sample = made.train[number]
        assert sample["input_ids"].tolist() == want[:-1]
        assert sample["labels"].tolist() == want[1:]
        assert sample["input_ids"].dtype == sample["labels"].dtype == np.int64
    assert made.test is None
    in_valid = set(range(int(starts[last]), int(starts[split_bounds("949,50,1", 200)[2]])))
    assert {int(token) for i in range(len(made.valid)) for token in made.valid[i]["input_ids"]} <= in_valid
    assert made.train.samples_per_epoch == pytest.approx(int(lengths[:last].sum()) / 16)


@pytest.mark.parametrize(
    ("split", "size", "bounds"),
    [("949,50,1", 1000, (0, 949, 999, 1000)), ("949/50/1", 1000, (0, 949, 999, 1000)), ("1", 7, (0, 7, 7, 7)),
     ("969, 30, 1", 10, (0, 10, 10, 10)), ("[969, 30, 1]", 1000, (0, 969, 999, 1000)), ("1,1,1", 1, (0, 1, 1, 1)),
     ("1,1", 5, (0, 3, 5, 5)), ("0,0,1", 4, (0, 0, 0, 4)), ("949,50,1", 0, (0, 0, 0, 0))],
)  # fmt: skip
def test_split(split, size, bounds):
    assert split_bounds(split, size) == bounds


@pytest.mark.parametrize("split", ["", "a,b", "1,2,3,4", "-1,2", "0,0,0", "nan", "inf,1"])
def test_bad_split(split):
    with pytest.raises(DataError, match="949,50,1"):
        split_bounds(split, 10)


def test_too_few_tokens(tmp_path, make_corpus):
    make_corpus(tmp_path / "c", [3, 0, 4])
    with pytest.raises(DataError, match="7 tokens"):
        build_pretrain_datasets(str(tmp_path), split="1", seq_length=16, num_samples=[None], seed=1)
    repeated = build_pretrain_datasets(str(tmp_path), split="1", seq_length=16, num_samples=[5], seed=1)
    assert len(repeated.train) >= 5
    make_corpus(tmp_path / "c", [0, 0])
    with pytest.raises(DataError, match="0 tokens"):
        build_pretrain_datasets(str(tmp_path), split="1", seq_length=16, num_samples=[5], seed=1)


def test_ids_beyond_the_vocabulary_and_floats_are_refused(tmp_path, make_corpus):
    make_corpus(tmp_path / "c", [30])
    made = build_pretrain_datasets(str(tmp_path), split="1", seq_length=7, num_samples=[None], seed=1, vocab_size=20)
    with pytest.raises(DataError, match="vocabulary has 20"):
        [made.train[number] for number in range(len(made.train))]
    make_corpus(tmp_path / "f" / "c", [30], dtype="<f4")
    with pytest.raises(DataError, match="float32"):
        build_pretrain_datasets(str(tmp_path / "f"), split="1", seq_length=7, num_samples=[None], seed=1)


def same(one, other):
    return all(np.array_equal(one[i]["input_ids"], other[i]["input_ids"]) for i in range(len(one)))


def build(folder, seed=1, store=None, num_samples=(60, 10, 0)):
    return build_pretrain_datasets(
        str(folder), split="8,2", seq_length=16, num_samples=num_samples, seed=seed, store=store
    )


def test_index_is_cached_by_content_and_parameters(tmp_path, make_corpus, lengths, monkeypatch):
    make_corpus(tmp_path / "a" / "c", lengths)
    first = build(tmp_path / "a")
    cache = tmp_path / "a" / "index-cache"
    assert len(list(cache.iterdir())) == 2
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "moved")
    with monkeypatch.context() as patched:
        patched.setattr("zoo_core.data.splits.build_sample_index", lambda *_: pytest.fail("was built again"))
        assert same(first.train, build(tmp_path / "a").train)
        assert same(first.train, build(tmp_path / "b" / "moved").train)
    assert not same(first.train, build(tmp_path / "a", seed=2).train)
    make_corpus(tmp_path / "a" / "c", lengths[::-1])
    assert not same(first.train, build(tmp_path / "a").train)
    assert len(list(cache.iterdir())) == 6


def test_damaged_cache_is_built_again(tmp_path, make_corpus, lengths):
    make_corpus(tmp_path / "c", lengths)
    first = build(tmp_path)
    whole = [first.train[number]["input_ids"] for number in range(len(first.train))]
    for name in ("order.npy", "begins.npy", "description.json"):
        for folder in (tmp_path / "index-cache").iterdir():
            (folder / name).write_bytes((folder / name).read_bytes()[:-20])
        again = build(tmp_path)
        assert all(np.array_equal(want, again.train[number]["input_ids"]) for number, want in enumerate(whole))
    assert all(not path.name.endswith(".tmp") for path in (tmp_path / "index-cache").iterdir())


def test_data_cache_is_used_only_without_index_cache(tmp_path, make_corpus, lengths):
    make_corpus(tmp_path / "c", lengths)
    elsewhere = tmp_path / "elsewhere"
    build(tmp_path, store=IndexStore(data_cache=elsewhere))
    assert len(list(elsewhere.iterdir())) == 2
    assert not (tmp_path / "index-cache").exists()
    (tmp_path / "index-cache").mkdir()
    assert cache_folder(tmp_path / "c", elsewhere) == tmp_path / "index-cache"


def test_who_builds(tmp_path, make_corpus, lengths):
    assert [builds_index(True, rank, rank % 2) for rank in range(4)] == [True, False, False, False]
    assert [builds_index(False, rank, rank % 2) for rank in range(4)] == [True, False, True, False]
    make_corpus(tmp_path / "c", lengths)
    with pytest.raises(DataError, match="share_folder"):
        build(tmp_path, store=IndexStore(is_builder=False))
    with pytest.raises(DataError, match="share_folder"):
        build(tmp_path, store=IndexStore(is_builder=False, wait_seconds=0.3))
    first = build(tmp_path)
    assert same(first.train, build(tmp_path, store=IndexStore(is_builder=False)).train)


def test_unwritable_cache_is_said(tmp_path, make_corpus, lengths):
    make_corpus(tmp_path / "c", lengths)
    (tmp_path / "index-cache").write_text("a file is in the way")
    with pytest.raises(DataError, match="data_cache"):
        build(tmp_path)


def _race(folder, key, ready, results):
    ready.wait()
    arrays = build_or_load(folder, {"key": key}, lambda: {"a": np.arange(200_000), "b": np.ones((3, 4))})
    results.put((int(arrays["a"].sum()), arrays["b"].shape))


def test_two_processes_may_race(tmp_path):
    context = multiprocessing.get_context("fork")
    for key in range(5):
        ready, results = context.Event(), context.Queue()
        processes = [context.Process(target=_race, args=(tmp_path, key, ready, results)) for _ in range(3)]
        for process in processes:
            process.start()
        ready.set()
        assert [results.get(timeout=60) for _ in processes] == [(19999900000, (3, 4))] * 3
        for process in processes:
            process.join()
            assert process.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(key_of({"key": key}) for key in range(5))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.2, 0.1], [3, 1], [1e-4, 1], [1 / 3] * 3, [0.31, 0.29, 0.4]])
def test_blending_keeps_the_weights_in_every_prefix(weights):
    order = blend_order(weights, 5000)
    shares = np.array(weights) / sum(weights)
    for end in range(1, 5001):
        counts = np.bincount(order["corpus"][:end], minlength=len(weights))
        assert np.abs(counts - shares * end).max() <= 1.0
    for number in range(len(weights)):
        mine = order["sample"][order["corpus"] == number]
        assert mine.tolist() == list(range(len(mine)))
    assert sum(blend_counts(order, len(weights))) == 5000


def test_blended_datasets(tmp_path, make_corpus, lengths):
    for name, offset in [("a", 0), ("b", 1), ("c", 2)]:
        make_corpus(tmp_path / name, np.roll(lengths, offset * 31)[: 200 - 20 * offset])
    text = f"0.6 {tmp_path / 'a'} 0.3 {tmp_path / 'b'} 0.1 {tmp_path / 'c'}"
    made = build_pretrain_datasets(text, split="8,2", seq_length=16, num_samples=(1000, None), seed=9)
    assert len(made.train) == 1000
    assert blend_counts(made.train.order, 3) == [600, 300, 100]
    for number in range(0, 1000, 37):
        part = int(made.train.order["corpus"][number])
        corpus = open_corpus(tmp_path / "abc"[part])
        bounds = split_bounds("8,2", len(corpus))
        count = [600, 300, 100][part]
        alone = PretrainDataset(corpus, build_sample_index(corpus.lengths, 0, bounds[1], 16, count, 9), 16)
        want = alone[int(made.train.order["sample"][number])]
        assert np.array_equal(made.train[number]["input_ids"], want["input_ids"])
    single = [
        build_pretrain_datasets(str(tmp_path / name), split="8,2", seq_length=16, num_samples=(0, None), seed=9).valid
        for name in "abc"
    ]
    assert len(made.valid) == sum(map(len, single))
    seen = sorted(tuple(made.valid[number]["input_ids"]) for number in range(len(made.valid)))
    assert seen == sorted(tuple(part[number]["input_ids"]) for part in single for number in range(len(part)))
    assert made.valid.samples_per_epoch == pytest.approx(sum(part.samples_per_epoch for part in single))


def test_description_says_what_an_index_is_of(tmp_path, make_corpus, lengths):
    make_corpus(tmp_path / "c", lengths)
    build(tmp_path, num_samples=(60, 0, 0))
    (folder,) = (tmp_path / "index-cache").iterdir()
    parameters = json.loads((folder / "description.json").read_text())["parameters"]
    assert (parameters["seq_length"], parameters["num_samples"], parameters["sequences"]) == (16, 60, [0, 160])
