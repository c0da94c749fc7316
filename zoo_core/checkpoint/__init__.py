"""One checkpoint for every parallel layout, and the way in from and out to Hugging Face folders. No paddle."""

from __future__ import annotations

from zoo_core.checkpoint.background import Background
from zoo_core.checkpoint.disk import Disk
from zoo_core.checkpoint.dtypes import convert, storage
from zoo_core.checkpoint.folders import (
    Saved,
    check_output,
    checkpoints,
    last_good,
    latest_checkpoint,
    read_state,
    verify,
)
from zoo_core.checkpoint.hf import export_hf, save_hf, whole_tensors
from zoo_core.checkpoint.lock import FolderLock, check_unlocked
from zoo_core.checkpoint.ranks import Ranks
from zoo_core.checkpoint.reader import Reader
from zoo_core.checkpoint.save import contents, save_checkpoint
from zoo_core.checkpoint.shards import DEFAULT_SHARD_SIZE, Entry
from zoo_core.checkpoint.weights import find_weights
from zoo_core.checkpoint.writer import LocalTensor

__all__ = [
    "Background",
    "DEFAULT_SHARD_SIZE",
    "Disk",
    "Entry",
    "FolderLock",
    "LocalTensor",
    "Ranks",
    "Reader",
    "Saved",
    "check_output",
    "check_unlocked",
    "checkpoints",
    "contents",
    "convert",
    "export_hf",
    "find_weights",
    "last_good",
    "latest_checkpoint",
    "read_state",
    "save_checkpoint",
    "save_hf",
    "storage",
    "verify",
    "whole_tensors",
]
