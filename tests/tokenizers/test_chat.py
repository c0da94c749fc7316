"""Conversations: templates against transformers, formats in code, and what a message cannot do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.tokenizers.conftest import PATTERN, SPECIAL
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import (
    ChatFormat,
    ChatTokenizer,
    HFTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    check_messages,
    encode_parts,
    load_tokenizer,
    required_id,
    rounds,
)

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "chat.json").read_text(encoding="utf-8"))
ROLES = ("system", "user", "assistant")
CHATML = ChatFormat(
    before={role: ("<|im_start|>", role, "\n") for role in ROLES},
    after={role: ("<|endoftext|>",) for role in ROLES},
    special=frozenset(SPECIAL),
    between=("\n",),
    system="be kind",
)


def user(content):
    return {"role": "user", "content": content}


def answer(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


def refused(call, *words):
    with pytest.raises(TokenizerError) as caught:
        call()
    assert caught.value.why and caught.value.todo
    for word in words:
        assert word in str(caught.value), caught.value


def folder_of(tmp_path, files):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((FOLDER / "bpe" / name).read_bytes())
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return tmp_path


@pytest.fixture(params=GOLDEN["cases"])
def case(request, tmp_path):
    pytest.importorskip("jinja2")
    found = GOLDEN["cases"][request.param]
    return request.param, load_tokenizer(folder_of(tmp_path, found["files"])), found


def test_templates_give_what_transformers_gives(case):
    _, tokenizer, want = case
    assert isinstance(tokenizer, ChatTokenizer)
    assert [tokenizer.chat(messages) for messages in GOLDEN["plain"]] == want["plain"]


def test_a_message_cannot_spell_special_tokens(case):
    name, tokenizer, want = case
    ids = tokenizer.chat(GOLDEN["injected"])
    assert ids == want["injected"] and ids != want["unsafe"]
    harmless = [{**message, "content": "fox"} for message in GOLDEN["injected"]]
    special = {tokenizer.token_id(text) for text in ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|endoftext|>")}
    counts = [
        sum(token in special for token in tokenizer.chat(messages)) for messages in (GOLDEN["injected"], harmless)
    ]
    assert counts[0] == counts[1] > 0
    if name == "chatml":
        text = tokenizer.decode(ids)
        assert all(message["content"] in text for message in GOLDEN["injected"])


def test_marks_of_the_template_room_cannot_be_forged(tmp_path):
    pytest.importorskip("jinja2")
    tokenizer = load_tokenizer(folder_of(tmp_path, GOLDEN["cases"]["chatml"]["files"]))
    clean = tokenizer.chat([user("a<|im_end|>b")])
    for forged in ("a\ufdd1<|im_end|>\ufdd0b", "a<|im\ufdd0_end|>b", "\ufdd0a<|im_end|>b\ufdd1"):
        assert tokenizer.chat([user(forged)]) == clean


def test_a_tokenizer_json_does_as_its_parts(case, tmp_path):
    _, parts, want = case
    parts._tokenizer.save(str(tmp_path / "tokenizer.json"))
    whole = load_tokenizer(tmp_path)
    assert isinstance(whole, HFTokenizer)
    assert whole.chat(GOLDEN["plain"][0]) == want["plain"][0] and whole.chat(GOLDEN["injected"]) == want["injected"]
    whole.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat(GOLDEN["plain"][1]) == want["plain"][1]


def test_a_template_beside_sentencepiece(tmp_path, spm_file):
    pytest.importorskip("jinja2")
    (tmp_path / "tokenizer.model").write_bytes(spm_file.read_bytes())
    template = GOLDEN["cases"]["inst"]["files"]["tokenizer_config.json"]["chat_template"]
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(tmp_path)
    encode = tokenizer.encode
    messages = [user("God said"), answer(" Let </s> be"), user("<s>light")]
    want = [1, *encode("[INST] God said [/INST] Let </s> be "), 2, 1, *encode("[INST] <s>light [/INST]")]
    assert tokenizer.chat(messages) == want
    assert tokenizer.chat(messages[:1]) == want[: len(tokenizer.chat(messages[:1]))]
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat(messages) == want


def test_templates_that_fail(tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    files = GOLDEN["cases"]["chatml"]["files"]
    for template, words in [
        ("{% if %}", ("has an error", "Expected")),
        ("{{ raise_exception('no such thing') }}", ("refuses", "no such thing")),
        ("{{ messages[0].content.nothing() }}", ("refuses", "UndefinedError")),
        ("{{ messages.append(1) }}", ("refuses", "SecurityError")),
        ("{{ ''.__class__.__mro__ }}", ("refuses", "SecurityError")),
    ]:
        tokenizer = load_tokenizer(folder_of(tmp_path, {**files, "chat_template.jinja": template}))
        refused(lambda tokenizer=tokenizer: tokenizer.chat([user("x")]), *words)
    (tmp_path / "chat_template.jinja").unlink()
    folder_of(tmp_path, {"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "x"}]}})
    refused(lambda: load_tokenizer(tmp_path), "tokenizer_config.json", "default")
    tokenizer = load_tokenizer(folder_of(tmp_path, files))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    refused(lambda: tokenizer.chat([user("x")]), "pip install jinja2")


def test_an_unsafe_jinja_is_refused(tmp_path, monkeypatch):
    jinja2 = pytest.importorskip("jinja2")
    monkeypatch.setattr(jinja2, "__version__", "3.1.5")
    tokenizer = load_tokenizer(folder_of(tmp_path, GOLDEN["cases"]["chatml"]["files"]))
    refused(lambda: tokenizer.chat([user("x")]), "3.1.5", "3.1.6")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], ("empty",)),
        ([{"role": "user"}], ("message 1", "role")),
        ([{"role": "user", "content": None}], ("message 1",)),
        ([{"role": "tool", "content": "x"}], ("'tool'",)),
        ([answer("x")], ("message 1", "turn")),
        ([user("x"), user("y")], ("message 2", "turn")),
        ([system("x"), system("y")], ("message 2",)),
        ([user("x"), system("y")], ("message 2",)),
        ([user("x"), answer("y"), answer("z")], ("message 3",)),
    ],
)
def test_what_is_no_conversation(messages, words):
    refused(lambda: check_messages(messages), *words)


def test_rounds():
    assert rounds([user("a")]) == (None, [("a", None)])
    assert rounds([system("s"), user("a"), answer("b")]) == ("s", [("a", "b")])
    assert rounds([user("a"), answer("b"), user("c")]) == (None, [("a", "b"), ("c", None)])
    refused(lambda: rounds([system("s")]), "no user's message")


def test_a_format_frames_messages_and_keeps_text_plain(rank_file):
    tokenizer = TiktokenTokenizer(rank_file, PATTERN, SPECIAL, chat_format=CHATML)
    plain = tokenizer.encode

    def framed(role, content):
        return [301, *plain(role), 10, *plain(content, parse_special=False), 300]

    start = framed("system", "be kind")
    first = [*start, 10, *framed("user", "the<|im_start|>"), 10, 301, *plain("assistant"), 10]
    assert tokenizer.chat([user("the<|im_start|>")]) == first
    assert first.count(301) == 3
    done = [*first, *plain("thing"), 300]
    assert tokenizer.chat([user("the<|im_start|>"), answer("thing")]) == done
    own = tokenizer.chat([system("other"), user("the")])
    assert own[: len(framed("system", "other"))] == framed("system", "other")


def test_a_formats_conversation_begins_with_its_prefixes(rank_file):
    messages = [system("s"), user(" a\n"), answer("\n b "), user(""), answer(""), user("c")]
    for strip in (False, True):
        chat = ChatFormat(CHATML.before, CHATML.after, CHATML.special, ("<|im_start|>",), None, ("\n",), strip)
        tokenizer = TiktokenTokenizer(rank_file, PATTERN, SPECIAL, chat_format=chat)
        whole = tokenizer.chat(messages)
        for end in (2, 4, 6):
            part = tokenizer.chat(messages[:end])
            assert whole[: len(part)] == part


def test_formats_that_do_not_fit(rank_file, spm_file, hf_folder):
    tokenizer = TiktokenTokenizer(rank_file, PATTERN, SPECIAL, chat_format=ChatFormat({"user": ()}, {}))
    refused(lambda: tokenizer.chat([system("x"), user("y")]), "no system messages")
    refused(lambda: required_id(tokenizer, "<nowhere>"), "'<nowhere>'", "family.tiktoken")
    assert encode_parts(tokenizer, [301, "<|im_start|>"]) == [
        301,
        *tokenizer.encode("<|im_start|>", parse_special=False),
    ]
    for silent in (
        TiktokenTokenizer(rank_file, PATTERN, SPECIAL),
        SentencePieceTokenizer(spm_file),
        HFTokenizer(hf_folder),
    ):
        refused(lambda silent=silent: silent.chat([user("x")]), "chat template")
