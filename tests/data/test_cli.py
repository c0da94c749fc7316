"""`zoo data` and `zoo tokenizer`, from the bundled text to a shown corpus."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from zoo_core.cli import data, tokenizer
from zoo_core.data import open_corpus
from zoo_core.errors import ConfigError, DataError


def run(command, *args):
    result = CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_way_from_text_to_corpus(tmp_path):
    said = run(data.command, "corpus", "--output", tmp_path / "text")
    assert "tang300.txt" in said and "zoo tokenizer train" in said and (tmp_path / "text" / "ORIGIN.md").is_file()
    (tmp_path / "text" / "ORIGIN.md").unlink()
    said = run(tokenizer.command, "train", tmp_path / "text", "--vocab-size", 400, "--output", tmp_path / "tok")
    assert "400 tokens" in said and "zoo data build" in said
    default = run(tokenizer.command, "train", "--vocab-size", 400, "--output", tmp_path / "tok2")
    assert "bundled" in default
    assert (tmp_path / "tok" / "tokenizer.json").read_bytes() == (tmp_path / "tok2" / "tokenizer.json").read_bytes()
    said = run(tokenizer.command, "show", tmp_path / "tok", "明月 light")
    assert "HFTokenizer with 400 tokens" in said and "gives the text back" in said
    prefix = tmp_path / "corpus" / "all"
    poems = tmp_path / "text" / "song100.txt"
    said = run(data.command, "build", poems, "--tokenizer", tmp_path / "tok", "--output", prefix, "--workers", 1)
    found = open_corpus(prefix)
    assert f"{found.num_tokens:,} tokens as uint16 in {len(found)} documents" in said
    assert f"zoo data show {prefix}" in said and "zoo run pretrain" in said
    said = run(data.command, "show", prefix, "--doc", 1, "--tokens", 200, "--tokenizer", tmp_path / "tok")
    assert f"{len(found):,} sequences" in said and "寒食" in said
    said = run(data.command, "verify", prefix)
    assert "is whole" in said and f"{int(found.tokens.max()) + 1}" in said
    with pytest.raises(DataError, match="vocabulary has 300"):
        run(data.command, "verify", prefix, "--vocab-size", 300)
    with pytest.raises(ConfigError, match="--tokenizer"):
        run(data.command, "build", poems, "--output", prefix)


def test_the_commands_it_names_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "my text.txt"
    text.write_text("one two three, one two\n" * 20)
    said = run(tokenizer.command, "train", text, "--vocab-size", 260, "--output", "my tok")
    assert "zoo tokenizer show 'my tok'" in said and f"zoo data build '{text}' --tokenizer 'my tok' --output" in said
    said = run(data.command, "build", text, "--tokenizer", "my tok", "--output", "my corpus", "--workers", 1)
    assert "zoo data show 'my corpus'" in said
    assert "--model qwen/qwen-7b --scale tiny --tokenizer 'my tok' --input_dir 'my corpus'" in said


def test_bad_lines_are_named_on_the_way(tmp_path):
    run(tokenizer.command, "train", "--vocab-size", 300, "--output", tmp_path / "tok")
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"no": 1}\n')
    args = ("build", file, "--tokenizer", tmp_path / "tok", "--output", tmp_path / "out", "--skip-bad-lines")
    said = run(data.command, *args)
    assert f"{file} line 2" in said and "bad lines 1, empty documents 0" in said


def test_no_paddle_is_imported():
    code = (
        "import sys, zoo_core.data, zoo_core.tokenizers, zoo_core.cli.data, zoo_core.cli.tokenizer; "
        "bad = {'paddle', 'torch', 'sentencepiece', 'tiktoken'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
