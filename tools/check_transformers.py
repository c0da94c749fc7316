"""Hold folders that zoo wrote against transformers: the same weights must give the same logits.

`python tools/check_transformers.py --torch-python PATH` trains each of six small models for a few steps from the
command line, converts the checkpoint with `zoo convert --to hf`, computes the logits of some ids with `zoo logits` from
the checkpoint and with transformers from the folder, and prints the largest difference. It exits with 1 when one is
above 1e-5, or when transformers misses a tensor or starts one afresh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

MODELS = (
    "meta-llama/Llama-2-7b",
    "Qwen/Qwen2-0.5B",
    "openai-community/gpt2",
    "bigscience/bloom-560m",
    "facebook/opt-125m",
    "deepseek-ai/DeepSeek-V3",
)
TOLERANCE = 1e-5
IDS = (2, 24)

_THEIRS = """
import json, sys
import numpy, torch, transformers
torch.set_num_threads(1)
model, info = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, output_loading_info=True, attn_implementation="eager")
model.eval()
with torch.no_grad():
    logits = model(torch.tensor(numpy.load(sys.argv[2]))).logits
numpy.save(sys.argv[3], logits.numpy())
# zoo writes the layer that predicts one token more, which transformers does not have
extra = [k for k in info["unexpected_keys"] if f"layers.{model.config.num_hidden_layers}." not in k]
lists = {"missing": sorted(info["missing_keys"]), "mismatched": [str(k) for k in info["mismatched_keys"]],
         "unexpected": sorted(extra)}
print(json.dumps(lists | {"version": transformers.__version__, "class": type(model).__name__}))
"""


def zoo(*words: str) -> None:
    """Run a zoo command, quietly unless it fails."""
    command = [sys.executable, "-m", "zoo_core", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def compare(model: str, corpus: Path, torch_python: str, folder: Path) -> dict[str, Any]:
    """Train, convert, and compare the logits of one model."""
    out, hf, ids_file = folder / "out", folder / "hf", folder / "ids.npy"
    zoo(
        "run", "pretrain", "--model", model, "--scale", "tiny", "--device", "cpu", "--input_dir", str(corpus),
        "--output_dir", str(out), "--max_steps", "5", "--learning_rate", "1e-2", "--max_seq_length", "32",
        "--per_device_train_batch_size", "2", "--split", "90,10,0", "--report_to", "none",
    )  # fmt: skip
    zoo("convert", str(out), str(hf), "--to", "hf")
    vocabulary = json.loads((hf / "config.json").read_text())["vocab_size"]
    np.save(ids_file, np.random.RandomState(0).randint(5, vocabulary, size=IDS))
    zoo("logits", str(out), "--ids", str(ids_file), "--out", str(folder / "ours.npy"), "--device", "cpu")
    command = [torch_python, "-c", _THEIRS, str(hf), str(ids_file), str(folder / "theirs.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"transformers, {model}\n{done.stderr[-3000:]}")
    ours, theirs = np.load(folder / "ours.npy"), np.load(folder / "theirs.npy")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    return facts | {"difference": float(np.abs(ours - theirs).max()), "largest": float(np.abs(theirs).max())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", required=True, help="Python with torch and transformers")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = False
    with tempfile.TemporaryDirectory(prefix="zoo-transformers-") as name:
        root = Path(name)
        zoo("tokenizer", "train", "--vocab-size", "400", "--output", str(root / "tokenizer"))
        zoo("data", "build", "--tokenizer", str(root / "tokenizer"), "--output", str(root / "corpus"))
        for model in MODELS:
            folder = root / model.replace("/", "-")
            folder.mkdir()
            found = compare(model, root / "corpus", arguments.torch_python, folder)
            wrong = {k: found[k] for k in ("missing", "mismatched", "unexpected") if found[k]}
            good = found["difference"] <= TOLERANCE and not wrong
            failed = failed or not good
            print(
                f"{model:<26}{found['class']:<24}transformers {found['version']}  "
                f"largest difference {found['difference']:.2e} of {found['largest']:.2f}"
                f"  {'ok' if good else f'DIFFERS {wrong}'}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
