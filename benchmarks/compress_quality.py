"""What compression costs in perplexity, on the demo's model and text that it was neither trained nor calibrated on.

    python docs/demo.py demo-output && python benchmarks/compress_quality.py demo-output

Every recipe is calibrated on the same samples of the demo's training part, and measured on its validation part, which
`zoo run pretrain` cut from the end of the corpus. Every compressed model is then read back from its folder and measured
again, as a user would run it. The bars of the issue are checked: GPTQ with 4 bits within 5 % of float32 and better than
rounding to nearest with the same bits and groups, int8 within 0.5 %.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from zoo_core.checkpoint import latest_checkpoint
from zoo_core.cli._weights import tokenizer_files
from zoo_core.data import open_corpus
from zoo_core.data.splits import split_bounds
from zoo_core.generate import load_model
from zoo_core.quantization import QuantSpec
from zoo_core.quantize.calibration import Texts
from zoo_core.quantize.compress import Job, compress
from zoo_core.quantize.recipe import Recipe
from zoo_core.registry import find
from zoo_ops.loss import IGNORE

SPLIT = "949,50,1"
SAMPLES, LENGTH = 128, 128

RECIPES = {
    "int8, weights only": Recipe(QuantSpec("weight_only", 8)),
    "int8, GPTQ": Recipe(QuantSpec("gptq", 8)),
    "w8a8": Recipe(QuantSpec("w8a8")),
    "w8a8, smoothed": Recipe(QuantSpec("w8a8"), alpha=0.5),
    "w8a8, all smoothed": Recipe(QuantSpec("w8a8", smooth=True), alpha=0.5),
    "w8a8 static": Recipe(QuantSpec("w8a8", activations="static")),
    "w8a8 static, smoothed": Recipe(QuantSpec("w8a8", activations="static"), alpha=0.5),
    **{
        f"{kind} {bits} bits{f', groups of {group}' if group > 0 else ''}{', act order' if order else ''}": Recipe(
            QuantSpec("gptq" if kind == "GPTQ" else "weight_only", bits, group, act_order=order)
        )
        for bits in (4, 3)
        for group in (-1, 64)
        for kind, order in (("nearest", False), ("GPTQ", False), ("GPTQ", True))
    },
}


def demo_texts(prefix: Path) -> Texts:
    """Samples of the training part of the demo's corpus, and all of its validation part."""
    corpus = open_corpus(prefix)
    bounds = split_bounds(SPLIT, corpus.num_documents)
    first, last = (int(corpus.starts[corpus.marks[bounds[n]]]) for n in (1, 2))
    trained = np.asarray(corpus.tokens[: first // LENGTH * LENGTH], np.int64).reshape(-1, LENGTH)
    held = np.asarray(corpus.tokens[first : first + (last - first) // LENGTH * LENGTH], np.int64).reshape(-1, LENGTH)
    chosen = np.sort(np.random.default_rng(0).choice(len(trained), SAMPLES, replace=False))
    return Texts(trained[chosen], held, f"{SAMPLES} samples of {LENGTH} tokens")


def perplexity(folder: Path, ids_NS: np.ndarray) -> float:
    """Of a folder with a model, as a user loads it."""
    engine, loss, tokens = load_model(folder).engine, 0.0, 0
    labels_NS = np.concatenate([ids_NS[:, 1:], np.full_like(ids_NS[:, :1], IGNORE)], axis=1)
    for start in range(0, len(ids_NS), 16):
        rows = slice(start, start + 16)
        sums = engine.evaluate([{"input_ids": ids_NS[rows], "labels": labels_NS[rows]}])
        loss, tokens = loss + sums.loss, tokens + sums.tokens
    return math.exp(loss / tokens)


def main() -> int:
    """Measure all recipes; return 0 if the bars hold."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")
    source = latest_checkpoint(demo / "single")
    assert source is not None, f"no checkpoint in {demo}/single: run docs/demo.py first"
    found, texts = find(str(source)), demo_texts(demo / "corpus")
    plain = perplexity(source, texts.held)
    print(f"{source}: perplexity {plain:.4f} on {texts.held[:, 1:].size:,} tokens of the validation part\n")
    print(f"{'recipe':<38}{'perplexity':>12}{'change':>10}{'read back':>12}{'MB':>8}{'smaller':>9}{'seconds':>9}")
    changes, rows = {}, []
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as place:
            begin = time.perf_counter()
            report = compress(Job(found, source, Path(place) / "model", tokenizer_files(source)), texts, recipe)
            seconds = time.perf_counter() - begin
            again = perplexity(Path(place) / "model", texts.held)
        changes[name] = again / plain - 1
        smaller = report.bytes_before / report.bytes_after
        print(f"{name:<38}{report.ppl_after:>12.4f}{changes[name]:>10.3%}{again:>12.4f}"
              f"{report.bytes_after / 1e6:>8.3f}{smaller:>9.2f}{seconds:>9.1f}", flush=True)  # fmt: skip
        rows.append({"recipe": name, "ppl": report.ppl_after, "read_back": again, "change": changes[name],
                     "bytes": report.bytes_after, "smaller": smaller, "seconds": seconds})  # fmt: skip
    broken = bars(changes)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps({"plain": plain, "recipes": rows}, indent=1) + "\n")
    print("\n" + ("\n".join(broken) if broken else "all bars hold"))
    return 1 if broken else 0


def bars(changes: dict[str, float]) -> list[str]:
    """What does not hold of what the issue asks for."""
    broken = [f"{name} costs more than 0.5 %" for name, change in changes.items() if "8" in name and change > 0.005]
    for group in ("", ", groups of 64"):
        for bits in (3, 4):
            for order in ("", ", act order"):
                name, nearest = f"GPTQ {bits} bits{group}{order}", f"nearest {bits} bits{group}"
                if bits == 4 and changes[name] > 0.05:
                    broken.append(f"{name} costs more than 5 %")
                if changes[name] >= changes[nearest]:
                    broken.append(f"{name} is no better than {nearest}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
