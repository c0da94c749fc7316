"""What fine-tuning gains on real text: answer perplexity of a base model, and of the same after SFT and after LoRA.

`python benchmarks/finetune.py` pretrains `make demo`'s model (or takes `--base CHECKPOINT --tokenizer FOLDER`), makes
pairs of question and answer from the bundled public-domain texts, and fine-tunes with the commands a user types. It
prints the perplexity of held-out answers, whose pairs no fine-tuning has seen; the text itself was part of
pretraining, for all three alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

import demo  # noqa: E402

EVERY = 8
"""One pair of so many is held out."""


def documents(name: str) -> list[list[str]]:
    """The poems or chapters of a bundled text, each as its lines."""
    text = (resources.files("zoo_core.data.corpus") / name).read_text(encoding="utf-8")
    return [block.split("\n") for block in text.strip().split("\n\n")]


def pairs() -> list[dict[str, str]]:
    """Title and poet to the poem, and a verse to the verse after it."""
    found = []
    for name in ("tang300.txt", "song100.txt"):
        found += [{"src": "\n".join(lines[:2]), "tgt": "\n".join(lines[2:])} for lines in documents(name)]
    for _, *verses in documents("kjv-poetry.txt"):
        found += [{"src": a, "tgt": b} for a, b in zip(verses[::2], verses[1::2], strict=False)]
    return found


def write_pairs(folder: Path) -> tuple[int, int]:
    """Write train.json and dev.json; returns how many lines each has."""
    folder.mkdir(parents=True)
    every = pairs()
    parts = {
        "train": [pair for i, pair in enumerate(every) if i % EVERY],
        "dev": every[::EVERY],
    }
    for name, chosen in parts.items():
        lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in chosen)
        (folder / f"{name}.json").write_text(lines, encoding="utf-8")
    return len(parts["train"]), len(parts["dev"])


def answers(base: Path, folder: Path, task: str, *words: object) -> dict[str, float]:
    """Run a task on the pairs and return what its evaluation says."""
    output = folder / ("-".join([task, *(["base"] if "--do_train" in words else [])]))
    where = ["--model", base, "--dataset_name_or_path", folder / "pairs", "--output_dir", output]
    sizes = ["--max_length", 128, "--src_length", 64, "--per_device_train_batch_size", 16, "--chat_template", "none"]
    always = ["--do_eval", "true", "--disable_tqdm", "true", "--logging_steps", 50, "--save_strategy", "no"]
    demo.zoo("run", task, *where, *sizes, *always, *words)
    return json.loads((output / "eval_results.json").read_text(encoding="utf-8"))


def main() -> None:
    """Pretrain, fine-tune twice, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("finetune-output"), help="replaced")
    parser.add_argument("--base", type=Path, help="a checkpoint to start from, instead of pretraining one")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    base = options.base
    if base is None:
        demo.zoo("tokenizer", "train", "--vocab-size", demo.VOCABULARY, "--output", folder / "tokenizer")
        words = ["--tokenizer", folder / "tokenizer", "--output", folder / "corpus", "--shuffle-seed", 1]
        demo.zoo("data", "build", *words)
        base = demo.pretrain(folder, "base") / f"checkpoint-{demo.STEPS}"
    train, dev = write_pairs(folder / "pairs")
    epochs = ["--num_train_epochs", options.epochs]
    found = {
        "base": answers(base, folder, "sft", "--do_train", "false"),
        "SFT": answers(base, folder, "sft", *epochs, "--learning_rate", 5e-4),
        "LoRA, rank 8": answers(base, folder, "lora", *epochs, "--learning_rate", 5e-3, "--lora_rank", 8),
    }
    print(f"\n{train} pairs to learn from, {dev} held out; {options.epochs} epochs")
    print(f"{'':<14}{'answer ppl':>12}{'accuracy':>10}")
    for name, said in found.items():
        print(f"{name:<14}{said['eval_ppl']:>12.1f}{said['eval_accuracy']:>10.3f}")


if __name__ == "__main__":
    main()
