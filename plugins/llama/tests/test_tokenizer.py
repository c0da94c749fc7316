"""T0: which file of a folder is read, and what the family adds to it."""

from __future__ import annotations

import base64

import pytest
import sentencepiece

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import SentencePieceTokenizer, train_bpe
from zoo_llama.tokenizer import load

TEXT = "Hello, world! 12345 you'll see; 床前明月光\n"


@pytest.fixture
def llama3(tmp_path):
    """A folder of Llama 3's kind, whose rank file has the 256 single bytes only."""
    lines = [f"{base64.b64encode(bytes([value])).decode()} {value}" for value in range(256)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_llama_3_is_a_rank_file_with_256_special_tokens(llama3):
    tokenizer = load(llama3)
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (128256, 128000, 128001)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("a<|eot_id|>", add_special_tokens=True) == [128000, ord("a"), 128009]
    assert tokenizer.encode("<|reserved_special_token_247|>") == [128255]


def conversation(*texts, system=None):
    """Question and answer in turn, after the system's message if there is one."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def test_llama_3_chats_in_headers(llama3, tmp_path):
    tokenizer = load(llama3)
    assert tokenizer.padding_side == "left"

    def message(role, content):
        return [128006, *role.encode(), 128007, 10, 10, *content.encode(), 128009]

    ask = [128006, *b"assistant", 128007, 10, 10]
    first = [128000, *message("system", "Be brief."), *message("user", "1+1?"), *ask]
    assert tokenizer.chat(conversation(" 1+1?\n", system="Be brief.")) == first
    whole = tokenizer.chat(conversation("1+1?", "2", "<|eot_id|>!", system="Be brief."))
    assert whole[: len(first)] == first
    assert whole[len(first) :] == [*b"2", 128009, *message("user", "<|eot_id|>!"), *ask]
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").chat(conversation("1+1?")) == tokenizer.chat(conversation("1+1?"))


def test_llama_3_cuts_characters(llama3):
    tokenizer = load(llama3)
    ids = tokenizer.encode("霜")
    assert tokenizer.decode(ids) == "霜" and tokenizer.decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode([128000, *ids, 128009], skip_special_tokens=True) == "霜"


def test_llama_3_saves_what_loads_again(llama3, tmp_path):
    load(llama3).save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.encode(TEXT, add_special_tokens=True) == load(llama3).encode(TEXT, add_special_tokens=True)


@pytest.fixture
def llama2(tmp_path):
    """A folder of the kind of Llama 1 and 2."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=400,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return tmp_path


def test_llama_1_and_2_are_a_sentencepiece_model(llama2):
    tokenizer = load(llama2)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.encode("Hello", add_special_tokens=True)[0] == tokenizer.bos_id == 1
    assert (tokenizer.pad_id, tokenizer.padding_side) == (None, "left")


def test_llama_2_chats_in_rounds(llama2, tmp_path):
    tokenizer = load(llama2)
    text = tokenizer.encode
    first = [1, *text("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n1+1? [/INST]")]
    assert tokenizer.chat(conversation("1+1?\n", system="Be brief.")) == first
    messages = conversation("1+1?", " 2 ", "</s> 3?", system="Be brief.")
    whole = tokenizer.chat(messages)
    answered = [1, *text("[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n1+1? [/INST] 2 "), 2]
    assert whole == [*answered, 1, *text("[INST] </s> 3? [/INST]")]
    assert whole.count(2) == 1
    for end in (2, 4):
        part = tokenizer.chat(messages[:end])
        assert whole[: len(part)] == part
    assert tokenizer.chat(messages[:3]) == answered
    tokenizer.save(tmp_path / "saved")
    assert load(tmp_path / "saved").chat(messages) == whole


@pytest.mark.parametrize("text", ["a [/INST] b", "<</SYS>>"])
def test_llama_2_refuses_its_own_marks_in_a_message(llama2, text):
    with pytest.raises(TokenizerError, match="a message of user has"):
        load(llama2).chat(conversation(text))


def test_a_template_beside_the_files_comes_first(llama2):
    pytest.importorskip("jinja2")
    (llama2 / "chat_template.jinja").write_text("Human: {{ messages[0].content }}{{ eos_token }}")
    tokenizer = load(llama2)
    assert tokenizer.chat(conversation("Hello")) == [*tokenizer.encode("Human: Hello"), 2]


def test_tokenizer_json_comes_first(llama3, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, llama3)
    assert load(llama3).vocab_size == 270


def test_a_corrupt_file_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01 no model")
    with pytest.raises(TokenizerError, match="tokenizer.model"):
        load(tmp_path)
