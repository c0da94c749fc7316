"""Each kind of tokenizer against the library it wraps, and the manners they share."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.tokenizers.conftest import PATTERN, SPECIAL
from zoo_core.data import corpus
from zoo_core.errors import TokenizerError
from zoo_core.generate.texts import TextStream
from zoo_core.tokenizers import (
    BatchTokenizer,
    BPEFilesTokenizer,
    HFTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    load_tokenizer,
    train_bpe,
)

GOLDEN = Path(__file__).parent / "golden" / "bpe"
TEXTS = ["", "In the beginning God created", "床前明月光，疑是地上霜。", "😀 mixed 中文\n\n\ttabs  and 123", "é ü ñ"]


@pytest.fixture(params=["hf", "spm", "tiktoken", "bpe"])
def tokenizer(request, hf_folder, spm_file, rank_file):
    if request.param == "bpe":
        return BPEFilesTokenizer(GOLDEN)
    if request.param == "hf":
        return HFTokenizer(hf_folder)
    if request.param == "spm":
        return SentencePieceTokenizer(spm_file)
    return TiktokenTokenizer(rank_file, PATTERN, SPECIAL, eos="<|endoftext|>", pad="<|endoftext|>")


def test_keeps_the_protocol_and_gives_text_back(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert all(0 <= token < tokenizer.vocab_size for token in ids)
        assert len(tokenizer.pieces(ids)) == len(ids)
        # sentencepiece trains with NFKC, which folds white space and full-width punctuation
        folded = " ".join(unicodedata.normalize("NFKC", text).split())
        want = folded if isinstance(tokenizer, SentencePieceTokenizer) else text
        assert tokenizer.decode(ids) == want


def test_decoding_cut_characters_and_foreign_ids_never_fails(tokenizer):
    ids = tokenizer.encode("霜😀")
    for end in range(len(ids)):
        text = tokenizer.decode(ids[:end])
        assert text in ("", "霜") or text.endswith("\N{REPLACEMENT CHARACTER}")
    assert any("\N{REPLACEMENT CHARACTER}" in tokenizer.decode(ids[:end]) for end in range(len(ids)))
    whole = tokenizer.encode("霜")
    strange = tokenizer.decode([tokenizer.vocab_size, -1, 2**40, *whole])
    assert strange == "\N{REPLACEMENT CHARACTER}" * 3 + "霜"
    assert tokenizer.pieces([tokenizer.vocab_size, -1, 2**40]) == ["?"] * 3


@pytest.mark.parametrize("text", ["霜 moon 😀 é", "👩‍👩‍👧 x", "\u2581a", "ﬁ", "x\n\n霜霜"])
def test_a_stream_waits_for_the_rest_of_a_character(tokenizer, text):
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    for prompt in ([], tokenizer.encode("God said 霜")):
        stream = TextStream(tokenizer, tuple(prompt))
        given = [stream.add(token) for token in ids]
        assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in given)
        assert ("".join(given) + stream.end()).lstrip() == whole.lstrip()
        stream = TextStream(tokenizer, tuple(prompt))
        cut = "".join(stream.add(token) for token in ids[:-1]) + stream.end()
        assert cut.lstrip() == tokenizer.decode(ids[:-1]).lstrip()


def test_bytes_that_make_no_character(tokenizer):
    letter = "ꙮ"  # a token for each of its three bytes
    ids = tokenizer.encode(letter)[-3:]
    assert tokenizer.decode(ids) == letter and len(ids) == 3
    for broken in ([ids[0]], ids[:2], [ids[1]], [ids[2], ids[0]]):
        text = tokenizer.decode(broken)
        assert set(text) == {"\N{REPLACEMENT CHARACTER}"}
        assert tokenizer.decode([*broken, *ids]).endswith(letter)
    assert len(tokenizer.pieces(ids[:2])) == 2


def test_half_a_surrogate_pair_is_no_error(tokenizer):
    for text in ("a\ud800b", "\udc00"):
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert tokenizer.encode(text) == tokenizer.encode(whole)
        if isinstance(tokenizer, BatchTokenizer):
            assert tokenizer.encode_batch([text]) == [tokenizer.encode(whole)]
    assert tokenizer.encode("\ud83d\ude00") == tokenizer.encode("😀")


def test_what_tiktoken_cannot_read_is_said(rank_file):
    ours = TiktokenTokenizer(rank_file, r"\s*[\r\n]+|\s+(?!\S)|\s+|\S+", SPECIAL)
    for parse_special in (True, False):
        with pytest.raises(TokenizerError, match="1500001 characters"):
            ours.encode("a" + " " * 1_500_000, parse_special=parse_special)


def test_saved_folder_loads_as_the_same_tokenizer(tokenizer, tmp_path):
    saved = tokenizer.save(tmp_path / "out")
    assert all(path.is_file() for path in saved)
    again = load_tokenizer(tmp_path / "out")
    assert type(again) is type(tokenizer)
    for text in TEXTS:
        assert again.encode(text, True) == tokenizer.encode(text, True)
    roles = ("vocab_size", "bos_id", "eos_id", "pad_id")
    assert [getattr(again, role) for role in roles] == [getattr(tokenizer, role) for role in roles]
    again.save(tmp_path / "out")  # onto itself changes nothing
    assert load_tokenizer(tmp_path / "out").encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


def test_sentencepiece_equals_its_library(spm_file):
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(spm_file))
    ours = SentencePieceTokenizer(spm_file)
    for text in TEXTS:
        assert ours.encode(text) == reference.encode(text)
        assert ours.encode(text, add_special_tokens=True) == reference.encode(text, add_bos=True)
    ids = [1, *reference.encode("God said"), 2]
    assert ours.decode(ids) == "<s>God said</s>"
    assert ours.decode(ids, skip_special_tokens=True) == "God said"
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (1, 2, None)


def test_sentencepiece_config_beside_decides_bos_and_eos(spm_file, tmp_path):
    SentencePieceTokenizer(spm_file).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": true}')
    ours = load_tokenizer(tmp_path)
    ids = ours.encode("God")
    assert ours.encode("God", add_special_tokens=True) == [*ids, 2]
    assert SentencePieceTokenizer(tmp_path / "tokenizer.model", add_bos=True, add_eos=False).encode("God", True)[0] == 1


def test_tiktoken_special_tokens(rank_file):
    ours = TiktokenTokenizer(rank_file, PATTERN, SPECIAL, bos="<|im_start|>", eos="<|endoftext|>", add_bos=True)
    assert ours.encode("the<|endoftext|>") == [257, 300]
    assert 300 not in ours.encode("the<|endoftext|>", parse_special=False)
    assert ours.encode("the", add_special_tokens=True) == [301, 257]
    assert ours.decode([301, 257, 300]) == "<|im_start|>the<|endoftext|>"
    assert ours.decode([301, 257, 300], skip_special_tokens=True) == "the"
    assert ours.vocab_size == 302
    decomposed = TiktokenTokenizer(rank_file, PATTERN, SPECIAL, normalization="NFC")
    assert decomposed.encode("e\u0301") == list("é".encode())
    assert ours.encode("e\u0301") == list("e\u0301".encode())


def test_hf_roles_are_read_from_either_file(hf_folder, tmp_path):
    ours = HFTokenizer(hf_folder)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (0, 0, 0)
    ours.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "the", "pad_token": "<|endoftext|>"}))
    again = load_tokenizer(tmp_path)
    assert (again.bos_id, again.eos_id, again.pad_id) == (None, 0, 0)
    assert again.encode("<|endoftext|>") == [0]
    assert 0 not in again.encode("<|endoftext|>", parse_special=False)
    assert again.encode("<|endoftext|>") == [0]
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<nowhere>"}')
    with pytest.raises(TokenizerError, match="<nowhere>"):
        load_tokenizer(tmp_path)


def test_training_is_deterministic_over_processes(tmp_path):
    files = corpus.files()[-2:]
    train_bpe(files, 700, tmp_path / "one")
    code = (
        "import sys; from pathlib import Path; from zoo_core.tokenizers import train_bpe; "
        "train_bpe([Path(p) for p in sys.argv[2:]], 700, Path(sys.argv[1])); assert 'paddle' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two"), *map(str, files)], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert load_tokenizer(tmp_path / "one").vocab_size == 700


def test_training_refuses_bad_input(tmp_path):
    with pytest.raises(TokenizerError, match="257"):
        train_bpe(corpus.files(), 256, tmp_path)
    with pytest.raises(TokenizerError, match="nothing to train on"):
        train_bpe([], 300, tmp_path)
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"ab\xe9")
    with pytest.raises(TokenizerError, match="byte 2"):
        train_bpe([latin], 300, tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
