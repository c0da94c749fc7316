"""Questions from files: C-Eval's folders, CSV and JSON lines, and what is said of rows that are wrong."""

from __future__ import annotations

import json

import pytest

from zoo_core.errors import DataError
from zoo_core.evaluate import Question, read_questions
from zoo_core.evaluate.prompts import Style, prompt

HEADER = "id,question,A,B,C,D,answer,explanation\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def ceval(tmp_path):
    """Two subjects; a question of law has commas, quotes and a line break, and its file the mark of a spreadsheet."""
    write(tmp_path / "dev" / "law_dev.csv", HEADER + "0,例,甲,乙,丙,丁,B,因为\n1,例二,1,2,3,4,D,\n")
    law = '\ufeffid,question,A,B,C,D,answer\n7,"一,""二""\n三",甲,乙,丙,丁,C\n\n9,问,甲,乙,丙,丁,A\n'
    write(tmp_path / "val" / "law_val.csv", law)
    write(tmp_path / "val" / "high_school_art_val.csv", "id,question,A,B,C,D,answer\n0,q,a,b,c,d,d\n")
    write(tmp_path / "test" / "law_test.csv", "id,question,A,B,C,D\n0,q,a,b,c,d\n")
    return tmp_path


def test_c_eval_s_layout(ceval):
    art, law = read_questions(ceval)
    assert (art.subject, art.examples) == ("high_school_art", ())
    assert art.questions == (Question("0", "q", ("a", "b", "c", "d"), 3),)
    assert law.questions[0] == Question("7", '一,"二"\n三', ("甲", "乙", "丙", "丁"), 2)
    assert [question.id for question in law.questions] == ["7", "9"]
    assert [example.answer for example in law.examples] == [1, 3]
    (only,) = read_questions(ceval, "test", ["law"])
    assert only.questions[0].answer is None and len(only.examples) == 2
    assert read_questions(ceval, "dev")[0].examples == ()


def test_json_lines_and_single_files(tmp_path):
    rows = [
        {"question": "q", "choices": ["x", "y", "z"], "answer": 2, "subject": "b"},
        {"id": 5, "question": "r", "A": "x", "B": "y", "answer": "A", "subject": "a"},
        {"question": "s", "A": 1, "B": 2.5},
    ]
    file = write(tmp_path / "some.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    first, second, third = read_questions(file)
    assert (first.subject, second.subject, third.subject) == ("a", "b", "some")
    assert first.questions == (Question("5", "r", ("x", "y"), 0),)
    assert second.questions == (Question("0", "q", ("x", "y", "z"), 2),)
    assert third.questions == (Question("0", "s", ("1", "2.5"), None),)
    assert [entry.subject for entry in read_questions(tmp_path)] == ["a", "b", "some"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", HEADER + "0,q,a,b,c,d,A,\n1,q,a,b,c\n", "a.csv, line 3 has 5 cells"),
        ("a.csv", HEADER + '0,"q\nr",a,b,c,d,A,\n\n1,q,a,,c,d,A,\n', "a.csv, line 5 has no choices"),
        ("a.csv", HEADER + "0,q,a,b,c,d,E,\n", "a.csv, line 2 has the answer 'E'"),
        ("a.csv", HEADER + "0, ,a,b,c,d,A,\n", "a.csv, line 2 has no question"),
        ("a.csv", HEADER + "0,q,a,b,c,d,A,\n0,r,a,b,c,d,A,\n", "a.csv, line 3 has the id '0' again"),
        ("a.csv", 'id,question,A,B\n0,"q,a,b\n', "a.csv, line 2 is no CSV"),
        ("a.csv", "id,text,A,B\n", "a.csv has no column question"),
        ("a.csv", HEADER, "no questions in .*a.csv"),
        ("a.jsonl", '{"question": "q"\n', "a.jsonl, line 1 is no JSON"),
        ("a.jsonl", "\n[1]\n", "a.jsonl, line 2 is no object"),
        ("a.jsonl", '{"question": "q", "choices": ["x"]}\n', "a.jsonl, line 1 has no choices"),
        ("a.jsonl", '{"question": "q", "choices": {"x": 1}}\n', "a.jsonl, line 1 has no choices"),
        ("a.jsonl", '{"question": "q", "A": "x", "B": "y", "answer": 2}\n', "a.jsonl, line 1 has the answer 2"),
        ("a.jsonl", '{"question": "q", "A": "x", "B": "y", "answer": true}\n', "a.jsonl, line 1 has the answer True"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        read_questions(write(tmp_path / name, text))


def test_what_is_not_there(ceval, tmp_path):
    with pytest.raises(DataError, match="did you mean 'law'"):
        read_questions(ceval, subjects=["lew"])
    with pytest.raises(DataError, match="no questions at"):
        read_questions(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file there ends in \.csv"):
        read_questions(tmp_path / "empty")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="has to be text in UTF-8"):
        read_questions(tmp_path / "bad.csv")
    write(ceval / "dev" / "law_dev.csv", "id,question,A,B\n0,q,a,b\n")
    with pytest.raises(DataError, match="example 1 of law has no answer"):
        read_questions(ceval)


def test_prompts_are_as_c_eval_and_mmlu_write_them():
    asked = Question("0", "谁?", ("甲", "乙"), None)
    shown = Question("1", "例", ("一", "二"), 1)
    letter = prompt(Style.ceval(), "high_school_art", asked, [shown], "letter")
    assert letter == (
        "以下是中国关于high school art考试的单项选择题，请选出其中的正确答案。\n\n"
        "例\nA. 一\nB. 二\n答案：B\n\n谁?\nA. 甲\nB. 乙\n答案："
    )
    text = prompt(Style.mmlu(), "art", asked, [shown], "text")
    assert text == (
        "The following are multiple choice questions (with answers) about art.\n\n例\nAnswer: 二\n\n谁?\nAnswer:"
    )
