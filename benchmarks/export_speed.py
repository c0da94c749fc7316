"""Decode by an exported model and by the model itself, alternating in one process, on CPU.

The model is that of the training benchmark: Llama, hidden 512, 8 layers, 8 heads, FFN 1376, vocabulary 32000, 58.1 M
parameters, float32. Each round reads a prompt of 32 tokens and generates 64 greedily, once by each way; the ratio is
that of neighbours in time, so that a busy machine disturbs both alike, and the median of the rounds counts.

    python benchmarks/export_speed.py [--rounds 9] [--batch 1] [--prompt 32] [--new 64]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from zoo_core.engine.quiet import import_paddle
from zoo_core.environment import apply_cpu_environment

os.environ.setdefault("GLOG_minloglevel", "2")
apply_cpu_environment(1, os.environ)
import_paddle("cpu")

import numpy as np  # noqa: E402  the environment acts only before paddle is imported

from zoo_core import find  # noqa: E402
from zoo_core.engine.build import from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.mesh import make_mesh  # noqa: E402
from zoo_core.export.passes import StaticPasses  # noqa: E402
from zoo_core.export.programs import JitPrograms, PredictorPrograms, ReplayPrograms  # noqa: E402
from zoo_core.export.write import export_programs  # noqa: E402
from zoo_core.generate.passes import EnginePasses  # noqa: E402
from zoo_core.generate.pool import Passes  # noqa: E402
from zoo_core.plan import Request, compose  # noqa: E402

SIZES = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
         "intermediate_size": 1376}  # fmt: skip
SEED = 42


def generate(passes: Passes, prompt_BS: np.ndarray, new: int) -> tuple[float, list[list[int]]]:
    """Generate greedily; returns the seconds of all passes behind the prompt's, and the tokens."""
    rows, length = prompt_BS.shape
    cache = passes.cache(rows, length + new)
    positions_BS = np.broadcast_to(np.arange(length), (rows, length)).astype(np.int64)
    ids_B1 = passes.read(cache, prompt_BS, None, positions_BS).argmax(axis=-1)[:, None]
    tokens, start = [ids_B1[:, 0].tolist()], time.perf_counter()
    for step in range(new - 1):
        positions_B1 = np.full((rows, 1), length + step, np.int64)
        ids_B1 = passes.read(cache, ids_B1.astype(np.int64), None, positions_B1).argmax(axis=-1)[:, None]
        tokens.append(ids_B1[:, 0].tolist())
    return time.perf_counter() - start, tokens


def main() -> None:
    """Export, alternate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=64)
    options = parser.parse_args()
    found = find("facebook/llama-7b")
    room = options.prompt + options.new
    config = found.config.replace(**SIZES, max_position_embeddings=max(2048, room))
    mesh = make_mesh(compose(Request(task="logits"), found.architecture, config))
    engine = Engine(mesh, found.architecture, config, from_seed(SEED, config, 1, 0))
    prompt_BS = np.random.default_rng(1).integers(0, config.vocab_size, (options.batch, options.prompt))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = export_programs(engine, folder, options.batch, room, room)
        ways: dict[str, Passes] = {
            "dygraph": EnginePasses(engine),
            "replay": StaticPasses(ReplayPrograms(JitPrograms(folder)), spec),
            "paddle.jit.load": StaticPasses(JitPrograms(folder), spec),
            "paddle.inference": StaticPasses(PredictorPrograms(folder), spec),
        }
        run: Callable[[str], tuple[float, list[list[int]]]] = lambda way: generate(ways[way], prompt_BS, options.new)  # noqa: E731
        wanted = {way: run(way)[1] for way in ways}  # warms up
        assert len({str(tokens) for tokens in wanted.values()}) == 1, "the ways say different things"
        rounds = [{way: run(way)[0] for way in ways} for _ in range(options.rounds)]
    passes = options.new - 1
    print(f"batch {options.batch}, prompt {options.prompt}, {options.new} new tokens, {options.rounds} rounds")
    for way in ways:
        seconds = [one[way] for one in rounds]
        ratio = median(one["dygraph"] / one[way] for one in rounds)
        print(
            f"{way:<17} {median(seconds) / passes * 1e3:7.2f} ms a pass, least {min(seconds) / passes * 1e3:.2f};"
            f" {ratio:.2f} times dygraph's speed"
        )


if __name__ == "__main__":
    main()
