"""T1: decoding with a cache gives what one pass over the whole sequence gives, prompts of v1 included.

Shape legend: B batch, S sequence.
"""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import zoo_chatglm
from zoo_chatglm.modeling import Places
from zoo_core.testing import caches, contract
from zoo_core.testing.models import build, random_weights
from zoo_ops import Batch, Cache

ARCH = contract.architecture(zoo_chatglm)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]
MASK, GMASK, BOS, EOS, PAD = 60, 61, 64, 65, 3
SPECIAL = {"mask_token_id": MASK, "gmask_token_id": GMASK, "bos_token_id": BOS, "eos_token_id": EOS}
V1 = MODELS["THUDM/chatglm-6b"].replace(**TINY).replace(vocab_size=67, **SPECIAL)
V2 = MODELS["THUDM/chatglm2-6b"].replace(**TINY)


def text(length: int, seed: int = 0) -> list[int]:
    """Ids that are no special tokens."""
    return np.random.default_rng(seed).integers(5, 60, length).tolist()


# Two rounds of chat, a short question, a blank within the text, plain text, and a prompt that begins with bos.
ROWS = {
    "rounds": [*text(4), *text(3, 1), *text(2, 2), GMASK, BOS],
    "question": [*text(3, 3), GMASK, BOS],
    "blank": [*text(2, 4), MASK, *text(3, 5), BOS],
    "text": text(7, 6),
    "no mask": [*text(4, 7), BOS],
    "bos first": [BOS],
}
ANSWER = [*text(5, 8), EOS]


def padded(rows: list[list[int]], pad: int = PAD) -> tuple[paddle.Tensor, np.ndarray]:
    length = max(len(row) for row in rows)
    ids = [[pad] * (length - len(row)) + row for row in rows]
    real = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return paddle.to_tensor(ids), np.array(real)


@pytest.fixture(scope="module", params=[True, False], ids=["2d", "1d"])
def model(request):
    config = V1.replace(position_encoding_2d=request.param)
    made = build(ARCH, config, random_weights(ARCH.table(config)))
    made.eval()
    return made


@pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
@pytest.mark.parametrize("config", [V1.replace(bos_token_id=None), V2], ids=["v1", "v2"])
def test_cached_decoding_of_plain_text_is_the_uncached_pass(config, padding, zoo_evidence):
    zoo_evidence("chatglm", "generation", tier="T1")
    caches.check_cache(ARCH, config, padding)


