"""One checkpoint for every parallel layout, and the way in from and out to Hugging Face folders. No paddle."""

from __future__ import annotations

from zoo_core.checkpoint.disk import Disk
from zoo_core.checkpoint.dtypes import convert, storage
from zoo_core.checkpoint.folders import (
    Saved,
    check_output,
    checkpoints,
    latest_checkpoint,
    read_state,
    verify,
)
from zoo_core.checkpoint.hf import export_hf, save_hf, whole_tensors
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.save import contents, save_checkpoint
from zoo_core.checkpoint.shards import DEFAULT_SHARD_SIZE, Entry
from zoo_core.checkpoint.weights import find_weights
from zoo_core.checkpoint.writer import LocalTensor, Ranks

__all__ = [
    "DEFAULT_SHARD_SIZE",
    "Disk",
    "Entry",
    "LocalTensor",
    "Ranks",
    "Reader",
    "Saved",
    "check_output",
    "checkpoints",
    "contents",
    "convert",
    "export_hf",
    "find_weights",
    "latest_checkpoint",
    "read_state",
    "save_checkpoint",
    "save_hf",
    "storage",
    "verify",
    "whole_tensors",
]
