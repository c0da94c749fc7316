"""Rows of unequal length, and the side each kind of tokenizer pads on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.tokenizers.conftest import PATTERN, SPECIAL
from zoo_core.tokenizers import (
    HFTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    load_tokenizer,
    pad_batch,
)


def test_fills_on_either_side():
    rows = [[5, 6, 7], [], [8]]
    ids, mask = pad_batch(rows, 0, "left")
    np.testing.assert_array_equal(ids, [[5, 6, 7], [0, 0, 0], [0, 0, 8]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [0, 0, 0], [0, 0, 1]])
    ids, mask = pad_batch(rows, 9, "right")
    np.testing.assert_array_equal(ids, [[5, 6, 7], [9, 9, 9], [8, 9, 9]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [0, 0, 0], [1, 0, 0]])
    assert ids.dtype == mask.dtype == np.int64


def test_nothing_to_fill():
    for rows, shape in [([], (0, 0)), ([[]], (1, 0)), ([[1, 2]], (1, 2))]:
        for side in ("left", "right"):
            ids, mask = pad_batch(rows, 0, side)
            assert ids.shape == mask.shape == shape and mask.all()
    with pytest.raises(ValueError, match="'top'"):
        pad_batch([[1]], 0, "top")


def test_config_comes_before_the_family(tmp_path, hf_folder, spm_file):
    for source, name in [(hf_folder / "tokenizer.json", "tokenizer.json"), (spm_file, "tokenizer.model")]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(source.read_bytes())
        assert load_tokenizer(folder).padding_side == "right"
        assert load_tokenizer(folder, "left").padding_side == "left"
        (folder / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left"}))
        assert load_tokenizer(folder).padding_side == "left"
        (folder / "tokenizer_config.json").write_text(json.dumps({"padding_side": "right"}))
        assert load_tokenizer(folder, "left").padding_side == "right"


def test_every_kind_has_a_side(tmp_path, hf_folder, spm_file, rank_file):
    tiktoken = TiktokenTokenizer(rank_file, PATTERN, SPECIAL, padding_side="left")
    for tokenizer in (HFTokenizer(hf_folder, "left"), SentencePieceTokenizer(spm_file, padding_side="left"), tiktoken):
        assert tokenizer.padding_side == "left" and isinstance(tokenizer, Tokenizer)
    tiktoken.save(tmp_path)
    assert load_tokenizer(tmp_path).padding_side == "left"
    sidecar = tmp_path / "tiktoken_config.json"
    content = json.loads(sidecar.read_text())
    del content["padding_side"]
    sidecar.write_text(json.dumps(content))
    assert load_tokenizer(tmp_path, "left").padding_side == "left"
    assert load_tokenizer(tmp_path).padding_side == "right"
