"""Missing and foreign tokenizer files are refused by name, with what is expected."""

from __future__ import annotations

import pytest

from tests.tokenizers.conftest import PATTERN, SPECIAL
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import HFTokenizer, SentencePieceTokenizer, TiktokenTokenizer, load_tokenizer


def refused(call, *words):
    with pytest.raises(TokenizerError) as caught:
        call()
    text = str(caught.value)
    assert caught.value.why and caught.value.todo
    for word in words:
        assert word in text, text


def test_nothing_there(tmp_path):
    refused(lambda: load_tokenizer(tmp_path), str(tmp_path), "tokenizer.json")
    refused(lambda: load_tokenizer(tmp_path / "no"), "no such file")
    refused(lambda: SentencePieceTokenizer(tmp_path / "tokenizer.model"), "tokenizer.model", "sentencepiece")
    refused(lambda: HFTokenizer(tmp_path), "tokenizer.json")
    refused(lambda: TiktokenTokenizer(tmp_path / "x.tiktoken", PATTERN, {}), "x.tiktoken")


def test_foreign_files(tmp_path, spm_file):
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    refused(lambda: load_tokenizer(tmp_path), "tokenizer.json", "no Hugging Face tokenizer")
    model = tmp_path / "tokenizer.model"
    model.write_bytes(spm_file.read_bytes()[:1000])
    refused(lambda: load_tokenizer(model), "tokenizer.model", "no sentencepiece model")
    model.write_bytes(b"")
    refused(lambda: load_tokenizer(model), "tokenizer.model", "no sentencepiece model")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n"
FAILED_DOWNLOADS = [
    (POINTER, ("git-lfs pointer", "git lfs pull")),
    (b"\n<!DOCTYPE html>\n<html><head>", ("web page", "fetch")),
    (b"", ("empty",)),
    (b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', ("configuration", "architectures")),
    (b"PK\x03\x04 archive", ("archive", "unpack")),
]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "qwen.tiktoken", "tiktoken_config.json"])
@pytest.mark.parametrize(("content", "words"), FAILED_DOWNLOADS)
def test_what_a_failed_download_leaves_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(lambda: load_tokenizer(tmp_path), name, *words)


def test_a_rank_file_that_is_none(tmp_path):
    for content, words in FAILED_DOWNLOADS:
        (tmp_path / "x.tiktoken").write_bytes(content)
        refused(lambda: TiktokenTokenizer(tmp_path / "x.tiktoken", PATTERN, SPECIAL), "x.tiktoken", *words)


def test_files_beside_that_are_none(tmp_path, hf_folder, spm_file):
    for file in hf_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes(POINTER)
    refused(lambda: load_tokenizer(tmp_path), "tokenizer_config.json", "git-lfs pointer")
    (tmp_path / "tokenizer_config.json").write_text("[]")
    refused(lambda: load_tokenizer(tmp_path), "tokenizer_config.json", "list")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(spm_file.read_bytes())
    refused(lambda: load_tokenizer(tmp_path), "tokenizer_config.json", "list")


def test_rank_files(tmp_path, rank_file):
    lines = rank_file.read_bytes().splitlines(keepends=True)
    copy = tmp_path / "x.tiktoken"
    for content, words in [
        (lines[:200], ("truncated", "single bytes")),
        (lines[:280] + lines[290:], ("ranks up to 299",)),
        (lines[:5] + [b"not base64!\n"] + lines[5:], ("line 6",)),
        (lines + lines[7:8], ("line 301", "repeats")),
        (lines[:-1] + [lines[-1][: len(lines[-1]) // 2]], ("line 300",)),
    ]:
        copy.write_bytes(b"".join(content))
        refused(lambda: TiktokenTokenizer(copy, PATTERN, SPECIAL), "x.tiktoken", *words)
    refused(lambda: load_tokenizer(rank_file), "--model")
    refused(lambda: TiktokenTokenizer(rank_file, PATTERN, {"<a>": 299}), "<a>", "299")
    with pytest.raises(TokenizerError, match="<z>"):
        TiktokenTokenizer(rank_file, PATTERN, SPECIAL, eos="<z>")


def test_llama3_style_model_is_recognised_as_ranks(tmp_path, rank_file):
    model = tmp_path / "tokenizer.model"
    model.write_bytes(rank_file.read_bytes())
    refused(lambda: load_tokenizer(tmp_path), "pattern", "--model")
    TiktokenTokenizer(model, PATTERN, SPECIAL).save(tmp_path)
    assert load_tokenizer(model).encode("the") == [257]


def test_corrupt_sidecar(tmp_path, rank_file):
    TiktokenTokenizer(rank_file, PATTERN, SPECIAL).save(tmp_path)
    (tmp_path / "tiktoken_config.json").write_text('{"pattern": 1}')
    refused(lambda: load_tokenizer(tmp_path), "tiktoken_config.json", "corrupt")


def test_several_models_want_a_choice(tmp_path, spm_file):
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(spm_file.read_bytes())
    refused(lambda: load_tokenizer(tmp_path), "a.model", "b.model")
    (tmp_path / "b.model").unlink()
    assert load_tokenizer(tmp_path).vocab_size == 600


def test_missing_package_says_what_to_install(monkeypatch, spm_file):
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    refused(lambda: SentencePieceTokenizer(spm_file), "pip install sentencepiece")
