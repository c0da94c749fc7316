"""`zoo plugins`: what is installed, what is wrong with it, and whether a plugin keeps the contract."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._text import print_json, table
from zoo_core.cli._words import nothing_left, take_option, take_switch
from zoo_core.environment import require_paddle
from zoo_core.errors import MachineError, PluginError, nearest
from zoo_core.registry import registry

__all__ = ["complete", "main"]


_OWN = {"--json": "print JSON"}
_CHECK = {"--tier": "0 without paddle, 1 in one process, 2 in several too (default)"}

_HELP = """Usage: zoo plugins [--json]
       zoo plugins check NAME [--tier 0|1|2]

List the installed plugins, and what is wrong with broken ones.

check runs the conformance kit on a plugin: --tier 0 what needs no paddle, 1 what runs in one process, 2 (the default)
also training in up to four processes. It ends with 0 when the plugin passes, 1 when it fails, 2 when it is broken.
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the options, and the plugins to check."""
    if list(words) == ["check"] and not incomplete.startswith("-"):
        return {a.name: f"the family {a.family}" for a in registry().architectures}
    if words:
        return _CHECK if words[0] == "check" else _OWN
    return _OWN if incomplete.startswith("-") else {"check": "run the conformance kit on a plugin"}


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Print the plugins, or check one; return 0, or 1 where the one fails.

    Raises:
        PluginError: the plugin to check is not installed or broken.
        MachineError: pytest or paddle, which checking needs, is missing.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    if wants_help:
        print(_HELP, end="")
        return 0
    if rest[:1] == ["check"]:
        return _check(rest[1:])
    as_json, rest = take_switch(rest, "--json")
    nothing_left(rest, "plugins", [*_OWN, "check"])
    _show(as_json)
    return 0


def _check(words: Sequence[str]) -> int:
    """Run the kit with pytest on a test file that names the family; return 0 or 1."""
    tier, rest = take_option(words, "--tier")
    if not rest or rest[0].startswith("-"):
        raise UsageFailure("zoo plugins check needs a plugin", "", "zoo plugins lists what is installed")
    nothing_left(rest[1:], "plugins", _CHECK)
    if tier not in (None, "0", "1", "2"):
        raise UsageFailure(
            f"--tier {tier} is no tier", "0 is without paddle, 1 one process, 2 several", "--tier 1, say"
        )
    family = _family(rest[0])
    if find_spec("pytest") is None:
        raise MachineError(
            "checking a plugin needs pytest", "it is not installed here", 'pip install "zoo-core[testing]"'
        )
    if tier != "0":
        require_paddle("cpu")
    chosen = " or ".join(f"t{number}" for number in range(int(tier or "2") + 1))
    quiet = ("-p", "no:terminal", "-p", "no:cacheprovider", "-W", "ignore", "--import-mode=importlib")
    with tempfile.TemporaryDirectory(prefix="zoo-check-") as folder:
        Path(folder, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        Path(folder, "test_conformance.py").write_text(_TEST.format(family=family), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *quiet, "-p", "zoo_core.testing.report", "-m", chosen,
             "-c", "pytest.ini", "--basetemp", "output", "test_conformance.py"],
            cwd=folder, check=False, env={**os.environ, "PYTEST_ADDOPTS": ""},
        )  # fmt: skip
    print(f"\n{family} {'keeps the contract' if done.returncode == 0 else 'does not keep the contract'}", flush=True)
    return 1 if done.returncode else 0


_TEST = """from zoo_core.testing import ArchConformance


class TestConformance(ArchConformance):
    family = {family!r}
"""


def _family(name: str) -> str:
    """The family of a plugin, by the plugin's, the package's or its own name.

    Raises:
        PluginError: no such plugin, or it is broken.
    """
    word = name.casefold()
    for architecture in registry().architectures:
        if word in (architecture.name.casefold(), architecture.family.casefold(), architecture.distribution.casefold()):
            return architecture.family
    for broken in registry().broken:
        if word in (broken.name.casefold(), broken.name.partition(" ")[0].casefold(), broken.distribution.casefold()):
            raise PluginError(f"plugin {broken.name} is broken", broken.reason, broken.todo)
    names = [architecture.name for architecture in registry().architectures]
    near = nearest(name, names)
    raise PluginError(
        f"no plugin {name!r} is installed",
        "installed: " + (", ".join(names) or "none"),
        f"did you mean {near!r}?" if near else "pip install -e FOLDER, if you are writing it",
    )


def _show(as_json: bool) -> None:
    found = registry()
    if as_json:
        print_json(
            {
                "plugins": [
                    {
                        "name": a.name,
                        "distribution": a.distribution,
                        "version": a.version,
                        "family": a.family,
                        "models": len(a.capabilities.models),
                    }
                    for a in found.architectures
                ],
                "wrappers": [
                    {"name": w.name, "distribution": w.distribution, "version": w.version, "wraps": list(w.hooks)}
                    for w in found.wrappers
                ],
                "broken": [
                    {"name": b.name, "distribution": b.distribution, "reason": b.reason, "todo": b.todo}
                    for b in found.broken
                ],
            }
        )
        return
    if not found.architectures and not found.broken and not found.wrappers:
        print("no plugin is installed; pip install zoo-llama, say")
        return
    rows = [
        (a.name, a.distribution, a.version, a.family, str(len(a.capabilities.models)), "ok")
        for a in found.architectures
    ]
    rows += [(w.name, w.distribution, w.version, "", "", f"wraps {', '.join(w.hooks)}") for w in found.wrappers]
    rows += [(b.name, b.distribution, "", "", "", "broken") for b in found.broken]
    print(table(("PLUGIN", "PACKAGE", "VERSION", "FAMILY", "MODELS", "STATE"), rows, right=(4,)))
    for b in found.broken:
        print(f"\n{b.name} is broken\n  why: {b.reason}\n  do:  {b.todo}")
