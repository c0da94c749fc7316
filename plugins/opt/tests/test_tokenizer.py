"""T0: the family's files, against what transformers' own tokenizer makes of them (`tokenizer/make_tokenizer.py`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import HFTokenizer, pad_batch, train_bpe
from zoo_opt.tokenizer import load

FOLDER = Path(__file__).parent / "tokenizer"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture
def files(tmp_path):
    """A folder with the three files of a published OPT and nothing else."""
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", EXPECTED["cases"], ids=lambda case: case["text"][:12] or "empty")
def test_ids_and_text_are_those_of_transformers(files, case):
    tokenizer = load(files)
    ids = tokenizer.encode(case["text"], add_special_tokens=True)
    assert ids == case["ids"]
    assert tokenizer.encode(case["text"]) == ids[1:]
    assert tokenizer.decode(ids) == case["decoded"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == case["without_special"]


def test_roles_are_those_of_transformers(files):
    tokenizer = load(files)
    found = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id, "size": tokenizer.vocab_size}
    assert {**found, "padding_side": tokenizer.padding_side} == {
        name: EXPECTED[name] for name in (*found, "padding_side")
    }


def test_padding_is_that_of_transformers(files):
    tokenizer = load(files)
    rows = [tokenizer.encode(text, add_special_tokens=True) for text in ("the", "the other words")]
    ids, mask = pad_batch(rows, tokenizer.pad_id, tokenizer.padding_side)
    assert {"input_ids": ids.tolist(), "attention_mask": mask.tolist()} == EXPECTED["padded"]


@pytest.mark.parametrize("case", EXPECTED["partial"], ids=lambda case: str(len(case["ids"])))
def test_unfinished_characters_decode_as_transformers_has_them(files, case):
    assert load(files).decode(case["ids"]) == case["decoded"]


def test_special_tokens_spelt_in_a_corpus_can_stay_text(files):
    tokenizer = load(files)
    plain = tokenizer.encode("a</s>b", parse_special=False)
    assert tokenizer.eos_id not in plain and tokenizer.decode(plain) == "a</s>b"


def test_without_a_config_the_roles_are_the_family_s(files):
    configured = load(files)
    (files / "tokenizer_config.json").unlink()
    tokenizer = load(files / "vocab.json")
    for case in EXPECTED["cases"]:
        assert tokenizer.encode(case["text"], add_special_tokens=True) == case["ids"]
    for role in ("bos_id", "eos_id", "pad_id", "padding_side", "vocab_size"):
        assert getattr(tokenizer, role) == getattr(configured, role)


def test_padding_side_of_the_config_is_kept(files):
    config = json.loads((files / "tokenizer_config.json").read_text())
    (files / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    assert load(files).padding_side == "left"


@pytest.mark.parametrize("configured", [True, False], ids=["config", "no config"])
def test_what_is_saved_loads_again(files, configured, tmp_path):
    if not configured:
        (files / "tokenizer_config.json").unlink()
    load(files).save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    for case in EXPECTED["cases"]:
        assert again.encode(case["text"], add_special_tokens=True) == case["ids"]


def test_tokenizer_json_comes_first(files):
    (files / "corpus.txt").write_text("the other words " * 20)
    train_bpe([files / "corpus.txt"], 260, files)
    assert load(files).vocab_size == 260


def test_a_bare_tokenizer_json_begins_a_text_too(files, tmp_path):
    load(files)._tokenizer.save(str(tmp_path / "tokenizer.json"))
    (files / "tokenizer_config.json").unlink()
    tokenizer = load(files)
    assert isinstance(tokenizer, HFTokenizer)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (2, 2, 1)
    for case in EXPECTED["cases"]:
        assert tokenizer.encode(case["text"], add_special_tokens=True) == case["ids"]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(files, name):
    (files / name).unlink()
    with pytest.raises(TokenizerError, match=name):
        load(files)


def test_a_foreign_file_is_named(files):
    (files / "vocab.json").write_text("<!DOCTYPE html><html></html>")
    with pytest.raises(TokenizerError, match="web page"):
        load(files)


def test_merges_of_another_vocabulary_are_refused(files):
    (files / "merges.txt").write_text("#version: 0.2\nth ing\n")
    with pytest.raises(TokenizerError, match="does not belong"):
        load(files)


def test_opt_has_no_chat_format(files):
    with pytest.raises(TokenizerError, match="conversations"):
        load(files).chat([{"role": "user", "content": "the"}])
