"""Rows that come and go: each gets what it gets alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from zoo_core.generate import EnginePasses, Pool, Row, Rules, Sampling

sys.path.insert(0, str(Path(__file__).parent))

from decoding_models import DRAWN, FAMILIES, GREEDY, alone, make_engine, prompts  # noqa: E402


class Seen:
    """A cache of columns as lists of rows; what a row sees of itself is checked at each pass."""

    def __init__(self):
        self.rows = []

    def keep(self, order):
        assert all(row >= at for at, row in enumerate(order))
        self.rows = [self.rows[row] for row in order]

    def shift(self, columns):
        self.rows = [[None] * columns + row if columns > 0 else row[-columns:] for row in self.rows]

    def join(self, other):
        longest = len(self.rows[0]) if self.rows else len(other.rows[0])
        self.rows += [[None] * (longest - len(row)) + row for row in other.rows]


class Counting:
    """A model whose next token is one more than the sum of the row's tokens; it looks at the mask for what is real."""

    reads_prompt_at_once = False

    def __init__(self, vocab=1000, room=None):
        self.vocab, self.shapes, self.room = vocab, [], room

    def cache(self, rows, room):
        return Seen()

    def read(self, cache, ids, mask, positions):
        self.shapes.append(ids.shape)
        if not cache.rows:
            cache.rows = [[] for _ in ids]
        cache.rows = [[*row, *new] for row, new in zip(cache.rows, ids.tolist(), strict=True)]
        columns = len(cache.rows[0])
        assert {len(row) for row in cache.rows} == {columns} and (self.room is None or columns <= self.room)
        mask = np.ones((len(ids), columns)) if mask is None else mask
        found = np.zeros((len(ids), self.vocab))
        for at, (row, real) in enumerate(zip(cache.rows, mask.tolist(), strict=True)):
            tokens = [token for token, is_real in zip(row, real, strict=True) if is_real]
            assert len(tokens) <= positions[at, -1] + 1
            found[at, (sum(tokens) + 1) % self.vocab] = 1.0
        return found


def by_hand(row, vocab=1000):
    tokens = list(row.ids)
    for _ in range(row.max_new_tokens):
        tokens.append((sum(tokens) + 1) % vocab)
    return tokens[len(row.ids) :]


def run(pool, plan, limit=2000):
    """Add rows at given steps; returns the tokens of each, by its place in the plan, and how each ended."""
    tickets, texts, ends, step = {}, {}, {}, 0
    waiting = list(enumerate(plan))
    while waiting or len(ends) < len(plan):
        for entry in list(waiting):
            at, (when, row, rules) = entry
            if when <= step and pool.free:
                tickets[pool.add(row, rules)] = at
                texts[at] = []
                waiting.remove(entry)
        for ticket, given in pool.step().items():
            if given.token is not None:
                texts[tickets[ticket]].append(given.token)
            if given.finish:
                ends[tickets[ticket]] = given.finish
        step += 1
        assert step < limit
    return texts, ends


@pytest.mark.parametrize("chunk", [1, 3, 512])
@pytest.mark.parametrize("slots, room", [(1, 40), (3, 40), (8, 300)])
def test_rows_come_and_go(slots, room, chunk):
    random = np.random.default_rng(0)
    rules, rows = Rules(GREEDY), []
    for _ in range(25):
        length = int(random.integers(1, 20))
        rows.append(Row(random.integers(0, 1000, length).tolist(), int(random.integers(1, 21))))
    plan = [(int(random.integers(0, 60)), row, rules) for row in rows]
    model = Counting(room=room)
    pool = Pool(model, slots, room, chunk)
    texts, ends = run(pool, plan)
    assert texts == {at: by_hand(row) for at, row in enumerate(rows)}
    assert set(ends.values()) == {"length"} and pool.free == slots and not pool.step()
    most = max(rows for rows, _ in model.shapes)
    assert most == slots if chunk == 512 else most <= slots


def test_columns_that_no_row_uses_are_given_back():
    model = Counting(room=400)
    pool = Pool(model, 2, 400)
    rows = [Row([1] * 200, 2), Row([2], 50), Row([3] * 10, 20)]
    texts, _ = run(pool, [(0, rows[0], Rules(GREEDY)), (0, rows[1], Rules(GREEDY)), (10, rows[2], Rules(GREEDY))])
    assert texts == {at: by_hand(row) for at, row in enumerate(rows)} and pool._columns == 0


