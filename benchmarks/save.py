"""How long saving takes, on one process and under tp2 x pp2, and what an asynchronous save costs the steps beside it.

`python benchmarks/save.py` trains the model of `train_speed.py` in short samples, saves it with AdamW's states, 12
bytes a parameter, and writes `benchmarks/save.json`. Every file is synced to the disk of `--folder`, so one plain file
of the same size is written and synced for comparison.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
         "intermediate_size": 1376}  # fmt: skip
SEQUENCE, SAMPLES, SEED = 32, 2, 42
LAYOUTS: dict[str, dict[str, int]] = {"single": {}, "tp2xpp2": {"tensor": 2, "pipeline": 2}}


def work(layout: str, folder: Path, rounds: int, steps: int) -> None:
    """One process of a layout; the first prints what was measured."""
    from zoo_core.engine.quiet import import_paddle
    from zoo_core.environment import apply_cpu_environment

    degrees = LAYOUTS[layout]
    world = degrees.get("tensor", 1) * degrees.get("pipeline", 1)
    apply_cpu_environment(world, os.environ)
    import_paddle("cpu")
    import numpy as np

    from zoo_core.checkpoint import Background
    from zoo_core.engine.build import from_seed
    from zoo_core.engine.engine import Engine
    from zoo_core.engine.mesh import make_mesh
    from zoo_core.engine.optimizer import OptimizerSettings
    from zoo_core.engine.state import pending_save
    from zoo_core.plan import Request, compose
    from zoo_core.registry import find

    found = find("facebook/llama-7b")
    config = found.config.replace(**SIZES, max_position_embeddings=SEQUENCE)
    request = Request(world=world, micro_batch=1, accumulate=SAMPLES, sequence=SEQUENCE, **degrees)
    mesh = make_mesh(compose(request, found.architecture, config))
    source = from_seed(SEED, config, mesh.plan.tensor, mesh.place.tensor)
    engine = Engine(mesh, found.architecture, config, source, settings=OptimizerSettings())
    rng = np.random.default_rng(SEED)

    def step() -> float:
        ids = rng.integers(0, config.vocab_size, (SAMPLES, 1, SEQUENCE), dtype=np.int64)
        begin = time.perf_counter()
        engine.train_step([{"input_ids": one, "labels": one} for one in ids], 1e-5)
        return time.perf_counter() - begin

    def save(copied: bool = False) -> Callable[[], Path]:
        return pending_save(engine, folder, next(numbers), state={}, save_total_limit=1, copied=copied)

    step()
    numbers, background = itertools.count(), Background()
    told: dict[str, list[float]] = {"step": [], "save": [], "copy": [], "beside": [], "write": []}
    for _ in range(rounds):  # all kinds in turn, so that what else the machine does falls on all of them
        told["step"] += [step() for _ in range(steps)]
        mesh.barrier()
        begin = time.perf_counter()
        save()()
        told["save"].append(time.perf_counter() - begin)
        mesh.barrier()
        begin = time.perf_counter()
        write = save(copied=True)
        told["copy"].append(time.perf_counter() - begin)
        ends: list[float] = []

        def timed(write: Callable[[], Path] = write, ends: list[float] = ends) -> None:
            write()
            ends.append(time.perf_counter())

        begin = time.perf_counter()
        background.start(timed)
        going = True
        while going:
            told["beside"].append(step())
            # all ranks take the same number of steps: those that begin before the save has ended
            going = "1" in mesh.exchange("1" if background.busy else "0")
        background.wait()
        told["write"].append(ends[0] - begin)
    size = sum(path.stat().st_size for path in (folder / f"checkpoint-{2 * rounds - 1}").rglob("*"))
    if mesh.rank == 0:
        (folder / "result.json").write_text(json.dumps({**told, "bytes": size}), encoding="utf-8")
    mesh.barrier()


def disk_seconds(folder: Path, size: int) -> float:
    """Seconds to write and sync one file of `size` bytes."""
    block, path = os.urandom(1 << 24), folder / "plain"
    begin = time.perf_counter()
    with path.open("wb") as stream:
        for start in range(0, size, len(block)):
            stream.write(block[: size - start])
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return seconds


def measured(layout: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a layout in processes of its own, and take medians."""
    folder.mkdir()
    words = [str(Path(__file__)), "--layout", layout, "--folder", str(folder)]
    words += ["--rounds", str(options.rounds), "--steps", str(options.steps)]
    command = [sys.executable, *words]
    if LAYOUTS[layout]:
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", "4", "--log_dir", str(folder / "log")]
        command = [sys.executable, *launcher, "--log_level", "WARNING", *words]
    environ = {**os.environ, "PADDLE_DISTRI_BACKEND": "gloo"}
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=options.limit)
    told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    found = {name: round(statistics.median(values), 3) for name, values in told.items() if isinstance(values, list)}
    return {**found, "bytes": told["bytes"], "steps_beside": len(told["beside"])}


def main() -> None:
    """Measure both layouts, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to save; by default a temporary folder")
    parser.add_argument("--rounds", type=int, default=3, help="saves of each kind")
    parser.add_argument("--steps", type=int, default=6, help="steps without a save, each round")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each layout")
    parser.add_argument("--out", type=Path, default=HERE / "save.json")
    parser.add_argument("--layout", choices=LAYOUTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.layout:
        work(options.layout, options.folder, options.rounds, options.steps)
        return
    with tempfile.TemporaryDirectory(prefix="zoo-save-", dir=options.folder) as root:
        found = {layout: measured(layout, Path(root) / layout, options) for layout in LAYOUTS}
        size = found["single"]["bytes"]
        plain = round(statistics.median(disk_seconds(Path(root), size) for _ in range(3)), 3)
    print(f"{size / 1e6:.0f} MB a checkpoint; one file of that size is written and synced in {plain:.2f} s")
    for layout, row in found.items():
        parts = [
            f"{layout:<8} save {row['save']:.2f} s",
            f"asynchronous: copy {row['copy']:.2f} s, then {row['write']:.2f} s beside training",
            f"step {row['step']:.2f} s, beside a save {row['beside']:.2f} s ({row['beside'] / row['step']:.2f} times)",
        ]
        print("; ".join(parts))
    ratio = found["tp2xpp2"]["save"] / found["single"]["save"]
    print(f"tp2 x pp2 saves in {ratio:.2f} times the seconds of the single process, on {os.cpu_count()} cores")
    result = {
        "model": "Llama, hidden 512, 8 layers, 8 heads, FFN 1376, vocab 32000, 58.1 M parameters, with AdamW's moments",
        "setting": f"{SAMPLES} samples of {SEQUENCE} tokens a step, {os.cpu_count()} cores, medians",
        "saves": options.rounds,
        "plain_file_seconds": plain,
        **found,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
