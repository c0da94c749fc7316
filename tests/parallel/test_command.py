"""`zoo run pretrain` in several processes: two machines, and an error of one worker that ends the whole job."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from parallel_jobs import end, environment, free_port, tail

from zoo_core.data.indexed import bin_path, idx_path, index_bytes

LIMIT = 240
"""Seconds after which a job counts as stuck."""

PLUGIN = '''
"""A Llama whose blocks cannot be built on the second of several processes."""
import os
from dataclasses import replace

import zoo_llama
from zoo_core.capabilities import ModelEntry
from zoo_core.errors import CheckpointError
from zoo_core.hookspecs import hookimpl
from zoo_llama.config import CAPABILITIES

CONFIG = CAPABILITIES.models[0].config


@hookimpl
def capabilities():
    return replace(CAPABILITIES, family="failing", model_types=("failing",),
                   models=(ModelEntry("zoo/failing", CONFIG, "fails on rank 1"),))


@hookimpl
def tp_mappings(config):
    return zoo_llama.tp_mappings(config)


@hookimpl
def build_model(config):
    return zoo_llama.build_model(config)


@hookimpl
def tokenizer(config, path):
    return zoo_llama.tokenizer(config, path)


@hookimpl
def pipe_layers(config):
    return tuple(replace(layer, factory=_refuse(layer.factory)) for layer in zoo_llama.pipe_layers(config))


def _refuse(factory):
    def build():
        if os.environ.get("PADDLE_TRAINER_ID") == "1":
            raise CheckpointError("the second shelf is empty", "somebody took the book", "bring it back")
        return factory()

    return build
'''


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder with one corpus of 200 documents."""
    prefix = tmp_path_factory.mktemp("corpus") / "words"
    lengths = np.full(200, 50)
    tokens = np.random.default_rng(0).integers(0, 500, lengths.sum()).astype("<u2")
    bin_path(prefix).write_bytes(tokens.tobytes())
    idx_path(prefix).write_bytes(index_bytes(lengths, np.arange(201), "<u2"))
    return prefix.parent


def words_of(corpus: Path, out: Path, *more: str, model: str = "qwen/qwen-7b") -> list[str]:
    return [
        *("run", "pretrain", "--model", model, "--scale", "tiny", "--device", "cpu", "--input_dir", str(corpus)),
        *("--max_seq_length", "32", "--max_steps", "4", "--per_device_train_batch_size", "1", "--logging_steps", "1"),
        *("--split", "90,10,0", "--disable_tqdm", "true", "--output_dir", str(out), "--learning_rate", "1e-3"),
        *("--log_dir", str(out) + "-log", *more),
    ]


def run_all(commands: list[list[str]], folder: Path, **more: str) -> list[tuple[int, str]]:
    """Run commands of zoo side by side; return exit status and output of each."""
    folder.mkdir(parents=True, exist_ok=True)
    running = []
    for number, words in enumerate(commands):
        with open(folder / f"said{number}", "wb") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "zoo_core", *words], env={**environment(), **more}, stdout=log, stderr=log,
                    cwd=folder, start_new_session=True,
                )
            )  # fmt: skip
    until = time.monotonic() + LIMIT
    try:
        for process in running:
            process.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        pytest.fail(f"no end after {LIMIT} s\n{tail(folder)}")
    finally:
        for process in running:
            end(process)
    return [(process.returncode, (folder / f"said{n}").read_text()) for n, process in enumerate(running)]


def losses(out: Path) -> list[float]:
    with open(out / "loss.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def test_two_machines_equal_one_process(corpus, tmp_path):
    """Two launchers on this machine, two workers each: pipeline stages on different machines."""
    alone = words_of(corpus, tmp_path / "one", "--gradient_accumulation_steps", "4")
    several = ["--master", f"127.0.0.1:{free_port()}", "--nnodes", "2", "--nproc", "2", "--tp", "2", "--pp", "2"]
    several += ["--gradient_accumulation_steps", "4"]
    machines = [
        words_of(corpus, tmp_path / "two", *several, "--rank", str(node), "--log_dir", str(tmp_path / f"log{node}"))
        for node in range(2)
    ]
    ((status, said),) = run_all([alone], tmp_path / "runs1")
    assert status == 0, said
    for status, said in run_all(machines, tmp_path / "runs2"):
        assert status == 0, said + tail(tmp_path)
    single, found = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(single) == 4
    np.testing.assert_allclose(found, single, rtol=1e-5, atol=1e-5)


def test_an_error_of_one_worker_ends_the_job(corpus, tmp_path):
    """The others wait for it in the pipeline; the command says the worker's own words and nothing is left running."""
    site = tmp_path / "site"
    marks = site / "zoo_failing-0.1.dist-info"
    marks.mkdir(parents=True)
    (site / "zoo_failing.py").write_text(PLUGIN)
    (marks / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-failing\nVersion: 0.1\n")
    (marks / "entry_points.txt").write_text("[zoo]\nfailing = zoo_failing\n")
    words = words_of(corpus, tmp_path / "out", "--nproc", "2", "--pp", "2", model="zoo/failing")
    ((status, said),) = run_all([words], tmp_path / "runs", PYTHONPATH=str(site))
    assert status == 2, said + tail(tmp_path)
    assert "the second shelf is empty" in said
    assert "why: somebody took the book" in said and "bring it back" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").glob("checkpoint-*"))
