"""Prefix tuning as a user types it: train, resume, sample, logits, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import GOLDEN, REPOSITORY  # noqa: E402

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.errors import CheckpointError  # noqa: E402
from zoo_core.peft.prefix_files import base_and_prefix  # noqa: E402
from zoo_core.registry import find  # noqa: E402

CASE = GOLDEN / "prefix_llama"
BASE = REPOSITORY / json.loads((CASE / "adapter_config.json").read_text())["base_model_name_or_path"]


def zoo(place: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "zoo_core", *map(str, words)], cwd=place, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def logits(place: Path, *words: str) -> np.ndarray:
    np.save(place / "ids.npy", load_file(CASE / "prefix.safetensors")["input_ids"])
    zoo(place, "logits", *words, "--ids", "ids.npy", "--out", "logits.npy")
    return np.load(place / "logits.npy")


def test_logits_behind_pefts_prefix(tmp_path):
    found = logits(tmp_path, BASE, "--prefix_path", CASE)
    np.testing.assert_allclose(found, load_file(CASE / "prefix.safetensors")["logits"], rtol=1e-5, atol=1e-5)


def run(place: Path, out: str, *more: str) -> str:
    words = ["--model", "base", "--input_dir", "corpus", "--max_seq_length", "12", "--num_prefix_tokens", "3"]
    words += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--logging_steps", "1", "--seed", "3"]
    words += ["--prefix_tuning", "true", "--split", "1,0,0", "--save_steps", "2", "--output_dir", out]
    return zoo(place, "run", "pretrain", *words, *more)


@pytest.fixture
def place(tmp_path):
    shutil.copytree(BASE, tmp_path / "base")
    (tmp_path / "corpus").mkdir()
    ids = np.random.default_rng(0).integers(0, 60, 600).astype(np.uint16)
    np.save(tmp_path / "corpus" / "words_ids.npy", ids)
    np.savez(tmp_path / "corpus" / "words_idx.npz", lens=np.full(20, 30, np.int32), docs=np.arange(21, dtype=np.int64))
    return tmp_path


@pytest.mark.soak
def test_a_run_resumes_to_the_same_bytes_and_predicts(place):
    weights = (place / "base" / "model.safetensors").read_bytes()
    said = run(place, "out", "--max_steps", "4")
    assert "a prefix of 3 virtual tokens" in said and "prefix     out/adapter, as PEFT loads it" in said
    saved = place / "out" / "checkpoint-4"
    assert not list(saved.glob("model*")) and not list(saved.glob("optimizer*"))
    trained = load_file(next(saved.glob("prefix-0*.safetensors")))
    shutil.rmtree(saved)
    run(place, "out", "--max_steps", "4", "--resume")
    again = load_file(next(saved.glob("prefix-0*.safetensors")))
    assert trained.keys() == again.keys()
    assert all(np.array_equal(trained[name], again[name]) for name in trained)
    assert (place / "base" / "model.safetensors").read_bytes() == weights
    own = logits(place, "out")  # the checkpoint knows its base
    np.testing.assert_array_equal(own, logits(place, "base", "--prefix_path", "out/adapter"))
    assert np.abs(own - logits(place, "base")).max() > 1e-3
    words = ["--model", "base", "--input_dir", "corpus", "--max_seq_length", "12", "--split", "1,0,0"]
    words += ["--prefix_tuning", "true", "--prefix_path", "out/adapter", "--learning_rate", "0"]
    words += ["--max_steps", "1", "--output_dir", "more"]
    assert "a prefix of 3 virtual tokens" in zoo(place, "run", "pretrain", *words)
    np.testing.assert_array_equal(logits(place, "more"), own)
    said = zoo(place, "logits", "base", "--lora_path", "out", "--ids", "ids.npy", "--out", "x.npy", status=2)
    assert "no adapter in out" in said
    more = ["--model", "base", "--input_dir", "corpus", "--output_dir", "out", "--resume", "--prefix_tuning", "true"]
    said = zoo(place, "run", "pretrain", *more, "--max_seq_length", "12", "--num_prefix_tokens", "4", status=2)
    assert "num_prefix_tokens is 3 there, 4 here" in said


def test_a_prefix_is_no_model_and_needs_its_base(tmp_path):
    assert base_and_prefix(BASE) == (BASE, None)
    assert base_and_prefix("qwen/qwen-7b") == (Path("qwen/qwen-7b"), None)
    assert base_and_prefix(BASE, CASE) == (BASE, CASE)
    alone = tmp_path / "alone"
    shutil.copytree(CASE, alone)
    settings = json.loads((alone / "adapter_config.json").read_text())
    for base, named in (("gone", "gone"), (None, "a model that it does not name")):
        (alone / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))
        with pytest.raises(CheckpointError, match="its base model is not there") as caught:
            base_and_prefix(alone)
        assert named in caught.value.why and "--prefix_path" in caught.value.todo
    found = find(str(BASE))
    with pytest.raises(CheckpointError), Reader(alone, found.architecture.table(found.config)) as reader:
        reader.check()
