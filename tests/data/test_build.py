"""Text to corpus: documents, order, worker counts, bad lines, and nothing half-written."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import numpy as np
import pytest

from zoo_core.data import corpus, open_corpus
from zoo_core.data.build import build_corpus, token_dtype
from zoo_core.data.encode import TokenizerSource
from zoo_core.data.sources import chunks, input_files
from zoo_core.errors import DataError, TokenizerError
from zoo_core.tokenizers import load_tokenizer, train_bpe


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(corpus.files()[-2:], 500, folder)
    return folder


@pytest.fixture
def source(tokenizer_folder):
    return TokenizerSource(tokenizer_folder)


def texts_of(prefix, tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    found = open_corpus(prefix)
    return [tokenizer.decode(found.sequence(number).tolist()) for number in range(len(found))]


def test_documents_of_text_files(tmp_path, source, tokenizer_folder):
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\n  \nthree  \r\nfour", encoding="utf-8")
    end = "<|endoftext|>"
    for kind, want in [
        ("blank-line", ["one\ntwo", "three  \nfour"]),
        ("line", ["one", "two", "three  ", "four"]),
        ("file", ["one\ntwo\n\n\n  \nthree  \r\nfour"]),
    ]:
        report = build_corpus([tmp_path / "a.txt"], tmp_path / kind, source, documents=kind)
        assert texts_of(tmp_path / kind, tokenizer_folder) == [text + end for text in want]
        assert (report.documents, report.inputs, report.bad, report.empty) == (len(want), 1, 0, 0)
        assert report.tokens == open_corpus(tmp_path / kind).num_tokens
    build_corpus([tmp_path / "a.txt"], tmp_path / "plain", source, append_eos=False)
    assert texts_of(tmp_path / "plain", tokenizer_folder) == ["one\ntwo", "three  \nfour"]


def test_json_lines_and_special_tokens_as_text(tmp_path, source, tokenizer_folder):
    rows = [{"text": "床前明月光"}, {"text": ""}, {"text": "a\n\nb", "other": 1}, {"text": "<|endoftext|>"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    report = build_corpus([tmp_path / "a.jsonl"], tmp_path / "out", source)
    want = ["床前明月光", "a\n\nb", "<|endoftext|>"]
    assert texts_of(tmp_path / "out", tokenizer_folder) == [text + "<|endoftext|>" for text in want]
    assert report.empty == 1
    ids = open_corpus(tmp_path / "out").sequence(2)
    assert (ids == 0).sum() == 1 and ids[-1] == 0
    with pytest.raises(DataError, match="line 1 .*\n.*no key 'other'"):
        build_corpus([tmp_path / "a.jsonl"], tmp_path / "key", source, json_key="other")


def test_result_does_not_depend_on_workers(tmp_path, source):
    texts = tmp_path / "in"
    (texts / "deep").mkdir(parents=True)
    for number, file in enumerate(corpus.files()[2:]):
        (texts / "deep" / file.name if number % 2 else texts / file.name).write_bytes(file.read_bytes())
    lines = [json.dumps({"text": f"line {number} " + "word " * (number % 50)}) for number in range(2000)]
    (texts / "z.jsonl").write_text("\n".join(lines))
    cases = [("plain", {}, (1, 3)), ("shuffled", {"shuffle_seed": 4}, (1, 2)), ("npy", {"file_format": "npy"}, (1,))]
    for name, settings, workers_tried in cases:
        read = []
        for workers in workers_tried:
            report = build_corpus(
                [texts], tmp_path / f"{name}{workers}", source, workers=workers,
                on_progress=lambda size, total, read=read: read.append((size, total)), **settings,
            )  # fmt: skip
            assert report.workers == workers
            assert sum(size for size, _ in read) == report.source_bytes == read[0][1]
            read.clear()
            if workers > 1:
                first, again = open_corpus(tmp_path / f"{name}1"), open_corpus(tmp_path / f"{name}{workers}")
                for one, other in zip(first.files, again.files, strict=True):
                    assert one.suffix == ".npz" or one.read_bytes() == other.read_bytes()
                assert np.array_equal(first.lengths, again.lengths) and np.array_equal(first.tokens, again.tokens)
    plain, shuffled = open_corpus(tmp_path / "plain1"), open_corpus(tmp_path / "shuffled1")
    assert sorted(map(bytes, map(plain.sequence, range(len(plain))))) == sorted(
        map(bytes, map(shuffled.sequence, range(len(shuffled))))
    )
    assert not np.array_equal(plain.lengths, shuffled.lengths)
    old = open_corpus(tmp_path / "npy1")
    assert np.array_equal(old.tokens, plain.tokens) and np.array_equal(old.lengths, plain.lengths)
    loaded = np.load(tmp_path / "npy1_ids.npy")
    assert loaded.dtype == np.uint16 and np.load(tmp_path / "npy1_idx.npz")["sents"][-1] == len(loaded)


def test_bad_lines(tmp_path, source, tokenizer_folder):
    lines = [b'{"text": "good"}', b'{"text": 3}', b"[1]", b"not json", b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"",
             b'{"text": "end"}']  # fmt: skip
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(lines))
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"a\.jsonl line 2 cannot be used"):
            build_corpus([file], tmp_path / "out", source, workers=workers)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    said: list[str] = []
    report = build_corpus([file], tmp_path / "out", source, skip_bad_lines=True, on_bad_line=said.append)
    assert [message.split(":")[0] for message in said] == [f"{file} line {number}" for number in (2, 3, 4, 5, 6)]
    assert report.bad == 5
    assert texts_of(tmp_path / "out", tokenizer_folder) == ["good<|endoftext|>", "end<|endoftext|>"]
    text = tmp_path / "b.txt"
    text.write_bytes(b"fine\n\nalso\nbad \xe9\n\nlast")
    with pytest.raises(DataError, match=r"b\.txt line 3"):
        build_corpus([text], tmp_path / "text", source)


def test_refusals_leave_nothing(tmp_path, source, tokenizer_folder):
    text = tmp_path / "a.txt"
    text.write_text("some text")
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "a.pdf").write_text("x")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for inputs, word in [
        ([tmp_path / "no.txt"], "no such file"),
        ([tmp_path / "a.pdf"], "known endings"),
        ([tmp_path / "folder"], "no text in"),
        ([tmp_path / "empty.txt"], "nothing to write"),
    ]:
        with pytest.raises(DataError, match=word):
            build_corpus(inputs, tmp_path / "out", source)
    with pytest.raises(TokenizerError):
        build_corpus([text], tmp_path / "out", TokenizerSource(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="unknown format"):
        build_corpus([text], tmp_path / "out", source, file_format="zip")
    (tokenizer_folder / "tokenizer_config.json").rename(tokenizer_folder / "aside")
    try:
        with pytest.raises(TokenizerError, match="--no-append-eos"):
            build_corpus([text], tmp_path / "out", TokenizerSource(tokenizer_folder / "tokenizer.json"))
    finally:
        (tokenizer_folder / "aside").rename(tokenizer_folder / "tokenizer_config.json")
    assert sorted(tmp_path.rglob("*")) == before


def test_existing_corpus_is_kept_unless_asked(tmp_path, source):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_text("another and longer")
    build_corpus([tmp_path / "a.txt"], tmp_path / "out", source)
    first = open_corpus(tmp_path / "out").num_tokens
    with pytest.raises(DataError, match="--overwrite"):
        build_corpus([tmp_path / "b.txt"], tmp_path / "out", source)
    with pytest.raises(DataError, match="--overwrite"):
        build_corpus([tmp_path / "b.txt"], tmp_path / "out", source, file_format="npy")
    assert open_corpus(tmp_path / "out").num_tokens == first
    build_corpus([tmp_path / "b.txt"], tmp_path / "out", source, overwrite=True)
    assert open_corpus(tmp_path / "out").num_tokens > first
    build_corpus([tmp_path / "a.txt"], tmp_path / "out", source, overwrite=True, file_format="npy")
    assert open_corpus(tmp_path / "out").num_tokens == first
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out_ids.npy", "out_idx.npz"]


def test_full_disk(tmp_path, source, monkeypatch):
    (tmp_path / "a.txt").write_text("some text")
    build_corpus([tmp_path / "a.txt"], tmp_path / "out", source)
    whole = {path: path.read_bytes() for path in tmp_path.glob("out*")}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zoo_core._atomic.os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        build_corpus([tmp_path / "a.txt"], tmp_path / "new", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.bin", "out.idx"]
    assert {path: path.read_bytes() for path in whole} == whole


def test_model_name_goes_to_the_plugin(tmp_path, tokenizer_folder, monkeypatch):
    asked = []

    class Family:
        def tokenizer(self, config, path):
            asked.append((config, path))
            return load_tokenizer(path)

    class Plugins:
        def find(self, model):
            return SimpleNamespace(architecture=Family(), config=f"config of {model}", path=None)

    monkeypatch.setattr("zoo_core.data.encode.registry", Plugins)
    (tmp_path / "a.txt").write_text("some text")
    build_corpus([tmp_path / "a.txt"], tmp_path / "out", TokenizerSource(tokenizer_folder, "fam/ily-7b"))
    assert asked == [("config of fam/ily-7b", tokenizer_folder)]
    assert texts_of(tmp_path / "out", tokenizer_folder) == ["some text<|endoftext|>"]


def test_a_text_that_the_tokenizer_gives_up_on_is_a_bad_line(tmp_path, monkeypatch):
    class Words:
        vocab_size, eos_id = 10, 9

        def encode(self, text, add_special_tokens=False, *, parse_special=True):
            if "boom" in text:
                raise ValueError("regex gave up")
            return [len(word) for word in text.split()]

    monkeypatch.setattr(TokenizerSource, "load", lambda self: Words())
    (tmp_path / "a.txt").write_text("a bb\n\nboom\n\nccc")
    with pytest.raises(DataError, match="line 3 cannot be used\n.*regex gave up"):
        build_corpus([tmp_path / "a.txt"], tmp_path / "out", TokenizerSource(None))
    build_corpus([tmp_path / "a.txt"], tmp_path / "out", TokenizerSource(None), skip_bad_lines=True)
    assert open_corpus(tmp_path / "out").tokens.tolist() == [1, 2, 9, 3, 9]


def test_dtype_follows_the_vocabulary():
    assert [token_dtype(size) for size in (500, 65499, 65500, 151851)] == ["<u2", "<u2", "<i4", "<i4"]


def test_chunks_count_every_byte_and_line(tmp_path):
    file = tmp_path / "a.txt"
    blocks = [f"document {number}\n" + "x" * (number * 97 % 3000) for number in range(1000)]
    file.write_text("\n\n\n".join(blocks) + "\n\n")
    found = list(chunks([file]))
    assert len(found) > 3
    assert sum(chunk.source_bytes for chunk in found) == file.stat().st_size
    records = [record for chunk in found for record in chunk.records]
    assert [content.decode() for _, content in records] == [block.rstrip("\n") for block in blocks]
    lines = file.read_text().split("\n")
    assert all(lines[number - 1] == f"document {index}" for index, (number, _) in enumerate(records))


def test_bundled_text_is_what_it_says():
    files = corpus.files()
    assert len(files) == 5
    origin = files[0].with_name("ORIGIN.md").read_text(encoding="utf-8")
    texts = {file.name: file.read_bytes().decode("utf-8") for file in files}
    assert all(f"`{name}`" in origin for name in texts)
    assert 1_000_000 < sum(len(text.encode()) for text in texts.values()) < 3_000_000
    assert "In the beginning God created the heaven and the earth." in texts["kjv-law-and-history.txt"]
    assert "兰叶春葳蕤" in texts["tang300.txt"]
    assert not any("\x1b" in text or "\r" in text for text in texts.values())
    assert sum(len(list(chunk.records)) for chunk in chunks(input_files(files))) == 851
