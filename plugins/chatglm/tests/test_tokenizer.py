"""T0: which file of a folder is read, and what the family adds to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece

import zoo_chatglm
from zoo_chatglm.tokenizer import ChatGLMTokenizer, load
from zoo_core.errors import TokenizerError
from zoo_core.tokenizers import ChatTokenizer, Tokenizer, train_bpe

TEXT = "Hello, world! 12345 you'll see; 床前明月光，疑是地上霜。问：你是谁？答：我。[Round 1]"
V1_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
SPACES = ("<n>", "<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81)))


def train(folder: Path, name: str, symbols: tuple[str, ...], **options) -> Path:
    """A sentencepiece model of a few hundred pieces, with every byte, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    corpus = folder / "corpus.txt"
    corpus.write_text((TEXT + "\n") * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / name),
        vocab_size=500,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=list(symbols),
        minloglevel=2,
        normalization_rule_name="identity",
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    """A folder of v1's kind, its special tokens and white space among the pieces, at other ids than the published."""
    folder = train(tmp_path_factory.mktemp("v1"), "ice_text", (*V1_SPECIAL, *SPACES), pad_id=3)
    (folder / "tokenizer_config.json").write_text(json.dumps({"num_image_tokens": 0, "padding_side": "left"}))
    return folder


@pytest.fixture(scope="module")
def v2(tmp_path_factory):
    return train(tmp_path_factory.mktemp("v2"), "tokenizer", ())


def pieces(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def test_v1_takes_its_special_tokens_from_its_pieces(v1):
    tokenizer, own = load(v1), pieces(v1)
    assert isinstance(tokenizer, Tokenizer) and isinstance(tokenizer, ChatTokenizer)
    assert tokenizer.vocab_size == own.vocab_size()
    ends = own.piece_to_id(["<sop>", "<eop>", "<pad>"])
    assert [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id] == ends
    assert tokenizer.padding_side == "left"


def test_v1_ends_a_text_with_gmask_and_start(v1):
    tokenizer, own = load(v1), pieces(v1)
    wanted = [*own.encode(TEXT), own.piece_to_id("[gMASK]"), own.piece_to_id("<sop>")]
    assert tokenizer.encode(TEXT, add_special_tokens=True) == wanted
    assert tokenizer.encode(TEXT) == wanted[:-2]


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("a\nb", "a<n>b"),
        ("a\tb", "a<|tab|>b"),
        ("a b", "a b"),
        ("a  b", "a<|blank_2|>b"),
        ("a" + " " * 80 + "b", "a<|blank_80|>b"),
        ("a" + " " * 83 + "b", "a<|blank_80|><|blank_3|>b"),
        ("a" + " " * 81 + "b", "a<|blank_80|> b"),
        ("a\n\n    b", "a<n><n><|blank_4|>b"),
    ],
    ids=repr,
)
def test_v1_spells_white_space(v1, text, spelt):
    tokenizer = load(v1)
    assert tokenizer.encode(text) == pieces(v1).encode(spelt)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chatglm2_has_five_tokens_behind_its_pieces(v2):
    tokenizer, own = load(v2), pieces(v2)
    size = own.vocab_size()
    assert tokenizer.vocab_size == size + 5
    names = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
    assert [tokenizer.token_id(name) for name in names] == [size + n for n in range(5)]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.padding_side) == (1, 2, 0, "left")
    assert tokenizer.encode(TEXT, add_special_tokens=True) == [size + 1, size + 3, *own.encode(TEXT)]
    assert tokenizer.encode("[gMASK]") == own.encode("[gMASK]")


@pytest.mark.parametrize("folder", ["v1", "v2"])
def test_text_comes_back_and_special_tokens_can_be_left_out(folder, request):
    tokenizer = load(request.getfixturevalue(folder))
    ids = tokenizer.encode(TEXT, add_special_tokens=True)
    shown = tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.eos_id])
    assert TEXT in shown and "[gMASK]" in shown and shown != TEXT
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.eos_id], skip_special_tokens=True) == TEXT
    assert "[gMASK]" in tokenizer.pieces(ids)
    assert len(tokenizer.pieces(ids)) == len(ids)


@pytest.mark.parametrize("folder", ["v1", "v2"])
def test_half_a_character_and_an_unknown_id_are_replaced(folder, request):
    tokenizer = load(request.getfixturevalue(folder))
    ids = tokenizer.encode("鬱")
    assert tokenizer.decode(ids) == "鬱"
    assert tokenizer.decode(ids[:-1]).endswith("\N{REPLACEMENT CHARACTER}")
    assert tokenizer.decode([tokenizer.vocab_size]) == "\N{REPLACEMENT CHARACTER}"


