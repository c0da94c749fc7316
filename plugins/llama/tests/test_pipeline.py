"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_llama
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_llama)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["meta-llama/Meta-Llama-3.1-8B-Instruct"].replace(**ARCH.capabilities.scales["tiny"])


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}], ids=str)
def test_pipeline_is_the_model(changes):
    pipeline.check_pipeline(ARCH, TINY.replace(**changes))


def test_fused_pipeline_is_the_model():
    pipeline.check_pipeline(ARCH, TINY.replace(fuse_attention_qkv=True, fuse_attention_ffn=True))
