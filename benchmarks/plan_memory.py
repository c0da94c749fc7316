"""Compare the peak memory that `zoo plan` predicts for runs on this CPU with what `zoo run` reports.

python benchmarks/plan_memory.py [--only PART-OF-A-NAME]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from zoo_core.data.indexed import bin_path, idx_path, index_bytes

SIZES = "--hidden_size 384 --num_hidden_layers 6 --num_attention_heads 8 --max_seq_length 256"
LLAMA = f"--model facebook/llama-7b {SIZES} --num_key_value_heads 8 --intermediate_size 1024 --vocab_size 32000"
GPT = f"--model gpt3-345M {SIZES} --intermediate_size 1536 --vocab_size 50000"
BLOOM = f"--model bigscience/bloom-560m {SIZES} --intermediate_size 1536 --vocab_size 60000"
CASES = {
    "llama, tiny": "--model facebook/llama-7b --scale tiny --max_seq_length 64 --micro_batch_size 2",
    "llama, micro batch 2": f"{LLAMA} --micro_batch_size 2",
    "llama, micro batch 2 x 4": f"{LLAMA} --micro_batch_size 2 --accumulate_steps 4",
    "llama, micro batch 8": f"{LLAMA} --micro_batch_size 8",
    "llama, micro batch 8, recomputed": f"{LLAMA} --micro_batch_size 8 --recompute --recompute_granularity full",
    "gpt3 with dropout, micro batch 2": f"{GPT} --micro_batch_size 2",
    "gpt3 with dropout, micro batch 2 x 3": f"{GPT} --micro_batch_size 2 --accumulate_steps 3",
    "bloom, micro batch 2": f"{BLOOM} --micro_batch_size 2",
}


def write_corpus(prefix: Path) -> None:
    """A corpus of random tokens, that all of these models know."""
    lengths = np.full(3000, 40)
    tokens = np.random.default_rng(0).integers(0, 300, int(lengths.sum()))
    bin_path(prefix).write_bytes(tokens.astype("<u2").tobytes())
    idx_path(prefix).write_bytes(index_bytes(lengths, np.arange(len(lengths) + 1), "<u2"))


def zoo(*words: str, folder: Path) -> str:
    """Run the command; return what it printed."""
    command = [sys.executable, "-m", "zoo_core", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    return done.stdout + done.stderr


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(f"| {'run':37} | {'measured MB':>11} | {'predicted MB':>12} | {'':7} |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "ids")
        for case, text in CASES.items():
            if options.only not in case:
                continue
            words = [*text.split(), "--device", "cpu"]
            found = json.loads(zoo("plan", *words, "--tp", "1", "--json", folder=folder))["plans"][0]
            said = zoo(
                "run", "pretrain", *words, "--input_dir", str(folder / "ids"), "--split", "80,20,0", "--max_steps", "3",
                "--logging_steps", "1", "--save_strategy", "no", "--output_dir", str(folder / "out"), folder=folder,
            )  # fmt: skip
            measured = max(int(number) for number in re.findall(r"peak memory of a process: (\d+) MB", said))
            predicted = found["prediction"]["memory_mb"]
            print(f"| {case:37} | {measured:11} | {predicted:12.0f} | {predicted / measured - 1:+7.1%} |", flush=True)


if __name__ == "__main__":
    main()
