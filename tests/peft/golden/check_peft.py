"""PEFT loads zoo's adapters, and gives zoo's logits.

    /path/to/oracle/python tests/peft/golden/check_peft.py BASE ADAPTER IDS.npy LOGITS.npy

Needs what `make_golden.py` needs. BASE is a Hugging Face folder, ADAPTER the `adapter` folder of a run, IDS and LOGITS
what `zoo logits BASE --lora_path ADAPTER --ids IDS.npy --out LOGITS.npy` was given and wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import PeftModel

TOLERANCE = 1e-5


def main(base: str, adapter: str, ids: str, logits: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    ours, given = np.load(logits), torch.tensor(np.load(ids))
    with torch.no_grad():
        plain = model(input_ids=given).logits.numpy()
        theirs = PeftModel.from_pretrained(model, adapter)(input_ids=given).logits.numpy()
    difference, effect = np.abs(ours - theirs).max(), np.abs(plain - theirs).max()
    print(f"{Path(adapter).name}: PEFT's logits differ by {difference:.2e}; the adapter changes them by {effect:.2e}")
    if not (difference <= TOLERANCE * max(1.0, np.abs(theirs).max()) < effect):
        raise SystemExit("they are not the same")


if __name__ == "__main__":
    main(*sys.argv[1:])
