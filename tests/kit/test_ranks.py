"""The kit's check of ranks that take turns fails where the ranks' work does not add up, and does not hang."""

from __future__ import annotations

from types import SimpleNamespace

import paddle
import pytest

import zoo_llama
from zoo_core.layout import Replicate, split
from zoo_core.testing import contract, ranks
from zoo_core.testing.turns import Turns
from zoo_ops import parallel

ARCH = contract.architecture(zoo_llama)
CONFIG = ARCH.capabilities.models[0].config.replace(**ARCH.capabilities.scales["tiny"])


def family(change):
    """The Llama with other rows."""

    def table(config):
        return {name: change(rule) for name, rule in ARCH.table(config).items()}

    return SimpleNamespace(table=table, pipe_layers=ARCH.pipe_layers, build_model=ARCH.build_model)


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_right_rows_pass(sequence_parallel):
    ranks.check_ranks(ARCH, CONFIG, 2, sequence_parallel)
    assert parallel.tensor_axis() == parallel.Axis() and parallel.dist.__name__ == "paddle.distributed"


def test_a_projection_held_whole_is_told():
    """Its output is as wide as on one card, so that each rank reads the values of the first heads."""

    def whole(rule):
        return Replicate(rule.name, rule.shape, rule.hf, transpose=True) if "v_proj" in rule.name else rule

    with pytest.raises(AssertionError, match=r"logits on 2 ranks differ .* is that of llama.layers.0.self_attn.o_proj"):
        ranks.check_ranks(family(whole), CONFIG)


def test_a_degree_that_does_not_fit_is_told():
    with pytest.raises(AssertionError, match="q_proj.weight cannot be split over 3 ranks .* 4 units"):
        ranks.check_ranks(ARCH, CONFIG, 3)


def test_a_rank_with_another_ranks_heads_is_told(monkeypatch):
    """The widths fit, the numbers do not: the keys of one rank belong to the queries of the other."""

    def wrong(array, rule, degree, rank):
        return split(array, rule, degree, 1 - rank if "k_proj" in rule.name else rank)

    monkeypatch.setattr(ranks, "split", wrong)
    with pytest.raises(AssertionError, match=r"logits on 2 ranks differ .* is that of llama.layers.0.self_attn.o_proj"):
        ranks.check_ranks(ARCH, CONFIG)


def test_a_failure_of_one_rank_ends_all():
    def work(rank):
        if rank == 1:
            raise ValueError("rank 1 has no paper")
        return Turns.exchange(turns, paddle.ones([1]))

    turns = Turns(3)
    with pytest.raises(ValueError, match="rank 1 has no paper"):
        turns.run(work)
    assert parallel.tensor_axis() == parallel.Axis()


def test_ranks_that_call_other_collectives_are_told():
    def work(rank):
        return parallel.reduce_sum(paddle.ones([rank + 1]))

    with pytest.raises(AssertionError, match="do not call the same collectives"):
        Turns(2).run(work)

    def fewer(rank):
        return parallel.reduce_sum(paddle.ones([1])) if rank else None

    with pytest.raises(AssertionError, match="1 ranks have none"):
        Turns(2).run(fewer)


def test_collectives_are_those_of_paddle():
    def work(rank):
        x = paddle.to_tensor([float(rank), 1.0])
        highest = x.clone()
        parallel.reduce_sum(x)
        parallel.reduce_max(highest)
        return x.tolist(), highest.tolist(), parallel.gather_features(paddle.full([1], rank)).tolist()

    assert Turns(3).run(work) == [([3.0, 3.0], [2.0, 1.0], [0, 1, 2])] * 3
