"""Pairs of answers: the forms of lines, one prompt behind both, what is cut, and rows of micro batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from letters import ASSISTANT, BOS, EOS, USER, Chatty, Letters  # noqa: E402

from zoo_core.data.preference import Pair, PairEncoder, PairSet, find_pair_files, parse_pair, survey_pairs
from zoo_core.data.sft import BadLine, Lines
from zoo_core.errors import DataError

ASK = {"role": "user", "content": "q"}
EARLIER = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]
SYSTEM = {"role": "system", "content": "s"}


def said(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"src": ["q"], "tgt": [], "response": ["a", "b"], "sort": [1, 0]}, [ASK]),
        ({"src": "q", "response": ["b", "a"], "sort": [0, 1.5]}, [ASK]),
        ({"src": "q", "tgt": "", "response": ["b", "a"], "sort": [-2, -1], "system": "s"}, [SYSTEM, ASK]),
        ({"src": ["p", "q"], "tgt": ["r"], "response": ["a", "b"], "sort": [3, 2]}, [*EARLIER, ASK]),
        ({"src": ["p", "q"], "tgt": "r", "response": ["a", "b"], "sort": [3, 2]}, [*EARLIER, ASK]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [ASK]),
        ({"prompt": [*EARLIER, ASK], "chosen": [said("a")], "rejected": [said("b")]}, [*EARLIER, ASK]),
        ({"chosen": [SYSTEM, ASK, said("a")], "rejected": [SYSTEM, ASK, said("b")], "id": 7}, [SYSTEM, ASK]),
    ],
)
def test_forms_of_lines(record, prompt):
    assert parse_pair(json.dumps(record).encode(), "f:1") == Pair(tuple(prompt), "a", "b")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"src": ["p", "q"], "tgt": [], "response": ["a", "b"], "sort": [1, 0]}, "one text more than tgt"),
        ({"src": "q", "response": "ab", "sort": [1, 0]}, "response is no list of two texts"),
        ({"src": "q", "response": ["a", "b"], "sort": ["1", "0"]}, "sort is no list of two numbers"),
        ({"src": 3, "response": ["a", "b"], "sort": [1, 0]}, "src is neither a text nor a list"),
        ({"chosen": "a", "rejected": "b"}, "has no prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": ["b"]}, "chosen is neither a text nor a list of messages"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is neither a text nor a list of messages"),
        ({"chosen": [ASK, said("a")], "rejected": [said("b")]}, "differ before the last message"),
        ({"chosen": [ASK], "rejected": [ASK]}, "does not end with an answer"),
        ({"chosen": [said("a")], "rejected": [said("b")]}, "is empty"),
        ({"prompt": [*EARLIER], "chosen": [said("a")], "rejected": [said("b")]}, "does not end with a question"),
        ({"src": "q", "response": ["", "b"], "sort": [1, 0]}, "the chosen answer is empty"),
        ([1], "f:9 is an array"),
    ],
)
def test_bad_lines(record, why):
    with pytest.raises(BadLine) as caught:
        parse_pair(json.dumps(record).encode(), "f:9")
    assert "f:9" in caught.value.what and why in caught.value.what


def ids(text, *more):
    return [*map(ord, text), *more]


def test_answers_alone_count_and_both_have_one_prompt():
    pair = Pair((*EARLIER, ASK), "good", "no")
    found = PairEncoder(Chatty(), 40, 20).encode(pair, "f:1")
    prompt = [BOS, USER, ord("p"), ASSISTANT, ord("r"), EOS, USER, ord("q"), ASSISTANT]
    assert found.chosen.ids == [*prompt, *ids("good", EOS)] and found.rejected.ids == [*prompt, *ids("no", EOS)]
    assert found.chosen.answers == ((9, 14),) and found.rejected.answers == ((9, 12),) and found.longest == 14
    plain = PairEncoder(Letters(before=[BOS]), 40, 20, "plain").encode(Pair((ASK,), "good", "no"), "f:1")
    assert plain.chosen.ids == [BOS, *ids("q"), *ids("good", EOS)] and plain.chosen.answers == ((2, 7),)


def test_what_is_too_long_loses_turns_then_question_then_answers():
    turns = PairEncoder(Chatty(), 10, 6).encode(Pair((*EARLIER, ASK), "good", "no"), "f:1")
    assert turns.chosen.ids == [BOS, USER, *ids("q"), ASSISTANT, *ids("good", EOS)] and turns.chosen.source_cut == 5
    question = ({"role": "user", "content": "abcdefgh"},)
    whole = PairEncoder(Chatty(), 13, 6).encode(Pair(question, "x", "y"), "f:1")
    assert len(whole.chosen.ids) == 13 and whole.chosen.source_cut == 0  # a prompt above its limit that fits
    cut = PairEncoder(Chatty(), 12, 6).encode(Pair(question, "x", "uvwxyz"), "f:1")
    prompt = [BOS, USER, *ids("fgh"), ASSISTANT]
    assert cut.chosen.ids == [*prompt, *ids("x", EOS)] and cut.rejected.ids == [*prompt, *ids("uvwxyz")]
    assert cut.chosen.source_cut == cut.rejected.source_cut == 5
    assert (cut.chosen.answer_cut, cut.rejected.answer_cut) == (0, 1)
    half = PairEncoder(Chatty(), 12, 2048)
    assert half.longest_prompt == 6 and half.encode(Pair(question, "x", "uvwxyz"), "f:1") == cut


def test_rows_of_micro_batches(tmp_path):
    records = [{"prompt": "q", "chosen": "good", "rejected": "no"}, {"prompt": "qq", "chosen": "a", "rejected": "bcd"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    encoder, lines = PairEncoder(Chatty(), 40, 20), Lines(find_pair_files(str(tmp_path), "here"))
    survey = survey_pairs(lines, encoder, 0, 2, False)
    assert survey.lengths.tolist() == [8, 8] and survey.learned.tolist() == [8, 6]
    pairs = PairSet(lines, encoder, survey, multiple=4)
    (batch,) = pairs.micro_batches([np.array([1, -1, 0])])
    assert batch["input_ids"].shape == (6, 8) and pairs.width(np.array([0, 1])) == 8
    for row, (pair, better) in {0: (1, True), 2: (0, True), 3: (1, False), 5: (0, False)}.items():
        record = records[pair]
        answer = record["chosen" if better else "rejected"]
        prompt = [BOS, USER, *ids(record["prompt"]), ASSISTANT]
        size = len(prompt) + len(answer)
        assert batch["input_ids"][row][:size].tolist() == [*prompt, *ids(answer)]
        kept = batch["labels"][row] >= 0
        assert np.flatnonzero(kept).tolist() == list(range(len(prompt) - 1, size))
        assert batch["labels"][row][kept].tolist() == ids(answer, EOS)
        assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (8 - size)
    assert (batch["labels"][[1, 4]] == -100).all()


def test_files(tmp_path):
    for wanted in ("nowhere", str(tmp_path)):
        with pytest.raises(DataError, match=r"no data"):
            find_pair_files(wanted, "train_dataset_path")
