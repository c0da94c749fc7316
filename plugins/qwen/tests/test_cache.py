"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import pytest

import zoo_qwen
from zoo_core.testing import caches, contract

ARCH = contract.architecture(zoo_qwen)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("name", ["qwen/qwen-7b", "Qwen/Qwen2-7B", "Qwen/Qwen3-8B"])
def test_cached_decoding_is_the_uncached_pass(name, padding, zoo_evidence):
    zoo_evidence("qwen", "generation", tier="T1")
    caches.check_cache(ARCH, MODELS[name].replace(**TINY), padding)


def test_fused_projections_decode_alike():
    caches.check_cache(ARCH, MODELS["Qwen/Qwen3-8B"].replace(**TINY, fuse_attention_qkv=True))


@pytest.mark.parametrize("padding", [0, 3, 7])
def test_v1_continues_a_stretched_prompt(padding):
    """Prompt and whole have the same stretch: 7 to 12 tokens triple the base, and the 5 beside 7 of padding do not."""
    config = MODELS["qwen/qwen-7b"].replace(**{**TINY, "seq_length": 6})
    caches.check_cache(ARCH, config, padding, prompt=10, length=12)


def test_v1_keeps_the_base_of_its_prompt():
    """Where the uncached pass would stretch further, the prompt's base stays, as the published code has it."""
    config = MODELS["qwen/qwen-7b"].replace(**{**TINY, "seq_length": 6})
    with pytest.raises(AssertionError, match="cached decoding differs"):
        caches.check_cache(ARCH, config, prompt=10, length=14)
    caches.check_cache(ARCH, config.replace(use_dynamic_ntk=False), prompt=10, length=14)
