"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_gpt3
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_gpt3)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = MODELS["gpt3-345M"].replace(
    **ARCH.capabilities.scales["tiny"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
)


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False}, {"scale_qk_by_layer_num": True}, {"hidden_dropout_prob": 0.2},
     {"attention_probs_dropout_prob": 0.2}],
    ids=str,
)  # fmt: skip
def test_pipeline_is_the_model(changes, fused):
    pipeline.check_pipeline(ARCH, TINY.replace(fuse_attention_qkv=fused, **changes))
