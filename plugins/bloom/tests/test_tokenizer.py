"""T0: the family's files, their special tokens, and what happens without them."""

from __future__ import annotations

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import zoo_bloom
from zoo_bloom.tokenizer import load
from zoo_core.errors import TokenizerError
from zoo_core.testing import contract

ARCH = contract.architecture(zoo_bloom)
CONFIG = ARCH.capabilities.models[0].config
TEXT = "Hello, world! 12345 you'll see; 床前明月光 été\n"


@pytest.fixture
def bloom(tmp_path):
    """A folder of Bloom's kind: byte-level BPE, <unk> <s> </s> <pad> first, nothing added to a text."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 20, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**roles, "padding_side": "left"}))
    return tmp_path


def test_special_tokens_are_the_published_ones(bloom):
    tokenizer = load(bloom)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert (CONFIG.bos_token_id, CONFIG.eos_token_id, CONFIG.pad_token_id) == (1, 2, 3)
    assert tokenizer.encode("a</s>")[-1] == 2
    assert 2 not in tokenizer.encode("a</s>", parse_special=False)
    assert tokenizer.decode([1, *tokenizer.encode("a"), 2, 3], skip_special_tokens=True) == "a"


def test_a_bare_tokenizer_json_has_them_too(bloom):
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (bloom / name).unlink()
    tokenizer = load(bloom)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.encode("a", add_special_tokens=True) == tokenizer.encode("a")


def test_nothing_is_added_and_text_comes_back(bloom):
    tokenizer = load(bloom)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.encode(TEXT, add_special_tokens=True) == ids
    assert tokenizer.decode(ids) == TEXT


def test_a_part_of_a_character_is_replaced(bloom):
    tokenizer = load(bloom)
    ids = tokenizer.encode("é")
    one_byte = tokenizer.encode("\N{SNOWMAN}")[:1]
    assert tokenizer.decode(one_byte) == "\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode(ids) == "é"


def test_it_saves_what_loads_again(bloom, tmp_path):
    load(bloom).save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.encode(TEXT) == load(bloom).encode(TEXT)
    assert (again.bos_id, again.eos_id, again.pad_id) == (1, 2, 3)


def test_there_is_no_chat_format(bloom):
    """The core's tokenizer has `chat` for a template beside it; Bloom's files bring none."""
    with pytest.raises(TokenizerError, match="conversation"):
        load(bloom).chat([{"role": "user", "content": "Hello"}])


def test_padding_goes_to_the_left(bloom):
    assert load(bloom).padding_side == "left"
    (bloom / "tokenizer_config.json").unlink()
    assert load(bloom).padding_side == "left"


def test_a_missing_or_corrupt_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match="no tokenizer for Bloom"):
        ARCH.tokenizer(CONFIG, None)
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        ARCH.tokenizer(CONFIG, tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(TokenizerError, match="tokenizer.json"):
        load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\x00 no tokenizer")
    with pytest.raises(TokenizerError, match="tokenizer.json"):
        load(tmp_path)
