"""`vocab.json` and `merges.txt` against transformers' GPT2Tokenizer, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import BPEFilesTokenizer, HFTokenizer, Tokenizer, load_tokenizer

GOLDEN = Path(__file__).parent / "golden" / "bpe"
IDS = {major: json.loads((GOLDEN / f"ids-{major}.json").read_text(encoding="utf-8")) for major in (4, 5)}
CASES = [(major, name) for major, found in IDS.items() for name in found if name not in ("transformers", "texts")]
OWN = {"bos": None, "eos": None, "unk": None}


def folder_of(tmp_path, beside=None):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    for name, content in (beside or {}).items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def refused(call, *words):
    with pytest.raises(TokenizerError) as caught:
        call()
    assert caught.value.why and caught.value.todo
    for word in words:
        assert word in str(caught.value), caught.value


@pytest.mark.parametrize(("major", "name"), CASES)
def test_gives_what_transformers_gives(tmp_path, major, name):
    want, texts = IDS[major][name], IDS[major]["texts"]
    tokenizer = load_tokenizer(folder_of(tmp_path, want["files"]))
    assert isinstance(tokenizer, BPEFilesTokenizer) and isinstance(tokenizer, Tokenizer)
    assert [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id] == want["roles"]
    assert (tokenizer.vocab_size, tokenizer.padding_side) == (want["size"], want["padding_side"])
    assert [tokenizer.encode(text) for text in texts] == want["ids"]
    assert tokenizer.encode_batch(texts) == want["ids"]
    assert [tokenizer.encode(text, add_special_tokens=True) for text in texts] == want["with_special"]
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in want["ids"]] == want["skipped"]
    assert [tokenizer.decode(ids[:-1]) for ids in want["ids"]] == want["cut"]
    if "unparsed" in want:
        assert [tokenizer.encode(text, parse_special=False) for text in texts] == want["unparsed"]
    pieces = tokenizer.pieces(want["ids"][4])
    assert "".join(pieces).strip() == texts[4] and all(pieces)


def test_additional_special_tokens_with_their_spaces(tmp_path):
    """As GLM has them: the mask takes the space before it. transformers 5 forgets that for added_tokens.json."""
    mask = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    beside = {
        "added_tokens.json": {"[gMASK]": 341, "[MASK]": 340},
        "special_tokens_map.json": {"additional_special_tokens": ["[gMASK]"], "mask_token": mask},
    }
    tokenizer = load_tokenizer(folder_of(tmp_path, beside))
    the, space = tokenizer.encode("the"), tokenizer.encode(" ")
    assert tokenizer.encode("the [MASK] the") == [*the, 340, *tokenizer.encode(" the")]
    assert tokenizer.encode("the [gMASK]the") == [*the, *space, 341, *the]
    assert tokenizer.decode([340, 341, *the], skip_special_tokens=True) == "the"
    assert not {340, 341} & set(tokenizer.encode("[MASK] [gMASK]", parse_special=False))
    assert (tokenizer.token_id("[MASK]"), tokenizer.token_id("nowhere")) == (340, None)


def test_the_family_decides_what_the_files_do_not(tmp_path):
    folder_of(tmp_path)
    family = {"bos": "</s>", "eos": "</s>", "unk": "</s>", "pad": "<pad>", "add_bos": True, "padding_side": "left"}
    tokenizer = BPEFilesTokenizer(tmp_path, **family)
    assert (tokenizer.bos_id, tokenizer.pad_id, tokenizer.padding_side) == (2, 1, "left")
    assert tokenizer.encode("the", add_special_tokens=True) == [2, *tokenizer.encode("the")]
    saved = tokenizer.save(tmp_path / "saved")
    assert sorted(file.name for file in saved) == ["merges.txt", "tokenizer_config.json", "vocab.json"]
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode("the</s>", add_special_tokens=True) == tokenizer.encode("the</s>", add_special_tokens=True)
    assert (again.bos_id, again.eos_id, again.pad_id, again.padding_side) == (2, 2, 1, "left")
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "pad_token": "</s>"}')
    told = BPEFilesTokenizer(tmp_path, **family)
    assert told.encode("the", True) == told.encode("the") and told.pad_id == 2
    told.save(tmp_path / "saved")
    assert (tmp_path / "saved/tokenizer_config.json").read_bytes() == (tmp_path / "tokenizer_config.json").read_bytes()


def test_special_map_survives_saving_without_a_config(tmp_path):
    beside = {"special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<new>"}}
    tokenizer = load_tokenizer(folder_of(tmp_path, beside))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (0, 2, 340, 341)
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.bos_id, again.eos_id, again.pad_id, again.vocab_size) == (0, 2, 340, 341)


def test_tokenizer_json_and_the_config_that_adds_bos(tmp_path):
    """DeepSeek's and newer OPT folders: `tokenizer.json` adds nothing, `add_bos_token` of the config does."""
    own = BPEFilesTokenizer(folder_of(tmp_path))
    own._tokenizer.save(str(tmp_path / "tokenizer.json"))
    plain = load_tokenizer(tmp_path)
    assert isinstance(plain, HFTokenizer) and plain.bos_id is None
    assert plain.encode("the</s>", True) == own.encode("the</s>", True)
    named = HFTokenizer(tmp_path, "left", bos="<s>", eos="</s>", pad="<pad>")
    assert (named.bos_id, named.eos_id, named.pad_id, named.padding_side) == (0, 2, 1, "left")
    named = HFTokenizer(tmp_path, bos="<s>", add_bos=True)
    assert named.encode("the", add_special_tokens=True) == [0, *named.encode("the")]
    assert HFTokenizer(tmp_path, bos="<nowhere>").bos_id is None
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    told = load_tokenizer(tmp_path)
    assert told.encode("the", True) == [0, *plain.encode("the"), 2] and told.encode("the") == plain.encode("the")
    told.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode("the", True) == told.encode("the", True)


