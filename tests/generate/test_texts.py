"""Text of tokens as they come, and where it ends."""

from __future__ import annotations

import pytest

from zoo_core.generate import AnswerText, TextStream


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


def answer(bpe, text, stop):
    """The pieces of a text, and whether a stop string was seen, with the tokens behind it."""
    ids, told = bpe.encode(text), AnswerText(bpe, (), stop)
    pieces = []
    for token in ids:
        pieces.append(told.add(token))
        if told.stopped:
            break
    return "".join(pieces) + told.end(), told.stopped, pieces


@pytest.mark.parametrize("text, stop, wanted", [
    ("the heaven and the earth", ["and"], "the heaven "),
    ("the heaven and the earth", ["earth", "heaven"], "the "),
    ("the heaven", ["heavens", ""], "the heaven"),
    ("aab aaab", ["aaab"], "aab "),
    ("疑是地上霜", ["地上"], "疑是"),
    ("a", ["a"], ""),
])  # fmt: skip
def test_an_answer_ends_before_the_first_stop_string(bpe, text, stop, wanted):
    found, stopped, pieces = answer(bpe, text, stop)
    assert found == wanted and stopped == (wanted != text)
    for piece in range(len(pieces)):
        assert text.startswith("".join(pieces[:piece]))


def test_nothing_of_a_stop_string_is_shown_before_it_is_known_to_be_none(bpe):
    told, shown = AnswerText(bpe, (), ["he earth!"]), ""
    for token in bpe.encode("the earth."):
        shown += told.add(token)
        assert "the earth."[: len(shown)] == shown and ("." in shown or len(shown) <= 1)
    assert shown + told.end() == "the earth." and not told.stopped
