"""What a user types, for every family: train on the bundled text in one process and in four, and sample."""

from __future__ import annotations

import numpy as np
import pytest
from parallel_jobs import tail
from test_command import losses, run_all

from zoo_core.registry import registry

pytestmark = pytest.mark.soak

MODELS = (
    "baichuan-inc/Baichuan-7B", "baichuan-inc/Baichuan2-13B-Chat", "bigscience/bloomz-7b1", "THUDM/chatglm-6b",
    "THUDM/chatglm2-6b", "deepseek-ai/DeepSeek-V3", "THUDM/glm-10b", "THUDM/glm-130b", "gpt3-6.7B",
    "meta-llama/Llama-2-7b", "facebook/opt-350m", "facebook/opt-66b", "qwen/qwen-7b", "Qwen/Qwen3-8B",
)  # fmt: skip
TRAIN = (
    "--scale tiny --device cpu --tokenizer tokenizer --input_dir corpus --max_seq_length 64 --max_steps 5 "
    "--logging_steps 1 --learning_rate 1e-3 --warmup_steps 2 --disable_tqdm true"
).split()
SINGLE = "--per_device_train_batch_size 4".split()
FOUR = "--per_device_train_batch_size 1 --gradient_accumulation_steps 4 --nproc 4 --tp 2 --pp 2".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tokenizer and a corpus, made as the README says."""
    folder = tmp_path_factory.mktemp("families")
    for words in (
        "tokenizer train --vocab-size 500 --output tokenizer",
        "data build --tokenizer tokenizer --output corpus --shuffle-seed 1",
    ):
        ((status, said),) = run_all([words.split()], folder)
        assert status == 0, said
    return folder


def test_every_family_is_here():
    assert {registry().find(name).architecture.family for name in MODELS} == {
        architecture.family for architecture in registry().architectures
    }


@pytest.mark.parametrize("model", MODELS)
def test_trains_alone_and_in_four_and_samples(place, model, zoo_evidence):
    zoo_evidence(registry().find(model).architecture.family, "pretrain", "generation", tier="T2", model=model)
    name = model.replace("/", "-")
    for out, more in (("one", SINGLE), ("four", FOUR)):
        words = ["run", "pretrain", "--model", model, *TRAIN, *more, "--output_dir", f"{name}-{out}"]
        ((status, said),) = run_all([[*words, "--log_dir", f"{name}-{out}-log"]], place)
        assert status == 0, said + (tail(place / f"{name}-{out}-log") if out == "four" else "")
    one, four = losses(place / f"{name}-one"), losses(place / f"{name}-four")
    apart = np.abs(np.subtract(one, four)).max()
    print(f"{model}: losses {one[0]:.4f} to {one[-1]:.4f}, tp2 x pp2 differs by {apart:.1e}")
    assert len(one) == 5 and one[-1] < one[0]
    np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-5)
    ((status, said),) = run_all([["sample", f"{name}-four", "--prompt", "In the beginning"]], place)
    assert status == 0, said
