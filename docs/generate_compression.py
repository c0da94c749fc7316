"""The table of what compression costs, as `benchmarks/compress_quality.py` measured it, by the flags of each recipe."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["blocks"]

_FILE = Path(__file__).parents[1] / "benchmarks" / "compress_quality.json"

_HEADERS = {
    "en": "| `zoo compress` | perplexity | weights |",
    "zh": "| `zoo compress` | 困惑度 | 权重 |",
}
_SMALLER = {"en": "{:.1f} times smaller", "zh": "缩小为 1/{:.1f}"}

_FLAGS = {
    "int8, weights only": "ptq",
    "int8, GPTQ": "gptq --bits 8 --group_size -1",
    "w8a8": "ptq --quant_type a8w8 --no-smooth",
    "w8a8, smoothed": "ptq --quant_type a8w8",
    "w8a8, all smoothed": "ptq --quant_type a8w8 --smooth_all_linears",
    "w8a8 static": "ptq --quant_type a8w8 --activations static --no-smooth",
    "w8a8 static, smoothed": "ptq --quant_type a8w8 --activations static",
}


def _flags(recipe: str) -> str:
    """The flags of a recipe of the benchmark, such as "GPTQ 4 bits, groups of 64, act order"."""
    if recipe in _FLAGS:
        return _FLAGS[recipe]
    kind, bits, *_ = recipe.split()
    group = "--group_size 64" if "groups of 64" in recipe else "" if kind == "nearest" else "--group_size -1"
    order = "--act_order" if "act order" in recipe else ""
    method = "ptq" if kind == "nearest" else "gptq"
    return " ".join(filter(None, (method, f"--bits {bits}", group, order)))


def blocks(language: str) -> dict[str, str]:
    """Return the table by its name."""
    found = json.loads(_FILE.read_text(encoding="utf-8"))
    rows = [
        f"| `{_flags(row['recipe'])}` | {row['change']:+.3%} | {_SMALLER[language].format(row['smaller'])} |"
        for row in found["recipes"]
    ]
    return {"compression": "\n".join([_HEADERS[language], "|---|---|---|", *rows])}
