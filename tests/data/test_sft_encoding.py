"""Conversations as ids: answers against transformers' masks, forms of families, and what is cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from letters import ASSISTANT, BOS, END, EOS, MASK, START, USER, Chatty, Letters, Numbered, Prompted  # noqa: E402

from zoo_core.data.sft import BadLine, Encoder, Limits
from zoo_core.errors import DataError, TokenizerError
from zoo_core.tokenizers import load_tokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "masks.json").read_text(encoding="utf-8"))
BPE = Path(__file__).parents[1] / "tokenizers" / "golden" / "bpe"


def text(ids):
    return [ord(letter) for letter in ids]


def talk(*contents, system=None):
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def learned(found):
    return [found.ids[start:stop] for start, stop in found.answers]


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_answers_are_those_that_transformers_marks(case, tmp_path):
    pytest.importorskip("jinja2")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((BPE / name).read_bytes())
    want = GOLDEN["cases"][case]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(want["config"]))
    encoder = Encoder(load_tokenizer(tmp_path))
    assert encoder.form == "chat"
    for messages, ids, mask in zip(GOLDEN["conversations"], want["ids"], want["masks"], strict=True):
        found = encoder.encode(messages, "file:1")
        marked = [int(any(a <= i < b for a, b in found.answers)) for i in range(len(found.ids))]
        assert (found.ids, marked) == (ids[: len(found.ids)], mask[: len(found.ids)])
        assert not any(mask[len(found.ids) :]), "only what stands behind the last answer is left out"


def test_plain_form_is_source_answer_end():
    """PaddleNLP's `tokenize_example`: bos and source, target, eos; the loss is on target and eos."""
    found = Encoder(Letters(before=[BOS])).encode(talk("what?", "this"), "file:1")
    assert found.ids == [BOS, *text("what?"), *text("this"), EOS]
    assert learned(found) == [[*text("this"), EOS]]
    assert found.learned == 5 and (found.source_cut, found.answer_cut) == (0, 0)
    turns = Encoder(Letters(before=[BOS])).encode(talk("a", "b", "c", "d", system="s"), "file:1")
    assert turns.ids == [BOS, *text("s\nab"), EOS, *text("cd"), EOS]
    assert learned(turns) == [[*text("b"), EOS], [*text("d"), EOS]]


def test_an_end_of_text_behind_a_source_is_no_part_of_a_prompt():
    found = Encoder(Letters(before=[BOS], behind=[EOS])).encode(talk("q", "a"), "file:1")
    assert found.ids == [BOS, *text("qa"), EOS]


def test_without_anything_before_it_the_first_token_is_not_learned():
    found = Encoder(Letters()).encode(talk("", "abc"), "file:1")
    assert found.ids == [*text("abc"), EOS] and learned(found) == [[*text("bc"), EOS]]


def test_special_tokens_behind_the_source():
    """ChatGLM's [gMASK] and <sop> where a model has no chat form: earlier turns become a part of the prompt."""
    found = Encoder(Letters(behind=[MASK, START])).encode(talk("q", "a", "r", "b"), "file:1")
    assert found.ids == [*text("q\na\nr"), MASK, START, *text("b"), EOS]
    assert learned(found) == [[*text("b"), EOS]]


def test_a_prompt_form_of_its_own_with_its_own_end():
    found = Encoder(Prompted()).encode(talk("q", "a"), "file:1")
    assert found.ids == [BOS, *text("q"), MASK, EOS, START, *text("a"), END]
    assert learned(found) == [[*text("a"), END]]


def test_all_answers_of_a_conversation_are_learned():
    found = Encoder(Chatty()).encode(talk("q", "a", "r", "b"), "file:1")
    first, second = [USER, *text("q"), ASSISTANT, *text("a"), EOS], [USER, *text("r"), ASSISTANT, *text("b"), EOS]
    assert found.ids == [BOS, *first, *second]
    assert learned(found) == [[*text("a"), EOS], [*text("b"), EOS]]


def test_an_answer_that_the_form_leaves_open_gets_an_end():
    """Baichuan's form has none, and its published fine-tuning appends eos."""
    found = Encoder(Chatty(end=())).encode(talk("q", "a"), "file:1")
    assert found.ids == [BOS, USER, *text("q"), ASSISTANT, *text("a"), EOS]
    assert learned(found) == [[*text("a"), EOS]]


