"""Make rope.json beside this file: rotary frequencies of Hugging Face transformers for every scaling.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0. Run it as `python make_rope.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

POSITIONS = [0, 1, 7, 1000, 8191, 131071]
BASE = {"theta": 10000.0, "dim": 64, "max": 2048, "seq_len": 0}
CASES = {
    "plain": {},
    "plain_llama3_theta": {"theta": 500000.0, "dim": 128, "max": 8192},
    "odd_width": {"dim": 10, "max": 64},
    "linear": {"scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic_short": {"scaling": {"rope_type": "dynamic", "factor": 2.0}, "seq_len": 100},
    "dynamic_long": {"scaling": {"rope_type": "dynamic", "factor": 2.0}, "seq_len": 5000},
    "llama3": {
        "theta": 500000.0,
        "dim": 128,
        "max": 131072,
        "scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "yarn": {
        "dim": 128,
        "max": 131072,
        "theta": 1000000.0,
        "scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "yarn_deepseek": {
        "max": 163840,
        "scaling": {
            "rope_type": "yarn",
            "factor": 40.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
            "original_max_position_embeddings": 4096,
        },
    },
}


def main() -> None:
    found = {}
    for name, changes in CASES.items():
        case = {**BASE, **changes}
        scaling = case.get("scaling")
        config = LlamaConfig(
            hidden_size=case["dim"],
            num_attention_heads=1,
            head_dim=case["dim"],
            max_position_embeddings=case["max"],
            rope_parameters={"rope_theta": case["theta"], **(scaling or {"rope_type": "default"})},
        )
        if scaling is None:
            exponent = torch.arange(0, case["dim"], 2, dtype=torch.int64).to(dtype=torch.float) / case["dim"]
            inverse, magnitude = 1.0 / (case["theta"] ** exponent), 1.0
        else:
            make = ROPE_INIT_FUNCTIONS[scaling["rope_type"]]
            inverse, magnitude = make(config, "cpu", seq_len=case["seq_len"] or None)
        angle = torch.tensor(POSITIONS).float()[:, None] * inverse[None]
        found[name] = {
            **case,
            "inverse": inverse.tolist(),
            "cos": (angle.cos() * magnitude).tolist(),
            "sin": (angle.sin() * magnitude).tolist(),
        }
    text = json.dumps({"positions": POSITIONS, "cases": found}, separators=(",", ":"))
    (Path(__file__).parent / "rope.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
