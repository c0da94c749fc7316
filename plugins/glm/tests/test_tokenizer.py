"""T0: the three kinds of files, the ids of the blanks, and the prompts that the family's own code builds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece

import zoo_glm
from zoo_core.errors import TokenizerError
from zoo_core.testing import contract
from zoo_core.tokenizers import Tokenizer, train_bpe
from zoo_glm.tokenizer import load

MODELS = {entry.name: entry.config for entry in contract.architecture(zoo_glm).capabilities.models}
TEXT = "Hello, world! 12345 you'll see; 床前明月光"
NAMES = ("[SEP]", "[CLS]", "[MASK]", "[UNK]", "<|startofpiece|>", "<|endofpiece|>", "[sMASK]", "[gMASK]")


def _special(first: int, *more: str) -> dict[str, int]:
    return {name: first + i for i, name in enumerate((*more, *NAMES))}


def _config(model: str, ids: dict[str, int]):
    masks = tuple(ids[name] for name in ("[MASK]", "[sMASK]", "[gMASK]"))
    return MODELS[model].replace(vocab_size=512, start_token_id=ids["<|startofpiece|>"], mask_token_ids=masks)


def _train(path: Path, name: str) -> int:
    corpus = path / "corpus.txt"
    corpus.write_text((TEXT + "\n") * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(path / name),
        vocab_size=400,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(path / f"{name}.model")).vocab_size()


@pytest.fixture
def english(tmp_path):
    """GLM-10B's files with the 256 bytes for a vocabulary, as GPT-2 spells them."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    bytes_ = [chr(b) for b in own] + [chr(0x100 + i) for i in range(256 - len(own))]
    ids = _special(257)
    (tmp_path / "vocab.json").write_text(json.dumps({**{b: i for i, b in enumerate(bytes_)}, "<|endoftext|>": 256}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids))
    said = {"tokenizer_class": "GLMGPT2Tokenizer", "cls_token": "[CLS]", "mask_token": "[MASK]", "sep_token": "[SEP]"}
    said |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "[UNK]"}
    said["additional_special_tokens"] = ["<|startofpiece|>", "<|endofpiece|>", "[gMASK]", "[sMASK]"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    return tmp_path, ids, _config("THUDM/glm-10b", ids)


@pytest.fixture
def chinese(tmp_path):
    ids = _special(_train(tmp_path, "cog-pretrain"), "<|endoftext|>")
    (tmp_path / "added_tokens.json").write_text(json.dumps(ids))
    return tmp_path, ids, _config("THUDM/glm-10b-chinese", ids)


@pytest.fixture
def ice(tmp_path):
    _train(tmp_path, "ice_text")
    return tmp_path, MODELS["THUDM/glm-130b"]


@pytest.mark.parametrize("kind", ["english", "chinese"])
def test_the_10b_prompts(kind, request):
    """[CLS], text, end of text; and the start token where there is a blank, as `build_inputs_for_generation` has it."""
    folder, ids, config = request.getfixturevalue(kind)
    tokenizer = load(folder, config)
    assert isinstance(tokenizer, Tokenizer)
    end = tokenizer.eos_id
    assert end == tokenizer.pad_id == (256 if kind == "english" else ids["<|endoftext|>"])
    text = tokenizer.encode(TEXT)
    assert tokenizer.decode(text) == TEXT
    assert tokenizer.encode(TEXT, add_special_tokens=True) == [ids["[CLS]"], *text, end]
    for mask in ("[MASK]", "[sMASK]", "[gMASK]"):
        wanted = [ids["[CLS]"], *text, ids[mask], end, ids["<|startofpiece|>"]]
        assert tokenizer.encode(TEXT + mask, add_special_tokens=True) == wanted
        assert ids[mask] not in tokenizer.encode(TEXT + mask, parse_special=False)
    spelt = tokenizer.encode("a[gMASK]b<|startofpiece|>")
    assert tokenizer.decode(spelt, skip_special_tokens=True).replace(" ", "") == "ab"
    assert "[gMASK]" in tokenizer.decode(spelt)
    assert tokenizer.pieces([ids["[gMASK]"]]) == ["[gMASK]"]
    assert tokenizer.vocab_size == max(ids.values()) + 1


@pytest.mark.parametrize("kind", ["english", "chinese"])
def test_the_10b_masks_take_the_space_before(kind, request):
    """As GLM's own code has them (`CommandToken(..., lstrip=True)`); the space behind a mask stays."""
    folder, ids, config = request.getfixturevalue(kind)
    tokenizer = load(folder, config)
    for mask in ("[MASK]", "[sMASK]", "[gMASK]"):
        hello, world = tokenizer.encode("Hello,"), tokenizer.encode(" world!")
        assert tokenizer.encode(f"Hello, \n{mask} world!") == [*hello, ids[mask], *world]
        assert tokenizer.encode(f" {mask}{mask}") == [ids[mask], ids[mask]]
        assert tokenizer.decode(tokenizer.encode(f"Hello, {mask}", parse_special=False)) == f"Hello, {mask}"
    assert tokenizer.encode("a [CLS]")[-1] == ids["[CLS]"]


def test_glm_130b_spells_line_breaks(ice):
    folder, config = ice
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    ids = load(folder, config).encode("a\nb")
    assert ids == [20000 + token for token in pieces.encode("a<n>b")]
    assert load(folder, config).decode(ids) == "a\nb"


def test_glm_130b_counts_images_first(ice):
    folder, config = ice
    tokenizer = load(folder, config)
    assert isinstance(tokenizer, Tokenizer)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    text = tokenizer.encode(TEXT)
    assert text == [20000 + token for token in pieces.encode(TEXT)]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (20002, 0, 150008)
    assert tokenizer.decode(text) == TEXT
    assert tokenizer.decode([150004, *text, 150005], skip_special_tokens=True) == TEXT
    assert tokenizer.decode([150001, 0, 5, 149999]) == "[gMASK][pad]\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    assert [tokenizer.token_id(name) for name in ("[MASK]", "[gMASK]", "[sMASK]", "[sop]", "</s>", "no such")] == [
        *(150000, 150001, 150002, 150004, 20002),
        None,
    ]