def test_the_last_answer_alone_where_prompts_are_written_otherwise_later():
    found = Encoder(Numbered()).encode(talk("q", "a", "r", "b"), "file:1")
    assert found.ids == [*text("[0]q:a[1]r:"), MASK, START, *text("b"), EOS]
    assert learned(found) == [[*text("b"), EOS]]


@pytest.mark.parametrize(
    ("limits", "ids", "cut"),
    [
        (Limits(source=4), [BOS, *text("hij"), *text("answer"), EOS], (7, 0)),
        (Limits(total=12), [BOS, *text("ghij"), *text("answer"), EOS], (6, 0)),
        (Limits(total=9), [BOS, *text("j"), *text("answer"), EOS], (9, 0)),
        (Limits(total=7), [BOS, *text("answer")], (10, 1)),
        (Limits(target=3), [BOS, *text("abcdefghij"), *text("ans")], (0, 4)),
        (Limits(source=3, target=2), [BOS, *text("ij"), *text("an")], (8, 5)),
        (Limits(total=3), [BOS, *text("an")], (10, 5)),
    ],
)
def test_what_is_too_long_loses_the_beginning_of_the_source_first(limits, ids, cut):
    found = Encoder(Letters(before=[BOS]), limits).encode(talk("abcdefghij", "answer"), "file:1")
    assert (found.ids, (found.source_cut, found.answer_cut)) == (ids, cut)
    assert found.answers[-1][1] == len(ids)


@pytest.mark.parametrize(
    ("limits", "ids", "cut"),
    [
        (Limits(source=6), [BOS, USER, *text("hij"), ASSISTANT, *text("answer"), EOS], (7, 0)),
        (Limits(total=12), [BOS, USER, *text("ij"), ASSISTANT, *text("answer"), EOS], (8, 0)),
        (Limits(target=3), [BOS, USER, *text("abcdefghij"), ASSISTANT, *text("ans")], (0, 4)),
        (Limits(total=8), [BOS, USER, ASSISTANT, *text("answe")], (10, 2)),
    ],
)
def test_a_chat_keeps_its_frame_when_its_question_is_cut(limits, ids, cut):
    found = Encoder(Chatty(), limits).encode(talk("abcdefghij", "answer"), "file:1")
    assert (found.ids, (found.source_cut, found.answer_cut)) == (ids, cut)


def test_a_chat_loses_its_earliest_turns_first():
    messages = talk("first", "one", "second", "two", "third", "three", system="S")
    found = Encoder(Chatty(), Limits(total=32)).encode(messages, "file:1")
    assert found.ids == [
        BOS, *text("S"), USER, *text("second"), ASSISTANT, *text("two"), EOS, USER, *text("third"), ASSISTANT,
        *text("three"), EOS,
    ]  # fmt: skip
    assert found.source_cut == len("first") + len("one") + 3 and len(found.answers) == 2
    plain = Encoder(Letters(before=[BOS]), Limits(total=20)).encode(messages[1:], "file:1")
    assert plain.ids == [BOS, *text("thirdthree"), EOS] and plain.source_cut == len("firstonesecondtwo") + 2


def test_no_room_for_an_answer_names_the_line():
    for tokenizer, limits in ((Chatty(), Limits(total=3)), (Letters(before=[BOS, BOS]), Limits(total=2))):
        with pytest.raises(BadLine, match="file:7: there is no room for the answer"):
            Encoder(tokenizer, limits).encode(talk("q", "a"), "file:7")


def test_forms():
    assert Encoder(Chatty(), form="plain").encode(talk("q", "a"), "f:1").ids == [*text("qa"), EOS]
    encoder = Encoder(Letters())
    assert encoder.form == "plain" and "chat" in encoder.why_plain
    with pytest.raises(TokenizerError, match="no chat form"):
        Encoder(Letters(), form="chat")


def test_an_id_beyond_the_vocabulary_names_the_line():
    with pytest.raises(DataError, match="file:3 has the token id 1001") as caught:
        Encoder(Letters(), vocab_size=500).encode(talk("q", "a"), "file:3")
    assert "vocabulary has 500" in str(caught.value)
    assert Encoder(Letters(), vocab_size=500).filler == 0 and Encoder(Letters()).filler == EOS
