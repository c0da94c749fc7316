"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_bloom
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_bloom)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["bigscience/bloom-7b1"].replace(**ARCH.capabilities.scales["tiny"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"apply_residual_connection_post_layernorm": True},
        {"num_attention_heads": 3},
    ],
    ids=str,
)
def test_pipeline_is_the_model(changes):
    pipeline.check_pipeline(ARCH, TINY.replace(**changes))
