"""`from_pretrained` for library users: whole, as a shard, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

import zoo_core as zoo
from zoo_ops import Batch, parallel

GOLDEN = Path(__file__).parents[2] / "plugins"
CASES = ("llama/tests/golden/llama3_gqa", "llama/tests/golden/tied", "llama/tests/golden/sharded",
         "qwen/tests/golden/qwen1_plain", "qwen/tests/golden/qwen3_gqa")  # fmt: skip


@pytest.fixture(autouse=True)
def one_card():
    yield
    parallel.configure()


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_published_implementation(case):
    golden = load_file(GOLDEN / case / "golden.safetensors")
    model = zoo.from_pretrained(GOLDEN / case)
    logits = model(Batch(paddle.to_tensor(golden["input_ids"]))).logits.numpy()
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5, rtol=1e-5)


def test_a_rank_holds_its_columns_and_rows_of_the_whole():
    folder = GOLDEN / CASES[0]
    whole = {name: p.numpy() for name, p in zoo.from_pretrained(folder).named_parameters()}
    for rank in range(2):
        shard = {
            name: p.numpy()
            for name, p in zoo.from_pretrained(
                folder, tensor_parallel_degree=2, tensor_parallel_rank=rank
            ).named_parameters()
        }
        q, o = "llama.layers.1.self_attn.q_proj.weight", "llama.layers.1.self_attn.o_proj.weight"
        width = whole[q].shape[1] // 2
        np.testing.assert_array_equal(shard[q], whole[q][:, rank * width : (rank + 1) * width])
        np.testing.assert_array_equal(shard[o], whole[o][rank * width : (rank + 1) * width])
        np.testing.assert_array_equal(shard["llama.norm.weight"], whole["llama.norm.weight"])


def test_an_impossible_split_is_refused_with_the_reason():
    with pytest.raises(zoo.ZooError, match="does not split over 3 ranks") as caught:
        zoo.from_pretrained(GOLDEN / CASES[0], tensor_parallel_degree=3)
    assert "8 is not divisible by 3" in caught.value.why
    with pytest.raises(zoo.ZooError, match="no rank 5 of 2"):
        zoo.from_pretrained(GOLDEN / CASES[0], tensor_parallel_degree=2, tensor_parallel_rank=5)
