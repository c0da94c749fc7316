"""Beam search over models that are tables: what is found, when a search ends, and what is refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from zoo_core.errors import ConfigError
from zoo_core.generate import Row, Rules, Sampling
from zoo_core.generate.beam import beam_search

GREEDY = Sampling(temperature=0.0)


class Markov:
    """A model whose next token hangs on the last one and on how many there are; it notes its passes."""

    reads_prompt_at_once = False

    def __init__(self, vocab=5, positions=12, seed=0):
        self.logits = np.random.default_rng(seed).standard_normal((positions, vocab, vocab)) * 2
        self.passes, self.orders = [], []

    def cache(self, rows, room):
        self.room = (rows, room)
        return []

    def read(self, cache, ids, mask, positions):
        self.passes.append(ids.shape)
        cache.append((ids, positions))
        return self.logits[positions[:, -1], ids[:, -1]]

    def reorder(self, cache, order):
        self.orders.append(list(order))

    def logprobs(self, ids):
        values = self.logits[len(ids) - 1, ids[-1]]
        return values - np.log(np.exp(values).sum())

    def every_answer(self, prompt, most, end=None):
        """All answers with the sums of their log-probabilities, best first; an end ends one."""
        vocab, found = self.logits.shape[1], {}
        for tokens in product(range(vocab), repeat=most):
            if end in tokens:
                tokens = tokens[: tokens.index(end) + 1]
            ids, total = list(prompt), 0.0
            for token in tokens:
                total += self.logprobs(ids)[token]
                ids.append(token)
            found[tokens] = total
        return sorted(found.items(), key=lambda item: -item[1])


def test_with_enough_beams_it_finds_the_best_of_all_answers():
    model = Markov()
    best = model.every_answer([3], 4)[:5]
    found = beam_search(model, [Row([3], 4)], Rules(GREEDY), 125, num_return_sequences=5)[0]
    assert [beam.tokens for beam in found] == [tokens for tokens, _ in best]
    np.testing.assert_allclose([beam.score for beam in found], [score for _, score in best])
    assert {beam.finish for beam in found} == {"length"}


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 3.0])
def test_with_ends_and_a_length_penalty_too(penalty):
    model = Markov(vocab=4)
    answers = [(tokens, score / len(tokens) ** penalty) for tokens, score in model.every_answer([2, 1], 5, end=0)]
    best = sorted(answers, key=lambda item: -item[1])[:6]
    found = beam_search(
        model, [Row([2, 1], 5)], Rules(GREEDY, ends=(0,)), 300, length_penalty=penalty, num_return_sequences=6
    )[0]
    assert [(*beam.tokens, 0) if beam.finish == "stop" else beam.tokens for beam in found] == [t for t, _ in best]
    np.testing.assert_allclose([beam.score for beam in found], [score for _, score in best])
    assert len({beam.finish for beam in found}) == 2 or penalty != 0.0


def test_one_beam_is_greedy():
    model, ids = Markov(), [3]
    for _ in range(6):
        ids.append(int(model.logprobs(ids).argmax()))
    assert beam_search(model, [Row([3], 6)], Rules(GREEDY), 1)[0][0].tokens == tuple(ids[1:])


def test_rows_leave_and_the_prompt_is_read_once_and_in_pieces():
    model = Markov(positions=20)
    rows = [Row([1, 2, 3, 4, 1, 2], 3), Row([2], 9), Row([4, 4], 1)]
    found = beam_search(model, rows, Rules(GREEDY), 3, num_return_sequences=3, chunk=6)
    assert [{len(beam.tokens) for beam in row} for row in found] == [{3}, {9}, {1}]
    assert model.room == (9, 15)
    assert model.passes == [(3, 2)] * 3 + [(6, 1)] * 2 + [(3, 1)] * 6
    assert model.orders[0][:3] == [0] * 3 and model.orders[0][3:] == [1] * 3
    assert list(range(3)) not in model.orders and list(range(6)) not in model.orders, "an order that changes nothing"
    for row, answers in zip(rows, found, strict=True):
        alone = beam_search(Markov(positions=20), [row], Rules(GREEDY), 3, num_return_sequences=3)[0]
        assert [beam.tokens for beam in alone] == [beam.tokens for beam in answers]


class Ending:
    """After each token an end (0) is likely, and two others less so; later ends are likelier."""

    reads_prompt_at_once = False

    def __init__(self):
        self.passes = 0

    def cache(self, rows, room):
        return None

    def read(self, cache, ids, mask, positions):
        self.passes += 1
        later = 0.05 * positions[:, -1:]
        return np.log(np.concatenate([0.3 + later, 0.4 - later / 2, 0.3 - later / 2], axis=1))

    def reorder(self, cache, order):
        pass


def test_the_ways_to_stop_differ_in_when_they_stop():
    passes = {}
    for early in (True, False, "never"):
        model = Ending()
        found = beam_search(
            model, [Row([1], 12)], Rules(GREEDY, ends=(0,)), 2, length_penalty=2.0, early_stopping=early
        )
        passes[early] = model.passes
        assert found[0][0].finish == "stop"
    assert passes[True] < passes[False] <= passes["never"]


def test_rules_and_penalties():
    model = Markov(vocab=6)
    rules = Rules(
        Sampling(temperature=0.0, repetition_penalty=1.5, presence_penalty=0.2, frequency_penalty=0.1),
        ends=(0,), min_new_tokens=3, vocab_size=5, bad_words=((4,), (1, 2)),
    )  # fmt: skip
    prompt, most = [3, 1], 4

    def total(tokens):
        ids, answer, score = list(prompt), [], 0.0
        for token in tokens:
            values = model.logits[len(ids) - 1, ids[-1], :5]
            values = values - np.log(np.exp(values).sum())
            values = np.where(np.isin(np.arange(5), ids), values * 1.5, values)
            for each in set(answer):
                values[each] -= 0.2 + 0.1 * answer.count(each)
            values[[4] + [0] * (len(answer) < 3) + [2] * (ids[-1] == 1)] = -np.inf
            score += values[token]
            ids.append(token)
            answer.append(token)
        return score

    ended = {(*tokens, 0) for tokens in product(range(1, 5), repeat=3)}
    every = [tokens for tokens in product(range(1, 5), repeat=most)] + list(ended)
    best = sorted(every, key=lambda tokens: -total(tokens))[:4]
    found = beam_search(model, [Row(prompt, most)], rules, 100, num_return_sequences=4)[0]
    assert [(*beam.tokens, 0) if beam.finish == "stop" else beam.tokens for beam in found] == best
    np.testing.assert_allclose([beam.score for beam in found], [total(tokens) for tokens in best])


def test_what_cannot_be_searched():
    model, row, rules = Markov(), [Row([1], 3)], Rules(GREEDY)
    for wrong, said in (
        ({"beams": 0}, "number of beams is 0"),
        ({"beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"beams": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
        ({"beams": 2, "early_stopping": "soon"}, "early_stopping is soon"),
    ):
        with pytest.raises(ConfigError, match=said):
            beam_search(model, row, rules, **wrong)
    with pytest.raises(ConfigError, match="temperature 1"):
        beam_search(model, row, Rules(Sampling()), 2)
    for rows in ([], [Row([], 3)], [Row([1], 0)]):
        with pytest.raises(ValueError, match="at least one"):
            beam_search(model, rows, rules, 2)
    with pytest.raises(ConfigError, match="rules allow no token"):
        beam_search(model, row, Rules(GREEDY, bad_words=tuple((token,) for token in range(5))), 2)
    model.logits[:] = np.nan
    with pytest.raises(ConfigError, match="not numbers"):
        beam_search(model, row, rules, 2)
