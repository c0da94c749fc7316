"""T1: log-probabilities of given tokens equal those of transformers' logits, in batches, pieces and windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from zoo_core import find
from zoo_core.checkpoint import Reader
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.state import from_checkpoint
from zoo_core.generate import scoring
from zoo_core.generate.scoring import Window, score_rows, windows
from zoo_core.plan import Request, compose

PLUGINS = Path(__file__).parents[2] / "plugins"
# One of each way to see a prompt: rotary, ALiBi, learned positions, a prompt read both ways, latent attention.
CASES = (
    "llama/tests/golden/llama3_gqa",
    "qwen/tests/golden/qwen1_plain",
    "bloom/tests/golden/five_heads",
    "gpt3/tests/golden/gpt2",
    "chatglm/tests/golden/chatglm1_gmask",
    "glm/tests/golden/glm_gmask",
    "deepseek_v3/tests/golden/no_q_lora",
)


def engine_of(folder):
    found = find(str(folder))
    mesh = make_mesh(compose(Request(task="logits", device="cpu"), found.architecture, found.config, str(folder)))
    with Reader(folder, found.architecture.table(found.config)) as reader:
        return Engine(mesh, found.architecture, found.config, from_checkpoint(reader, mesh, "float32"), "float32")


@pytest.fixture(scope="module")
def llama():
    folder = PLUGINS / "llama/tests/golden/llama3_gqa"
    return engine_of(folder), load_file(folder / "golden.safetensors")


def by_definition(logits_SV, ids_S):
    """log softmax in float64, of the token that follows each place."""
    values = logits_SV.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values[np.arange(len(ids_S) - 1), ids_S[1:]], values


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.split("/")[0])
def test_scores_of_unequal_rows_are_those_of_the_golden_logits(case, monkeypatch):
    engine = engine_of(PLUGINS / case)
    golden = load_file(PLUGINS / case / "golden.safetensors")
    ids_BS, logits_BSV = golden["input_ids"], golden["logits"]
    # Rows of the file, and a shorter one that fills the batch up; a piece is two or three places wide.
    cut = ids_BS.shape[1] - 3
    rows = [list(map(int, row)) for row in ids_BS] + [list(map(int, ids_BS[0, :cut]))]
    wanted = [by_definition(logits, ids) for logits, ids in zip(logits_BSV, ids_BS, strict=True)]
    wanted.append(by_definition(logits_BSV[0, :cut], ids_BS[0, :cut]))
    monkeypatch.setattr(scoring, "_LOGITS", 2 * len(rows) * engine.config.vocab_size)
    seen = []
    asked = [5, 0, engine.config.vocab_size - 1]
    found = score_rows(engine, rows, top=3, among=asked, progress=seen.append)
    assert sum(seen) == sum(len(row) - 1 for row in rows)
    for scores, (logprobs, values), row in zip(found, wanted, rows, strict=True):
        assert np.isnan(scores.logprobs[0]) and not scores.greedy[0] and (scores.top_ids[0] == -1).all()
        np.testing.assert_allclose(scores.logprobs[1:], logprobs, rtol=0, atol=1e-5)
        places = np.arange(len(row) - 1)
        best = values[places].argmax(-1)
        assert (scores.greedy[1:] == (best == row[1:])).all()
        np.testing.assert_allclose(scores.top_logprobs[1:], -np.sort(-values[places])[:, :3], rtol=0, atol=1e-5)
        assert (scores.top_ids[1:, 0] == best).all()
        np.testing.assert_allclose(scores.among[1:], values[places][:, asked], rtol=0, atol=1e-5)
        assert scores.tokens == len(row) - 1 and scores.total == pytest.approx(logprobs.sum(), abs=1e-4)


def test_only_what_is_asked_for_is_scored(llama):
    engine, golden = llama
    row = list(map(int, golden["input_ids"][0]))
    whole = score_rows(engine, [row])[0]
    part = score_rows(engine, [row], firsts=[9])[0]
    assert np.isnan(part.logprobs[:9]).all() and part.tokens == len(row) - 9
    np.testing.assert_allclose(part.logprobs[9:], whole.logprobs[9:], rtol=0, atol=1e-6)
    alone = score_rows(engine, [row[:1]])[0]
    assert alone.tokens == 0 and alone.total == 0.0 and alone.top_ids.shape == (1, 0)
    with pytest.raises(ValueError, match="at least one token"):
        score_rows(engine, [row, []])


def test_windows_score_every_token_once_and_give_it_what_they_promise():
    assert windows(10, 1, 4, 4) == [Window(0, 1, 5), Window(4, 5, 9), Window(8, 9, 10)]
    assert windows(5, 1, 4, 4) == [Window(0, 1, 5)] and windows(1, 1, 4, 2) == []
    for tokens, first, length, stride in ((57, 1, 8, 3), (57, 20, 8, 8), (9, 1, 8, 1), (40, 5, 7, 6)):
        found = windows(tokens, first, length, stride)
        scored = [place for part in found for place in range(part.first, part.end)]
        assert scored == list(range(first, tokens))
        for part in found:
            assert part.begin < part.first and part.end - 1 - part.begin <= length
            if part.begin and part is not found[0]:
                assert part.first - part.begin >= length - stride + 1
    for stride in (0, 5):
        with pytest.raises(ValueError, match="stride"):
            windows(9, 1, 4, stride)


def test_a_long_text_is_scored_by_windows(llama):
    engine, golden = llama
    row = list(map(int, golden["input_ids"].reshape(-1)))
    found = score_rows(engine, [row], window=8, stride=3, batch_size=3)[0]
    for part in windows(len(row), 1, 8, 3):
        alone = score_rows(engine, [row[part.begin : part.end]])[0].logprobs
        np.testing.assert_allclose(
            found.logprobs[part.first : part.end], alone[part.first - part.begin :], rtol=0, atol=1e-6
        )


def test_logits_that_are_no_numbers_have_no_log_probability(llama):
    engine, golden = llama
    row = list(map(int, golden["input_ids"][0]))

    def see(head, x_BSH):
        return lambda part: head(part) * float("nan")

    whole = engine.at_head
    engine.at_head = lambda fields, look: whole(fields, lambda head, x: look(see(head, x), x))
    try:
        (found,) = score_rows(engine, [row])
    finally:
        del engine.at_head
    assert np.isnan(found.logprobs).all() and found.tokens == 0
