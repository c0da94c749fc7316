"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_baichuan
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_baichuan)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"fuse_attention_ffn": True}], ids=str)
@pytest.mark.parametrize("name", ["Baichuan-7B", "Baichuan2-13B-Chat"])
def test_pipeline_is_the_model(name, changes):
    pipeline.check_pipeline(ARCH, MODELS[f"baichuan-inc/{name}"].replace(**TINY, **changes))
