"""A packed sample has the loss that it has alone: no attention across samples, positions from 0."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import paddle
import pytest

from zoo_core.arguments import load_arguments
from zoo_core.data.sft import Encoder, Lines, TuningSet, first_fit, survey
from zoo_core.engine.batches import to_batch
from zoo_core.plan import chosen_model
from zoo_ops import cross_entropy

_SPEC = importlib.util.spec_from_file_location("letters", Path(__file__).parents[1] / "data" / "letters.py")
letters = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(letters)

PLAIN = letters.Letters(before=[letters.BOS])
FAMILIES = {
    "rotary": ("meta-llama/Meta-Llama-3-8B", PLAIN, {}),
    "fused qkv": ("qwen/qwen-7b", letters.Chatty(), {}),
    "alibi": ("bigscience/bloom-7b1", PLAIN, {}),
    "learned positions": ("gpt3-345M", PLAIN, {}),
    "learned positions, offset": ("facebook/opt-125m", PLAIN, {}),
    "latent attention, experts": ("deepseek-ai/DeepSeek-V3", letters.Chatty(), {}),
    "prompt read both ways": (
        "THUDM/chatglm-6b",
        letters.Numbered(),
        {"gmask_token_id": letters.MASK, "bos_token_id": letters.START, "mask_token_id": letters.END},
    ),
    "blank filling": (
        "THUDM/glm-10b",
        letters.Prompted(),
        {"start_token_id": letters.START, "mask_token_ids": (letters.USER, letters.ASSISTANT, letters.MASK)},
    ),
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    dice, path = random.Random(1), tmp_path_factory.mktemp("lines") / "train.json"
    with path.open("w") as stream:
        for _ in range(24):
            src, tgt = ("".join(dice.choices("abcdefgh ", k=dice.randint(1, most))) + "x" for most in (14, 8))
            stream.write(json.dumps({"src": src, "tgt": tgt}) + "\n")
    return Lines((path,))


def losses(model, fields):
    """The loss of every token, float32 [B, S]."""
    with paddle.no_grad():
        batch = to_batch(fields)
        return cross_entropy(model(batch).logits, batch.labels).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_samples_have_the_losses_of_single_ones(lines, family):
    name, tokenizer, changes = FAMILIES[family]
    _, config = chosen_model(load_arguments("sft", (), ["--model", name, "--scale", "tiny"]))
    found, _ = chosen_model(load_arguments("sft", (), ["--model", name, "--scale", "tiny"]))
    paddle.seed(3)
    model = found.architecture.build_model(config.replace(vocab_size=1100, **changes))
    model.eval()
    for parameter in model.parameters():  # initial weights are so small that positions would hardly matter
        parameter.set_value(parameter * 3.0)
    encoder = Encoder(tokenizer)
    looked = survey(lines, encoder, 0, len(lines), skip_bad=False)
    alone = TuningSet(lines, encoder, looked)
    single = losses(model, alone.micro_batches([np.arange(len(alone))])[0]).sum(-1)
    rows = first_fit(looked.lengths.astype(np.int64), 64, np.random.RandomState(0).permutation(len(lines)))
    packed = TuningSet(lines, encoder, looked, rows)
    assert len(rows) < len(lines) / 2
    fields = packed.micro_batches([np.arange(len(rows))])[0]
    by_token = losses(model, fields)
    both = np.zeros(len(lines))
    for row in range(len(rows)):
        for segment, line in enumerate(rows[row]):
            both[line] = by_token[row][fields["segment_ids"][row] == segment].sum()
    np.testing.assert_allclose(both, single, rtol=1e-5, atol=1e-5)
    if not changes:  # a prompt that is read both ways, or runs into the next sample, would change the losses
        wrong = losses(model, {name: values for name, values in fields.items() if name != "segment_ids"})
        assert np.abs(wrong - by_token).max() > 1e-3
