"""The demo: from text to a model that writes, on this machine, with the commands a user types.

`python docs/demo.py [FOLDER]` (or `make demo`) trains a tokenizer and builds a corpus from the bundled text, pretrains
a small `qwen/qwen-7b` in one process and again as tensor parallel 2 x pipeline parallel 2 in four processes, compares
the losses, resumes from a checkpoint, and samples. It fails when anything differs that must not.
"""

from __future__ import annotations

import csv
import math
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from zoo_core import open_corpus

STEPS, HALF = 200, 100
TOLERANCE = 1e-5
VOCABULARY = 2000
PROMPT = "And the king said unto"

# Rounding differs between one process and four. A larger epsilon than AdamW's 1e-8 keeps it from being amplified in
# parameters whose gradient is next to nothing, so that losses stay equal over all steps and not over the first twenty.
TRAINING = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "max_seq_length": 128,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "learning_rate": 1e-3,
    "min_learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "max_steps": STEPS,
    "eval_steps": HALF,
    "save_steps": HALF,
    "logging_steps": 20,
}


class Failed(Exception):
    """Something that must hold does not."""


def zoo(*words: object) -> None:
    """Show a command and run it."""
    line = ["zoo", *map(str, words)]
    print(f"\n$ {shlex.join(line)}", flush=True)
    status = subprocess.run(line, check=False).returncode
    if status:
        raise Failed(f"that ended with status {status}")


def title(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def pretrain(folder: Path, output: str, *words: object) -> Path:
    """Run `zoo run pretrain` into `folder/output` and return that."""
    flags = [word for name, value in TRAINING.items() for word in (f"--{name}", value)]
    where = ["--input_dir", folder / "corpus", "--tokenizer", folder / "tokenizer", "--output_dir", folder / output]
    log = ["--log_dir", folder / output / "log", "--disable_tqdm"]
    zoo("run", "pretrain", "--model", "qwen/qwen-7b", "--scale", "tiny", *where, *flags, *log, *words)
    return folder / output


def column(output: Path, name: str) -> dict[int, float]:
    """Return step -> value of one column of a run's `loss.csv`."""
    with (output / "loss.csv").open(newline="", encoding="utf-8") as stream:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(stream) if row[name]}


def unigram_entropy(prefix: Path) -> float:
    """Nats a token of the corpus, if tokens are guessed by their frequencies alone."""
    counts = np.bincount(open_corpus(prefix).tokens)
    chances = counts[counts > 0] / counts.sum()
    return float(-(chances * np.log(chances)).sum())


def compare(one: dict[int, float], four: dict[int, float]) -> None:
    """Print two loss columns side by side.

    Raises:
        Failed: steps are missing, or losses differ by more than the tolerance.
    """
    if sorted(one) != sorted(four) or len(one) != STEPS:
        raise Failed(f"{STEPS} steps were asked for; the runs have {len(one)} and {len(four)}")
    print(f"\n{'step':>6}  {'1 process':>14}  {'tp2 x pp2':>14}  {'difference':>12}")
    for step in sorted(one):
        if step == 1 or step % (STEPS // 10) == 0:
            print(f"{step:>6}  {one[step]:>14.9f}  {four[step]:>14.9f}  {four[step] - one[step]:>12.1e}")
    worst = max(one, key=lambda step: abs(one[step] - four[step]))
    difference = abs(one[worst] - four[worst])
    print(f"largest difference of all {STEPS} steps: {difference:.1e}, at step {worst} (allowed: {TOLERANCE:g})")
    if not difference <= TOLERANCE:
        raise Failed("the two runs are not the same training")


def demo(folder: Path) -> None:
    """Do all of it in `folder`.

    Raises:
        Failed: a command failed, or a result is not what it must be.
    """
    title("a tokenizer and a corpus from the bundled public-domain text")
    zoo("tokenizer", "train", "--vocab-size", VOCABULARY, "--output", folder / "tokenizer")
    # The validation part is cut from the end of a corpus: shuffled, it is like the rest.
    words = ["--tokenizer", folder / "tokenizer", "--output", folder / "corpus", "--shuffle-seed", 1]
    zoo("data", "build", *words)
    entropy = unigram_entropy(folder / "corpus")

    title("qwen/qwen-7b at a small scale, on one process")
    single = pretrain(folder, "single")
    title("the same training as tensor parallel 2 x pipeline parallel 2, on four processes")
    parallel = pretrain(folder, "parallel", "--nproc", 4, "--tp", 2, "--pp", 2)
    one = column(single, "loss")
    compare(one, column(parallel, "loss"))

    validation = column(single, "eval_loss")[STEPS]
    print(
        f"\nvalidation loss {validation:.3f} nats a token (perplexity {math.exp(validation):.0f}), after {STEPS} steps;"
    )
    print(f"guessing by frequency alone would give {entropy:.3f} (perplexity {math.exp(entropy):.0f})")
    if not validation < entropy - 0.75:
        raise Failed("the model has learnt nothing beyond the frequencies of tokens")

    title(f"resuming at step {HALF}")
    resumed = pretrain(folder, "resumed", "--resume", single / f"checkpoint-{HALF}")
    again = {step: loss for step, loss in column(resumed, "loss").items() if step > HALF}
    same = sum(again.get(step) == loss for step, loss in one.items() if step > HALF)
    print(
        f"\n{same} of the {STEPS - HALF} losses after step {HALF} are those of the uninterrupted run, to the last bit"
    )
    if same != STEPS - HALF:
        raise Failed("resuming changed the training")

    title("a line of text")
    zoo("sample", parallel / f"checkpoint-{STEPS}", "--prompt", PROMPT, "--max_new_tokens", 48, "--seed", 7)


def closing(folder: Path) -> str:
    """What was written, and what to try next."""
    return f"""
{folder}/
  tokenizer/            tokenizer.json
  corpus.bin, .idx      the ids, in Megatron's format
  single/, parallel/    checkpoint-{HALF}, checkpoint-{STEPS}, loss.csv, a plot of the losses, event files
  resumed/              the second half again

Try next:
  zoo sample {folder}/single --prompt "In the beginning" --temperature 0.5
  zoo run pretrain --model facebook/llama-7b --scale tiny --tokenizer {folder}/tokenizer \\
    --input_dir {folder}/corpus --output_dir llama --max_steps 100
  zoo plan qwen/qwen-7b --world 8 --tp 2 --sharding stage2     is it legal, who holds what?
  zoo models                                                  what else there is"""


def main() -> int:
    """Run the demo; return 0 if everything held."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")
    began = time.monotonic()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "tokenizer").is_dir():
        print(f"{folder} is not empty and no earlier demo: name another folder", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        demo(folder)
    except Failed as failure:
        print(f"\nthe demo failed: {failure}", file=sys.stderr)
        return 1
    print(closing(folder))
    print(f"\nall of it took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