def test_missing_files(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "merges.txt").unlink()
    refused(lambda: load_tokenizer(tmp_path), "merges.txt", "no such file")
    (tmp_path / "merges.txt").write_bytes((GOLDEN / "merges.txt").read_bytes())
    (tmp_path / "vocab.json").unlink()
    refused(lambda: load_tokenizer(tmp_path), "vocab.json", "no such file")
    refused(lambda: load_tokenizer(tmp_path / "merges.txt"), "vocab.json")


def test_merges_of_another_vocabulary(tmp_path):
    folder_of(tmp_path)
    lines = (GOLDEN / "merges.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "merges.txt").write_text("\n".join([*lines[:9], "q z", *lines[9:]]), encoding="utf-8")
    refused(lambda: load_tokenizer(tmp_path), "line 10", "'qz'", "vocab.json", "one model")
    (tmp_path / "merges.txt").write_text("\n".join([*lines[:9], "three of them"]), encoding="utf-8")
    refused(lambda: load_tokenizer(tmp_path), "line 10", "two tokens")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    refused(lambda: load_tokenizer(tmp_path), "has no merges", "340")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("empty",)),
        (b"[1]", ("list",)),
        (b'{"a": "b"}', ("'a'",)),
        (b'{"a": 0}', ("of the bytes of UTF-8 have no token",)),
        (b'{"architectures": ["OPTForCausalLM"], "hidden_size": 8}', ("configuration", "architectures")),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n", ("git-lfs pointer", "git lfs pull")),
        (b"\n<!DOCTYPE html><html>", ("web page",)),
    ],
)
def test_foreign_vocabularies(tmp_path, content, words):
    (folder_of(tmp_path) / "vocab.json").write_bytes(content)
    refused(lambda: load_tokenizer(tmp_path), "vocab.json", "byte-level BPE vocabulary", *words)


def test_repeated_ids_and_foreign_added_tokens(tmp_path):
    folder_of(tmp_path)
    vocabulary = json.loads((GOLDEN / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({**vocabulary, "twice": 7}))
    refused(lambda: load_tokenizer(tmp_path), "same id")
    folder_of(tmp_path, {"added_tokens.json": {"<new>": 7}})
    refused(lambda: load_tokenizer(tmp_path), "added_tokens.json", "'<new>'", "7", "in the vocabulary")
    folder_of(tmp_path, {"added_tokens.json": {"<s>": 400}})
    refused(lambda: load_tokenizer(tmp_path), "'<s>'", "400", "it is 0")
    folder_of(tmp_path, {"added_tokens.json": {"<new>": "many"}})
    refused(lambda: load_tokenizer(tmp_path), "added_tokens.json", "many")


def test_a_vocabulary_without_the_familys_tokens(tmp_path):
    folder_of(tmp_path)
    vocabulary = json.loads((GOLDEN / "vocab.json").read_text(encoding="utf-8"))
    del vocabulary["<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    refused(lambda: load_tokenizer(tmp_path), "bos_token", "<|endoftext|>", "tokenizer_config.json")
    assert BPEFilesTokenizer(tmp_path, **OWN).bos_id is None


def test_a_foreign_padding_side(tmp_path):
    folder_of(tmp_path, {"tokenizer_config.json": {"padding_side": "top"}})
    refused(lambda: load_tokenizer(tmp_path), "'top'", "tokenizer_config.json")
