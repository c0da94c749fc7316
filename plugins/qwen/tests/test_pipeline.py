"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_qwen
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_qwen)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ["qwen/qwen-7b", "Qwen/Qwen2-7B", "Qwen/Qwen3-8B"])
def test_pipeline_is_the_model(name, changes):
    pipeline.check_pipeline(ARCH, MODELS[name].replace(**TINY).replace(**changes))


@pytest.mark.parametrize("name", ["qwen/qwen-7b", "Qwen/Qwen2-7B", "Qwen/Qwen3-8B"])
def test_fused_pipeline_is_the_model(name):
    pipeline.check_pipeline(ARCH, MODELS[name].replace(**TINY, fuse_attention_qkv=True, fuse_attention_ffn=True))
