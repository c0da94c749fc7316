"""The other side of the speed comparison: PyTorch + transformers on the model that zoo's benchmark trains.

Runs in an environment of its own (torch==2.13.0, transformers==5.23.0, safetensors==0.8.0), never in zoo's:
`python benchmarks/torch_baseline.py train --steps 3 --json` measures and ends. Without `--steps` a driver steers it
over the standard streams, so that the steps of two stacks can alternate on one machine: after one JSON line with
`"ready"`, each line `step K` runs K steps and answers one JSON line `{"seconds": ..., "tokens": ...}`; `quit` ends.
Times cover the draw of the ids, forward, loss, backward, optimizer step and the zeroing of gradients. The ids come from
numpy, so that the other stack can draw the same. Needs an otherwise idle machine: with another process on one of two
cores, two OpenMP threads that wait for each other were three times slower than one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers

HIDDEN, LAYERS, HEADS, FFN, VOCAB = 512, 8, 8, 1376, 32000
SEED, LEARNING_RATE, WEIGHT_DECAY = 42, 1e-4, 0.01


def build(sequence: int) -> torch.nn.Module:
    """A random Llama of 58.1 million parameters in float32 with fused (sdpa) attention."""
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=FFN,
        vocab_size=VOCAB,
        max_position_embeddings=sequence,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config).float().train()


def make_step(model: torch.nn.Module, batch: int, sequence: int) -> Callable[[], float]:
    """One training step on fresh random ids (the same sequence of batches in every run); returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(SEED)

    def step() -> float:
        ids = torch.from_numpy(rng.integers(0, VOCAB, (batch, sequence), dtype=np.int64))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def run(step: Callable[[], float], count: int, tokens: int) -> dict[str, float | int]:
    start = time.perf_counter()
    for _ in range(count):
        loss = step()
    return {"seconds": time.perf_counter() - start, "tokens": count * tokens, "loss": loss}


def emit(record: dict[str, float | int | str | bool], as_json: bool) -> None:
    rate = f"{record['tokens'] / record['seconds']:.1f} tokens/s  " if "seconds" in record else ""
    print(json.dumps(record) if as_json else rate + str(record), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["train"])
    parser.add_argument("--steps", type=int, help="run this many steps one by one and end; without it obey stdin")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the first measured one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--json", action="store_true", help="print JSON lines also with --steps (always without it)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build(args.sequence)
    step = make_step(model, args.batch, args.sequence)
    for _ in range(args.warmup):
        step()
    tokens = args.batch * args.sequence
    parameters = sum(parameter.numel() for parameter in model.parameters())
    ready = {
        "ready": True,
        "stack": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "parameters": parameters,
        "threads": args.threads,
    }
    as_json = args.json or args.steps is None
    emit(ready, as_json)
    if args.steps is not None:
        for _ in range(args.steps):
            emit(run(step, 1, tokens), as_json)
        return
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            return
        if len(words) != 2 or words[0] != "step" or not words[1].isdigit() or int(words[1]) < 1:
            raise SystemExit(f"expected `step K` or `quit`, got {line.strip()!r}")
        emit(run(step, int(words[1]), tokens), as_json=True)


if __name__ == "__main__":
    main()
