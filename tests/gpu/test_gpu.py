"""T3: what only a GPU can show. Skipped without one.

The layouts are those of `tests/parallel`; here they run over NCCL, and in bfloat16 as users train.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.plan import Request, compose
from zoo_core.registry import find, registry
from zoo_ops.kernels import Kernels

GPUS = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="needs a GPU")]

SIZES = {"vocab_size": 256, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
         "num_hidden_layers": 2, "intermediate_size": 192}  # fmt: skip


def losses(device, steps=5, dtype="float32", kernels=None, amp=None, model="", **settings):
    found = find(model or "meta-llama/Meta-Llama-3-8B")
    config = found.config.replace(**(found.architecture.capabilities.scales["tiny"] if model else SIZES))
    plan = compose(Request(micro_batch=2, accumulate=2, device=device), found.architecture, config)
    engine = Engine(
        make_mesh(plan), found.architecture, config, from_seed(5, config, 1, 0), dtype,
        OptimizerSettings(**settings), kernels, amp=amp,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    found_losses = []
    for _ in range(steps):
        ids = rng.integers(0, 256, (2, 2, 33))
        parts = [{"input_ids": i[:, :-1], "labels": i[:, 1:]} for i in ids]
        found_losses.append(engine.train_step(parts, 1e-3).loss)
    return np.array(found_losses)


def test_fp32_on_gpu_equals_cpu(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    np.testing.assert_allclose(losses("gpu"), losses("cpu"), rtol=1e-5)


@pytest.mark.parametrize("kernel", ("flash_attention", "fused_rms_norm", "fused_rope"))
def test_fused_kernels_equal_the_plain_ones_in_bfloat16(kernel):
    half = {"dtype": "bfloat16", "master_weights": True}
    plain = losses("gpu", **half)
    np.testing.assert_allclose(losses("gpu", kernels=Kernels(**{kernel: True}), **half), plain, rtol=2e-2)


FLASH = {
    architecture.family: entry.name
    for architecture in registry().architectures
    for entry in reversed(architecture.capabilities.models)
    if entry.config.fused_attention
}


@pytest.mark.parametrize("family", FLASH)
def test_flash_attention_equals_the_plain_kernel_in_every_family(family, zoo_evidence):
    zoo_evidence(family, "flash_attention", tier="T3", model=FLASH[family])
    half = {"dtype": "bfloat16", "master_weights": True, "model": FLASH[family]}
    plain = losses("gpu", **half)
    np.testing.assert_allclose(losses("gpu", kernels=Kernels(flash_attention=True), **half), plain, rtol=2e-2)


def test_bfloat16_with_masters_follows_fp32():
    half = losses("gpu", dtype="bfloat16", master_weights=True, master_grad=True)
    np.testing.assert_allclose(half, losses("gpu"), rtol=2e-2)


def test_float16_with_a_scaled_loss_follows_fp32():
    amp = {"enable": True, "dtype": "float16", "level": "O1"}
    np.testing.assert_allclose(losses("gpu", amp=amp, loss_scale=2.0**15), losses("gpu"), rtol=2e-2)


@pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
@pytest.mark.parametrize(
    "degrees", (["--tp", "2"], ["--tp", "2", "--sequence_parallel", "true"], ["--pp", "2"], ["--sharding", "stage1"],
                ["--sharding", "stage2"], ["--sharding", "stage3"], []),
    ids=lambda words: "-".join(word.strip("-") for word in words) or "dp2",
)  # fmt: skip
def test_layouts_over_nccl_equal_one_gpu(degrees, tmp_path):
    corpus = tmp_path / "corpus"
    zoo = [sys.executable, "-m", "zoo_core"]
    environ = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0"}
    for words in (
        ["tokenizer", "train", "--vocab-size", "512", "--output", str(tmp_path / "tokenizer")],
        ["data", "corpus", "--output", str(tmp_path / "text")],
        ["data", "build", str(tmp_path / "text"), "--output", str(corpus), "--tokenizer", str(tmp_path / "tokenizer")],
    ):
        subprocess.run([*zoo, *words], check=True, env=environ, capture_output=True)
    run = [*zoo, "run", "pretrain", "--model", "qwen/qwen-7b", "--scale", "tiny", "--input_dir", str(corpus)]
    run += ["--tokenizer", str(tmp_path / "tokenizer"), "--max_steps", "10", "--logging_steps", "1"]
    run += ["--max_seq_length", "64", "--device", "gpu", "--global_batch_size", "8"]
    curves = []
    for name, words in (("one", ["--nproc", "1"]), ("two", ["--nproc", "2", *degrees])):
        batch = ["--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / name)]
        subprocess.run([*run, *batch, *words], check=True, env=environ, cwd=tmp_path)
        rows = Path(tmp_path / name / "loss.csv").read_text().splitlines()
        column = rows[0].split(",").index("loss")
        curves.append([float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5, err_msg=json.dumps(degrees))
