"""Training speed of the traced graph (`--to_static`) against the model as it is: steps alternating in one run.

`python benchmarks/static_speed.py` prints a row for each round, the time of tracing, and the ratio of the medians. On
CPU the model as it is has zoo's hand-written passes, and a graph has Paddle's operations alone.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from zoo_train import LEARNING_RATE, SEED, SIZES  # chooses the environment of the CPU before paddle is imported

from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.plan import Request, compose
from zoo_core.registry import find


def build(to_static: bool, layers: int, batch: int, sequence: int) -> Engine:
    """The Llama of the other comparisons, on one process."""
    found = find("facebook/llama-7b")
    config = found.config.replace(**SIZES, max_position_embeddings=sequence).replace(num_hidden_layers=layers)
    request = Request(micro_batch=batch, sequence=sequence, to_static=to_static)
    mesh = make_mesh(compose(request, found.architecture, config))
    settings = OptimizerSettings(weight_decay=0.01, max_grad_norm=0.0)
    return Engine(mesh, found.architecture, config, from_seed(SEED, config, 1, 0), settings=settings)


def main() -> None:
    """Alternate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--layers", type=int, default=SIZES["num_hidden_layers"])
    options = parser.parse_args()
    engines = {
        name: build(name == "to_static", options.layers, options.batch, options.sequence)
        for name in ("dygraph", "to_static")
    }
    rates: dict[str, list[float]] = {name: [] for name in engines}
    rng = np.random.default_rng(SEED)
    for number in range(options.rounds + 1):
        ids = rng.integers(0, 32000, (options.batch, options.sequence), dtype=np.int64)
        fields = {"input_ids": ids, "labels": np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], -100)], axis=1)}
        row = []
        for name, engine in engines.items():
            start = time.perf_counter()
            loss = engine.train_step([fields], LEARNING_RATE).loss
            seconds = time.perf_counter() - start
            if number:
                rates[name].append(ids.size / seconds)
            row.append(f"{name} {ids.size / seconds:7.1f} tokens/s in {seconds:5.2f} s (loss {loss:.6f})")
        print(f"{f'round {number}' if number else 'first  '}: {'  '.join(row)}", flush=True)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(f"the traced graph trains at {medians['to_static'] / medians['dygraph']:.2f} times the speed (medians)")


if __name__ == "__main__":
    main()
