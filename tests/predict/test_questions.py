"""Lines of questions: what they mean, and what is said of those that ask nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zoo_core.data.sft import BadLine, Encoder, Lines
from zoo_core.predict.prompts import Lengths, Prompts
from zoo_core.predict.questions import parse_question
from zoo_core.tokenizers import load_tokenizer


def parsed(value):
    line = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_question(line, "f.json:3")


def contents(question):
    return [(message["role"][0], message["content"]) for message in question.messages]


@pytest.mark.parametrize(
    ("line", "messages", "target", "source"),
    [
        ({"src": "a"}, [("u", "a")], "", "a"),
        ({"src": "a", "tgt": "b"}, [("u", "a")], "b", "a"),
        ({"src": "a", "tgt": "", "system": "s"}, [("s", "s"), ("u", "a")], "", "a"),
        ({"src": ["a", "c"], "tgt": ["b"]}, [("u", "a"), ("a", "b"), ("u", "c")], "", ["a", "c"]),
        ({"src": ["a", "c"], "tgt": ["b", "d"]}, [("u", "a"), ("a", "b"), ("u", "c")], "d", ["a", "c"]),
        ({"messages": [{"role": "user", "content": "a", "name": None}]}, [("u", "a")], "", "a"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            [("u", "a")],
            "b",
            "a",
        ),
        ({"prompt": "x", "tgt": "y"}, [], "y", "x"),
        ({"prompt": ""}, [], "", ""),
    ],
)
def test_what_lines_mean(line, messages, target, source):
    found = parsed(line)
    assert (contents(found), found.target, found.source) == (messages, target, source)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "f.json:3 is not JSON"),
        (b"\xff", "not UTF-8"),
        ([1], "f.json:3 is an array"),
        ({"question": "a"}, "asks nothing"),
        ({"src": 3}, "src is neither a text nor a list"),
        ({"src": []}, "src is an empty list"),
        ({"src": ["a", "b"]}, "src and tgt do not belong together"),
        ({"src": "a", "tgt": ["b", "c"]}, "src and tgt do not belong together"),
        ({"src": "a", "system": 1}, "system is no text"),
        ({"messages": "a"}, "messages is no list"),
        ({"messages": []}, "the conversation is empty"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "out of turn"),
        ({"messages": [{"role": "system", "content": "a"}]}, "nothing is asked"),
        ({"messages": [{"role": "user", "text": "a"}]}, "message 1 has no role or no text"),
        ({"prompt": ["a"]}, "prompt is no text"),
        ({"prompt": "a", "tgt": ["b", "c"]}, "tgt has 2 texts"),
    ],
)
def test_bad_lines_are_named(line, said):
    with pytest.raises(BadLine) as error:
        parsed(line)
    assert said in error.value.what and "f.json:3" in error.value.what


def prompts(folder, path, *lines, source=64, answer=8, total=96):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    lengths = Lengths(source, answer, total)
    return Prompts(Lines([path]), Encoder(load_tokenizer(folder), lengths.limits), lengths)


def test_prompts_are_those_of_the_chat_form_and_texts_stay_as_they_are(folder, tmp_path):
    found = prompts(
        folder,
        tmp_path / "q",
        {"src": "God"},
        {"src": ["In", "God"], "tgt": ["the"]},
        {"prompt": "God"},
        {"prompt": ""},
    )
    tokenizer = found.encoder.tokenizer
    texts = [tokenizer.decode(found.ids(number)[0]) for number in range(4)]
    end = "<|endoftext|>"
    assert texts[0] == f"user: God{end}assistant: "
    assert texts[1] == f"user: In{end}assistant: the{end}user: God{end}assistant: "
    assert texts[2] == "God" and texts[3] == end, "an empty text begins with the token of the family"
    assert found.look() == (0, len(found.ids(1)[0]))


def test_long_prompts_lose_their_beginning_and_leave_room_for_the_answer(folder, tmp_path):
    long = "the heaven and the earth " * 9
    lines = [{"src": long}, {"prompt": long}, {"src": ["In", long, "God"], "tgt": ["x", "y"]}]
    found = prompts(folder, tmp_path / "q", *lines, source=30)
    for number in (0, 1):
        ids, cut = found.ids(number)
        assert len(ids) <= 30 and cut > 0 and found.room(len(ids)) == 8
    assert found.encoder.tokenizer.decode(found.ids(0)[0]).startswith("user: ")
    assert (
        found.encoder.tokenizer.decode(found.ids(1)[0]) == long[-len(found.encoder.tokenizer.decode(found.ids(1)[0])) :]
    )
    ids, cut = found.ids(2)
    assert "God" in found.encoder.tokenizer.decode(ids) and cut > 0 and len(ids) <= 31
    assert found.look()[0] == 3
    wide = prompts(folder, tmp_path / "q", *lines, source=1024, answer=1000)
    ids, _ = wide.ids(0)
    assert len(ids) <= 48 and wide.room(len(ids)) >= 48, "an answer has half of all, if it wants as much"


def test_what_is_checked_before_a_run_needs_no_paddle():
    """Paddle reads its environment when it is imported, which is set when the plan is known."""
    names = ", ".join(f"zoo_core.predict.{name}" for name in ("ready", "answering", "restarts", "report"))
    code = f"import sys, {names}"
    done = subprocess.run([sys.executable, "-c", f"{code}; assert 'paddle' not in sys.modules"], timeout=60)
    assert done.returncode == 0
