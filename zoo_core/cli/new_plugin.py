"""`zoo new-plugin`: a package with a small model of one's own, which passes the conformance kit as it is written."""

from __future__ import annotations

import keyword
import os
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

import click

from zoo_core._atomic import temporary_name
from zoo_core.errors import ConfigError, PluginError
from zoo_core.known import KNOWN
from zoo_core.registry import registry

__all__ = ["command"]

_LONGEST = 20
"""Characters of a name; lines of the template stay within 120 with it."""

_SKIPPED = ("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")


@click.command(name="new-plugin")
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("."), show_default=True,
              help="Folder to write zoo-NAME into.")  # fmt: skip
def command(name: str, directory: Path) -> None:
    """Write a plugin package with a small model, to be made into the architecture NAME.

    \b
      zoo new-plugin mynah
      zoo new-plugin mynah --directory ~/models
    """
    _check_name(name)
    package = directory / f"zoo-{name.replace('_', '-')}"
    if package.exists() or package.is_symlink():
        raise ConfigError(f"{package} exists already", "nothing is written over", "choose another name or --directory")
    _write(package, name)
    click.echo(_NEXT.format(folder=package, name=name, model=f"{name}/{name}-160m"))


_NEXT = """\
{folder} is a complete plugin, with a small model to be made into yours. Next:

  pip install -e "{folder}[dev]"
  zoo plugins check {name}
  zoo tokenizer train --vocab-size 500 --output tokenizer
  zoo data build --tokenizer tokenizer --output corpus
  zoo run pretrain --model {model} --scale tiny --tokenizer tokenizer --input_dir corpus --output_dir out"""


def _check_name(name: str) -> None:
    """Raise what is wrong with a family's name.

    Raises:
        ConfigError: it cannot be the name of a package.
        PluginError: a family, or a package, has it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or len(name) > _LONGEST:
        proper = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:_LONGEST]
        usable = proper and not keyword.iskeyword(proper)
        raise ConfigError(
            f"{name!r} cannot be the name of a plugin",
            f"zoo_NAME is a Python package: small letters, digits, _, a letter first, {_LONGEST} at most, no keyword",
            f"zoo new-plugin {proper}" if usable else "zoo new-plugin mynah, say",
        )
    owner = next((a.distribution or a.name for a in registry().architectures if a.family == name), "")
    owner = owner or next((known.distribution for known in KNOWN if known.family == name), "")
    if owner:
        raise PluginError(f"the family {name!r} exists", f"{owner} has it", "choose another name")
    if find_spec(f"zoo_{name}") is not None:
        raise PluginError(
            f"the package zoo_{name} exists", "Python imports it from this environment", "choose another name"
        )


def _write(package: Path, name: str) -> None:
    """Copy the template to the folder `package`, with `name` in the place of its own; whole or not at all.

    Raises:
        ConfigError: the folder cannot be written.
    """
    title = "".join(word.capitalize() for word in name.split("_"))
    names = {"zoo-mynah": f"zoo-{name.replace('_', '-')}", "Mynah": title, "mynah": name}
    beside = temporary_name(package)
    try:
        for path, text in _template(files("zoo_core") / "templates" / "plugin" / "zoo-mynah"):
            for old, new in names.items():
                path, text = path.replace(old, new), text.replace(old, new)
            target = beside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        os.rename(beside, package)
    except OSError as error:
        raise ConfigError(f"cannot write {package}", str(error), "choose a --directory that can be written") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _template(folder: Traversable, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of every file of the template."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name in _SKIPPED:
            continue
        if entry.is_dir():
            yield from _template(entry, f"{path}{entry.name}/")
        else:
            yield path + entry.name, entry.read_text(encoding="utf-8")
