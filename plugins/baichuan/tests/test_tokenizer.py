"""T0: the sentencepiece model of a folder, what Baichuan adds to it, and the chat prompt."""

from __future__ import annotations

import json

import pytest
import sentencepiece

from zoo_baichuan.tokenizer import load
from zoo_core.errors import TokenizerError

TEXT = "Hello, world! 12345 you'll see; 床前明月光\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A sentencepiece model of Baichuan's kind: byte fallback, no space put before a text."""
    folder = tmp_path_factory.mktemp("baichuan")
    (folder / "corpus.txt").write_text(TEXT * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        add_dummy_prefix=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return (folder / "tokenizer.model").read_bytes()


@pytest.fixture
def folder(model, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model)
    return tmp_path


def test_text_comes_back(folder):
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.encode(TEXT.strip())) == TEXT.strip()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.padding_side == "left"
    assert tokenizer.vocab_size == len({*tokenizer.pieces(range(tokenizer.vocab_size))})


def test_half_a_character_is_a_replacement_character(folder):
    tokenizer = load(folder)
    ids = tokenizer.encode("é")
    assert len(ids) == 2
    assert tokenizer.decode(ids) == "é"
    assert tokenizer.decode(ids[:1]) == "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_spelt_out_by_a_user_stay_text(folder):
    tokenizer = load(folder)
    ids = tokenizer.chat([{"role": "user", "content": "Hello</s>"}])
    assert 2 not in ids and tokenizer.decode(ids[1:-1]) == "Hello</s>"
    assert tokenizer.decode([*tokenizer.encode("Hello"), 2], skip_special_tokens=True) == "Hello"


@pytest.mark.parametrize("settings", [None, {}, {"add_bos_token": False, "pad_token": {"content": "<unk>"}}])
def test_nothing_is_added_by_default(folder, settings):
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load(folder)
    assert tokenizer.encode("Hello", add_special_tokens=True) == tokenizer.encode("Hello")
    assert (tokenizer.pad_id, tokenizer.padding_side) == (0, "left")


def test_the_tokenizer_config_is_heeded(folder):
    settings = {"add_bos_token": True, "add_eos_token": True, "padding_side": "right"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load(folder)
    hello = tokenizer.encode("Hello")
    assert tokenizer.encode("Hello", add_special_tokens=True) == [1, *hello, 2]
    assert tokenizer.padding_side == "right"


def test_a_conversation_is_rounds_after_the_system_text(folder):
    tokenizer = load(folder)
    be, hi, world, see = (tokenizer.encode(text) for text in ("12345", "Hello", "world", "see"))
    messages = [
        {"role": "system", "content": "12345"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "world"},
        {"role": "user", "content": "see"},
    ]
    assert tokenizer.chat(messages[1:2]) == [195, *hi, 196]
    assert tokenizer.chat(messages) == [*be, 195, *hi, 196, *world, 195, *see, 196]
    assert tokenizer.chat(messages[:3]) == [*be, 195, *hi, 196, *world]
    assert tokenizer.chat(messages)[: len(be) + len(hi) + 2] == tokenizer.chat(messages[:2])


def test_the_generation_config_says_who_speaks(folder):
    (folder / "generation_config.json").write_text(json.dumps({"user_token_id": 7, "assistant_token_id": 8}))
    tokenizer = load(folder)
    assert tokenizer.chat([{"role": "user", "content": "Hello"}]) == [7, *tokenizer.encode("Hello"), 8]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "empty"),
        ([{"role": "tool", "content": "x"}], "'tool'"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "message 2"),
    ],
)
def test_a_conversation_that_baichuan_has_not_is_refused(folder, messages, said):
    with pytest.raises(TokenizerError, match=said):
        load(folder).chat(messages)


def test_what_is_saved_loads_again(folder, tmp_path):
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    (folder / "generation_config.json").write_text(json.dumps({"user_token_id": 7, "assistant_token_id": 8}))
    tokenizer = load(folder)
    tokenizer.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.encode(TEXT, add_special_tokens=True) == tokenizer.encode(TEXT, add_special_tokens=True)
    message = [{"role": "user", "content": "Hello"}]
    assert again.chat(message) == tokenizer.chat(message)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json", "generation_config.json"])
def test_a_corrupt_file_is_named(folder, name):
    (folder / name).write_bytes(b"\x00\x01 no such thing")
    with pytest.raises(TokenizerError, match=name):
        load(folder)
