"""T1: the pipeline list is the model, bit for bit."""

from __future__ import annotations

import pytest

import zoo_glm
from zoo_core.plan.owner import owners
from zoo_core.testing import contract, pipeline

ARCH = contract.architecture(zoo_glm)
TINY = {e.name: e.config.replace(**ARCH.capabilities.scales["tiny"]) for e in ARCH.capabilities.models}
BLANKS = {"vocab_size": 20, "start_token_id": 6, "mask_token_ids": (3, 4, 5)}
"""With so few words, most random samples have blanks and start tokens."""
DROPOUT = {"embedding_dropout_prob": 0.1, "attention_dropout_prob": 0.2, "output_dropout_prob": 0.3}


@pytest.mark.parametrize("changes", [{}, BLANKS, {**BLANKS, **DROPOUT}], ids=["causal", "blanks", "dropout"])
@pytest.mark.parametrize("name", ["THUDM/glm-10b", "THUDM/glm-130b"])
def test_pipeline_is_the_model(name, changes):
    pipeline.check_pipeline(ARCH, TINY[name].replace(**changes))


@pytest.mark.parametrize("name", ["THUDM/glm-10b", "THUDM/glm-130b"])
def test_names_alone_say_which_layer_holds_a_parameter(name):
    """The plan reads the layers' prefixes; the first block's covers the positions and block 0, and nothing else."""
    config = TINY[name]
    layers = ARCH.pipe_layers(config)
    held = {entry.single(n): i for i, entry in enumerate(layers) for n, _ in entry.factory().named_parameters()}
    assert owners(ARCH.table(config), [e.prefix for e in layers], [e.is_block for e in layers]) == held
