"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_opt
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_opt)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {"enable_bias": False}], ids=str)
@pytest.mark.parametrize("name", ["facebook/opt-125m", "facebook/opt-350m"])
def test_pipeline_is_the_model(name, changes):
    pipeline.check_pipeline(ARCH, MODELS[name].replace(**TINY, **changes))


def test_pipeline_without_dropout_and_with_fused_projections_is_the_model():
    pipeline.check_pipeline(
        ARCH, MODELS["facebook/opt-125m"].replace(**TINY, hidden_dropout_prob=0.0, fuse_attention_qkv=True)
    )
