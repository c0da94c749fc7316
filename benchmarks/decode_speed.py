"""Generation speed of zoo against PyTorch + transformers: one model, the same weights, alternating in one run.

`python benchmarks/decode_speed.py --torch-python PATH` prints a row for each round, the ratios of the medians, and how
near generation is to what the memory allows, and writes `benchmarks/decode_speed.json`. Each row of a batch has a
prompt of 32 tokens and is continued greedily by 64, against a cache; both stacks' tokens are compared. `decode` is
zoo's model as it is, `static` the same exported (`zoo export`), each against the model of the other stack. A prefill
reads one prompt of 512 tokens. Needs an otherwise idle machine.

A model as it is makes a program for numpy once it has read so many tokens of single rows, so the first round, which
only warms up, has made it before anything is timed. `eager` is the same model without. What making the program costs,
and after how many tokens that has paid, is printed too.

The bound: each generated token reads every weight but the embedding once, so there cannot be more tokens a second than
so many bytes fit into the machine's copy bandwidth (bytes read and written, all cores, arrays beyond the caches).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from train_speed import Stack

HERE = Path(__file__).parent
_PAUSE = 0.5
"""Seconds after which the threads of the other stack have ceased to wait for work by spinning."""

ASKED = ("decode 1", "eager 1", "static 1", "decode 8", "static 8", "prefill 512")


class Decoder(Stack):
    """A stack that answers `decode B` and `prefill S`."""

    def ask(self, what: str) -> tuple[float, list[list[int]]]:
        """Return tokens a second, and the tokens."""
        time.sleep(_PAUSE)
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["tokens"] / answer["seconds"], answer["ids"]


def copy_bandwidth(threads: int, megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes read and written a second by the best of some copies, one part of the array a thread."""
    source = np.ones(megabytes << 18, np.float32)
    target = np.zeros_like(source)
    parts = np.array_split(np.arange(len(source)), threads)
    slices = [slice(part[0], part[-1] + 1) for part in parts]

    def once() -> float:
        workers = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in slices]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - start

    return 2 * source.nbytes / min(once() for _ in range(repeats))


def main() -> None:
    """Alternate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="the interpreter that has torch and transformers")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "decode_speed.json")
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        command = [options.torch_python, str(HERE / "torch_decode.py"), folder, "--threads", str(threads)]
        torch = Decoder("torch", command)
        zoo = Decoder("zoo", [sys.executable, str(HERE / "zoo_decode.py"), folder])
    print(f"{torch.ready['stack']}: {torch.ready['parameters']:,} parameters; zoo: {zoo.ready['parameters']:,}")
    rates: dict[str, dict[str, list[float]]] = {what: {"torch": [], "zoo": []} for what in ASKED}
    same = dict.fromkeys(ASKED, True)
    for number in range(options.rounds + 1):  # the first one warms up
        for what in ASKED:
            (torch_rate, torch_ids), (zoo_rate, zoo_ids) = torch.ask(what), zoo.ask(what)
            same[what] &= torch_ids == zoo_ids
            if number:
                rates[what]["torch"].append(torch_rate)
                rates[what]["zoo"].append(zoo_rate)
                row = (
                    f"torch {torch_rate:7.1f} tokens/s  zoo {zoo_rate:7.1f} tokens/s  ratio {zoo_rate / torch_rate:.2f}"
                )
                print(f"round {number}: {what:12} {row}", flush=True)
    torch.end()
    zoo.end()
    bandwidth = copy_bandwidth(threads)
    medians = {what: {name: statistics.median(found) for name, found in by.items()} for what, by in rates.items()}
    best = {what: {name: max(found) for name, found in by.items()} for what, by in rates.items()}
    bound = bandwidth / zoo.ready["bytes_a_token"]
    cost, slow, quick = zoo.ready["seconds_to_make"], *(medians[way]["zoo"] for way in ("eager 1", "decode 1"))
    saved = max(1 / slow - 1 / quick, 1e-9)
    result = {
        "model": "Llama, hidden 512, 8 layers, 8 heads, FFN 1376, vocab 32000, 58.1 M parameters",
        "setting": f"prompt 32, new 64, cache, greedy, fp32, {threads} cores; prefill of one prompt",
        "torch": torch.ready["stack"],
        "tokens_per_second": {w: {name: round(rate, 1) for name, rate in by.items()} for w, by in medians.items()},
        "best_tokens_per_second": {w: {name: round(rate, 1) for name, rate in by.items()} for w, by in best.items()},
        "ratio": {what: round(by["zoo"] / by["torch"], 3) for what, by in medians.items()},
        "same_tokens": same,
        "program": {
            "made_after_tokens": zoo.ready["before"],
            "milliseconds_to_make": round(1000 * cost),
            "milliseconds_saved_a_token": round(1000 * saved, 2),
            "paid_after_tokens": round(cost / saved),
        },
        "bytes_a_token": zoo.ready["bytes_a_token"],
        "copy_bytes_a_second": round(bandwidth),
        "share_of_bandwidth": {way: round(medians[f"{way} 1"]["zoo"] / bound, 3) for way in ("decode", "static")},
        "rounds": options.rounds,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for what in ASKED:
        by = best[what]
        print(
            f"{what}: zoo makes {result['ratio'][what]:.2f} times the tokens of {torch.ready['stack']} (medians; "
            f"best rounds {by['zoo'] / by['torch']:.2f}); " + ("same tokens" if same[what] else "other tokens")
        )
    program, shares = result["program"], result["share_of_bandwidth"]
    print(
        f"program of a window, made after {program['made_after_tokens']} tokens: it takes "
        f"{program['milliseconds_to_make']} ms and saves {program['milliseconds_saved_a_token']} ms a token, so it has "
        f"paid after {program['paid_after_tokens']} more"
    )
    print(
        f"memory: {zoo.ready['bytes_a_token'] / 1e6:.0f} MB of weights a token, copies at {bandwidth / 1e9:.1f} GB/s, "
        f"so at most {bound:.0f} tokens/s in batch 1; zoo reaches {shares['decode']:.0%}, "
        f"exported {shares['static']:.0%}"
    )


if __name__ == "__main__":
    main()
