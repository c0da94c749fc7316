"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import pytest

import zoo_bloom
from zoo_core.testing import caches, contract

ARCH = contract.architecture(zoo_bloom)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["bigscience/bloomz-7b1"].replace(**ARCH.capabilities.scales["tiny"])


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("heads", [3, 8, 12])
def test_cached_decoding_is_the_uncached_pass(heads, padding, zoo_evidence):
    zoo_evidence("bloom", "generation", tier="T1")
    caches.check_cache(ARCH, TINY.replace(num_attention_heads=heads), padding)


def test_residual_after_the_norm_decodes_alike():
    caches.check_cache(ARCH, TINY.replace(apply_residual_connection_post_layernorm=True), padding=3)