def test_ends_limits_and_logprobs():
    pool = Pool(Counting(10), 2, 20)
    first = pool.add(Row([1], 5), Rules(GREEDY, ends=(4,), logprobs=2))
    second = pool.add(Row([1], 1), Rules(GREEDY, ends=(4,)))
    steps = [pool.step() for _ in range(2)]
    assert [step.get(second) and (step[second].token, step[second].finish) for step in steps] == [(2, "length"), None]
    assert [step[first].token for step in steps] == [2, None] and steps[1][first].finish == "stop"
    chance = np.log(np.e / (np.e + 9))
    for step in steps:
        assert step[first].logprob == pytest.approx(chance) and step[first].top[0][1] == pytest.approx(chance)
    assert [place for place, _ in steps[0][first].top] == [2, 0] and pool.free == 2
    assert Pool(Counting(10), 1, 9).step() == {}


def test_who_is_dropped_leaves_its_slot_to_others():
    pool = Pool(Counting(), 2, 30, chunk=4)
    rows = [Row([5] * 8, 20), Row([7], 20), Row([9], 3)]
    tickets = [pool.add(row, Rules(GREEDY)) for row in rows[:2]]
    with pytest.raises(ValueError, match="slots are taken"):
        pool.add(rows[2], Rules(GREEDY))
    pool.step()
    pool.drop(tickets[0])  # while its prompt is read
    assert pool.free == 1 and tickets[0] not in {**pool.step(), **pool.step(), **pool.step(), **pool.step()}
    third = pool.add(rows[2], Rules(GREEDY))
    pool.drop(tickets[1])  # while it runs
    pool.drop(99)
    found = []
    while pool.free < 2:
        given = pool.step()
        assert tickets[1] not in given
        found += [given[third].token] if third in given else []
    assert found == by_hand(rows[2])


def test_rows_that_are_none():
    pool = Pool(Counting(), 2, 10)
    for row, reason in ((Row([], 2), "at least one"), (Row([1], 0), "at least one"), (Row([1] * 8, 3), "room for 10")):
        with pytest.raises(ValueError, match=reason):
            pool.add(row, Rules(GREEDY))
    assert pool.free == 2
    for sizes in ((0, 10, 1), (1, 1, 1), (1, 10, 0)):
        with pytest.raises(ValueError, match="a pool of"):
            Pool(Counting(), *sizes)


class Broken(Counting):
    def read(self, cache, ids, mask, positions):
        found = super().read(cache, ids, mask, positions)
        found[[ids[at, -1] == 13 for at in range(len(ids))]] = np.nan
        return found


def test_logits_that_are_not_numbers_end_their_row_alone():
    pool = Pool(Broken(), 2, 20)
    texts, ends = run(pool, [(0, Row([13], 4), Rules(DRAWN)), (0, Row([1], 4), Rules(GREEDY))])
    assert ends == {0: "error", 1: "length"} and texts[1] == by_hand(Row([1], 4)) and texts[0] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    """Ten rows in four slots, greedy and drawn, with penalties: what each gets alone, to the token."""
    engine = make_engine(FAMILIES[family])
    passes = EnginePasses(engine)
    rules = [
        Rules(GREEDY), Rules(DRAWN),
        Rules(Sampling(0.8, 0, 0.9, 0.02, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2)),
    ]  # fmt: skip
    rows = [
        Row(ids, new, seed)
        for seed, (ids, new) in enumerate(
            zip(prompts(engine, (9, 3, 6, 14, 2, 21, 1, 8, 5, 11)), (4, 9, 2, 6, 12, 3, 8, 5, 7, 4), strict=True)
        )
    ]
    plan = [(2 * at, row, rules[at % 3]) for at, row in enumerate(rows)]
    texts, ends = run(Pool(passes, 4, 48, chunk=5), plan)
    assert set(ends.values()) == {"length"}
    for at, (_, row, rule) in enumerate(plan):
        assert texts[at] == alone(engine, row, rule), (family, at)