@pytest.mark.parametrize("chunk", [1, 2])
def test_answers_are_decoded_as_in_one_pass(model, chunk):
    """Prompts of every kind in one batch, so that all but one are padded, and each alone without padding."""
    prompts = list(ROWS.values())
    prompt_BS, real = padded(prompts)
    prompt = prompt_BS.shape[1]
    ids_BS = paddle.concat([prompt_BS, paddle.to_tensor([ANSWER] * len(prompts))], axis=1)
    mask = paddle.to_tensor(np.concatenate([real, np.ones([len(prompts), len(ANSWER)], np.int64)], axis=1))
    cache = Cache(4, len(prompts), ids_BS.shape[1])
    ends = [prompt, *range(prompt + chunk, ids_BS.shape[1] + 1, chunk)]
    with paddle.no_grad():
        whole = model(Batch(ids_BS, attention_mask=mask)).logits.numpy()
        parts = [
            model(Batch(ids_BS[:, start:end], attention_mask=mask[:, :end]), cache).logits
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        found = paddle.concat(parts, axis=1).numpy()
        for number, row in enumerate(prompts):
            alone = model(Batch(paddle.to_tensor([row + ANSWER]))).logits.numpy()[0]
            start = prompt - len(row)
            np.testing.assert_allclose(found[number, start:], alone, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(whole[number, start:], alone, rtol=1e-5, atol=1e-5)


def test_beams_keep_the_prompt_that_they_continue(model):
    """After a reorder each row goes on with the prompt it copied, in every layer."""
    prompts = [ROWS["rounds"], [*text(1), MASK, *text(6), BOS, *text(2)]]
    cache, order = Cache(4, 2, 20), [1, 0]
    with paddle.no_grad():
        model(Batch(paddle.to_tensor(prompts)), cache)
        cache.reorder(paddle.to_tensor(order))
        found = model(Batch(paddle.to_tensor([[7], [8]])), cache).logits.numpy()[:, 0]
        swapped = [[*prompts[old], new] for old, new in zip(order, (7, 8), strict=True)]
        wanted = model(Batch(paddle.to_tensor(swapped))).logits.numpy()[:, -1]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_each_round_of_chat_reads_its_prompt_anew(model):
    """A second question makes the first answer a part of the prompt: the emptied cache is used again."""
    first = [*ROWS["question"], *ANSWER]
    second = [*ROWS["question"][:-2], *ANSWER[:-1], *text(4, 9), GMASK, BOS]
    cache = Cache(4, 1, 30)
    with paddle.no_grad():
        model(Batch(paddle.to_tensor([first])), cache)
        cache.truncate(0)
        model(Batch(paddle.to_tensor([second])), cache)
        found = model(Batch(paddle.to_tensor([[9]])), cache).logits.numpy()[:, -1]
        wanted = model(Batch(paddle.to_tensor([[*second, 9]]))).logits.numpy()[:, -1]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_an_answer_may_be_cut_and_a_prompt_may_not(model):
    prompt = [*ROWS["question"], 7]
    cache = Cache(4, 1, 30)
    with paddle.no_grad():
        model(Batch(paddle.to_tensor([prompt])), cache)
        model(Batch(paddle.to_tensor([[8, 9]])), cache)
        cache.truncate(len(prompt) - 1)
        found = model(Batch(paddle.to_tensor([[10, 11]])), cache).logits.numpy()
        wanted = model(Batch(paddle.to_tensor([[*ROWS["question"], 10, 11]]))).logits.numpy()[:, -2:]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        cache.truncate(2)
        with pytest.raises(ValueError, match="in one pass"):
            model(Batch(paddle.to_tensor([[10, GMASK, BOS]])), cache)


def test_a_prompt_in_pieces_is_refused(model):
    cache = Cache(4, 1, 30)
    with paddle.no_grad():
        model(Batch(paddle.to_tensor([text(4)])), cache)
        with pytest.raises(ValueError, match="in one pass"):
            model(Batch(paddle.to_tensor([[7, GMASK, BOS]])), cache)


def places(rows: list[list[int]], pad: int = PAD, **changes) -> Places:
    ids, real = padded(rows, pad)
    return Places.of(Batch(ids, attention_mask=paddle.to_tensor(real)), V1.replace(**changes), ids.shape[1], None)


@pytest.mark.parametrize("pad", [PAD, BOS, GMASK, MASK])
def test_places_by_hand(pad):
    """Positions and answer positions of each kind of prompt, and which keys all tokens see."""
    rows = [
        [11, 12, GMASK, BOS, 13, 14],
        [11, MASK, 12, BOS, 13, 14],
        [11, 12, BOS, 13],
        [11, 12, 13],
        [GMASK, BOS, MASK, 12, BOS],
    ]
    found = places(rows, pad)
    assert found.position.tolist() == [
        [0, 1, 2, 2, 2, 2],
        [0, 1, 2, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 1, 2],
        [0, 0, 0, 0, 0, 0],
    ]
    assert found.answer.tolist() == [
        [0, 0, 0, 1, 2, 3],
        [0, 0, 0, 1, 2, 3],
        [0, 0, 0, 0, 1, 2],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 2, 3, 4],
    ]
    real = padded(rows)[1]
    assert (found.prefix_BK.numpy() * real).sum(axis=1).tolist() == [3, 3, 2, 0, 1]


def test_places_without_answer_positions():
    """The positions run on after [gMASK], and stay after [MASK]."""
    found = places([[11, 12, GMASK, BOS, 13, 14], [11, MASK, 12, BOS, 13, 14]], position_encoding_2d=False)
    assert found.position.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 1, 1, 1]]


def test_packed_samples_are_as_each_alone(model):
    rows = [ROWS["blank"] + ANSWER, ROWS["text"], ROWS["question"] + ANSWER]
    segments = [number for number, row in enumerate(rows) for _ in row]
    packed = Batch(
        paddle.to_tensor([sum(rows, [])] * 2),
        segment_ids=paddle.to_tensor([segments] * 2),
    )
    with paddle.no_grad():
        found = model(packed).logits.numpy()
        wanted = np.concatenate([model(Batch(paddle.to_tensor([row]))).logits.numpy()[0] for row in rows])
    np.testing.assert_allclose(found, np.stack([wanted, wanted]), rtol=1e-5, atol=1e-5)
