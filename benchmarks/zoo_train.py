"""zoo's side of the speed comparison; the protocol and the model are those of `torch_baseline.py`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from zoo_core.engine.quiet import import_paddle
from zoo_core.environment import apply_cpu_environment

apply_cpu_environment(1, os.environ)
import_paddle("cpu")

import numpy as np  # noqa: E402  the environment acts only before paddle is imported

from zoo_core.engine.build import from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.mesh import make_mesh  # noqa: E402
from zoo_core.engine.optimizer import OptimizerSettings  # noqa: E402
from zoo_core.plan import Request, compose  # noqa: E402
from zoo_core.registry import find  # noqa: E402

SIZES = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
         "intermediate_size": 1376}  # fmt: skip
SEED, LEARNING_RATE = 42, 1e-4


def main() -> None:
    """Build, then obey the driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()
    found = find("facebook/llama-7b")
    config = found.config.replace(**SIZES, max_position_embeddings=options.sequence)
    plan = compose(Request(micro_batch=options.batch, sequence=options.sequence), found.architecture, config)
    mesh = make_mesh(plan)
    # no clipping, as on the other side
    settings = OptimizerSettings(weight_decay=0.01, max_grad_norm=0.0)
    engine = Engine(mesh, found.architecture, config, from_seed(SEED, config, 1, 0), settings=settings)
    rng = np.random.default_rng(SEED)

    def steps(count: int) -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(count):
            ids = rng.integers(0, config.vocab_size, (options.batch, options.sequence), dtype=np.int64)
            labels = np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], -100)], axis=1)
            loss = engine.train_step([{"input_ids": ids, "labels": labels}], LEARNING_RATE).loss
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": count * options.batch * options.sequence, "loss": loss}

    steps(1)
    if options.steps:
        print(json.dumps(steps(options.steps)))
        return
    print(json.dumps({"ready": True, "parameters": sum(h.tensor.size for h in engine.held.values())}), flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[:1] != ["step"]:
            return
        print(json.dumps(steps(int(words[1]))), flush=True)


if __name__ == "__main__":
    main()
