"""The conformance kit's check of ranks' parts fails where a rank holds what is another's."""

from __future__ import annotations

import pytest

import zoo_llama
from zoo_core.layout import split
from zoo_core.testing import contract, shards

ARCH = contract.architecture(zoo_llama)
CONFIG = ARCH.capabilities.models[0].config.replace(**ARCH.capabilities.scales["tiny"])
ATTENTION = "llama.layers.0.self_attn"


def test_parts_add_up():
    shards.check_parts(ARCH, CONFIG, ATTENTION, 2)


@pytest.mark.parametrize("part", ["q_proj", "v_proj", "o_proj"])
def test_a_rank_with_another_ranks_heads_is_told(part, monkeypatch):
    def wrong(array, rule, degree, rank):
        return split(array, rule, degree, 0 if part in rule.name else rank)

    monkeypatch.setattr(shards, "split", wrong)
    with pytest.raises(AssertionError, match=f"{ATTENTION} on 2 ranks differs"):
        shards.check_parts(ARCH, CONFIG, ATTENTION, 2)


def test_a_name_that_is_no_sublayer_is_told():
    with pytest.raises(AssertionError, match="nothing under llama.layers.0.attention"):
        shards.check_parts(ARCH, CONFIG, "llama.layers.0.attention", 2)
