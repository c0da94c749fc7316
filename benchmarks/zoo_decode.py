"""zoo's side of `decode_speed.py`; the protocol is that of `torch_decode.py`, whose weights it reads from FOLDER."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

from zoo_core.engine.quiet import import_paddle
from zoo_core.environment import apply_cpu_environment

apply_cpu_environment(1, os.environ)
import_paddle("cpu")

import numpy as np  # noqa: E402  the environment acts only before paddle is imported

from zoo_core.checkpoint import Reader  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.mesh import make_mesh  # noqa: E402
from zoo_core.engine.state import from_checkpoint  # noqa: E402
from zoo_core.export.passes import StaticPasses  # noqa: E402
from zoo_core.export.programs import JitPrograms, ReplayPrograms  # noqa: E402
from zoo_core.export.write import export_programs  # noqa: E402
from zoo_core.generate.choice import Sampling  # noqa: E402
from zoo_core.generate.passes import EnginePasses  # noqa: E402
from zoo_core.generate.pool import Passes, Pool  # noqa: E402
from zoo_core.generate.rules import Row, Rules  # noqa: E402
from zoo_core.plan import Request, compose  # noqa: E402
from zoo_core.registry import find  # noqa: E402
from zoo_core.replay.one_row import BEFORE, OneRow, one_row  # noqa: E402

PROMPT, NEW, SEED = 32, 64, 42


def main() -> None:
    """Load, obey."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--export", action="store_true", help="only write the exports that are to be run")
    options = parser.parse_args()
    found = find(options.folder)
    config = found.config
    mesh = make_mesh(compose(Request(task="logits", device="cpu"), found.architecture, config, options.folder))
    with Reader(Path(options.folder), found.architecture.table(config)) as reader:
        engine = Engine(mesh, found.architecture, config, from_checkpoint(reader, mesh))
    context = config.max_position_embeddings
    eager, usual = EnginePasses(engine), EnginePasses(engine, one_row(engine, context, str))

    def prompts(rows: int, length: int) -> np.ndarray:
        return np.random.default_rng(SEED).integers(3, config.vocab_size, (rows, length), dtype=np.int64)

    folders = {rows: Path(options.folder) / f"exported-{rows}" for rows in (1, 8)}
    if options.export:
        for rows, own in folders.items():
            own.mkdir()
            spec = export_programs(engine, own, rows, PROMPT + NEW, PROMPT + NEW)
            (own / "spec.pickle").write_bytes(pickle.dumps(spec))
        return
    # in a process of its own: comparing runs Paddle Inference, which leaves its process with one thread for products
    subprocess.run([sys.executable, __file__, options.folder, "--export"], check=True, stdout=subprocess.DEVNULL)
    exported = {
        rows: StaticPasses(ReplayPrograms(JitPrograms(own)), pickle.loads((own / "spec.pickle").read_bytes()))
        for rows, own in folders.items()
    }

    def static(rows: int) -> dict[str, object]:
        return decode(rows, exported[rows])

    def decode(rows: int, passes: Passes = usual) -> dict[str, object]:
        ids = prompts(rows, PROMPT).tolist()
        start = time.perf_counter()
        pool = Pool(passes, rows, PROMPT + NEW)
        tickets = [pool.add(Row(row, NEW), Rules(Sampling(temperature=0.0))) for row in ids]
        answers: dict[int, list[int]] = {ticket: [] for ticket in tickets}
        while steps := pool.step():
            for ticket, step in steps.items():
                answers[ticket].append(step.token)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": rows * NEW, "ids": [answers[ticket] for ticket in tickets]}

    def prefill(length: int) -> dict[str, object]:
        ids = prompts(1, length)
        start = time.perf_counter()
        logits = usual.read(usual.cache(1, length), ids, None, np.arange(length, dtype=np.int64)[None])
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": length, "ids": [[int(logits[0].argmax())]]}

    def making() -> float:
        """Seconds that the pass takes in which a program is made, and compared, beyond those of another pass."""
        passes = EnginePasses(engine, OneRow(engine, context, str, before=0))
        cache, seconds = passes.cache(1, PROMPT + 2), [0.0, 0.0]
        passes.read(cache, prompts(1, PROMPT), None, np.arange(PROMPT, dtype=np.int64)[None])
        for number in range(2):
            start = time.perf_counter()
            passes.read(cache, prompts(1, 1), None, np.full((1, 1), PROMPT + number))
            seconds[number] = time.perf_counter() - start
        return seconds[0] - seconds[1]

    ways = {"decode": decode, "eager": lambda rows: decode(rows, eager), "static": static, "prefill": prefill}
    tensors = {name: held.tensor for name, held in engine.held.items()}
    # of the embedding a token reads one row, of everything else all
    read = sum(t.size * 4 for name, t in tensors.items() if "embed_tokens" not in name)
    parameters = sum(t.size for t in tensors.values())
    made = min(making() for _ in range(5))
    ready = {"ready": True, "parameters": parameters, "bytes_a_token": read, "seconds_to_make": made, "before": BEFORE}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        what, number = line.split()
        print(json.dumps(ways[what](int(number))), flush=True)


if __name__ == "__main__":
    main()
