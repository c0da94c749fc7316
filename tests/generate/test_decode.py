"""The loop and the stream, without a model."""

from __future__ import annotations

import numpy as np
import pytest

from zoo_core.generate import Sampling, TextStream, decode

GREEDY = Sampling(temperature=0.0)


class Counting:
    """A model whose next token is the last one plus one; it notes what it is given."""

    def __init__(self, vocab=100):
        self.given, self.vocab = [], vocab

    def __call__(self, ids):
        self.given.append(list(ids))
        return np.eye(self.vocab)[(ids[-1] + 1) % self.vocab]


def test_the_prompt_goes_in_once_and_then_each_token():
    model = Counting()
    assert list(decode(model, [7, 8], 3, GREEDY)) == [9, 10, 11]
    assert model.given == [[7, 8], [9], [10]]


def test_it_stops_before_an_end():
    assert list(decode(Counting(), [1], 10, GREEDY, ends=(4,))) == [2, 3]


def test_padding_of_the_vocabulary_is_never_chosen():
    assert list(decode(Counting(), [8], 3, GREEDY, vocab_size=10)) == [9, 0, 1]


def test_a_seed_gives_the_same_tokens_again():
    def text(seed):
        return list(decode(lambda ids: np.zeros(50), [0], 20, Sampling(), seed=seed))

    assert text(1) == text(1) and text(1) != text(2)


def test_an_empty_prompt():
    with pytest.raises(ValueError, match="at least one"):
        next(decode(Counting(), [], 1, GREEDY))


@pytest.mark.parametrize("text", ["明月光 means moonlight", "🌙 é 霜", " two  spaces", "\n\n"])
@pytest.mark.parametrize("prompt", ["", "In the ", "疑是地上"])
def test_a_stream_never_shows_half_a_character(bpe, text, prompt):
    stream = TextStream(bpe, tuple(bpe.encode(prompt)))
    pieces = [stream.add(token) for token in bpe.encode(text)]
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert "".join(pieces) + stream.end() == text


def test_what_never_becomes_a_character_is_shown_at_the_end(bpe):
    half = bpe.encode("🌙")[:1]
    stream = TextStream(bpe)
    assert stream.add(half[0]) == "" and stream.end() == "\N{REPLACEMENT CHARACTER}" and stream.end() == ""
