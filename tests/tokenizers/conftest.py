"""Tiny tokenizers of every kind, trained in the test."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

from zoo_core.data import corpus
from zoo_core.tokenizers import train_bpe

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
SPECIAL = {"<|endoftext|>": 300, "<|im_start|>": 301}


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    train_bpe(corpus.files()[-2:], 600, folder)
    return folder


@pytest.fixture(scope="session")
def spm_file(tmp_path_factory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    lines = (corpus.files()[0].read_text(encoding="utf-8")[:60_000]).splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=600, model_type="bpe", byte_fallback=True,
        minloglevel=2, num_threads=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def rank_file(tmp_path_factory) -> Path:
    pytest.importorskip("tiktoken")
    tokens = [bytes([value]) for value in range(256)] + [b"th", b"the", b" the", b"in", b"ing"]
    tokens += [letter.encode() + b"e" for letter in "bcdfghjklmnpqrstuvwxyzABCDEFGHIJKLMNOPQ"]
    path = tmp_path_factory.mktemp("tiktoken") / "family.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens[:300])))
    assert path.read_bytes().count(b"\n") == 300
    return path
