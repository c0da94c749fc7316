"""Throughput of `zoo serve` at 1, 8 and 32 clients: continuous batching against one answer at a time, alternating.

`python benchmarks/serve_speed.py` starts two servers over one model with random weights, one that writes 32 answers at
a time and one that writes one (`--max_batch 1`), and asks both in turns. In a round each client asks for one answer.
It prints a row for each round and the median of their ratios, and writes `benchmarks/serve_speed.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

HERE = Path(__file__).parent
SIZES = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
         "intermediate_size": 1376}  # fmt: skip
VOCABULARY = 32000


def make_model(folder: Path) -> Path:
    """Write the model of `zoo_train.py` with random weights, and a tokenizer of bytes."""
    from zoo_core import find
    from zoo_core.checkpoint import save_hf, whole_tensors
    from zoo_core.layout import is_norm
    from zoo_core.tokenizers import train_bpe

    (folder / "text.txt").write_text("In the beginning God created the heaven and the earth.\n", encoding="utf-8")
    files = {file.name: file for file in train_bpe([folder / "text.txt"], 257, folder).files}
    found, random = find("facebook/llama-7b"), np.random.default_rng(42)
    config = found.config.replace(**SIZES, max_position_embeddings=512)
    table = found.architecture.table(config)
    weights = {
        name: np.ones(rule.shape, np.float32)
        if is_norm(name)
        else random.standard_normal(rule.shape, np.float32) * 0.02
        for name, rule in table.items()
    }
    tensors = whole_tensors(table, weights, "float32")
    return save_hf(folder / "weights", tensors, table=table, config=config, dtype="float32", files=files)


class Server:
    """A `zoo serve` of its own; it takes its threads by itself."""

    def __init__(self, name: str, model: Path, *words: str) -> None:
        self.name, self.rates = name, dict[int, list[float]]()
        environ = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
        command = [sys.executable, "-m", "zoo_core", "serve", str(model), "--port", "0", "--max_length", "256", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
        for line in self.process.stdout:
            if found := re.search(r"at (http://\S+)/v1", line):
                self.url = found.group(1)
                return
        raise SystemExit(f"{name} ended with status {self.process.wait()}")

    def round(self, clients: int, prompts: list[list[int]], new: int) -> float:
        """Let each client ask once; return new tokens a second."""
        begin = time.perf_counter()
        tokens = asyncio.run(self._ask(prompts[:clients], new))
        rate = tokens / (time.perf_counter() - begin)
        self.rates.setdefault(clients, []).append(rate)
        return rate

    async def _ask(self, prompts: list[list[int]], new: int) -> int:
        async with httpx.AsyncClient(base_url=self.url, timeout=None, trust_env=False) as http:
            bodies = [{"prompt": ids, "max_tokens": new, "temperature": 0, "ignore_eos": True} for ids in prompts]
            answers = await asyncio.gather(*(http.post("/v1/completions", json=body) for body in bodies))
        return sum(answer.raise_for_status().json()["usage"]["completion_tokens"] for answer in answers)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def main() -> None:
    """Alternate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--out", type=Path, default=HERE / "serve_speed.json")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    prompts = random.integers(0, VOCABULARY, (max(options.clients), options.prompt)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        one = Server("one at a time", model, "--max_batch", "1")
        many = Server("continuous", model, "--max_batch", "32")
        try:
            for server in (one, many):
                server.round(1, prompts, 8)
            one.rates.clear()
            many.rates.clear()
            for clients in options.clients:
                for number in range(1, options.rounds + 1):
                    rates = [server.round(clients, prompts, options.new) for server in (one, many)]
                    row = "  ".join(f"{s.name} {r:7.1f} tokens/s" for s, r in zip((one, many), rates, strict=True))
                    print(f"{clients:2d} clients, round {number}: {row}  ratio {rates[1] / rates[0]:.2f}", flush=True)
        finally:
            one.end()
            many.end()
    medians = {
        str(clients): {s.name: round(statistics.median(s.rates[clients]), 1) for s in (one, many)}
        for clients in options.clients
    }
    # Of each round's two, which a machine that other things use slows down alike.
    ratios = {
        str(clients): round(
            statistics.median(b / a for a, b in zip(one.rates[clients], many.rates[clients], strict=True)), 2
        )
        for clients in options.clients
    }
    result = {
        "model": "Llama, hidden 512, 8 layers, 8 heads, FFN 1376, vocab 32000, 58.1 M parameters",
        "setting": f"prompts of {options.prompt} tokens, answers of {options.new}, greedy, fp32, two cores, over HTTP",
        "tokens_per_second": medians,
        "ratio": ratios,
        "rounds": options.rounds,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("\n| clients | one at a time | continuous batching | ratio |\n|---|---|---|---|")
    for clients, found in medians.items():
        print(f"| {clients} | {found['one at a time']} | {found['continuous']} | {ratios[clients]} |")


if __name__ == "__main__":
    main()
