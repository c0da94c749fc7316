"""Write every document that follows from the code: `python docs/generate.py`; a test fails where one differs.

A page is written whole (the arguments reference), or has parts between `<!-- name -->` and `<!-- /name -->`, or shows
what commands print. The generated parts of READMEs are written too, by `generate_readme.py`.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import generate_arguments
import generate_compression
import generate_errors
import generate_guide
import generate_hooks
import generate_matrix
from generate_outputs import with_outputs

__all__ = ["LANGUAGES", "documents"]

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")
PARTS = (generate_hooks, generate_errors, generate_guide, generate_compression)


def _page(text: str, blocks: dict[str, str]) -> str:
    for name, block in blocks.items():
        made = f"<!-- {name} -->\n\n{block}\n\n<!-- /{name} -->"
        text = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, made=made: made, text, flags=re.DOTALL)
    return with_outputs(text)


def documents() -> dict[Path, str]:
    """Return what each page of the site should hold."""
    made: dict[Path, str] = {}
    for language in LANGUAGES:
        folder = HERE / language
        blocks = {"matrix": generate_matrix.matrix(language)}
        for part in PARTS:
            blocks |= part.blocks(language)
        for path in sorted(folder.glob("*.md")):
            text = path.read_text(encoding="utf-8")
            if re.search(rf"<!-- (run|{'|'.join(blocks)})\b", text):  # others are not this program's to write
                made[path] = _page(text, blocks)
        made |= {folder / name: text for name, text in generate_arguments.pages(language).items()}
    return made


def main() -> None:
    """Write the documents that changed."""
    for path, text in documents().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(HERE.parent)}")
    runpy.run_path(str(HERE / "generate_readme.py"), run_name="__main__")


if __name__ == "__main__":
    main()
