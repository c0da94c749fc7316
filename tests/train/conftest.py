"""A corpus of a simple language, and runs of the command line on it."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from zoo_core.cli import main
from zoo_core.data import corpus as bundled
from zoo_core.data.indexed import bin_path, idx_path, index_bytes
from zoo_core.tokenizers import train_bpe

sys.path.insert(0, str(Path(__file__).parent))  # for both_engines.py

SIZE = ["--max_seq_length", "32", "--per_device_train_batch_size", "4", "--num_hidden_layers", "2"]


def write_corpus(prefix: Path, documents: int = 200, vocab: int = 300) -> Path:
    """Documents in which every token but the first follows from the one before."""
    random = np.random.RandomState(0)
    lengths = random.randint(20, 60, size=documents)
    follows = random.permutation(vocab)
    tokens = []
    for length in lengths:
        token = int(random.randint(vocab))
        for _ in range(length):
            tokens.append(token)
            token = int(follows[token])
    prefix.parent.mkdir(parents=True, exist_ok=True)
    bin_path(prefix).write_bytes(np.array(tokens, dtype="<u2").tobytes())
    idx_path(prefix).write_bytes(index_bytes(lengths, np.arange(documents + 1), "<u2"))
    return prefix


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "simple")


@pytest.fixture
def words(corpus, tmp_path):
    """The words of a small run that writes to `tmp_path / "out"`; later words replace earlier ones."""

    def make(*more: str, model: str = "qwen/qwen-7b", out: str = "out") -> list[str]:
        scale = ["--scale", "tiny"] if "/" in model and not Path(model).exists() else []
        given = ["--input_dir", str(corpus), "--output_dir", str(tmp_path / out), "--split", "80,20,0"]
        return ["run", "pretrain", "--model", model, *scale, "--device", "cpu", *SIZE, *given, *more]

    return make


@pytest.fixture
def run(capsys):
    """Run a command line in this process; gives its status and what it printed."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def call(given: list[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(given)
        out, err = capsys.readouterr()
        return status, out, err

    yield call
    for number, handler in handlers:
        signal.signal(number, handler)


