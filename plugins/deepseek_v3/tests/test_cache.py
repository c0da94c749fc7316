"""T1: decoding with a cache of latents gives what one pass over the whole sequence gives."""

from __future__ import annotations

import paddle
import pytest

import zoo_deepseek_v3
from zoo_core.testing import caches, contract
from zoo_core.testing.models import build, random_ids, random_weights
from zoo_ops import Batch, Cache, RopeScaling

ARCH = contract.architecture(zoo_deepseek_v3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["deepseek-ai/DeepSeek-V3"].replace(**ARCH.capabilities.scales["tiny"])
CONFIGS = {
    "yarn": TINY,
    "no_q_lora": TINY.replace(q_lora_rank=None, num_nextn_predict_layers=0, rope_scaling=RopeScaling()),
    "three_heads": TINY.replace(num_attention_heads=3, v_head_dim=24, rope_interleave=False),
}


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_cached_decoding_is_the_uncached_pass(config, padding, zoo_evidence):
    zoo_evidence("deepseek_v3", "generation", tier="T1")
    caches.check_cache(ARCH, config, padding)


def test_several_tokens_at_once_may_follow_a_prompt():
    """What is decoded in steps of three is what is decoded in one pass."""
    model = build(ARCH, TINY, random_weights(ARCH.table(TINY)))
    model.eval()
    ids, cache = random_ids(TINY, 2, 12), Cache(TINY.num_hidden_layers, 2, 12)
    with paddle.no_grad():
        wanted = model(Batch(ids)).logits
        parts = [model(Batch(ids[:, start : start + 3]), cache).logits for start in range(0, 12, 3)]
    assert float((paddle.concat(parts, axis=1) - wanted).abs().max()) < 1e-5


def test_the_cache_holds_the_latent_and_one_key_for_all_heads():
    model = build(ARCH, TINY, random_weights(ARCH.table(TINY)))
    model.eval()
    cache = Cache(TINY.num_hidden_layers, 2, 9)
    with paddle.no_grad():
        model(Batch(random_ids(TINY, 2, 9)), cache)
    layer = cache[1]
    assert layer._k.shape == [2, 9, 1, TINY.kv_lora_rank]
    assert layer._v.shape == [2, 9, 1, TINY.qk_rope_head_dim]
