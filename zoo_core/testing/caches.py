"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import numpy as np
import paddle

from zoo_core.config import ModelConfig
from zoo_core.registry import Architecture
from zoo_core.testing.models import build, random_ids, random_weights
from zoo_ops import Batch, Cache

__all__ = ["check_cache"]


def check_cache(arch: Architecture, config: ModelConfig, padding: int = 0, prompt: int = 7, length: int = 12) -> None:
    """Run a prompt, then token after token, and compare every logit with the uncached pass: 1e-5 + 1e-5 |wanted|.

    Args:
        padding: pad tokens on the left of the second of two samples.
    """
    ids = random_ids(config, 2, length)
    mask = positions = None
    if padding:
        real = np.ones([2, length], np.int64)
        real[1, :padding] = 0
        mask = paddle.to_tensor(real)
        positions = paddle.to_tensor(np.maximum(real.cumsum(1) - 1, 0))

    def batch(start: int, stop: int) -> Batch:
        return Batch(
            ids[:, start:stop],
            position_ids=None if positions is None else positions[:, start:stop],
            attention_mask=None if mask is None else mask[:, :stop],
        )

    model = build(arch, config, random_weights(arch.table(config)))
    model.eval()
    with paddle.no_grad():
        wanted = model(batch(0, length)).logits.numpy()
        cache = Cache(config.num_hidden_layers, 2, length)
        ends = [prompt, *range(prompt + 1, length + 1)]
        parts = [model(batch(start, end), cache).logits for start, end in zip([0, *ends], ends, strict=False)]
        found = paddle.concat(parts, axis=1).numpy()
        alone = model(Batch(ids[1:, padding:])).logits.numpy()
    kept = np.ones([2, length, 1]) if mask is None else mask.numpy()[..., None]
    _close("cached decoding", found * kept, wanted * kept)
    _close("the sample without its padding", alone, wanted[1:, padding:])


def _close(what: str, found: np.ndarray, wanted: np.ndarray) -> None:
    worst = (np.abs(found - wanted) - 1e-5 * np.abs(wanted)).max()
    assert worst <= 1e-5, f"{what} differs from the uncached pass by {np.abs(found - wanted).max():.2e}"
