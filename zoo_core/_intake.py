"""Taking plugins in: each is loaded, checked and registered, or kept out by name with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo_core import _contract
from zoo_core._architecture import Architecture
from zoo_core.capabilities import Capabilities

__all__ = ["ENTRY_POINT_GROUP", "BrokenPlugin", "Candidate", "Intake", "Wrapper", "installed"]

ENTRY_POINT_GROUP = "zoo"


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that was kept out.

    Args:
        name: its entry-point name.
        distribution: the installed package it came from; empty when it did not come from one.
        reason: what is wrong, in one line.
        todo: what its user or author can do.
        claims: family and model names it would have had, where it got as far as saying them.
    """

    name: str
    distribution: str
    reason: str
    todo: str
    claims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wrapper:
    """A plugin without a family of its own, which changes what others answer.

    Args:
        name: its entry-point name.
        distribution, version: of the installed package it came from.
        hooks: the hooks that it wraps.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """What an entry point gave: a plugin, or why it could not be loaded."""

    name: str
    distribution: str
    version: str
    plugin: Any = None
    error: str = ""


def _identity(distribution: metadata.Distribution | None) -> tuple[str, str]:
    """Name and version, read from the first lines of the metadata: the standard parser takes 40 ms to load."""
    text = distribution.read_text("METADATA") if distribution else None
    if distribution is None or text is None:
        return (distribution.name, distribution.version) if distribution else ("", "")
    lines = text.partition("\n\n")[0].splitlines()
    found = dict(line.split(": ", 1) for line in lines if line.startswith(("Name: ", "Version: ")))
    return found.get("Name", ""), found.get("Version", "")


def installed() -> list[Candidate]:
    """Load every entry point of the group; what fails to load comes back with the reason."""
    points = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        distribution, version = _identity(point.dist)
        points[point.name, point.value, distribution] = (point, version)
    names = [name for name, _, _ in points]
    found = []
    for (name, _, distribution), (point, version) in sorted(points.items()):
        shown = name if names.count(name) == 1 else f"{name} ({distribution})"
        try:
            found.append(Candidate(shown, distribution, version, point.load()))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit while it is imported
            found.append(Candidate(shown, distribution, version, None, _contract.said(error)))
    return found


class Intake:
    """Plugins on their way in: `architectures` are the families that can be used, `broken` what was kept out.

    `wrappers` are the plugins that only wrap the hooks of others.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.broken: list[BrokenPlugin] = []
        self._manager = _contract.manager()
        accepted = [candidate for candidate in candidates if self._accept(candidate)]
        asked = [pair for candidate in accepted if (pair := self._architecture(candidate, accepted))]
        self.architectures = self._without_clashes(asked)
        out = {broken.name for broken in self.broken}
        self.wrappers = [
            Wrapper(c.name, c.distribution, c.version, _contract.wrapped(c.plugin))
            for c in accepted
            if c.name not in out and not _contract.owns_family(c.plugin)
        ]

    def _reject(self, candidate: Candidate, reason: str, todo: str = "", claims: Sequence[str] = ()) -> None:
        if not todo:
            package = candidate.distribution
            todo = f"pip install --upgrade {package}, or pip uninstall {package}" if package else "correct the plugin"
        self.broken.append(BrokenPlugin(candidate.name, candidate.distribution, reason, todo, tuple(claims)))

    def _accept(self, candidate: Candidate) -> bool:
        """Check what can be checked without a call, and register the plugin; say whether it was good."""
        if candidate.error:
            self._reject(candidate, f"cannot be imported: {candidate.error}", _import_todo(candidate))
            return False
        fault, todo = _contract.version_fault(candidate.plugin)
        if fault:
            self._reject(candidate, fault, todo)
            return False
        fault = _contract.fault(candidate.plugin)
        if not fault:
            fault = _contract.register(self._manager, candidate.name, candidate.plugin)
        if fault:
            self._reject(candidate, fault)
        return not fault

    def _architecture(
        self, candidate: Candidate, accepted: Sequence[Candidate]
    ) -> tuple[Candidate, Architecture] | None:
        """Ask an accepted plugin for its capabilities; `None` for a plugin that only wraps the hooks of others."""
        if not _contract.owns_family(candidate.plugin):
            return None
        hooks = _contract.Hooks(self._manager, candidate.name)
        capabilities, fault = hooks.capabilities()
        if fault and not hooks.capabilities(wrapped=False)[1]:
            for other in accepted:
                if hooks.capabilities()[1] and _contract.unwrap(self._manager, other.name, "capabilities"):
                    self._reject(other, f"its wrapper of capabilities() breaks plugin {candidate.name}: {fault}")
            capabilities, fault = hooks.capabilities()
        if fault or capabilities is None:
            self._reject(candidate, fault)
            return None
        folder = next((Path(path) for path in getattr(candidate.plugin, "__path__", ())), None)
        source = (candidate.distribution, candidate.version)
        return candidate, Architecture(candidate.name, capabilities, hooks, *source, folder)

    def _without_clashes(self, found: Sequence[tuple[Candidate, Architecture]]) -> list[Architecture]:
        """Drop every plugin that claims what another one claims too, naming both."""
        owners: dict[tuple[str, str], list[str]] = {}
        for candidate, architecture in found:
            for owned in set(_claims(architecture.capabilities)):
                owners.setdefault(owned, []).append(candidate.name)
        kept = []
        for candidate, architecture in found:
            clashes = [
                (claim, [owner for owner in owners[claim] if owner != candidate.name])
                for claim in _claims(architecture.capabilities)
                if len(owners[claim]) > 1
            ]
            if not clashes:
                kept.append(architecture)
                continue
            (kind, claim), others = clashes[0]
            more = f" (and {len(clashes) - 1} more)" if len(clashes) > 1 else ""
            names = " and ".join([candidate.name, *others])
            both = [c.distribution for c, _ in found if c.name in others and c.distribution]
            packages = " or ".join([candidate.distribution, *both]) if candidate.distribution else names
            self._reject(
                candidate,
                f"plugins {names} both claim the {kind} {claim!r}{more}",
                f"uninstall one of {packages}",
                [name for _, name in _claims(architecture.capabilities)],
            )
        return sorted(kept, key=lambda a: a.family)


def _import_todo(candidate: Candidate) -> str:
    """What helps where paddle is not installed and the plugin cannot even be listed; empty for any other failure."""
    if "No module named 'paddle'" not in candidate.error:
        return ""
    return 'pip install "zoo-core[cpu]"; its author should import paddle inside build_model() and the layer factories'


def _claims(capabilities: Capabilities) -> list[tuple[str, str]]:
    return (
        [("family", capabilities.family.casefold())]
        + [("model", entry.name.casefold()) for entry in capabilities.models]
        + [("model_type", kind) for kind in capabilities.model_types]
    )
