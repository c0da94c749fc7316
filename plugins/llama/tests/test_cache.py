"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import pytest

import zoo_llama
from zoo_core.testing import caches, contract

ARCH = contract.architecture(zoo_llama)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("name", ["facebook/llama-7b", "meta-llama/Meta-Llama-3.1-8B-Instruct"])
def test_cached_decoding_is_the_uncached_pass(name, padding, zoo_evidence):
    zoo_evidence("llama", "generation", tier="T1")
    caches.check_cache(ARCH, MODELS[name].replace(**TINY), padding)


def test_fused_projections_decode_alike():
    caches.check_cache(ARCH, MODELS["facebook/llama-7b"].replace(**TINY, fuse_attention_qkv=True))
