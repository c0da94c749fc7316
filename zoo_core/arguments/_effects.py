"""The one line that names every argument that was set and changes nothing here."""

from __future__ import annotations

from zoo_core.arguments._container import Arguments
from zoo_core.arguments._registry import OVERRIDES, SPECS

__all__ = ["effect_line"]

_HEADS = {"none": "with no effect", "later": "not in this version", "gpu": "that work on a GPU only"}


def effect_line(arguments: Arguments, device: str) -> str:
    """Return the warning line about arguments that were set without effect, or "" if there are none.

    An argument without effect is named whenever it is set; one that waits for a later version or for a GPU only when
    it asks for something other than its default.

    Args:
        arguments: the arguments of the run.
        device: where it runs; GPU-only arguments are named for "cpu".
    """
    named: dict[str, list[str]] = {kind: [] for kind in _HEADS}
    for name in arguments.given:
        spec = SPECS.get(name)
        if spec is None or spec.group == OVERRIDES:
            continue
        kind, why = spec.effect.kind, spec.effect.why
        asks = arguments.value(name) != spec.default
        if kind == "works" and asks and spec.tasks and arguments.task not in spec.tasks:
            kind, why = "none", f"{arguments.task} does not read it"
        if kind == "works":
            continue
        if kind == "none" or (asks and (kind == "later" or device == "cpu")):
            typed = arguments.spelt.get(name, name)
            named[kind].append(f"{typed} ({why})" if why else typed)
    named["none"] += [f"{path} ({why})" for path, why in arguments.ignored.items()]
    parts = [f"{_HEADS[kind]}: {', '.join(names)}" for kind, names in named.items() if names]
    return "arguments " + "; ".join(parts) if parts else ""
