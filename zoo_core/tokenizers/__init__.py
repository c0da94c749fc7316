"""Tokenizers: sentencepiece, tiktoken and Hugging Face `tokenizer.json` behind one protocol; a trainer."""

from __future__ import annotations

from zoo_core.tokenizers.base import BatchTokenizer, Tokenizer
from zoo_core.tokenizers.bpe_ranks import TiktokenTokenizer
from zoo_core.tokenizers.hf import HFTokenizer
from zoo_core.tokenizers.load import load_tokenizer
from zoo_core.tokenizers.spm import SentencePieceTokenizer
from zoo_core.tokenizers.train import train_bpe

__all__ = [
    "BatchTokenizer",
    "HFTokenizer",
    "SentencePieceTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "train_bpe",
]
