"""The capability matrix in documents: tables of all families, and a table in each plugin's README.

They print the state at recording time, `as_recorded`: an edit of the engine makes evidence stale, which `zoo matrix`
shows, and must not make documents differ that nobody wrote anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from zoo_core.matrix import family_markdown, markdown, standings
from zoo_core.registry import Architecture, registry

ROOT = Path(__file__).parents[1]

CHINESE = {
    "a recorded run": "测试记录",
    "a GPU": "GPU",
    "a GPU; not with attention dropout": "GPU;不能与注意力 dropout 同用",
    "a GPU whose kernels take values narrower than keys (Hopper)": "GPU,且其核函数允许 value 窄于 key(Hopper)",
    "its blocks have no experts": "其层中没有专家",
    "its kernels take no bias, and ALiBi is one": "其核函数不接受偏置,而 ALiBi 正是偏置",
    "its kernels have no prompt that is read both ways": "其核函数不支持双向阅读的提示",
}
"""What plugins and the core say, in Chinese."""


def matrix(language: str) -> str:
    """Return the tables of every installed family."""
    found = {architecture: standings(architecture, as_recorded=True) for architecture in registry().architectures}
    return markdown(found, CHINESE if language == "zh" else None)


def plugin_readme(architecture: Architecture) -> Path:
    """Return where a family's own README is."""
    return ROOT / "plugins" / architecture.family / "README.md"


def plugin_text(architecture: Architecture, text: str | None = None) -> str:
    """Return a plugin's README, or `text` instead of what it holds, with its table made anew."""
    path = plugin_readme(architecture)
    if text is None:
        text = path.read_text(encoding="utf-8")
    block = f"<!-- matrix -->\n{family_markdown(standings(architecture, as_recorded=True))}\n<!-- /matrix -->"
    made, count = re.subn("<!-- matrix -->.*?<!-- /matrix -->", lambda _: block, text, flags=re.DOTALL)
    assert count == 1, f"{path} has {count} places for the matrix"
    return made


def plugins() -> dict[Path, str]:
    """Return what each plugin's README should hold."""
    return {plugin_readme(a): plugin_text(a) for a in registry().architectures if plugin_readme(a).is_file()}
