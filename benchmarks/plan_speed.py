"""Time `zoo plan` for 1,024 devices, from the start of the process to its end.

    python benchmarks/plan_speed.py [--rounds 5]

Processor time of the best of the rounds is what the planner takes; the clock beside it is what a user waits for.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

MODELS = ("deepseek-ai/DeepSeek-V3", "facebook/llama-65b", "meta-llama/Llama-2-70b", "qwen/qwen-7b")
ASKED = "--world 1024 --nnodes 128 --memory 80G --bf16 --fp16_opt_level O2 --use_flash_attention --max_seq_length 4096"


def once(words: list[str]) -> tuple[float, float, list[dict[str, object]]]:
    """Return processor seconds, seconds, and the plans that were found."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "zoo_core", *words], capture_output=True, text=True, check=True)
    waited, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, waited, json.loads(done.stdout)["plans"]


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"zoo plan MODEL {ASKED}\n| {'model':24} | {'processor s':>11} | {'clock s':>7} | plans |\n|---|---|---|---|")
    for name in MODELS:
        rounds = [once(["plan", name, *ASKED.split(), "--json"]) for _ in range(options.rounds)]
        spent, waited = min(r[0] for r in rounds), min(r[1] for r in rounds)
        print(f"| {name:24} | {spent:11.2f} | {waited:7.2f} | {len(rounds[0][2]):5} |", flush=True)


if __name__ == "__main__":
    main()
