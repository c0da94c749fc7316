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


def test_llama_3_saves_what_loads_again(llama3, tmp_path):
    load(llama3).save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.encode(TEXT, add_special_tokens=True) == load(llama3).encode(TEXT, add_special_tokens=True)


def test_llama_1_and_2_are_a_sentencepiece_model(tmp_path):
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
    tokenizer = load(tmp_path)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.encode("Hello", add_special_tokens=True)[0] == tokenizer.bos_id == 1


def test_tokenizer_json_comes_first(llama3, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, llama3)
    assert load(llama3).vocab_size == 270


def test_a_corrupt_file_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01 no model")
    with pytest.raises(TokenizerError, match="tokenizer.model"):
        load(tmp_path)
