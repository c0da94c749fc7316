"""Reading ahead changes nothing but the time."""

from __future__ import annotations

import itertools
import threading

import pytest

from zoo_core.data import BatchPlan, build_pretrain_datasets, prefetched, train_batches
from zoo_core.errors import DataError


@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_same_items_in_the_same_order(ahead):
    assert list(prefetched(iter(range(100)), ahead)) == list(range(100))


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_comes_where_its_item_was_due(ahead):
    def items():
        yield 1
        yield 2
        raise DataError("broken", "here")

    found = prefetched(items(), ahead)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(DataError, match="broken"):
        next(found)


def test_closing_ends_the_thread():
    made = []

    def items():
        for number in itertools.count():
            made.append(number)
            yield number

    found = prefetched(items(), 4)
    assert next(found) == 0
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "zoo-prefetch")
    found.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(made) < 20


def test_train_batches_run_ahead(tmp_path, make_corpus):
    make_corpus(tmp_path / "c", [100] * 30)
    made = build_pretrain_datasets(str(tmp_path), split="1", seq_length=9, num_samples=[100], seed=1)
    plan = BatchPlan(4, 2, num_samples=len(made.train))
    plain = itertools.islice(train_batches(made.train, plan, 8), 10)
    ahead = prefetched(train_batches(made.train, plan, 8), 2)
    for want, got in zip(plain, ahead, strict=False):
        assert all((one["input_ids"] == other["input_ids"]).all() for one, other in zip(want, got, strict=True))
    ahead.close()
