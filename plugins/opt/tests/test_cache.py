"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import numpy as np

import zoo_opt
from zoo_core.testing import caches, contract, models

ARCH = contract.architecture(zoo_opt)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


def test_fused_projections_decode_alike():
    caches.check_cache(ARCH, MODELS["facebook/opt-125m"].replace(**TINY, fuse_attention_qkv=True))


def test_positions_are_counted_from_the_mask_of_past_and_new_tokens():
    import paddle

    from zoo_ops import Batch, Cache

    config = MODELS["facebook/opt-350m"].replace(**TINY)
    model = models.build(ARCH, config, models.random_weights(ARCH.table(config)))
    model.eval()
    ids = models.random_ids(config, 2, 9)
    mask = paddle.ones([2, 9], dtype="int64")
    mask[1, :4] = 0
    with paddle.no_grad():
        alone = model(Batch(ids[1:, 4:])).logits.numpy()
        cache = Cache(config.num_hidden_layers, 2, 9)
        ends = [6, 7, 8, 9]
        parts = [
            model(Batch(ids[:, start:end], attention_mask=mask[:, :end]), cache).logits
            for start, end in zip([0, *ends], ends, strict=False)
        ]
    found = paddle.concat(parts, axis=1).numpy()[1:, 4:]
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)
