"""Speed and memory of `zoo convert` against `cp -r`, on one synthetic folder of 4 GB.

`python benchmarks/convert.py` prints a row for each conversion, with a copy before and after it, and writes
`benchmarks/convert.json`. Times are with all bytes on the disk, the copies' too. Peak memory is the largest resident
set of the converting process, also beyond that of a bare interpreter that imported Paddle.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from zoo_core.checkpoint.shards import Entry, plan_files
from zoo_core.registry import registry

HERE = Path(__file__).parent
CONVERSIONS = (
    ("hf to hf", "hf", "hf", []),
    ("hf to zoo, transposing", "hf", "zoo", []),
    ("zoo to hf, transposing", "zoo", "hf", []),
    ("zoo to pdparams", "zoo", "pdparams", []),
    ("hf to hf in float16", "hf", "hf", ["--dtype", "float16"]),
)
SIZES = {"num_hidden_layers": 9, "torch_dtype": "bfloat16"}


def make_folder(folder: Path) -> int:
    """Write a Llama of 9 layers of the 7B's width, in bfloat16, as Hugging Face has it; returns its bytes."""
    found = registry().find("meta-llama/Llama-2-7b")
    config = found.config.replace(**SIZES)
    table = found.architecture.table(config)
    shapes = {r.hf: r.shape[::-1] if r.hf_transposed else r.shape for r in table.values()}
    plan = plan_files((Entry("model", k, s, "bfloat16") for k, s in shapes.items()), 10**9, {"format": "pt"})["model"]
    normal = np.random.default_rng(0).standard_normal(1 << 24, np.float32) * 0.02
    noise = (normal.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).data
    for file in plan:
        with (folder / file.name).open("wb") as stream:
            stream.write(file.header)
            left = file.size - len(file.header)
            while left:
                left -= stream.write(noise[: min(left, len(noise))])
            os.fsync(stream.fileno())
    index = {"weight_map": {t.key: f.name for f in plan for t in f.tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    return sum(file.size for file in plan)


def timed(command: list[str], sync: Path | None = None) -> tuple[float, float]:
    """Run a command; returns seconds and the largest resident set of it, in MB."""
    os.sync()
    before = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    if sync is not None:
        for path in sync.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    return time.perf_counter() - before, usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to work; 16 GB are needed")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="zoo-convert-", dir=arguments.folder))
    try:
        source = root / "hf"
        source.mkdir()
        size = make_folder(source)
        _, bare = timed([sys.executable, "-c", "import paddle"])
        rows = []

        def row(name: str, seconds: float, memory: float | None = None) -> float:
            rate = size / 1e6 / seconds
            rows.append({"what": name, "seconds": round(seconds, 2), "MB_per_s": round(rate)})
            if memory is not None:
                rows[-1] |= {"peak_MB": round(memory), "above_bare_MB": round(memory - bare)}
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
            return rate

        print(f"{size / 1e9:.2f} GB, bare interpreter with Paddle {bare:.0f} MB")
        convert = [sys.executable, "-m", "zoo_core", "convert"]
        copies = []

        def copy() -> None:
            seconds, _ = timed(["cp", "-r", str(source), str(root / "cp")], root / "cp")
            copies.append(row("cp -r", seconds))
            shutil.rmtree(root / "cp")

        rates = {}
        for name, origin, to, more in CONVERSIONS:
            copy()
            target = root / ("zoo" if to == "zoo" else "out")
            seconds, memory = timed([*convert, str(root / origin), str(target), "--to", to, *more])
            rates[name] = row(name, seconds, memory)
            if target.name == "out":
                shutil.rmtree(target)
        copy()
        usual = statistics.median(copies)
        facts = {"bytes": size, "bare_MB": round(bare), "cores": os.cpu_count(), "rows": rows}
        facts["over_cp"] = {name: round(rate / usual, 2) for name, rate in rates.items()}
        print("speed over cp:", facts["over_cp"])
        (HERE / "convert.json").write_text(json.dumps(facts, indent=2) + "\n")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
