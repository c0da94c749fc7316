"""A small model with random weights and a tokenizer, as a Hugging Face folder."""

from __future__ import annotations

import pytest

from zoo_core import find
from zoo_core.checkpoint import save_hf, whole_tensors
from zoo_core.tokenizers import train_bpe

TEXT = "In the beginning God created the heaven and the earth.\n床前明月光,疑是地上霜。\n"


@pytest.fixture(scope="session")
def bpe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return train_bpe([folder / "text.txt"], 280, folder)


@pytest.fixture(scope="session", params=["facebook/llama-7b", "qwen/qwen-7b", "Qwen/Qwen3-0.6B"])
def folder(request, bpe, tmp_path_factory):
    """The vocabulary (512) is larger than the tokenizer's, as in published models."""
    from zoo_core.testing.models import random_weights

    found = find(request.param)
    capabilities = found.architecture.capabilities
    config = found.config.replace(**capabilities.scales["tiny"])
    table = found.architecture.table(config)
    path = tmp_path_factory.mktemp("model") / "weights"
    files = {file.name: file for file in bpe.files}
    tensors = whole_tensors(table, random_weights(table), "float32")
    return save_hf(path, tensors, table=table, config=config, dtype="float32", files=files)
