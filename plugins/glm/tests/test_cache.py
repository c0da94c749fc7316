"""T1: decoding with a cache gives what one pass over the whole sequence gives."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import zoo_glm
from zoo_core.testing import caches, contract
from zoo_core.testing.models import build, random_weights, set_weights
from zoo_ops import Batch, Cache

ARCH = contract.architecture(zoo_glm)
TINY = {e.name: e.config.replace(**ARCH.capabilities.scales["tiny"]) for e in ARCH.capabilities.models}
NAMES = ["THUDM/glm-10b", "THUDM/glm-130b"]
MASK, SMASK, GMASK, START, END = 3, 4, 5, 6, 7
BLANKS = {"vocab_size": 40, "start_token_id": START, "mask_token_ids": (MASK, SMASK, GMASK)}
# Three samples whose prompts end at the same place: one blank, two blanks, and no start token. In each the model then
# writes a start token: it begins the second blank of the second sample, stays at the blank of the first, and means
# nothing in the third.
PROMPTS = (
    [11, 12, 13, 14, GMASK, START],
    [21, MASK, 22, 23, MASK, 24, 25, START],
    [31, 32, 33, GMASK, 34],
)
WRITTEN = ([15, 16, 17, START, 18], [26, END, START, 27, 28], [35, START, 36, 37, 38])


def _rows() -> tuple[np.ndarray, np.ndarray, int]:
    longest = max(map(len, PROMPTS))
    ids = [[0] * (longest - len(p)) + p + w for p, w in zip(PROMPTS, WRITTEN, strict=True)]
    mask = [[0] * (longest - len(p)) + [1] * (len(p) + len(w)) for p, w in zip(PROMPTS, WRITTEN, strict=True)]
    return np.asarray(ids), np.asarray(mask), longest


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_is_the_uncached_pass(name, padding, zoo_evidence):
    zoo_evidence("glm", "generation", tier="T1")
    caches.check_cache(ARCH, TINY[name], padding)


@pytest.mark.parametrize("step", [1, 2], ids=["token by token", "two tokens at once"])
@pytest.mark.parametrize("name", NAMES)
def test_blanks_are_filled_as_in_one_pass(name, step):
    config = TINY[name].replace(**BLANKS)
    weights = random_weights(ARCH.table(config))
    # A start token that comes after the prompt of a causal sample is a word like another: 39, which is spelt alike.
    weights["glm.word_embeddings.weight"][39] = weights["glm.word_embeddings.weight"][START]
    model = build(ARCH, config, weights)
    model.eval()
    ids, mask, prompt = _rows()
    one_pass = ids.copy()
    one_pass[2, ids[2] == START] = 39
    length = ids.shape[1]
    with paddle.no_grad():
        whole = model(Batch(paddle.to_tensor(one_pass), attention_mask=paddle.to_tensor(mask))).logits.numpy()
        cache, found, start = Cache(config.num_hidden_layers, 3, length), [], 0
        for end in [prompt, *range(prompt + step, length + 1, step), length][: 1 + -(-(length - prompt) // step)]:
            batch = Batch(paddle.to_tensor(ids[:, start:end]), attention_mask=paddle.to_tensor(mask[:, :end]))
            found.append(model(batch, cache).logits.numpy())
            start = end
    assert start == length
    difference = np.abs(np.concatenate(found, axis=1) - whole)[mask == 1]
    assert difference.max() < 1e-5 + 1e-5 * np.abs(whole).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_cache_goes_on_from_there(name):
    """What was written is taken back, and something else is written: as if it had been so from the start."""
    config = TINY[name].replace(**BLANKS)
    model = build(ARCH, config, random_weights(ARCH.table(config)))
    model.eval()
    ids, mask, prompt = _rows()
    other = ids.copy()
    other[:, prompt + 1 :] = [[8, START, 9, 10], [START, 8, END, 9], [8, 9, 10, 11]]

    def run(rows: np.ndarray, start: int, end: int, cache: Cache) -> np.ndarray:
        batch = Batch(paddle.to_tensor(rows[:, start:end]), attention_mask=paddle.to_tensor(mask[:, :end]))
        return model(batch, cache).logits.numpy()

    with paddle.no_grad():
        cache, length = Cache(config.num_hidden_layers, 3, ids.shape[1]), ids.shape[1]
        run(ids, 0, prompt, cache)
        run(ids, prompt, length, cache)
        cache.truncate(prompt + 1)
        again = run(other, prompt + 1, length, cache)
        whole = model(Batch(paddle.to_tensor(other), attention_mask=paddle.to_tensor(mask))).logits.numpy()
    assert np.abs(again - whole[:, prompt + 1 :]).max() < 1e-5 + 1e-5 * np.abs(whole).max()


def test_beams_change_places():
    """A sample that continues another's words has its blanks too."""
    config = TINY["THUDM/glm-10b"].replace(**BLANKS)
    model = build(ARCH, config, random_weights(ARCH.table(config)))
    model.eval()
    ids, mask, prompt = _rows()
    order = np.asarray([1, 0, 1])
    new = np.asarray([[START], [15], [END]])
    with paddle.no_grad():
        cache = Cache(config.num_hidden_layers, 3, prompt + 1)
        model(Batch(paddle.to_tensor(ids[:, :prompt]), attention_mask=paddle.to_tensor(mask[:, :prompt])), cache)
        cache.reorder(paddle.to_tensor(order))
        kept = paddle.to_tensor(np.concatenate([mask[order, :prompt], np.ones([3, 1], np.int64)], axis=1))
        found = model(Batch(paddle.to_tensor(new), attention_mask=kept), cache).logits.numpy()
        rows = paddle.to_tensor(np.concatenate([ids[order, :prompt], new], axis=1))
        whole = model(Batch(rows, attention_mask=kept)).logits.numpy()
    assert np.abs(found[:, 0] - whole[:, -1]).max() < 1e-5 + 1e-5 * np.abs(whole).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_pipeline_decodes_like_the_model(name):
    """Only blocks are given a cache, so the first block, which remembers the tokens, has to come with the positions."""
    config = TINY[name].replace(**BLANKS)
    table = ARCH.table(config)
    weights = random_weights(table)
    elements = ARCH.pipe_layers(config)
    layers = [element.factory() for element in elements]
    for element, layer in zip(elements, layers, strict=True):
        set_weights(layer, table, weights, element.single)
        layer.eval()
    model = build(ARCH, config, weights)
    model.eval()
    ids, mask, prompt = _rows()
    caches_ = [Cache(config.num_hidden_layers, 3, ids.shape[1]) for _ in range(2)]
    for start, end in [(0, prompt), *((i, i + 1) for i in range(prompt, ids.shape[1]))]:
        fields = [paddle.to_tensor(ids[:, start:end]), paddle.to_tensor(mask[:, :end])]
        batches = [Batch(fields[0], attention_mask=fields[1]) for _ in range(2)]
        with paddle.no_grad():
            wanted = model(batches[0], caches_[0]).logits
            x, block = None, 0
            for element, layer in zip(elements, layers, strict=True):
                x = layer(x, batches[1], caches_[1][block] if element.is_block else None)
                block += element.is_block
        assert np.array_equal(x.numpy(), wanted.numpy())
