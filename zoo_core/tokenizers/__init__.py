"""Tokenizers: sentencepiece, tiktoken, BPE files and Hugging Face `tokenizer.json` behind one protocol; a trainer."""

from __future__ import annotations

from zoo_core.tokenizers.base import BatchTokenizer, ChatTokenizer, Message, PaddingSide, PromptTokenizer, Tokenizer
from zoo_core.tokenizers.bpe_files import BPEFilesTokenizer
from zoo_core.tokenizers.bpe_ranks import TiktokenTokenizer
from zoo_core.tokenizers.chat import ChatFormat, ChatWriter, check_messages, encode_parts, required_id, rounds
from zoo_core.tokenizers.hf import HFTokenizer
from zoo_core.tokenizers.load import AnyTokenizer, load_tokenizer
from zoo_core.tokenizers.padding import pad_batch
from zoo_core.tokenizers.spm import SentencePieceTokenizer
from zoo_core.tokenizers.train import train_bpe

__all__ = [
    "AnyTokenizer",
    "BPEFilesTokenizer",
    "BatchTokenizer",
    "ChatFormat",
    "ChatTokenizer",
    "ChatWriter",
    "HFTokenizer",
    "Message",
    "PaddingSide",
    "PromptTokenizer",
    "SentencePieceTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "check_messages",
    "encode_parts",
    "load_tokenizer",
    "pad_batch",
    "required_id",
    "rounds",
    "train_bpe",
]
