"""Files of conversations: which are read, what their lines mean, and what is said of a bad one."""

from __future__ import annotations

import json

import pytest

from zoo_core.data.sft import BadLine, Lines, find_tuning_files, parse_line
from zoo_core.data.sft.lines import LONGEST
from zoo_core.errors import DataError


def parsed(record):
    return parse_line(json.dumps(record).encode(), "data.json:5")


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


def answer(content):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"src": "q", "tgt": "a"}, [user("q"), answer("a")]),
        ({"src": ["q", "r"], "tgt": ["a", "b"]}, [user("q"), answer("a"), user("r"), answer("b")]),
        ({"src": ["q"], "tgt": "a", "more": 1}, [user("q"), answer("a")]),
        ({"src": "q", "tgt": "a", "system": "s"}, [system("s"), user("q"), answer("a")]),
        ({"src": "q", "tgt": "a", "context": {"system": "s"}}, [system("s"), user("q"), answer("a")]),
        ({"messages": [user("q"), answer("a")]}, [user("q"), answer("a")]),
    ],
)  # fmt: skip
def test_what_a_line_means(record, messages):
    assert parsed(record) == messages


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "is not JSON"),
        (b'{"src": "q", "tgt": "a"', "is not JSON"),
        (b"[", "JSON array over many lines"),
        (b'["q", "a"]', "is an array"),
        (b'"q"', "is a str"),
        (b'{"src": "q"}', "has no tgt"),
        (b'{"question": "q", "answer": "a"}', "it has answer, question"),
        (b'{"src": 3, "tgt": "a"}', "src is neither a text nor a list of texts"),
        (b'{"src": ["q", null], "tgt": ["a", "b"]}', "src is neither"),
        (b'{"src": ["q", "r"], "tgt": ["a"]}', "2 questions and 1 answers"),
        (b'{"src": [], "tgt": []}', "src is an empty list"),
        (b'{"src": "q", "tgt": " \\n"}', "an answer is empty"),
        (b'{"src": "q", "tgt": "a", "system": 4}', "system is no text"),
        (b'{"messages": {}}', "messages is no list of objects"),
        (b'{"messages": []}', "the conversation is empty"),
        (b'{"messages": [{"role": "user", "content": "q"}]}', "ends without an answer"),
        (b'{"messages": [{"role": "tool", "content": "q"}]}', "unknown role"),
        (b'{"src": "\xff", "tgt": "a"}', "byte 10 of the line"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(line, said):
    with pytest.raises(BadLine) as caught:
        parse_line(line, "data.json:5")
    error = caught.value
    assert error.what.startswith("data.json:5") and said in str(error) and error.todo


def test_lines_are_found_by_their_numbers(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.jsonl"
    first.write_bytes(b"\xef\xbb\xbf{1}\r\n\n  \n{2}\n")
    second.write_bytes(b"{3}")
    lines = Lines((first, second))
    assert [lines.read(i).strip() for i in range(len(lines))] == [b"\xef\xbb\xbf{1}", b"{2}", b"{3}"]
    assert [lines.place(i) for i in range(3)] == [f"{first}:1", f"{first}:4", f"{second}:1"]
    assert Lines((first,)).digest != lines.digest
    first.unlink()
    with pytest.raises(DataError, match="leave the files alone"):
        lines.read(0)


def test_a_line_that_is_too_long_is_named_and_not_read(tmp_path):
    path = tmp_path / "train.json"
    path.write_bytes(b'{"src": "q", "tgt": "a"}\n' + b'{"src": "' + b"x" * (10 << 20) + b'"}\n')
    lines = Lines((path,))
    assert len(lines) == 2 and len(lines.read(0)) == 25
    with pytest.raises(BadLine, match=r"train.json:2 is 10.0 MB long"):
        lines.read(1)
    assert LONGEST < 10 << 20


def test_no_lines(tmp_path):
    (tmp_path / "train.json").write_text(" \n\n")
    with pytest.raises(DataError, match="is empty"):
        Lines((tmp_path / "train.json",))
    with pytest.raises(DataError, match="cannot read"):
        Lines((tmp_path / "none.json",))


def test_files(tmp_path):
    good = b'{"src": "q", "tgt": "a"}\n'
    (tmp_path / "train.jsonl").write_bytes(good)
    (tmp_path / "dev.json").write_bytes(good)
    (tmp_path / "task" / "train").mkdir(parents=True)
    for name in ("2.json", "1.jsonl", "notes.txt"):
        (tmp_path / "task" / "train" / name).write_bytes(good)
    found = find_tuning_files(str(tmp_path))
    assert (found.train, found.dev) == ((tmp_path / "train.jsonl",), (tmp_path / "dev.json",))
    task = find_tuning_files(str(tmp_path), "task")
    assert [path.name for path in task.train] == ["1.jsonl", "2.json"] and task.dev == ()
    assert find_tuning_files(str(tmp_path / "train.jsonl")).train == (tmp_path / "train.jsonl",)
    sample = find_tuning_files("sample")
    assert all(parse_line(lines.read(i), "") for lines in map(Lines, (sample.train, sample.dev)) for i in range(5))


@pytest.mark.parametrize(
    ("dataset", "task", "said"),
    [
        ("nowhere", None, "no data at"),
        ("", None, "put train.json and dev.json"),
        ("", "none", "no task none"),
        ("outer", None, "or --task_name inner"),
        ("outer/inner/train.json", "x", "it names a folder in a folder"),
    ],
)
def test_files_that_are_not_there(tmp_path, dataset, task, said):
    if dataset.startswith("outer"):
        (tmp_path / "outer" / "inner").mkdir(parents=True)
        (tmp_path / "outer" / "inner" / "train.json").write_text("{}")
    with pytest.raises(DataError) as caught:
        find_tuning_files(str(tmp_path / dataset) if dataset != "nowhere" else dataset, task)
    assert said in str(caught.value) and caught.value.todo
