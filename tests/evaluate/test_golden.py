"""Perplexity and lm-eval's requests give what transformers and lm-eval's own model `hf` give with the same weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from zoo_core.cli import main
from zoo_core.data.indexed import index_bytes
from zoo_core.evaluate import Document, measure_perplexity
from zoo_core.generate import load_model

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]
NUMBERS = json.loads((GOLDEN / "numbers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tiny():
    return load_model(GOLDEN / "tiny")


@pytest.fixture(scope="module")
def harness():
    pytest.importorskip("lm_eval")
    from zoo_core.evaluate.harness import ZooLM

    return ZooLM(str(GOLDEN / "tiny"), batch_size=2, device="cpu")


def requests(*arguments):
    return [SimpleNamespace(args=given) for given in arguments]


@pytest.mark.parametrize("case", NUMBERS["perplexity"], ids=lambda case: f"{case['max_length']}-{case['stride']}")
def test_perplexity_is_that_of_the_loop_of_hugging_face(tiny, case):
    text = NUMBERS["text"]
    ids = np.asarray(tiny.tokenizer.encode(text), np.int64)
    documents = [Document(ids, len(text.encode()), len(text.split()))]
    # its windows count their last token, which nothing is asked of
    found = measure_perplexity(tiny, documents, max_length=case["max_length"] - 1, stride=case["stride"], batch_size=3)
    assert found.perplexity == pytest.approx(case["perplexity"], rel=1e-5)
    assert found.tokens == len(ids) and found.opening == (tiny.tokenizer.eos_id,)
    assert found.bits_per_byte == pytest.approx(found.nll / math.log(2) / len(text.encode()))
    assert found.word_perplexity == math.inf or math.log(found.word_perplexity) == pytest.approx(
        found.nll / len(text.split())
    )


def test_loglikelihoods_are_those_of_hf(harness):
    pairs = NUMBERS["loglikelihood"]
    found = harness.loglikelihood(requests(*((context, more) for context, more, *_ in pairs)), disable_tqdm=True)
    for (value, greedy), (context, more, wanted, wanted_greedy) in zip(found, pairs, strict=True):
        assert value == pytest.approx(wanted, rel=1e-5), (context, more)
        assert greedy == wanted_greedy, (context, more)
    assert any(greedy for _, greedy in found)


def test_rolling_loglikelihoods_are_those_of_hf(harness):
    texts = NUMBERS["loglikelihood_rolling"]
    found = harness.loglikelihood_rolling(requests(*((text,) for text, _ in texts)), disable_tqdm=True)
    assert found == pytest.approx([wanted for _, wanted in texts], rel=1e-5)


def test_answers_are_those_of_hf(harness):
    prompts = NUMBERS["generate_until"]
    asked = requests(*((prompt, NUMBERS["stops"]) for prompt, _ in prompts))
    assert harness.generate_until(asked, disable_tqdm=True) == [wanted for _, wanted in prompts]


@pytest.mark.parametrize(
    ("flag", "case", "file"),
    [("--lora_path", "llama", "golden.safetensors"), ("--prefix_path", "prefix_llama", "prefix.safetensors")],
    ids=["adapter", "prefix"],
)
def test_the_command_measures_what_peft_does_with_an_adapter_or_a_prefix(flag, case, file, folder, tmp_path):
    tuned = ROOT / "tests" / "peft" / "golden" / case
    base = ROOT / json.loads((tuned / "adapter_config.json").read_text())["base_model_name_or_path"]
    golden = load_file(tuned / file)
    ids_BS = golden["input_ids"]
    (tmp_path / "corpus.bin").write_bytes(ids_BS.astype("<i4").tobytes())
    lengths = np.full(len(ids_BS), ids_BS.shape[1])
    (tmp_path / "corpus.idx").write_bytes(index_bytes(lengths, np.arange(len(ids_BS) + 1), np.int32))
    out = tmp_path / "report.json"
    words = ["--data", str(tmp_path / "corpus"), "--tokenizer", str(folder), "--no-begin", "--out", str(out)]
    assert main(["eval", "ppl", str(base), *words]) == 0
    bare = json.loads(out.read_text())
    assert main(["eval", "ppl", str(base), flag, str(tuned), *words]) == 0
    found = json.loads(out.read_text())
    assert found["perplexity"] == pytest.approx(float(np.exp(golden["loss"])), rel=1e-5)
    assert found["perplexity"] != pytest.approx(bare["perplexity"], rel=1e-3)
    assert found["tokens"] == ids_BS[:, 1:].size and found["documents"] == len(ids_BS)
