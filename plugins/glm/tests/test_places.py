"""T1: where tokens stand, against the papers' words and plain counting; the golden cases compare it in numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import zoo_glm
from zoo_core.errors import ConfigError
from zoo_core.testing import contract
from zoo_glm.modeling import places
from zoo_ops import Batch

ARCH = contract.architecture(zoo_glm)
MASK, SMASK, GMASK, START, END = 3, 4, 5, 6, 7
SPECIAL = {"vocab_size": 40, "start_token_id": START, "mask_token_ids": (MASK, SMASK, GMASK)}
SMALL, LARGE = (
    {e.name: e.config for e in ARCH.capabilities.models}[name].replace(**ARCH.capabilities.scales["tiny"])
    for name in ("THUDM/glm-10b", "THUDM/glm-130b")
)
SMALL, LARGE = SMALL.replace(**SPECIAL), LARGE.replace(**SPECIAL)


def _of(tokens: list[int], config, **fields) -> tuple[list[int], list[int], list[bool]]:
    found = places(Batch(paddle.to_tensor([tokens]), **fields), config)
    return found.position_BS[0].tolist(), found.block_BS[0].tolist(), found.prefix_BK[0].tolist()


def _plain(tokens: list[int], large: bool) -> tuple[list[int], list[int], list[bool]]:
    """The rule, token after token."""
    prefix = tokens.index(START) if START in tokens else 0
    kinds = (MASK, SMASK, GMASK) if not large else (MASK,) if MASK in tokens[:prefix] else (SMASK,)
    blanks = [i for i in range(prefix) if tokens[i] in kinds]
    positions, block, nth = [], [], -1
    for i, token in enumerate(tokens):
        if i < prefix or not prefix and START not in tokens:
            positions.append(i)
            block.append(0)
            continue
        nth += token == START
        block.append(1 if token == START else block[-1] + 1)
        at = blanks[min(nth, len(blanks) - 1)] if blanks else i if large else max(prefix - 1, 0)
        positions.append(at)
    return positions, block, [i < prefix for i in range(len(tokens))]


def test_the_papers_example():
    """Figure 2 of Du et al. 2022, x1 x2 [M] x4 [M] with x3 and x5 x6 missing; positions count from 0 here."""
    tokens = [11, 12, MASK, 14, MASK, START, 13, START, 15, 16]
    position, block, prefix = _of(tokens, SMALL)
    assert position == [0, 1, 2, 3, 4, 2, 2, 4, 4, 4]
    assert block == [0, 0, 0, 0, 0, 1, 2, 1, 2, 3]
    assert prefix == [True] * 5 + [False] * 5


@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["glm", "130b"])
def test_random_samples_alone_padded_and_packed(config):
    rng = np.random.default_rng(0)
    samples = [
        rng.choice([MASK, SMASK, GMASK, START, END, 11, 12, 13], rng.integers(1, 12)).tolist() for _ in range(60)
    ]
    samples += [[START], [START, 11], [GMASK, START], [11]]
    wanted = [_plain(sample, config.is_130b) for sample in samples]
    for sample, alone in zip(samples, wanted, strict=True):
        assert _of(sample, config) == alone, sample

    longest = max(map(len, samples))
    ids = np.asarray([[START] * (longest - len(s)) + s for s in samples])
    mask = np.asarray([[0] * (longest - len(s)) + [1] * len(s) for s in samples])
    padded = places(Batch(paddle.to_tensor(ids), attention_mask=paddle.to_tensor(mask)), config)
    for row, (sample, (position, block, prefix)) in enumerate(zip(samples, wanted, strict=True)):
        first = longest - len(sample)
        assert padded.position_BS[row, first:].tolist() == position
        assert padded.block_BS[row, first:].tolist() == block
        assert padded.prefix_BK[row].tolist() == [False] * first + prefix

    segments = np.repeat(np.arange(len(samples)), [len(s) for s in samples])[None]
    together = _of([token for s in samples for token in s], config, segment_ids=paddle.to_tensor(segments))
    assert together == tuple(sum((list(w[part]) for w in wanted), []) for part in range(3))


def test_padding_between_prompt_and_answer_counts_nothing():
    """As the published tokenizer pads a batch of prompts: on the right, before the start tokens."""
    tokens, mask = [11, 12, GMASK, 0, 0, START, 13], [[1, 1, 1, 0, 0, 1, 1]]
    position, block, prefix = _of(tokens, SMALL, attention_mask=paddle.to_tensor(mask))
    assert (position[:3], position[5:], block[5:]) == ([0, 1, 2], [2, 2], [1, 2])
    assert prefix == [True] * 3 + [False] * 4


def test_without_a_start_token_id_everything_is_causal():
    config = SMALL.replace(start_token_id=None, mask_token_ids=())
    found = places(Batch(paddle.to_tensor([[11, GMASK, START, 12]])), config)
    assert found.prefix_BK is None
    assert found.position_BS.tolist() == [[0, 1, 2, 3]]
    assert found.block_BS.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("tokens", [[1] * 9, [1, GMASK, START, *[1] * 7]], ids=["text", "answer"])
def test_a_position_beyond_the_table_is_refused(tokens):
    model = ARCH.build_model(SMALL.replace(max_position_embeddings=8))
    model.eval()
    assert model(Batch(paddle.to_tensor([tokens]))).logits.shape[1] == len(tokens)
    longer = Batch(paddle.to_tensor([[*tokens, 1]]))
    with pytest.raises(ConfigError, match="position 9 is beyond the model's"):
        model(longer)
