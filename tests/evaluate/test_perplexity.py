"""Perplexity: what documents are, and `zoo eval ppl`."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from zoo_core.cli import main
from zoo_core.errors import ConfigError, DataError
from zoo_core.evaluate import Document, measure_perplexity, read_documents

TEXT = "In the beginning God created the heaven.\n\nand the earth.\n床前明月光,疑是地上霜。\n"


def document(*ids):
    return Document(np.asarray(ids, np.int64), len(ids), 1)


def test_documents_of_text_and_of_json_lines(bpe, tmp_path):
    file = tmp_path / "some.txt"
    file.write_text(TEXT, encoding="utf-8")
    (whole,) = read_documents(file, bpe)
    assert whole.ids.tolist() == bpe.encode(TEXT.strip()) and whole.words == 11
    assert whole.bytes == len(TEXT.strip().encode())
    assert len(list(read_documents(file, bpe, "line"))) == 3 and len(list(read_documents(file, bpe, "blank-line"))) == 2
    lines = tmp_path / "some.jsonl"
    lines.write_text('{"body": "God"}\n{"body": ""}\n{"body": "<s> the earth"}\n', encoding="utf-8")
    first, second = read_documents(lines, bpe, json_key="body")
    assert first.ids.tolist() == bpe.encode("God") and second.ids.tolist() == bpe.encode(
        "<s> the earth", parse_special=False
    )
    with pytest.raises(DataError, match=r"some.jsonl, line 1 has no text 'text'"):
        list(read_documents(lines, bpe))
    lines.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match=r"some.jsonl, line 2 cannot be read"):
        list(read_documents(lines, bpe))


def test_a_corpus_gives_what_its_text_gives(folder, bpe, tmp_path, capsys):
    lines = tmp_path / "some.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXT.split("\n") if text), encoding="utf-8")
    corpus = tmp_path / "corpus"
    build = ["data", "build", str(lines), "--output", str(corpus), "--tokenizer", str(folder), "--no-append-eos"]
    assert main(build) == 0
    out, reports = tmp_path / "report.json", []
    for data in (lines, corpus, tmp_path / "corpus.bin"):
        capsys.readouterr()
        assert main(["eval", "ppl", str(folder), "--data", str(data), "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith("perplexity ")
        reports.append(json.loads(out.read_text()))
        assert reports[-1].pop("data") == str(data)
    assert reports[0]["documents"] == 3
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["perplexity"] == pytest.approx(math.exp(reports[0]["nll"] / reports[0]["tokens"]))
    assert (
        main(["eval", "ppl", str(folder), "--data", str(lines), "--limit", "1", "--no-begin", "--out", str(out)]) == 0
    )
    one = json.loads(out.read_text())
    assert one["documents"] == 1 and one["opening"] == [] and one["tokens"] == len(bpe.encode(TEXT.split("\n")[0])) - 1


def test_groups_of_documents_and_batches_change_nothing(model, monkeypatch):
    from zoo_core.evaluate import perplexity

    random = np.random.default_rng(0)
    documents = [document(*random.integers(5, 200, size)) for size in (1, 30, 7, 300, 2, 64)]
    seen = []
    whole = measure_perplexity(model, documents, max_length=40, stride=10, progress=seen.append)
    assert sum(seen) == whole.tokens == 404
    monkeypatch.setattr(perplexity, "_TOKENS", 32)
    again = measure_perplexity(model, documents, max_length=40, stride=10, batch_size=1)
    assert again.nll == pytest.approx(whole.nll, rel=1e-6) and again.tokens == whole.tokens


def test_a_beginning_that_is_there_is_not_put_there_again(model):
    bos = model.tokenizer.bos_id
    with_it, without = (measure_perplexity(model, [given]) for given in (document(bos, 7, 8, 9), document(7, 8, 9)))
    assert with_it.nll == pytest.approx(without.nll, rel=1e-6) and with_it.tokens == without.tokens == 3


def test_what_cannot_be_measured(model):
    row = document(5, 6, 7)
    for arguments, said in (
        ({"max_length": 257}, "max_length is 257"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 8, "stride": 9}, "stride is 9"),
    ):
        with pytest.raises(ConfigError, match=said):
            measure_perplexity(model, [row], **arguments)
    with pytest.raises(ConfigError, match="tokens are not the model's"):
        measure_perplexity(model, [document(5, model.config.vocab_size)])
    for documents in ([], [document(5)]):
        with pytest.raises(DataError, match="nothing to score"):
            measure_perplexity(model, documents, begin=False)


def test_the_command_refuses(folder, tmp_path, capsys):
    for data, more, said in (
        (tmp_path / "nothing.txt", (), "no input"),
        (tmp_path / "nothing.bin", (), "nothing"),
        (folder / "config.json", ("--max_length", "999"), "max_length is 999"),
        (folder / "config.json", ("--out", str(tmp_path / "no" / "file")), "there is no folder"),
        (folder / "config.json", ("--device", "cpu", "--dtype", "bfloat16"), "no such kernels for CPUs"),
    ):
        assert main(["eval", "ppl", str(folder), "--data", str(data), *more]) == 2
        assert said in capsys.readouterr().err


def test_help_needs_neither_paddle_nor_numpy():
    import subprocess
    import sys

    code = (
        "import sys; from zoo_core.cli import main; main(['eval', 'ppl', '--help']);"
        "sys.exit('paddle' in sys.modules or 'numpy' in sys.modules or 'lm_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--stride" in done.stdout, done.stderr
