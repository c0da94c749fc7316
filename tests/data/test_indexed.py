"""The indexed formats: read, written, and refused when damaged."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from zoo_core.data import find_corpora, open_corpus, parse_input_dir
from zoo_core.data.indexed import DTYPES, HEADER_BYTES, bin_path, idx_path, index_bytes
from zoo_core.errors import DataError


def refused(prefix, *words):
    with pytest.raises(DataError) as caught:
        open_corpus(prefix)
    text = str(caught.value)
    assert caught.value.why
    for word in words:
        assert str(word) in text, text


def test_bytes_are_megatrons(tmp_path):
    """The expected bytes are spelt out from Megatron's description of the format, not from our writer."""
    expected = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", 8) + struct.pack("<QQ", 3, 3)
    expected += struct.pack("<3i", 2, 0, 3) + struct.pack("<3q", 0, 4, 4) + struct.pack("<3q", 0, 1, 3)
    assert index_bytes(np.array([2, 0, 3]), np.array([0, 1, 3]), np.uint16) == expected
    (tmp_path / "a.bin").write_bytes(struct.pack("<5H", 7, 8, 9, 10, 65535))
    (tmp_path / "a.idx").write_bytes(expected)
    found = open_corpus(tmp_path / "a")
    assert (len(found), found.num_documents, found.num_tokens, found.dtype) == (3, 2, 5, np.uint16)
    assert [found.sequence(number).tolist() for number in range(3)] == [[7, 8], [], [9, 10, 65535]]
    assert found.starts.tolist() == [0, 2, 2, 5]
    assert found.marks.tolist() == [0, 1, 3]
    with pytest.raises(DataError, match="no sequence 3"):
        found.sequence(3)


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype(tmp_path, make_corpus, code):
    tokens = make_corpus(tmp_path / "a.b", [3, 4, 1], dtype=DTYPES[code])
    assert (tmp_path / "a.b.idx").read_bytes()[17] == code
    found = open_corpus(tmp_path / "a.b")
    assert found.dtype == DTYPES[code]
    assert found.sequence(1).tolist() == tokens[3:7].tolist()


def test_no_code_for_other_dtypes_and_long_sequences():
    with pytest.raises(DataError, match="complex"):
        index_bytes(np.array([1]), np.array([0, 1]), np.complex64)
    with pytest.raises(DataError, match="int32"):
        index_bytes(np.array([2**31]), np.array([0, 1]), np.uint16)


def test_every_truncation_is_refused_by_name(tmp_path, make_corpus):
    prefix = tmp_path / "corpus"
    make_corpus(prefix, [5, 0, 7, 3])
    for path in (idx_path(prefix), bin_path(prefix)):
        whole = path.read_bytes()
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            refused(prefix, path, f"byte {end}" if end >= 9 or path == bin_path(prefix) else "byte")
        for extra in (1, 3, 4, 8, 100):
            path.write_bytes(whole + b"\0" * extra)
            refused(prefix, path)
        path.write_bytes(whole)
    assert open_corpus(prefix).num_tokens == 15


def test_every_flipped_byte_of_the_index_is_refused_or_harmless(tmp_path, make_corpus):
    """Only the inner document marks can change without contradiction, as long as they do not fall."""
    prefix = tmp_path / "corpus"
    make_corpus(prefix, [5, 0, 7, 3])
    whole = idx_path(prefix).read_bytes()
    inner_marks = range(len(whole) - 8 * 4, len(whole) - 8)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        idx_path(prefix).write_bytes(changed)
        if at in inner_marks:
            continue
        refused(prefix, idx_path(prefix).stem)


def test_damage_is_named_with_its_offset(tmp_path, make_corpus):
    prefix = tmp_path / "corpus"
    make_corpus(prefix, [5, 0, 7, 3])
    whole = idx_path(prefix).read_bytes()
    offsets, marks = HEADER_BYTES + 16, HEADER_BYTES + 16 + 32
    for at, form, value, words in [
        (0, "9s", b"GARBAGE!!", ["no Megatron index", "bytes 0 to 8"]),
        (0, "8s", b"TNTIDX\0\0", ["legacy", "byte 0"]),
        (9, "<Q", 2, ["version 2", "byte 9"]),
        (17, "<B", 0, ["dtype code 0", "byte 17"]),
        (17, "<B", 11, ["dtype code 11", "byte 17"]),
        (18, "<Q", 2**62, ["bytes 18 and 26"]),
        (HEADER_BYTES + 8, "<i", -7, ["length 2", f"byte {HEADER_BYTES + 8}"]),
        (offsets, "<q", 4, ["offset 0", f"byte {offsets}"]),
        (offsets + 16, "<q", -20, ["offset 2", f"byte {offsets + 16}"]),
        (offsets + 24, "<q", 4000, ["offset 3", f"byte {offsets + 24}", "48"]),
        (marks, "<q", 1, ["document mark 0", f"byte {marks}"]),
        (marks + 16, "<q", 0, ["document mark 2", f"byte {marks + 16}"]),
        (marks + 32, "<q", 3, ["document mark 4"]),
        (17, "<B", 5, ["offset 1"]),
    ]:
        changed = bytearray(whole)
        struct.pack_into(form, changed, at, value)
        idx_path(prefix).write_bytes(changed)
        refused(prefix, idx_path(prefix), *words)


