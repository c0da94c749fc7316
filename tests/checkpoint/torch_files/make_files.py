"""Write the small files that tests/checkpoint/test_foreign.py reads: `python make_files.py`, with torch 2.13."""

from __future__ import annotations

from pathlib import Path

import torch

HERE = Path(__file__).parent


def main() -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "whole": base,
        "turned": base.t(),
        "rows": base[1:3],
        "strided": base[:, ::2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "bfloat16": torch.tensor([1.0, -2.0, 0.5], dtype=torch.bfloat16),
        "float16": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float16),
        "float8": torch.tensor([1.0, -2.0, 0.5]).to(torch.float8_e4m3fn),
        "int64": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "long": torch.arange(1000, dtype=torch.float32),
    }
    torch.save(tensors, HERE / "archive.bin")
    torch.save(tensors, HERE / "plain.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"weight": base}, "epoch": 3, "betas": (0.9, 0.99)}, HERE / "nested.pt")
    torch.save(torch.nn.Linear(2, 3), HERE / "module.pt")


if __name__ == "__main__":
    main()
