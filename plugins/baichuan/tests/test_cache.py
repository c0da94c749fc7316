"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import pytest

import zoo_baichuan
from zoo_core.testing import caches, contract

ARCH = contract.architecture(zoo_baichuan)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("name", ["Baichuan-7B", "Baichuan-13B-Base", "Baichuan2-7B-Base", "Baichuan2-13B-Base"])
def test_cached_decoding_is_the_uncached_pass(name, padding, zoo_evidence):
    zoo_evidence("baichuan", "generation", tier="T1")
    caches.check_cache(ARCH, MODELS[f"baichuan-inc/{name}"].replace(**TINY), padding)


def test_an_odd_number_of_heads_decodes_alike():
    changes = {**TINY, "num_attention_heads": 5, "hidden_size": 40, "fuse_attention_ffn": True}
    caches.check_cache(ARCH, MODELS["baichuan-inc/Baichuan2-13B-Chat"].replace(**changes), 3)