def test_v1_chats(v1):
    tokenizer = load(v1)
    tail = [tokenizer.token_id("[gMASK]"), tokenizer.token_id("<sop>")]
    assert tokenizer.chat(said("你是谁？")) == [*tokenizer.encode("你是谁？"), *tail]
    second = [*tokenizer.encode("[Round 0]\n问：你是谁？\n答：我。\n[Round 1]\n问：see\n答："), *tail]
    assert tokenizer.chat(said("你是谁？", "我。", "see")) == second
    answered = tokenizer.chat(said("你是谁？", "我。", "see", "world!"))
    assert answered == [*second, *tokenizer.encode("world!"), tokenizer.eos_id]


@pytest.mark.parametrize("text", ["see <sop> [gMASK]", "<eop>see", " [MASK]\n", "[[gMASK]<pad>  <<sop>"])
def test_a_message_cannot_spell_special_tokens(v1, text):
    tokenizer = load(v1)
    special = {tokenizer.token_id(name) for name in ("[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>")}
    ids = tokenizer.chat(said(text))
    assert not special & set(ids[:-2])
    assert tokenizer.decode(ids[:-2]).strip() == text.strip()
    assert special & set(tokenizer.encode(text))


def test_chatglm2_chats(v2):
    tokenizer = load(v2)
    first = tokenizer.encode("[Round 1]\n\n问：你是谁？\n\n答：", add_special_tokens=True)
    assert tokenizer.chat(said("你是谁？")) == first
    assert tokenizer.chat(said("你是谁？", "我。")) == [*first, *tokenizer.encode("我。"), tokenizer.eos_id]
    prompt = "[Round 1]\n\n问：你是谁？\n\n答：我。\n\n[Round 2]\n\n问：see\n\n答："
    assert tokenizer.chat(said("你是谁？", "我。", "see")) == tokenizer.encode(prompt, add_special_tokens=True)


@pytest.mark.parametrize("folder", ["v1", "v2"])
def test_what_is_no_conversation_is_refused(folder, request):
    tokenizer = load(request.getfixturevalue(folder))
    with pytest.raises(TokenizerError, match="system"):
        tokenizer.chat([{"role": "system", "content": "a"}, *said("b")])
    with pytest.raises(TokenizerError, match="empty"):
        tokenizer.chat([])


@pytest.mark.parametrize("folder", ["v1", "v2"])
def test_it_saves_what_loads_again(folder, request, tmp_path):
    tokenizer = load(request.getfixturevalue(folder))
    tokenizer.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.is_v1 == tokenizer.is_v1
    assert again.encode(TEXT, add_special_tokens=True) == tokenizer.encode(TEXT, add_special_tokens=True)


def test_a_file_may_be_named_itself(v1, v2):
    assert load(v1 / "ice_text.model").is_v1
    assert not load(v2 / "tokenizer.model").is_v1


def test_tokenizer_json_comes_first(v2, tmp_path):
    load(v2).save(tmp_path)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(TEXT * 20)
    train_bpe([corpus], 270, tmp_path)
    tokenizer = load(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.padding_side) == (270, "left")


@pytest.mark.parametrize("name", ["ice_text.model", "tokenizer.model"])
def test_corrupt_and_foreign_files_are_named(name, v2, tmp_path):
    (tmp_path / name).write_bytes(b"\x00\x01 no pieces")
    with pytest.raises(TokenizerError, match=name):
        load(tmp_path)
    with pytest.raises(TokenizerError, match="ice_text.model has no token '<eop>'"):
        (tmp_path / "ice_text.model").write_bytes((v2 / "tokenizer.model").read_bytes())
        ChatGLMTokenizer(tmp_path / "ice_text.model", is_v1=True)


def test_the_tokenizer_of_another_model_is_refused(v1, v2):
    published = {entry.name: entry.config for entry in zoo_chatglm.capabilities().models}
    first, second = published["THUDM/chatglm-6b"], published["THUDM/chatglm2-6b"]
    for folder, config, wrong in ((v2, first, "<sop>"), (v1, first, "gMASK"), (v1, second, "</s>")):
        with pytest.raises(TokenizerError, match="not the tokenizer of this model") as caught:
            zoo_chatglm.tokenizer(config, folder)
        assert wrong in str(caught.value)
    loaded = load(v1)
    names = {"eos": "<eop>", "pad": "<pad>", "bos": "<sop>", "mask": "[MASK]", "gmask": "[gMASK]"}
    fitting = first.replace(**{f"{name}_token_id": loaded.token_id(text) for name, text in names.items()})
    assert zoo_chatglm.tokenizer(fitting, v1).bos_id == fitting.bos_token_id


def test_the_first_release_is_refused(v1, tmp_path):
    load(v1).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"num_image_tokens": 20000}))
    with pytest.raises(TokenizerError, match="num_image_tokens"):
        load(tmp_path)
