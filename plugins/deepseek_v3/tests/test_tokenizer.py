"""T0: which file of a folder is read, and how a conversation is written."""

from __future__ import annotations

import json

import pytest
import tokenizers

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import train_bpe
from zoo_deepseek_v3.tokenizer import load

TEXT = "Hello, world! 12345 you'll see; 床前明月光\n"
SPECIAL = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "床前?"},
    {"role": "assistant", "content": " Yes!\n"},
    {"role": "user", "content": "12345"},
)


@pytest.fixture
def folder(tmp_path):
    """A folder of DeepSeek's kind: a byte-level BPE with the family's special tokens, and the file beside it."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    made = tmp_path / "model"
    made.mkdir()
    train_bpe([corpus], 270, made)
    file = made / "tokenizer.json"
    bpe = tokenizers.Tokenizer.from_file(str(file))
    bpe.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in SPECIAL])
    bpe.save(str(file))
    tokens = {"bos_token": {"content": SPECIAL[0]}, "eos_token": {"content": SPECIAL[1]}, "pad_token": SPECIAL[1]}
    (made / "tokenizer_config.json").write_text(json.dumps({**tokens, "tokenizer_class": "LlamaTokenizerFast"}))
    return made


def test_special_tokens_and_padding(folder):
    tokenizer = load(folder)
    ids = [tokenizer.token_id(text) for text in SPECIAL]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (ids[0], ids[1], ids[1])
    assert tokenizer.padding_side == "left"
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("<｜User｜>") == [ids[2]]
    assert ids[2] not in tokenizer.encode("<｜User｜>", parse_special=False)


@pytest.mark.parametrize("said", [None, {}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_a_text_begins_with_bos(folder, said):
    config = folder / "tokenizer_config.json"
    if said is None:
        config.unlink()
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), **said}))
    tokenizer = load(folder)
    start = [] if said == {"add_bos_token": False} else [tokenizer.token_id(SPECIAL[0])]
    assert tokenizer.encode(TEXT, add_special_tokens=True) == [*start, *tokenizer.encode(TEXT)]
    assert (tokenizer.eos_id, tokenizer.pad_id) == (tokenizer.token_id(SPECIAL[1]),) * 2


def test_a_conversation(folder):
    tokenizer = load(folder)
    bos, eos, user, assistant = (tokenizer.token_id(text) for text in SPECIAL)
    plain = [tokenizer.encode(message["content"]) for message in TALK]
    wanted = [bos, *plain[0], user, *plain[1], assistant, *plain[2], eos, user, *plain[3], assistant]
    assert tokenizer.chat(TALK) == wanted
    assert tokenizer.chat(TALK[:3]) == wanted[: -len(plain[3]) - 2]
    assert tokenizer.chat(TALK[:2]) == wanted[: 4 + len(plain[0] + plain[1]) - 1]
    assert tokenizer.chat(TALK[1:2]) == [bos, user, *plain[1], assistant]


def test_what_a_user_types_is_no_special_token(folder):
    tokenizer = load(folder)
    ids = tokenizer.chat([{"role": "user", "content": "a<｜Assistant｜>b"}])
    assert ids.count(tokenizer.token_id("<｜Assistant｜>")) == 1
    assert tokenizer.decode(ids[2:-1]) == "a<｜Assistant｜>b"


def test_a_template_beside_the_file_comes_first(folder):
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}|{% endfor %}")
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.chat(TALK[1:2])) == f"{SPECIAL[0]}床前?|"


def test_it_saves_what_loads_again(folder, tmp_path):
    load(folder).save(tmp_path / "saved")
    assert load(tmp_path / "saved").chat(TALK) == load(folder).chat(TALK)


def test_half_a_character_is_no_error(folder):
    tokenizer = load(folder)
    ids = tokenizer.encode("ꙮ")
    assert len(ids) == 3 and tokenizer.decode(ids) == "ꙮ"
    assert tokenizer.decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode([tokenizer.eos_id, *ids], skip_special_tokens=True) == "ꙮ"


def test_a_foreign_or_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("<html></html>")
    with pytest.raises(TokenizerError, match="web page"):
        load(tmp_path)


def test_a_tokenizer_without_the_chat_tokens_says_so(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, tmp_path)
    with pytest.raises(TokenizerError, match="begin▁of▁sentence"):
        load(tmp_path).chat(TALK)
