"""Write the parts of READMEs that follow from the code: models, the capability matrix, proved layouts, speed.

`python docs/generate_readme.py` rewrites README.md, README.zh-CN.md and those of the plugins; a test fails where they
differ from what it would write.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_core.cli._text import count_text
from zoo_core.registry import Architecture, registry

sys.path.insert(0, str(Path(__file__).parent))

import generate_matrix  # noqa: E402

ROOT = Path(__file__).parents[1]
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}

_WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "models": "| family | package | named models | parameters | among them |",
        "to": "to",
        "measured": "Training, tokens a second, medians of {rounds} alternating rounds ({setting}; {model}):",
        "speed": "| zoo | {torch} | ratio |",
        "unmeasured": "Not measured yet: `make bench` trains the same model with zoo and with PyTorch + transformers, "
        "alternating, and fills this in.",
        "decoded": "Generation by the same model, tokens a second, medians of {rounds} alternating rounds ({setting}):",
        "decoding": "| | zoo | {torch} | ratio |",
        "kinds": {
            "decode 1": "one text",
            "static 1": "one text, exported (`zoo export`)",
            "decode 8": "eight texts",
            "static 8": "eight texts, exported",
            "prefill 512": "reading a prompt of 512",
        },  # fmt: skip
        "served": "`zoo serve`, the same model, tokens a second, medians of {rounds} rounds ({setting}):",
        "serving": "| clients | continuous batching | one at a time | ratio |",
        "every": "every family",
    },
    "zh": {
        "models": "| 系列 | 软件包 | 命名模型数 | 参数量 | 例如 |",
        "to": "至",
        "measured": "训练速度(每秒 token 数,{rounds} 轮交替测量的中位数;{setting};{model}):",
        "speed": "| zoo | {torch} | 比值 |",
        "unmeasured": "尚未测量:`make bench` 用 zoo 与 PyTorch + transformers 交替训练同一模型,并填写此处。",
        "decoded": "同一模型的生成速度(每秒 token 数,{rounds} 轮交替测量的中位数;{setting}):",
        "decoding": "| | zoo | {torch} | 比值 |",
        "kinds": {
            "decode 1": "一段文本",
            "static 1": "一段文本,导出后(`zoo export`)",
            "decode 8": "八段文本",
            "static 8": "八段文本,导出后",
            "prefill 512": "读入 512 个 token 的提示",
        },  # fmt: skip
        "served": "同一模型的 `zoo serve`(每秒 token 数,{rounds} 轮的中位数;{setting}):",
        "serving": "| 客户端数 | 连续批处理 | 逐个处理 | 比值 |",
        "every": "所有系列",
    },
}


def _header(line: str) -> list[str]:
    return [line, "|---" * (line.count("|") - 1) + "|"]


def _family(architecture: Architecture, to: str) -> str:
    entries = architecture.capabilities.models
    sizes = sorted(architecture.parameter_count(entry.config) for entry in entries)
    span = f"{count_text(sizes[0])} {to} {count_text(sizes[-1])}"
    last = len(entries) - 1
    some = ", ".join(f"`{entries[i].name}`" for i in dict.fromkeys((0, last // 3, 2 * last // 3, last)))
    package = f"[{architecture.distribution}](plugins/{architecture.family}/README.md)"
    return f"| {architecture.family} | {package} | {len(entries)} | {span} | {some} |"


def models(language: str) -> str:
    """One row for each installed family."""
    words = _WORDS[language]
    return "\n".join([*_header(words["models"]), *(_family(a, words["to"]) for a in registry().architectures)])


def layouts(language: str) -> str:
    """The layouts that the equality tests compare, together for the families that share them."""
    cases = runpy.run_path(str(ROOT / "tests" / "parallel" / "parallel_cases.py"))
    families: dict[str, set[str]] = {}
    for model, layout in cases["CASES"]:
        name, _ = cases["MODELS"][model]
        families.setdefault(layout, set()).add(registry().find(name).architecture.family)
    shared: dict[tuple[str, ...], list[str]] = {}
    for layout, found in families.items():
        shared.setdefault(tuple(sorted(found)), []).append(layout)
    every = len(registry().architectures)
    lines = []
    for found, named in sorted(shared.items(), key=lambda pair: -len(pair[0])):
        said = _WORDS[language]["every"] if len(found) == every else ", ".join(found)
        lines.append(f"- {said}: {', '.join(f'`{layout}`' for layout in named)}")
    return "\n".join(lines)


def _measured(name: str) -> Any:
    """What a benchmark wrote; `None` where it has not run."""
    path = ROOT / "benchmarks" / f"{name}_speed.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _training(words: Mapping[str, Any]) -> list[str]:
    found = _measured("train")
    if found is None:
        return [words["unmeasured"]]
    rates = found["tokens_per_second"]
    row = f"| {rates['zoo']:.0f} | {rates['torch']:.0f} | {found['ratio']:.2f} |"
    return [words["measured"].format(**found), "", *_header(words["speed"].format(**found)), row]


def _decoding(words: Mapping[str, Any]) -> list[str]:
    found = _measured("decode")
    if found is None:
        return []
    rows = [
        f"| {said} | {rates['zoo']:.0f} | {rates['torch']:.0f} | {found['ratio'][kind]:.2f} |"
        for kind, said in words["kinds"].items()
        if (rates := found["tokens_per_second"].get(kind))
    ]
    return ["", words["decoded"].format(**found), "", *_header(words["decoding"].format(**found)), *rows]


def _serving(words: Mapping[str, Any]) -> list[str]:
    found = _measured("serve")
    if found is None:
        return []
    rows = [
        f"| {clients} | {rates['continuous']:.0f} | {rates['one at a time']:.0f} | {found['ratio'][clients]:.1f} |"
        for clients, rates in found["tokens_per_second"].items()
    ]
    return ["", words["served"].format(**found), "", *_header(words["serving"]), *rows]


def speed(language: str) -> str:
    """The tables of the last `make bench`, if there was one."""
    words = _WORDS[language]
    return "\n".join([*_training(words), *_decoding(words), *_serving(words)])


def rewritten(language: str) -> str:
    """Return the README of a language with its generated parts made anew."""
    text = READMES[language].read_text(encoding="utf-8")
    made = {"matrix": generate_matrix.matrix, "layouts": layouts, "models": models, "speed": speed}
    for name, make in made.items():
        block = f"<!-- {name} -->\n{make(language)}\n<!-- /{name} -->"
        text, count = re.subn(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
        assert count == 1, f"{READMES[language].name} has {count} places for {name}"
    return text


def main() -> None:
    """Rewrite the files that differ."""
    made = {path: rewritten(language) for language, path in READMES.items()} | generate_matrix.plugins()
    for path, text in made.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
