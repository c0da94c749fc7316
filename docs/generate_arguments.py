"""Write docs/arguments.md from the argument dataclasses: `python docs/generate_arguments.py`."""

from __future__ import annotations

from pathlib import Path

from zoo_core.arguments import describe

if __name__ == "__main__":
    Path(__file__).with_name("arguments.md").write_text(describe(), encoding="utf-8")
