"""Training speed of zoo against PyTorch + transformers: one model, one machine, steps alternating in one run.

`python benchmarks/train_speed.py --torch-python PATH` prints a row for each round and the ratio of the medians, and
writes `benchmarks/train_speed.json`, from which the README's table is made. The other stack lives in an environment of
its own, which `make bench` builds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Stack:
    """One stack in a process of its own, steered over its standard streams."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self.rates = name, []
        # each stack chooses its own environment: zoo sets what Paddle needs, PyTorch gets its threads by argument
        environ = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
        )
        self.ready = self._answer()

    def _answer(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")

    def steps(self, count: int) -> dict[str, Any]:
        self.process.stdin.write(f"step {count}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.rates.append(answer["tokens"] / answer["seconds"])
        return answer

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


def main() -> None:
    """Alternate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", required=True, help="the interpreter that has torch and transformers")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--out", type=Path, default=HERE / "train_speed.json")
    options = parser.parse_args()
    threads = str(os.cpu_count() or 1)
    torch = Stack("torch", [options.torch_python, str(HERE / "torch_baseline.py"), "train", "--threads", threads])
    zoo = Stack("zoo", [sys.executable, str(HERE / "zoo_train.py")])
    print(f"{torch.ready['stack']}: {torch.ready['parameters']:,} parameters; zoo: {zoo.ready['parameters']:,}")
    for number in range(1, options.rounds + 1):
        losses = [stack.steps(options.steps)["loss"] for stack in (torch, zoo)]
        row = "  ".join(
            f"{s.name} {s.rates[-1]:7.1f} tokens/s (loss {x:.4f})" for s, x in zip((torch, zoo), losses, strict=True)
        )
        print(f"round {number}: {row}  ratio {zoo.rates[-1] / torch.rates[-1]:.2f}", flush=True)
    torch.end()
    zoo.end()
    medians = {stack.name: statistics.median(stack.rates) for stack in (torch, zoo)}
    result = {
        "model": "Llama, hidden 512, 8 layers, 8 heads, FFN 1376, vocab 32000, 58.1 M parameters",
        "setting": "sequence 512, batch 2, fp32, AdamW, two cores",
        "torch": torch.ready["stack"],
        "tokens_per_second": {name: round(rate, 1) for name, rate in medians.items()},
        "ratio": round(medians["zoo"] / medians["torch"], 3),
        "rounds": options.rounds,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"zoo trains at {result['ratio']:.2f} times the speed of {torch.ready['stack']} (medians)")


if __name__ == "__main__":
    main()
