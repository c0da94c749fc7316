"""Many prompts at a time: every row gets what it gets alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.errors import ConfigError
from zoo_core.generate import Row, Rules, decode_batch, decode_steps
from zoo_core.generate.passes import answer_batch
from zoo_core.peft import PrefixSpec

sys.path.insert(0, str(Path(__file__).parent))

from decoding_models import DRAWN, FAMILIES, GREEDY, alone, make_engine, prompts  # noqa: E402

NEW = 6


class Counting:
    """A model whose next token is the last one plus one; it notes what it is given."""

    def __init__(self, vocab=100):
        self.given, self.vocab = [], vocab

    def __call__(self, ids, mask, positions):
        self.given.append((ids.tolist(), None if mask is None else mask.tolist(), positions.tolist()))
        return np.eye(self.vocab)[(ids[:, -1] + 1) % self.vocab]


def test_rows_are_filled_up_on_the_left_and_end_one_by_one():
    model, rules = Counting(), Rules(GREEDY, ends=(13, 5))
    steps = list(decode_steps(model, [Row([9, 10], 8), Row([4], 8), Row([7], 2)], rules))
    assert steps == [[11, None, 8], [12, None, 9], [None, None, None]]
    assert model.given == [
        ([[9, 10], [0, 4], [0, 7]], [[1, 1], [0, 1], [0, 1]], [[0, 1], [0, 0], [0, 0]]),
        ([[11], [0], [8]], [[1, 1, 1], [0, 1, 0], [0, 1, 1]], [[2], [0], [1]]),
        ([[12], [0], [9]], [[1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]], [[3], [0], [1]]),
    ]


def test_rows_of_one_length_need_no_mask():
    model = Counting()
    assert decode_batch(model, [Row([1], 2), Row([5], 2)], Rules(GREEDY)) == [[2, 3], [6, 7]]
    assert [mask for _, mask, _ in model.given] == [None, None]


def test_fewest_tokens_most_tokens_and_the_vocabulary():
    uniform = lambda ids, mask, positions: np.tile(np.arange(10.0), (len(ids), 1))  # noqa: E731
    rules = Rules(GREEDY, ends=(7, 99), min_new_tokens=3, vocab_size=8)
    assert decode_batch(uniform, [Row([1], 9), Row([1], 2), Row([1], 0)], rules) == [[6, 6, 6], [6, 6], []]


def test_a_row_that_has_ended_goes_on_as_filling_as_long_as_others_want():
    model, asked = Counting(), []

    def going(some):
        asked.append(some)
        return len(asked) < 4

    assert decode_batch(model, [Row([1], 2)], Rules(GREEDY, filler=50), going) == [[2, 3]]
    assert asked == [True, False, False, False]
    assert [ids for ids, _, _ in model.given] == [[[1]], [[2]], [[3]], [[50]]]
    assert model.given[-1][1:] == ([[1, 1, 0, 0]], [[1]])


def test_what_cannot_be_decoded():
    for rows in ([], [Row([], 3)]):
        with pytest.raises(ValueError, match="at least one"):
            decode_batch(Counting(), rows, Rules(GREEDY))
    broken = lambda ids, mask, positions: np.full((1, 5), np.nan)  # noqa: E731
    for sampling in (GREEDY, DRAWN):
        with pytest.raises(ConfigError, match="not numbers"):
            decode_batch(broken, [Row([1], 3)], Rules(sampling))


def gives_each_row_what_it_gets_alone(engine):
    rows = [Row(ids, NEW - number, (3, number)) for number, ids in enumerate(prompts(engine))]
    drawn = [alone(engine, row, Rules(DRAWN)) for row in rows]
    assert len({token for text in drawn for token in text}) > 4, "the model says little: nothing is tested"
    assert answer_batch(engine, rows, Rules(DRAWN), NEW) == drawn
    rules = Rules(DRAWN, ends=(drawn[1][-2],))
    ended = [alone(engine, row, rules) for row in rows]
    assert len(ended[1]) < len(drawn[1])
    assert answer_batch(engine, rows, rules, NEW) == ended
    greedy = Rules(GREEDY)
    assert answer_batch(engine, rows[::-1], greedy, NEW) == [alone(engine, row, greedy) for row in rows[::-1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_each_row_what_it_gets_alone(family):
    gives_each_row_what_it_gets_alone(make_engine(FAMILIES[family]))


@pytest.mark.parametrize("family", ["llama", "bloom", "chatglm", "opt"])
def test_a_batch_behind_a_prefix(family):
    engine = make_engine(FAMILIES[family], prefix=PrefixSpec(5))
    random = np.random.default_rng(0)
    for name, held in engine.held.items():
        if "prefix" in name:
            held.tensor.set_value(random.standard_normal(held.tensor.shape, np.float32) * 0.3)
    gives_each_row_what_it_gets_alone(engine)


def test_training_goes_on_as_if_nothing_had_been_answered():
    """The engine of a run: an answer in between changes no weight, no gradient and no mode."""
    losses = []
    for answers in (False, True):
        engine = make_engine("facebook/llama-7b", settings=OptimizerSettings())
        ids = np.random.default_rng(2).integers(10, 200, (2, 9))
        batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
        for _ in range(2):
            losses.append(engine.train_step([batch], 1e-2).loss)
            if answers:
                assert answer_batch(engine, [Row([5, 6], 3), Row([7], 2)], Rules(GREEDY), 3) != [[], []]
    assert losses[:2] == losses[2:] and losses[1] < losses[0]


def test_the_head_sees_the_last_position_alone():
    engine = make_engine("facebook/llama-7b")
    seen, head = [], engine.layers.run[-1]
    plain = head.forward
    head.forward = lambda x, *more: seen.append(x.shape) or plain(x, *more)
    answer_batch(engine, [Row([5, 6, 7], 2), Row([8], 2)], Rules(GREEDY), 2)
    assert [shape[:2] for shape in seen] == [[2, 1], [2, 1]]
