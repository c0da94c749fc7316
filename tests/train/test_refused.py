"""What is refused before anything starts: one message, status 2, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zoo_core.checkpoint import checkpoints
from zoo_core.tokenizers import train_bpe


@pytest.fixture
def refused(run, tmp_path):
    """Run, expect one message of what, why and what to do, and nothing in the folder `out`."""

    def check(given: list[str], *fragments: str, writes: str = "out") -> str:
        status, out, err = run(given)
        assert status == 2, out + err
        assert err.count("error:") == 1 and "Traceback" not in err
        for fragment in fragments:
            assert fragment in err
        assert not (tmp_path / writes).exists()
        return err

    return check


def test_names(refused, words):
    refused(words("--max_step", "3"), "max_step", "did you mean --max_steps?")
    refused(words(model="qwen/qwen-7c"), "unknown model 'qwen/qwen-7c'", "did you mean 'qwen/qwen-7b'?")
    refused([*words(), "--input_dir", ""], "input_dir")
    refused(words("--tokenizer", "nowhere"), "no tokenizer at nowhere")
    best = ["--load_best_model_at_end", "--eval_steps", "1", "--save_steps", "1"]
    refused(words(*best, "--metric_for_best_model", "accuracy"), "'accuracy' is not known", "loss and ppl")


def test_folders(refused, words, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    refused(words(out="file/out"), f"{tmp_path / 'file'} is not a folder", "choose another output_dir")
    refused(words("--logging_dir", str(tmp_path / "file")), f"cannot write event files to {tmp_path / 'file'}")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and access(path, mode))
    refused(words(), f"cannot write to {tmp_path}", "choose another output_dir")


def test_corpora(refused, words, corpus, tmp_path):
    broken = tmp_path / "data" / "broken"
    broken.parent.mkdir()
    shutil.copy(f"{corpus}.bin", f"{broken}.bin")
    Path(f"{broken}.idx").write_bytes(Path(f"{corpus}.idx").read_bytes()[:-8])
    refused([*words(), "--input_dir", str(broken)], "broken.idx")
    refused([*words(), "--input_dir", str(tmp_path / "none")], f"no corpus {tmp_path / 'none'}")
    refused(words("--vocab_size", "128"), "has the token id 299", "the model's vocabulary has 128")
    refused(words("--max_seq_length", "100000"), "a sample takes 100001")


def test_weights(refused, words, golden, golden_words, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(golden, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "o_proj" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")
    refused(golden_words(folder), f"tensor {name} is missing")
    save_file({**tensors, name: tensors[name][:-1]}, folder / "model.safetensors")
    refused(golden_words(folder), f"tensor {name}", "has shape")
    named = [word for word in words("--continue_training") if word not in ("--scale", "tiny")]
    refused(named, "no weights of qwen/qwen-7b", "looked in", "--continue_training false starts with random ones")


def test_output_folders(run, refused, words, tmp_path):
    assert run(words("--max_steps", "1"))[0] == 0
    before = sorted(path for path in (tmp_path / "out").rglob("*"))
    status, _, err = run(words("--max_steps", "1"))
    assert status == 2 and "already holds checkpoints of this model" in err and "--resume goes on" in err
    status, _, err = run(words("--max_steps", "1", "--hidden_size", "32"))
    assert status == 2 and "another model" in err and "hidden_size is 64 there, 32 here" in err
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == before
    refused(words("--resume", out="new"), "cannot resume", writes="new")
    resumed = words("--resume", str(tmp_path / "out"), "--hidden_size", "32", out="new")
    refused(resumed, "checkpoint-1 is a checkpoint of another model", writes="new")
    status, _, err = run(words("--max_steps", "2", "--overwrite_output_dir"))
    assert (status, err) == (0, "") and checkpoints(tmp_path / "out")[0].step == 2


def test_scaled_vocabulary_follows_the_ids(run, words, corpus, tmp_path):
    tokens = np.fromfile(f"{corpus}.bin", dtype="<u2")
    tokens[5] = 700
    prefix = tmp_path / "large"
    tokens.tofile(f"{prefix}.bin")
    shutil.copy(f"{corpus}.idx", f"{prefix}.idx")
    status, out, err = run([*words("--dry_run"), "--input_dir", str(prefix)])
    assert (status, err) == (0, "") and f"SCALE vocabulary 704 instead of the scale's 512: {prefix} has ids" in out


def test_scale_has_no_published_weights(run, words):
    status, out, err = run(words("--continue_training", "--dry_run"))
    assert (status, err) == (0, "") and "SCALE random weights in spite of continue_training" in out


def test_scaled_vocabulary_follows_the_tokenizer(run, words, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{n} und {n * n}" for n in range(3000)), encoding="utf-8")
    train_bpe([text], 600, tmp_path / "tok")
    status, out, err = run(words("--max_steps", "1", "--tokenizer", str(tmp_path / "tok")))
    assert (status, err) == (0, "") and "SCALE vocabulary 600 instead of the scale's 512: the tokenizer has" in out
    saved = tmp_path / "out" / "checkpoint-1"
    assert (saved / "tokenizer.json").read_bytes() == (tmp_path / "tok" / "tokenizer.json").read_bytes()
    assert json.loads((saved / "config.json").read_text())["vocab_size"] == 600
    assert run(words("--dry_run", "--tokenizer", "qwen/qwen-7b", out="other"))[0] == 0


def test_logits(run, golden, tmp_path):
    def said(ids, *more: str) -> str:
        np.save(tmp_path / "ids.npy", ids)
        words = ["logits", str(golden), "--ids", str(tmp_path / "ids.npy"), "--out", str(tmp_path / "out.npy"), *more]
        status, _, err = run(words)
        assert status == 2 and err.count("error:") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy"]
        return err

    assert "has the id 100000" in said(np.full((1, 4), 100_000))
    assert "has the id -1" in said(np.array([[1, -1]]))
    assert "[4] of int64" in said(np.arange(4))
    assert "float64" in said(np.zeros((1, 4)))