@pytest.fixture
def start():
    """Start a command line in a process of its own, with its output as pipes; it is ended with the test."""
    started = []

    def begin(given: list[str], **options) -> subprocess.Popen[str]:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "zoo_core", *given]
        process = subprocess.Popen(
            command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def write_random_corpus(prefix: Path, vocab: int) -> Path:
    """40 documents of 100 random ids."""
    ids = np.random.RandomState(1).randint(0, vocab, size=4000)
    bin_path(prefix).write_bytes(ids.astype("<u2").tobytes())
    idx_path(prefix).write_bytes(index_bytes(np.full(40, 100), np.arange(41), "<u2"))
    return prefix


@pytest.fixture
def golden_words(tmp_path):
    """The words of a run that goes on from the weights of a Hugging Face folder, with ids of its vocabulary."""
    write_random_corpus(tmp_path / "ids", 67)

    def make(folder: Path, *more: str) -> list[str]:
        given = ["--model", str(folder), "--continue_training", "--device", "cpu", "--max_seq_length", "32"]
        given += ["--per_device_train_batch_size", "4", "--input_dir", str(tmp_path / "ids")]
        return ["run", "pretrain", *given, "--output_dir", str(tmp_path / "out"), *more]

    return make


@pytest.fixture
def golden():
    """A Qwen2 model of Hugging Face transformers, with the logits it gives."""
    return Path(__file__).parents[2] / "plugins" / "qwen" / "tests" / "golden" / "qwen2_gqa"


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "loss.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def read_losses():
    return losses


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    listed = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    found = {}
    for file in sorted(set(listed.values())):
        found |= load_file(checkpoint / file)
    return found


@pytest.fixture
def same_weights():
    """Hold the weights of a run under the semi-automatic engine against one process' and the manual engine's."""

    def compare(single: Path, manual: Path, auto: Path) -> None:
        before, after = (weights(single / f"checkpoint-{step}") for step in (5, 10))
        for name in after:
            assert np.abs(after[name] - before[name]).max() > 1e-4, f"{name} is not trained, so it is not compared"
        found, same = (weights(folder / "checkpoint-10") for folder in (auto, manual))
        assert found.keys() == same.keys() == after.keys()
        for name in found:
            # as in tests/parallel: tighter than losses, for some weights move little
            np.testing.assert_allclose(found[name], after[name], rtol=1e-5, atol=1e-6, err_msg=f"{name}, one process")
            np.testing.assert_allclose(found[name], same[name], rtol=1e-5, atol=1e-6, err_msg=f"{name}, same layout")

    return compare


class Nursery:
    """Jobs of forked ranks, one after the other; see `nursery.py`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE_", "ZOO_LAUNCH"))}
        environ |= {"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5", "PADDLE_DISTRI_BACKEND": "gloo"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        assert line, f"the nursery ended with status {self._process.wait()}"
        return line

    def run(self, words: list[str], world: int = 4, kill: dict | None = None, **more) -> dict:
        job = {"words": words, "world": world, "kill": kill, "log": str(self._folder / "log"), **more}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def log(self, rank: int = 0) -> str:
        return Path(f"{self._folder / 'log'}.{rank}").read_text()

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    found = Nursery(tmp_path_factory.mktemp("nursery"))
    yield found
    found.end()


@pytest.fixture(scope="session")
def layouts_of(nursery, tmp_path_factory):
    """Makes what runs a task in its layouts, in ranks of their own; nothing is run twice."""

    def make(task: str, layouts: dict[str, tuple[int, str]], steps: int, *given: str) -> Callable[..., Path]:
        @cache
        def run(model: str, layout: str, *more: str) -> Path:
            world, flags = layouts[layout]
            out = tmp_path_factory.mktemp(f"{task}-{layout}-")
            words = ["run", task, "--model", model, "--scale", "tiny", "--num_hidden_layers", "2", "--device", "cpu"]
            words += ["--output_dir", str(out), "--disable_tqdm", "true", "--report_to", "none"]
            words += ["--max_steps", str(steps), "--learning_rate", "1e-3", "--save_strategy", "no", *given]
            words += ["--nproc", str(world)] if world > 1 else []
            told = nursery.run([*words, *flags.split(), *more], world, limit=900)
            assert told["statuses"] == [0] * world, nursery.log()
            return out

        return run

    return make


@pytest.fixture(scope="session")
def tuning_data(tmp_path_factory) -> Path:
    """A tokenizer of 400 tokens, and questions of unequal length with answers."""
    folder = tmp_path_factory.mktemp("tuning")
    train_bpe(bundled.files()[-1:], 400, folder / "tokenizer")
    dice = random.Random(3)
    letters = "the of and in that he shall unto for I his a they be is".split()
    for part, count in (("train", 60), ("dev", 7)):
        with (folder / f"{part}.json").open("w", encoding="utf-8") as stream:
            for _ in range(count):
                texts = [" ".join(dice.choices(letters, k=dice.randint(1, most))) for most in (12, 6)]
                stream.write(json.dumps({"src": texts[0], "tgt": texts[1]}) + "\n")
    return folder


@pytest.fixture(scope="session")
def pairs(tuning_data) -> Path:
    """Pairs of answers of unequal length, five words of which are the better ones; in both forms of lines."""
    dice, better = random.Random(5), "lord light heaven good day".split()
    worse = "the of and in that he shall unto for I".split()
    for part, count in (("train", 36), ("dev", 7)):
        with (tuning_data / f"pairs-{part}.jsonl").open("w", encoding="utf-8") as stream:
            for number in range(count):
                chosen, rejected = (" ".join(dice.choices(words, k=dice.randint(1, 6))) for words in (better, worse))
                prompt = " ".join(dice.choices(worse, k=dice.randint(1, 12)))
                line = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
                if number % 2:
                    line = {"src": [prompt], "tgt": [], "response": [rejected, chosen], "sort": [0, 1]}
                stream.write(json.dumps(line) + "\n")
    return tuning_data