def test_missing_half_and_multimodal_are_refused(tmp_path, make_corpus):
    prefix = tmp_path / "corpus"
    make_corpus(prefix, [5, 3])
    idx_path(prefix).write_bytes(idx_path(prefix).read_bytes() + b"\1\1")
    refused(prefix, "multimodal")
    make_corpus(prefix, [5, 3])
    bin_path(prefix).unlink()
    refused(prefix, bin_path(prefix))
    make_corpus(prefix, [5, 3])
    idx_path(prefix).unlink()
    refused(prefix, idx_path(prefix))


def write_pair(prefix, lengths, **changes):
    tokens = np.arange(sum(lengths), dtype=np.uint16)
    np.save(f"{prefix}_ids.npy", tokens)
    arrays = {"lens": np.array(lengths, dtype=np.int32), "docs": np.arange(len(lengths) + 1), **changes}
    np.savez(f"{prefix}_idx.npz", **{name: array for name, array in arrays.items() if array is not None})
    return tokens


def test_paddlenlps_older_pair(tmp_path):
    prefix = tmp_path / "gpt"
    tokens = write_pair(prefix, [4, 2, 5], docs=np.array([0, 2, 3]), sents=np.array([0, 4, 6, 11]))
    found = open_corpus(prefix)
    assert found.sequence(2).tolist() == tokens[6:].tolist()
    assert (found.num_documents, found.num_tokens, found.dtype) == (2, 11, np.uint16)
    write_pair(prefix, [4, 2, 5], docs=None)
    assert open_corpus(prefix).num_documents == 3


def test_damaged_older_pair_is_refused(tmp_path):
    prefix = tmp_path / "gpt"
    for changes, word in [
        ({"lens": np.array([4, 2, 6], dtype=np.int32)}, "add up to 12"),
        ({"lens": None}, "no array 'lens'"),
        ({"lens": np.array([4, -2, 9], dtype=np.int32)}, "lens[1] is -2"),
        ({"lens": np.array([4.0, 2.0, 5.0])}, "expected integers"),
        ({"docs": np.array([0, 2, 1, 3])}, "docs must rise"),
        ({"docs": np.array([0, 2])}, "docs must rise"),
    ]:
        write_pair(prefix, [4, 2, 5], **changes)
        refused(prefix, word, "gpt_")
    for name in ("gpt_ids.npy", "gpt_idx.npz"):
        write_pair(prefix, [4, 2, 5])
        whole = (tmp_path / name).read_bytes()
        for end in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:end])
            refused(prefix, name)
    write_pair(prefix, [4, 2, 5])
    np.save(f"{prefix}_ids.npy", np.zeros((2, 2)))
    refused(prefix, "gpt_ids.npy", "no token ids")
    (tmp_path / "gpt_ids.npy").unlink()
    refused(prefix, "gpt_ids.npy")


def test_find_and_parse_input_dir(tmp_path, make_corpus, monkeypatch):
    with pytest.raises(DataError, match="no corpus in"):
        find_corpora(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        find_corpora(tmp_path / "nowhere")
    for name in ("a", "b.c"):
        make_corpus(tmp_path / name, [3, 4])
    write_pair(tmp_path / "d", [4])
    names = [tmp_path / name for name in ("a", "b.c", "d")]
    assert find_corpora(tmp_path) == names

    def parsed(text):
        return [(item.prefix, round(item.weight, 9)) for item in parse_input_dir(text)]

    a, c, _ = map(str, names)
    third = round(1 / 3, 9)
    assert parsed(str(tmp_path)) == parsed(f" {tmp_path}/ ") == [(name, third) for name in names]
    assert parsed(a) == parsed(f"{a}.bin") == parsed(f"{a}.idx") == [(names[0], 1.0)]
    assert parsed(f"{a} {c}") == [(names[0], 0.5), (names[1], 0.5)]
    assert parsed(f"0.3 {a} 0.9 {c}") == parsed(f"1, {a}, 3, {c}") == [(names[0], 0.25), (names[1], 0.75)]
    monkeypatch.chdir(tmp_path)
    assert [str(item.prefix) for item in parse_input_dir("2 a 2 d")] == ["a", "d"]
    for text, word in [
        ("", "empty"),
        (f"1 {a} 2", "3 words"),
        (f"1 {a} x {c}", "'x'"),
        (f"0 {a} 1 {c}", "'0'"),
        (f"nan {a} 1 {c}", "nan"),
        (f"{tmp_path}/b.d", "did you mean"),
        (f"1 {a} 1 {a}x", "no corpus"),
    ]:
        with pytest.raises(DataError, match=word):
            parse_input_dir(text)
    (tmp_path / "my data").mkdir()
    make_corpus(tmp_path / "my data" / "x", [3])
    assert parsed(f"{tmp_path}/my data") == [(tmp_path / "my data" / "x", 1.0)]


def test_a_file_of_the_pair_stands_for_its_prefix(tmp_path, make_corpus):
    make_corpus(tmp_path / "llama", [3])
    write_pair(tmp_path / "gpt", [4])
    assert [open_corpus(tmp_path / name).num_tokens for name in ("llama.bin", "llama.idx", "gpt_ids.npy")] == [3, 3, 4]
    with pytest.raises(DataError, match=r"did you mean .*/llama\?"):
        open_corpus(tmp_path / "llama.ix")
