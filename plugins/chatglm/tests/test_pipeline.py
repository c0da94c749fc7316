"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_chatglm
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_chatglm)
MODELS = {entry.name: entry.config for entry in ARCH.capabilities.models}
TINY = ARCH.capabilities.scales["tiny"]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ["THUDM/chatglm-6b", "THUDM/chatglm2-6b"])
def test_pipeline_is_the_model(name, tied):
    pipeline.check_pipeline(ARCH, MODELS[name].replace(**TINY).replace(tie_word_embeddings=tied))


def test_pipeline_with_prompts_is_the_model():
    """Random ids that hold bos and [gMASK] here and there."""
    special = {"vocab_size": 12, "bos_token_id": 5, "gmask_token_id": 4, "mask_token_id": 3}
    pipeline.check_pipeline(ARCH, MODELS["THUDM/chatglm-6b"].replace(**TINY).replace(**special))