def test_glm_130b_prompts(ice):
    """As its own inference builds them: a [gMASK] where there is no blank, an end of text unless it ends with one."""
    folder, config = ice
    tokenizer = load(folder, config)
    hello, world = tokenizer.encode("Hello,"), tokenizer.encode("world!")
    prompt = {
        "Hello,": [*hello, 150001, 150004],
        "Hello,[gMASK]": [*hello, 150001, 150004],
        "Hello,[MASK]world!": [*hello, 150000, *world, 20002, 150004],
        "Hello,[sMASK]": [*hello, 150002, 150004],
        "": [150001, 150004],
    }
    for text, wanted in prompt.items():
        assert tokenizer.encode(text, add_special_tokens=True) == wanted, text


@pytest.mark.parametrize("kind", ["english", "chinese", "ice"])
def test_characters_cut_in_two_are_replaced(kind, request):
    folder, *_, config = request.getfixturevalue(kind)
    tokenizer = load(folder, config)
    ids = tokenizer.encode("a鱼")
    assert tokenizer.decode(ids) == "a鱼"
    cut = tokenizer.decode(ids[:-1])
    assert cut[0] == "a" and set(cut[1:]) == {"\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize("kind", ["english", "chinese", "ice"])
def test_what_is_saved_loads_again(kind, request, tmp_path):
    folder, *_, config = request.getfixturevalue(kind)
    load(folder, config).save(tmp_path / "saved")
    text = TEXT + "[gMASK]"
    again = load(tmp_path / "saved", config).encode(text, add_special_tokens=True)
    assert again == load(folder, config).encode(text, add_special_tokens=True)


@pytest.mark.parametrize("kind", ["english", "chinese"])
def test_another_models_files_are_refused(kind, request):
    folder, ids, config = request.getfixturevalue(kind)
    with pytest.raises(TokenizerError, match="not the tokenizer of this model"):
        load(folder, config.replace(start_token_id=ids["<|endofpiece|>"]))
    # A model without blanks takes any.
    load(folder, config.replace(start_token_id=None, mask_token_ids=()))
    (folder / "added_tokens.json").unlink()
    wanted = "not the tokenizer of this model" if kind == "english" else "added_tokens.json"
    with pytest.raises(TokenizerError, match=wanted):
        load(folder, config)


def test_special_tokens_that_are_pieces_are_refused(chinese):
    folder, ids, config = chinese
    (folder / "added_tokens.json").write_text(json.dumps({**ids, "[gMASK]": 17}))
    with pytest.raises(TokenizerError, match="do not fit"):
        load(folder, config)
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not the tokenizer of this model"):
        load(folder, config)


def test_corrupt_files_are_named(tmp_path):
    config = MODELS["THUDM/glm-130b"]
    (tmp_path / "ice_text.model").write_bytes(b"\x00\x01 no model")
    with pytest.raises(TokenizerError, match="ice_text.model"):
        load(tmp_path, config)
    (tmp_path / "ice_text.model").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(TokenizerError, match="merges.txt"):
        load(tmp_path, config)


def test_a_tokenizer_of_ones_own_is_read(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, tmp_path)
    assert load(tmp_path, MODELS["THUDM/glm-10b"]).vocab_size == 270
