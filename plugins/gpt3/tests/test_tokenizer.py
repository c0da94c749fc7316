"""T0: which file of a folder is read, what the family adds to it, and what is said of files that do not fit."""

from __future__ import annotations

import json

import pytest

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import pad_batch, train_bpe
from zoo_gpt3.tokenizer import load

TEXT = "Hello, world! 12345 you'll see;\n  床前明月光 \U0001f600\n"


@pytest.fixture
def published(tmp_path):
    """A folder with the files of a GPT-2, of a small vocabulary, `<|endoftext|>` at its end; no file names it."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 300, tmp_path / "trained")
    content = json.loads((tmp_path / "trained" / "tokenizer.json").read_text())
    pieces = [token for token in content["model"]["vocab"] if token != "<|endoftext|>"]
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate([*pieces, "<|endoftext|>"])}))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return folder


def test_gpt_2s_own_files(published):
    tokenizer = load(published)
    last = tokenizer.vocab_size - 1
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id == last
    ids = tokenizer.encode(TEXT, add_special_tokens=True)
    assert last not in ids and tokenizer.decode(ids) == TEXT
    assert len(ids) < len(TEXT.encode())
    assert tokenizer.encode("<|endoftext|>") == [last]
    assert last not in tokenizer.encode("<|endoftext|>", parse_special=False)
    assert tokenizer.decode([*ids, last], skip_special_tokens=True) == TEXT


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_one_of_the_files_stands_for_both(published, name):
    assert load(published / name).encode(TEXT) == load(published).encode(TEXT)


def test_shorter_texts_are_filled_up_on_the_right(published):
    tokenizer = load(published)
    assert tokenizer.padding_side == "right"
    rows = [tokenizer.encode("Hello"), tokenizer.encode(TEXT)]
    ids, mask = pad_batch(rows, tokenizer.pad_id, tokenizer.padding_side)
    assert ids[0, -1] == tokenizer.pad_id and mask[0].tolist() == [1] * len(rows[0]) + [0] * (
        ids.shape[1] - len(rows[0])
    )


def test_half_a_character_decodes_to_a_replacement(published):
    tokenizer = load(published)
    assert tokenizer.decode(tokenizer.encode("\U0001f431")[:2]) == "\N{REPLACEMENT CHARACTER}"


def test_files_beside_say_otherwise(published):
    tokens = {"0": {"content": "<|pad|>", "special": True}}
    number = load(published).vocab_size
    config = {"pad_token": "<|pad|>", "padding_side": "left", "added_tokens_decoder": {str(number): tokens["0"]}}
    (published / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load(published)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.padding_side) == (number, number - 1, "left")
    assert tokenizer.encode("a<|pad|>")[-1] == number


@pytest.mark.parametrize("kind", ["published", "trained"])
def test_what_is_saved_loads_again(published, tmp_path, kind):
    first = load(tmp_path / kind)
    first.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.encode(TEXT) == first.encode(TEXT)
    assert (again.eos_id, again.pad_id, again.padding_side) == (first.eos_id, first.pad_id, first.padding_side)


def test_tokenizer_json_comes_first_and_needs_no_config(published, tmp_path):
    (published / "tokenizer.json").write_bytes((tmp_path / "trained" / "tokenizer.json").read_bytes())
    tokenizer = load(published)
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.pad_id == 0
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_gpt_has_no_chat_format(published):
    with pytest.raises(TokenizerError):
        load(published).chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.json", None, "vocab.json"),
        ("merges.txt", None, "merges.txt"),
        ("vocab.json", "version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        ("vocab.json", '{"a": 0}', "vocab.json"),
        ("merges.txt", "#version: 0.2\nq zq\n", "does not belong"),
        ("tokenizer.json", "<!doctype html>", "web page"),
    ],
)
def test_files_that_do_not_fit_are_named(published, name, content, said):
    (published / name).unlink(missing_ok=True)
    if content is not None:
        (published / name).write_text(content)
    with pytest.raises(TokenizerError) as caught:
        load(published)
    error = caught.value
    assert said in f"{error.what} {error.why}" and name in f"{error.what} {error.why} {error.todo}"
