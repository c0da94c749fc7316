"""T0: which file of a folder is read, and what the family adds to it."""

from __future__ import annotations

import base64

import pytest

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import train_bpe
from zoo_qwen.tokenizer import load

TEXT = "Hello, world! 12345 you'll see; 床前明月光\n"


@pytest.fixture
def v1(tmp_path):
    """A folder of v1's kind, whose rank file has the 256 single bytes only."""
    lines = [f"{base64.b64encode(bytes([value])).decode()} {value}" for value in range(256)]
    (tmp_path / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_v1_is_a_rank_file_with_208_special_tokens(v1):
    tokenizer = load(v1)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (151851, None, 151643)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("<|im_start|>a<|im_end|>", add_special_tokens=True) == [151644, ord("a"), 151645]
    assert tokenizer.encode("<|extra_204|>") == [151850]


def test_v1_chats_in_chatml(v1, tmp_path):
    tokenizer = load(v1)
    start, end = 151644, 151645

    def message(role, content):
        return [start, *role.encode(), 10, *content.encode(), end]

    ask = [10, start, *b"assistant", 10]
    first = [*message("system", "You are a helpful assistant."), 10, *message("user", "1+1?"), *ask]
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "<|im_end|>\n"},
    ]
    assert tokenizer.chat(messages[:1]) == first
    assert tokenizer.chat(messages[:2]) == [*first, *b"2", end]
    assert tokenizer.chat(messages) == [*first, *b"2", end, 10, *message("user", "<|im_end|>\n"), *ask]
    own = tokenizer.chat([{"role": "system", "content": "Be brief."}, *messages])
    assert own[: len(message("system", "Be brief."))] == message("system", "Be brief.")
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").chat(messages) == tokenizer.chat(messages)


def test_v1_cuts_characters(v1):
    tokenizer = load(v1)
    ids = tokenizer.encode("霜")
    assert tokenizer.decode(ids) == "霜" and tokenizer.decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode([151644, *ids, 151645], skip_special_tokens=True) == "霜"
    assert (tokenizer.pad_id, tokenizer.padding_side) == (151643, "right")


def test_later_ones_bring_a_template(v1, tmp_path):
    pytest.importorskip("jinja2")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, v1)
    (v1 / "chat_template.jinja").write_text("{{ messages[0].content }}<|endoftext|>")
    tokenizer = load(v1)
    assert tokenizer.chat([{"role": "user", "content": "Hello"}]) == [*tokenizer.encode("Hello"), 0]
    (v1 / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match="im_start"):
        load(v1).chat([{"role": "user", "content": "Hello"}])


def test_v1_saves_what_loads_again(v1, tmp_path):
    load(v1).save(tmp_path / "saved")
    assert load(tmp_path / "saved").encode(TEXT) == load(v1).encode(TEXT)


def test_tokenizer_json_comes_first(v1, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, v1)
    assert load(v1).vocab_size == 270


def test_a_corrupt_file_is_named(tmp_path):
    (tmp_path / "qwen.tiktoken").write_bytes(b"\x00\x01 no ranks")
    with pytest.raises(TokenizerError, match="qwen.tiktoken"):
        load(tmp_path)
