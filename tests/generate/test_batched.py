"""Many prompts at a time: every row gets what it gets alone."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core import find
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.errors import ConfigError
from zoo_core.generate import Row, Rules, Sampling, decode, decode_batch, decode_steps
from zoo_core.generate.batches import answer_batch
from zoo_core.peft import PrefixSpec
from zoo_core.plan import Request, compose
from zoo_core.testing.models import random_weights
from zoo_ops import Cache

GREEDY, DRAWN = Sampling(temperature=0.0), Sampling(temperature=1.5, top_k=20, top_p=0.95)
NEW = 6
FAMILIES = {
    "llama": "facebook/llama-7b", "chatglm": "THUDM/chatglm-6b", "chatglm2": "THUDM/chatglm2-6b",
    "bloom": "bigscience/bloom-560m", "qwen": "qwen/qwen-7b", "opt": "facebook/opt-125m", "gpt3": "gpt3-345M",
    "glm": "THUDM/glm-10b", "baichuan": "baichuan-inc/Baichuan2-13B-Base", "deepseek_v3": "deepseek-ai/DeepSeek-V3",
}  # fmt: skip


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


def make_engine(name, **more):
    """Two layers of random weights that let the model say many things."""
    found = find(name)
    config = found.config.replace(**{**found.architecture.capabilities.scales["tiny"], "num_hidden_layers": 2})
    mesh = make_mesh(compose(Request(task="logits", device="cpu"), found.architecture, config, name))
    engine = Engine(mesh, found.architecture, config, from_seed(5, config, 1, 0), **more)
    weights = random_weights(found.architecture.table(config))
    for single, held in engine.held.items():
        if single in weights:
            held.tensor.set_value(weights[single])
    return engine


def prompts(engine, lengths=(9, 3, 6)):
    """Random ids; what ends a prompt of the families with blanks stands at the end of each."""
    config, random = engine.config, np.random.default_rng(1)
    found = [random.integers(10, 200, length).tolist() for length in lengths]
    mask = getattr(config, "gmask_token_id", None) or (getattr(config, "mask_token_ids", None) or (None,))[-1]
    start = getattr(config, "start_token_id", None) or config.bos_token_id
    behind = [] if mask is None else [mask, start]
    return [[*ids, *behind] for ids in found]


def alone(engine, row, rules):
    """The text of one row by the loop of one prompt, without mask or filling."""
    cache = Cache(engine.config.num_hidden_layers, 1, len(row.ids) + row.max_new_tokens)

    def following(ids):
        positions = np.arange(cache.length, cache.length + len(ids))[None]
        return engine.logits({"input_ids": np.asarray([ids]), "position_ids": positions}, cache)[0, -1].numpy()

    return list(decode(following, row.ids, row.max_new_tokens, rules.sampling, seed=row.seed, ends=rules.ends))


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
