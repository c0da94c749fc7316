"""Multiple choice: what the model chooses is what its logits say, and the command's files and table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo_core.cli import main
from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluate import Question, QuestionSet, answer_questions, context_ids, opening, pair_ids
from zoo_core.evaluate.prompts import Style, prompt

QUESTIONS = (
    Question("0", "In the beginning God created", ("the heaven", "the earth and", "床"), 0),
    Question("1", "床前明月", ("光", "霜", "地上"), None),
    Question("2", "the heaven and", ("God", "beginning", "the earth"), 2),
)
EXAMPLES = (Question("0", "God", ("created", "and", "In"), 0), Question("1", "是", ("地", "上", "霜"), 2))
SHORT = Style("About {subject}.\n\n", "Answer:", " ")


def log_softmax(model, ids):
    """[S, V], float64, of one row by itself."""
    values = model.engine.logits({"input_ids": np.asarray([ids], np.int64)})[0].numpy().astype(np.float64)
    values -= values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def by_hand(model, context, continuation):
    """Sum of the log-probabilities of what `continuation` adds to `context`."""
    ids = model.tokenizer.encode(context + continuation, add_special_tokens=True)
    first = len(model.tokenizer.encode(context, add_special_tokens=True))
    logprobs = log_softmax(model, ids)
    return sum(logprobs[at - 1, ids[at]] for at in range(first, len(ids)))


@pytest.mark.parametrize("by", ["letter", "text"])
@pytest.mark.parametrize("style", [SHORT, Style.ceval()], ids=["gap", "no gap"])
def test_the_most_probable_answer_is_chosen(model, by, style):
    report = answer_questions(
        model, [QuestionSet("first", QUESTIONS, EXAMPLES)], by=by, shots=1, style=style, batch_size=2
    )
    (result,) = report.subjects
    for question, answer in zip(QUESTIONS, result.answers, strict=True):
        context = prompt(style, "first", question, EXAMPLES[:1], by)
        said = "ABC" if by == "letter" else question.choices
        wanted = [by_hand(model, context, f"{style.gap}{text}") for text in said]
        np.testing.assert_allclose(answer.logprobs, wanted, rtol=1e-5)
        assert answer.chosen == int(np.argmax(wanted)) and answer.shots == 1 and not answer.cut
        per_character = [value / len(choice) for value, choice in zip(wanted, question.choices, strict=True)]
        assert answer.normalized == (int(np.argmax(per_character)) if by == "text" else answer.chosen)
    right = sum(answer.chosen == question.answer for question, answer in zip(QUESTIONS, result.answers, strict=True))
    found = report.as_json()
    assert found["all"] | {"questions": 3, "graded": 2, "acc": right / 2} == found["all"]
    assert ("acc_norm" in found["all"]) == (by == "text")


def test_letters_that_are_one_token_share_a_row(model, monkeypatch):
    from zoo_core.evaluate import answering

    rows = []
    scored = answering.score_rows

    def counted(engine, given, **more):
        rows.extend(given)
        return scored(engine, given, **more)

    monkeypatch.setattr(answering, "score_rows", counted)
    sets = [QuestionSet("first", QUESTIONS, ())]
    answer_questions(model, sets, style=Style("", "Answer:", ""))
    assert len(rows) == len(QUESTIONS)


def test_examples_that_do_not_fit_are_left_out_and_what_is_still_too_long_is_cut(model):
    many = tuple(Question(str(n), "the heaven and the earth " * 4, ("a", "b"), 0) for n in range(9))
    long = Question("0", "God " * 400, ("a", "b"), 0)
    progress = []
    report = answer_questions(
        model, [QuestionSet("first", (QUESTIONS[0], long), many)], shots=9, style=SHORT, progress=progress.append
    )
    short, cut = report.subjects[0].answers
    assert 0 < short.shots < 9 and not short.cut
    assert cut.shots == 0 and cut.cut and all(np.isfinite(cut.logprobs)) and sum(progress) == 2
    found = report.as_json()["all"]
    assert (found["least_shots"], found["most_shots"], found["cut"]) == (0, short.shots, 1)
    whole = model.tokenizer.encode(prompt(SHORT, "first", long, (), "letter") + " A", add_special_tokens=True)
    row = whole[-(model.context + 1) :]
    letter = model.tokenizer.encode(" A")[-1]
    if len(pair_ids(model.tokenizer, prompt(SHORT, "first", long, (), "letter"), " A", False)[1]) == 1:
        np.testing.assert_allclose(cut.logprobs[0], log_softmax(model, row[:-1])[-1, letter], rtol=1e-5)


def test_a_tokenizer_of_another_model(model, monkeypatch):
    beyond = model.config.vocab_size
    monkeypatch.setattr(type(model.tokenizer), "encode", lambda _, text, *__, **___: [beyond] * len(text))
    with pytest.raises(ConfigError, match="the tokenizer is not the model's"):
        answer_questions(model, [QuestionSet("first", QUESTIONS, ())])


def test_no_questions(model):
    with pytest.raises(DataError, match="no questions"):
        answer_questions(model, [QuestionSet("first", (), ())])


def test_pairs_are_encoded_as_lm_eval_has_it(model):
    tokenizer = model.tokenizer
    before, after = pair_ids(tokenizer, "In the  ", "beginning")
    assert before == tokenizer.encode("In the", add_special_tokens=True)
    assert before + after == tokenizer.encode("In the  beginning", add_special_tokens=True)
    assert pair_ids(tokenizer, "", "God") == (opening(tokenizer), tokenizer.encode("God"))
    assert context_ids(tokenizer, "") == opening(tokenizer) == [tokenizer.bos_id]


class Wrapper:
    """Puts two tokens behind a prompt, as ChatGLM-6B does."""

    bos_id = eos_id = pad_id = None

    def encode(self, text, add_special_tokens=False, *, parse_special=True):
        ids = [ord(letter) for letter in text]
        return [*ids, 3, 4] if add_special_tokens else ids


class Prompter(Wrapper):
    """Has a form of its own for prompts, as GLM does."""

    answer_end_id = None

    def prompt(self, text):
        return [1, *self.encode(text), 2]


def test_families_that_end_prompts_have_continuations_apart():
    assert pair_ids(Prompter(), "ab", "c") == ([1, 97, 98, 2], [99])
    assert opening(Prompter()) == [1, 2]
    assert pair_ids(Wrapper(), "ab", "c") == ([97, 98, 3, 4], [99])
    assert opening(Wrapper()) == [3, 4]


@pytest.fixture
def data(tmp_path):
    for split, rows in (("dev", "0,例,甲,乙,丙,丁,B"), ("val", "4,床前,光,霜,地,上,A\n5,明月,光,霜,地,上,B")):
        for subject in ("law", "art"):
            file = tmp_path / "ceval" / split / f"{subject}_{split}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"id,question,A,B,C,D,answer\n{rows}\n", encoding="utf-8")
    return tmp_path / "ceval"


def test_the_command_writes_a_table_a_report_and_a_submission(folder, data, tmp_path, capsys):
    out, predictions = tmp_path / "report.json", tmp_path / "submission.json"
    words = ["eval", "choice", str(folder), "--data", str(data), "--shots", "1", "--out", str(out)]
    assert main([*words, "--predictions", str(predictions)]) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[:5]] == ["subject", "art", "law", "mean", "all"]
    said = json.loads(predictions.read_text())
    assert set(said) == {"art", "law"} and set(said["law"]) == {"4", "5"} and said["art"] == said["law"]
    assert set(said["law"].values()) <= set("ABCD")
    report = json.loads(out.read_text())
    right = (said["law"]["4"] == "A") + (said["law"]["5"] == "B")
    assert report["all"]["acc"] == report["mean_of_subjects"]["acc"] == right / 2
    assert main([*words, "--by", "text", "--subjects", "law", "--instruction", "关于{subject}。"]) == 0
    assert "acc_norm" in capsys.readouterr().out and list(json.loads(out.read_text())["subjects"]) == ["law"]


def test_the_command_refuses_before_it_loads_a_model(data, capsys):
    for words, said in (
        (("nothing", "--data", str(data / "nowhere")), "no questions at"),
        (("nothing", "--data", str(data), "--split", "test"), "has no split test"),
        (("nothing", "--data", str(data), "--out", "/nowhere/at/all.json"), "there is no folder /nowhere/at"),
        (("nothing", "--data", str(data)), "no weights of nothing"),
    ):
        assert main(["eval", "choice", *words]) == 2
        assert said in capsys.readouterr().err
