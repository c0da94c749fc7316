"""`zoo chat`: what is typed, what the model reads, what the commands do; with a model that says what it has read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from zoo_core.cli import main
from zoo_core.cli._conversation import Conversation, Settings
from zoo_core.cli._talk import HELP, Talk, typed_lines
from zoo_core.errors import ConfigError, TokenizerError


class Echo:
    """A model whose tokens are characters; it answers with the last question, in capitals, word by word."""

    def __init__(self, context=200, system=True):
        self.context, self._system = context, system
        self.read, self.asked, self.interrupt, self.mute = [], [], False, False

    def chat_ids(self, messages):
        if messages[0]["role"] == "system" and not self._system:
            raise TokenizerError("this format has no system messages", "it has user, assistant")
        return [ord(char) for message in messages for char in f"{message['role'][0]}:{message['content']};"]

    def rules(self, sampling, *, chat=False):
        return SimpleNamespace(sampling=sampling, chat=chat)

    def answer(self, ids, rules, max_new_tokens, seed=0):
        text = "".join(map(chr, ids))
        self.read.append(text)
        self.asked.append((rules.sampling, rules.chat, max_new_tokens, seed))
        if self.mute:
            return
        for number, word in enumerate(text.rpartition("u:")[2][:-1].upper().split(" ")):
            if self.interrupt and number == 1:
                raise KeyboardInterrupt
            yield " " + word
        yield ""


@pytest.fixture
def talk():
    def make(model=None, **more):
        made = Talk(model or Echo(), Settings(), out=io.StringIO(), note=lambda text: notes.append(text), **more)
        made.notes = notes = []
        return made

    return make


def said(talk):
    return talk._out.getvalue().splitlines()


def test_questions_and_answers_by_turns(talk):
    one = talk(system="be brief")
    assert one.take("hello there") and one.take("  ") and one.take("//slash") and one.take("and now")
    assert said(one) == ["HELLO THERE", "/SLASH", "AND NOW"] and not one.notes
    assert one._model.read[-1] == ("s:be brief;u:hello there;a:HELLO THERE;u:/slash;a:/SLASH;u:and now;"), (
        "the model reads what was said before"
    )
    assert one._model.asked == [(Settings().sampling, True, 512, seed) for seed in range(3)]


def test_commands(talk, tmp_path):
    one = talk()
    one.take("first question")
    one.take("second")
    one.take("/undo")
    assert one.notes == ["(taken back: second)"] and len(one.conversation.messages) == 2
    one.take("/set temperature 0.3")
    one.take("/set max-new-tokens=7")
    one.take("third")
    sampling, _, most, seed = one._model.asked[-1]
    assert (sampling.temperature, most, seed) == (0.3, 7, 2) and "temperature         0.3" in one.notes[-1]
    one.take("/system be kind")
    one.take("fourth")
    assert one._model.read[-1].startswith("s:be kind;u:first question;a:FIRST QUESTION;u:third;")
    one.take(f"/save {tmp_path / 'talk.json'}")
    assert json.loads((tmp_path / "talk.json").read_text()) == {"messages": one.conversation.whole}
    one.take("/reset")
    assert one.conversation == Conversation("be kind", [])
    one.take("/system none")
    one.take(f"/load {tmp_path / 'talk.json'}")
    assert one.conversation.system == "be kind" and len(one.conversation.messages) == 6
    assert one.notes[-1].startswith("(loaded 3 rounds of")
    one.take("/help")
    assert one.notes[-1] == HELP
    assert not one.take("/exit") and not one.take("/quit")


def test_what_goes_wrong_is_said_and_the_talk_goes_on(talk, tmp_path):
    one = talk(Echo(system=False))
    one.take("hello")
    before = list(one.conversation.messages)
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "turns.json").write_text('{"messages": [{"role": "assistant", "content": "x"}]}')
    for line, text in (
        ("/sett x 1", "did you mean /set?"),
        ("/", "there is no command /"),
        ("/set", "temperature"),
        ("/set colour red", "there is no setting colour"),
        ("/set top_k many", "it is a whole number"),
        ("/set temperature -1", "temperature is -1"),
        ("/set max_new_tokens 0", "max_new_tokens is 0"),
        ("/system be kind", "no system messages"),
        ("/save", "/save needs a file"),
        ("/save /proc/none/talk", "cannot write"),
        (f"/load {tmp_path / 'missing.json'}", "cannot read"),
        (f"/load {tmp_path / 'other.json'}", "no conversation in"),
        (f"/load {tmp_path / 'empty.json'}", "no conversation in"),
        (f"/load {tmp_path / 'turns.json'}", "no conversation in"),
        ("x" * 300, "this message makes a prompt of 303 tokens"),
    ):
        assert one.take(line) and text in one.notes[-1], (line, one.notes[-1])
    assert one.conversation == Conversation("", before) and one.settings == Settings()
    one.take("/undo")
    one.take("/undo")
    assert one.notes[-1] == "(there is nothing to take back)"


def test_a_system_message_that_the_form_lacks_is_refused_at_the_start(talk):
    with pytest.raises(TokenizerError, match="no system messages"):
        talk(Echo(system=False), system="be kind")


def test_an_interrupt_stops_the_answer_and_keeps_what_was_said(talk):
    one = talk()
    one._model.interrupt = True
    one.take("one two three")
    assert said(one) == ["ONE"] and one.notes == ["(stopped)"]
    assert one.conversation.messages[-1] == {"role": "assistant", "content": "ONE"}
    one._model.interrupt = False
    one.take("more")
    assert one._model.read[-1] == "u:one two three;a:ONE;u:more;"


def test_an_empty_answer_takes_its_question_back(talk):
    one = talk()
    one._model.mute = True
    one.take("hello")
    assert said(one) == [""] and "ended at once" in one.notes[0] and one.conversation.messages == []


def test_the_oldest_rounds_are_left_out_and_that_is_said_once(talk):
    one = talk(Echo(context=80), system="s")
    for number in range(6):
        one.take(f"question {number}")
    assert [note for note in one.notes if "not read any more" in note][0].startswith("(the oldest round is not")
    assert len(one.notes) == len(set(one.notes)) > 1
    assert all(len(text) <= 60 for text in one._model.read), "a quarter of the context is kept for the answer"
    assert one._model.read[-1].startswith("s:s;u:question") and one._model.read[-1].endswith("u:question 5;")
    assert len(one.conversation.messages) == 12, "what is saved is whole"


def test_lines_that_belong_together():
    source = io.StringIO('one\ntwo\\\nthree\n"""\nfour\n\n/five\n"""\n\nlast\\\n')
    assert list(typed_lines(source)) == ["one", "two\nthree", "four\n\n/five", "", "last"]


def test_settings_out_of_range():
    with pytest.raises(ConfigError, match="seed is -1"):
        Settings(seed=-1)
    with pytest.raises(ConfigError, match="top_p is 2"):
        Settings(top_p=2)


def test_help_needs_neither_paddle_nor_numpy():
    code = "import sys; from zoo_core.cli import main; main(['chat', '--help'])"
    code += "; assert not {'paddle', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "From a pipe each line is a question" in done.stdout, done.stderr


def test_a_pipe_asks_a_question_a_line(capsys, monkeypatch):
    model = Echo()
    model.folder = "here"
    monkeypatch.setattr("zoo_core.cli._loading.loaded_model", lambda *_: model)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/set temperature 0\nyou there\n/exit\nnever\n"))
    assert main(["chat", "somewhere", "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    assert out == "HELLO\nYOU THERE\n" and "temperature         0\n" in err
    assert [asked[-1] for asked in model.asked] == [4, 5] and model.asked[1][0].is_greedy


def test_refusals(capsys, monkeypatch):
    class Base(Echo):
        def chat_ids(self, messages):
            raise TokenizerError("tokenizer.json says nothing of conversations", "no template beside it", "")

    monkeypatch.setattr("zoo_core.cli._loading.loaded_model", lambda *_: Base())
    assert main(["chat", "./base"]) == 2
    err = capsys.readouterr().err
    assert "./base cannot chat: tokenizer.json says nothing" in err and "zoo sample ./base --prompt" in err
    assert main(["chat", "./base", "--top_p", "0"]) == 2 and "top_p is 0.0" in capsys.readouterr().err


def test_a_terminal_shows_answers_and_does_not_obey_them(talk):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for out, shown in ((Terminal(), "A[2J\tB\n"), (io.StringIO(), "A\x1b[2J\tB\n")):
        one = talk()
        one._out = out
        one._model.answer = lambda *_: iter(["A\x1b[2J", "\tB"])
        one.take("hello")
        assert out.getvalue() == shown
