"""Batches: the same on every layout, and the same again after a resume."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from zoo_core.data import IGNORED_LABEL, BatchPlan, EvalPlan, collate, eval_batches, train_batches
from zoo_core.errors import ConfigError

LAYOUTS = [(24, 1), (1, 1), (1, 4), (2, 4), (6, 4), (3, 8), (4, 2)]


class Numbers:
    """Sample i is i * 10, i * 10 + 1, ..."""

    samples_per_epoch = 50.0

    def __len__(self):
        return 50

    def __getitem__(self, number):
        tokens = np.arange(number * 10, number * 10 + 4)
        return {"input_ids": tokens[:-1], "labels": tokens[1:]}


@pytest.mark.parametrize(("num_samples", "seed"), [(None, None), (50, None), (50, 3)])
def test_global_batches_do_not_depend_on_the_layout(num_samples, seed):
    for step in range(7):
        batches = []
        for micro, degree in LAYOUTS:
            plans = [BatchPlan(24, micro, rank, degree, num_samples, seed) for rank in range(degree)]
            together = np.stack([plan.micro_batches(step) for plan in plans], axis=1)
            assert together.shape == (24 // (micro * degree), degree, micro)
            batches.append(together.reshape(-1).tolist())
        assert all(batch == batches[0] for batch in batches)
        if num_samples is None:
            assert batches[0] == list(range(24 * step, 24 * step + 24))


def test_each_pass_serves_every_sample_once():
    for seed in (None, 3):
        plan = BatchPlan(24, 24, num_samples=50, seed=seed)
        served = np.concatenate([plan.global_indices(step) for step in range(25)]).tolist()
        passes = [served[begin : begin + 50] for begin in range(0, 600, 50)]
        assert all(sorted(one) == list(range(50)) for one in passes)
        assert (passes[0] == passes[1]) is (seed is None)


def test_resume_continues_where_the_samples_ended():
    plan = BatchPlan(4, 2, data_rank=1, data_degree=2, num_samples=50, seed=11)
    data = Numbers()
    whole = list(islice(train_batches(data, plan), 30))
    for stopped in (1, 13, 29):
        resumed = islice(train_batches(data, plan, consumed=plan.consumed(stopped)), 30 - stopped)
        for want, got in zip(whole[stopped:], resumed, strict=True):
            assert len(want) == len(got) == plan.accumulate == 1
            assert np.array_equal(want[0]["input_ids"], got[0]["input_ids"])
    with pytest.raises(ConfigError, match="global batch 4"):
        plan.step_of(6)


def test_another_layout_resumes_the_same_samples():
    one, four = BatchPlan(8, 2), [BatchPlan(8, 1, rank, 4) for rank in range(4)]
    consumed = one.consumed(5)
    want = one.global_indices(5).tolist()
    assert sorted(i for plan in four for i in plan.micro_batches(plan.step_of(consumed)).ravel().tolist()) == want


def test_epoch():
    plan = BatchPlan(4, 4, num_samples=10)
    assert [plan.epoch(plan.consumed(step)) for step in range(6)] == [0, 0, 0, 1, 1, 2]
    assert BatchPlan(4, 4).epoch(100, samples_per_epoch=33.4) == 2
    assert BatchPlan(4, 4).epoch(100) == 0


@pytest.mark.parametrize("args", [(10, 4), (8, 2, 0, 3), (0, 1), (4, 0), (4, 1, 2, 2), (4, 1, -1, 2), (4, 4, 0, 1, 0),
                                  (4, 4, 0, 1, None, 5)])  # fmt: skip
def test_illegal_plans(args):
    with pytest.raises(ConfigError):
        BatchPlan(*args)


@pytest.mark.parametrize(("micro", "degree"), [(1, 1), (4, 1), (3, 2), (4, 4), (50, 2)])
def test_evaluation_takes_every_sample_once(micro, degree):
    data = Numbers()
    plans = [EvalPlan(50, micro, rank, degree) for rank in range(degree)]
    rows = [plan.micro_batches() for plan in plans]
    assert len({row.shape for row in rows}) == 1
    taken = sorted(int(index) for row in rows for index in row.ravel() if index >= 0)
    assert taken == list(range(50))
    labels = sum(
        int(batch["labels"][batch["labels"] != IGNORED_LABEL].sum())
        for plan in plans
        for batch in eval_batches(data, plan)
    )
    assert labels == sum(int(data[number]["labels"].sum()) for number in range(50))


def test_collate():
    batch = collate(Numbers(), np.array([3, -1]))
    assert batch["input_ids"].tolist() == [[30, 31, 32], [0, 1, 2]]
    assert batch["labels"].tolist() == [[31, 32, 33], [IGNORED_LABEL] * 3]
    assert batch["labels"].dtype == np.int64
