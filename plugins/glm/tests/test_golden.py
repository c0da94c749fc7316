"""T1: logits, loss and every gradient against modelscope's GLM and SwissArmyTransformer's GLM-130B.

`zoo_core.testing.golden` has the rule.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import zoo_glm
from zoo_core.testing import contract, folders, golden
from zoo_core.testing.models import build
from zoo_glm import GLMConfig
from zoo_glm.modeling import places

ARCH = contract.architecture(zoo_glm)
CASES = golden.golden_cases(Path(__file__).parent / "golden")
BLANKS = [case for case in CASES if case.name != "glm_causal"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equals_the_authors_code(case):
    golden.check_golden(ARCH, case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hugging_face_folder_round_trips(case, tmp_path):
    folders.check_hf_round_trip(ARCH, case, tmp_path / "saved")


@pytest.mark.parametrize("case", BLANKS, ids=lambda case: case.name)
def test_the_golden_case_tells_a_prefix_from_causal_text(case):
    """Read as causal text, the same tokens give other logits: the comparison above would notice."""
    with pytest.raises(AssertionError, match="logits"):
        golden.check_golden(ARCH, case, start_token_id=None, mask_token_ids=())


def test_padding_in_front_changes_nothing():
    case = next(case for case in CASES if case.name == "glm_left_padded")
    published, tensors, batch = golden.load_case(case)
    config = GLMConfig.from_hf(published)
    model = build(ARCH, config, golden.read_weights(case, ARCH.table(config)))
    model.eval()
    padding = int((tensors["attention_mask"][1] == 0).sum())
    alone = model(type(batch)(batch.input_ids[1:, padding:])).logits.numpy()
    assert np.abs(alone - model(batch).logits.numpy()[1:, padding:]).max() < 1e-5
    assert (
        places(batch, config).position_BS[1, padding:].tolist()
        == places(type(batch)(batch.input_ids[1:, padding:]), config).position_BS[0].tolist()
    )
