"""A rank's peak memory while loading is its shard plus one tensor: measured, not argued.

One process plays rank 0 of a tensor axis of four and loads a Hugging Face folder; what it holds of each parameter does
not depend on the other ranks. `VmHWM` is the kernel's own high-water mark of resident memory.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parallel_jobs import environment
from safetensors.numpy import save_file

from zoo_core.layout import local_shape
from zoo_core.registry import registry

DEGREE = 4
BUFFER = 24 << 20
"""What Python, the allocator and the file system may take besides; less than one whole tensor of the model."""

LOADER = """
import json, sys
from pathlib import Path

import paddle

from zoo_core.checkpoint import Reader
from zoo_core.engine.build import Stage, build_layer
from zoo_core.registry import registry


def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


folder, degree = Path(sys.argv[1]), int(sys.argv[2])
found = registry().find(str(folder))
table = found.architecture.table(found.config)
elements = found.architecture.pipe_layers(found.config)
import zoo_llama.modeling
paddle.zeros([16]) + 1
with Reader(folder, table) as reader:
    reader.check()
    stage = Stage(table, lambda rule: reader.read_local(rule.name, degree, 0, dtype="float32"), degree, 0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    before = field("VmRSS")
    layers = [build_layer(element, stage) for element in elements]
    peak = field("VmHWM")
shard = sum(held.tensor.size * 4 for held in stage.held.values())
print(json.dumps({"baseline": before, "peak": peak, "shard": shard, "names": len(stage.held)}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Llama of 360 MB in float32, its embedding the largest tensor, as a Hugging Face folder of two files."""
    found = registry().find("meta-llama/Meta-Llama-3-8B")
    sizes = {
        "vocab_size": 24000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 8, "torch_dtype": "float32",
    }  # fmt: skip
    config = found.config.replace(**sizes)
    place = tmp_path_factory.mktemp("llama")
    (place / "config.json").write_text(json.dumps(config.to_hf()))
    table = list(found.architecture.table(config).values())
    weight_map = {}
    for number, part in enumerate((table[: len(table) // 2], table[len(table) // 2 :])):
        tensors = {}
        for rule in part:
            shape = rule.shape[::-1] if rule.hf_transposed else rule.shape
            tensors[rule.hf] = np.full(shape, 0.01, np.float32)
        save_file(tensors, place / f"model-{number}.safetensors", {"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, f"model-{number}.safetensors"))
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return place


def test_a_rank_holds_its_shard_and_one_tensor(folder, capsys):
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), str(DEGREE)],
        env=environment(), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    model = registry().find(str(folder))
    table = model.architecture.table(model.config)
    whole = sum(4 * math.prod(rule.shape) for rule in table.values())
    shard = sum(4 * math.prod(local_shape(rule, DEGREE)) for rule in table.values())
    largest = max(4 * math.prod(rule.shape) for rule in table.values())
    taken = found["peak"] - found["baseline"]
    with capsys.disabled():
        print(
            f"\nloading under tp{DEGREE}: model {whole / 1e6:.0f} MB, shard {shard / 1e6:.0f} MB, largest tensor "
            f"{largest / 1e6:.0f} MB; baseline {found['baseline'] / 1e6:.0f} MB, peak above it {taken / 1e6:.0f} MB"
        )
    assert found["shard"] == shard and found["names"] == len(table)
    assert whole > shard + largest + 3 * BUFFER, "the model is too small to tell"
    assert shard <= taken <= shard + largest + BUFFER
