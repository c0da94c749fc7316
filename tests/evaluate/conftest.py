"""A small model with random weights and a tokenizer, as a Hugging Face folder, loaded once."""

from __future__ import annotations

import pytest

from zoo_core import find
from zoo_core.checkpoint import save_hf, whole_tensors
from zoo_core.generate import load_model
from zoo_core.testing.models import random_weights
from zoo_core.tokenizers import train_bpe

TEXT = "In the beginning God created the heaven and the earth.\n床前明月光,疑是地上霜。\n"


@pytest.fixture(scope="session")
def bpe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return train_bpe([folder / "text.txt"], 280, folder)


@pytest.fixture(scope="session")
def folder(bpe, tmp_path_factory):
    found = find("facebook/llama-7b")
    config = found.config.replace(**{**found.architecture.capabilities.scales["tiny"], "max_position_embeddings": 256})
    table = found.architecture.table(config)
    files = {file.name: file for file in bpe.files}
    tensors = whole_tensors(table, random_weights(table), "float32")
    path = tmp_path_factory.mktemp("model") / "weights"
    return save_hf(path, tensors, table=table, config=config, dtype="float32", files=files)


@pytest.fixture(scope="session")
def model(folder):
    return load_model(folder)
