"""Which architectures are installed, and which of them a model name means.

Plugins are found by the entry-point group `zoo`. Each is checked when it is loaded; one that breaks the contract is
kept out and listed in `Registry.broken` with the reason, and the others keep working.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import _contract, layout
from zoo_core.capabilities import Capabilities, ModelEntry
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, PluginError, UnknownModelError, nearest
from zoo_core.known import KNOWN, KnownFamily
from zoo_core.pipeline import PipeLayer

if TYPE_CHECKING:
    from zoo_core.tokenizers import Tokenizer

__all__ = ["ENTRY_POINT_GROUP", "Architecture", "BrokenPlugin", "Found", "Registry", "find", "registry"]

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


class Architecture:
    """One family: its capabilities, and the other four hooks routed to the plugin that owns it."""

    def __init__(
        self, name: str, capabilities: Capabilities, hooks: _contract.Hooks, source: str, version: str
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.distribution = source
        self.version = version
        self._hooks = hooks

    def __repr__(self) -> str:
        return f"Architecture({self.family!r}, plugin {self.name!r})"

    @property
    def family(self) -> str:
        """The family's short name."""
        return self.capabilities.family

    def build_model(self, config: ModelConfig) -> Any:
        """Return the single-card model, an `nn.Layer`; imports paddle."""
        return self._hooks.call("build_model", config=config)

    def rules(self, config: ModelConfig) -> tuple[layout.Rule, ...]:
        """Return the parameter table as the plugin wrote it, with `*` in its names."""
        return tuple(self._hooks.call("tp_mappings", config=config))

    def table(self, config: ModelConfig) -> dict[str, layout.Rule]:
        """Return the parameter table with one row a parameter, by single-card name."""
        return layout.expand(self.rules(config), config.num_hidden_layers)

    def parameter_count(self, config: ModelConfig) -> int:
        """Return the elements of all trained parameters, a tied one once, without writing every row out."""
        total = 0
        for rule in self.rules(config):
            if rule.buffer or rule.single != rule.name:
                continue
            stars = rule.name.count("*")
            times = len(rule.layers) if rule.layers is not None else config.num_hidden_layers
            experts = len(rule.experts or ())
            total += prod(rule.shape) * (times if stars else 1) * (experts if stars == 2 else 1)
        return total

    def pipe_layers(self, config: ModelConfig) -> tuple[PipeLayer, ...]:
        """Return the layers of the model in order."""
        return tuple(self._hooks.call("pipe_layers", config=config))

    def tokenizer(self, config: ModelConfig, path: Path | None) -> Tokenizer:
        """Return the family's tokenizer from the files in `path`."""
        return self._hooks.call("tokenizer", config=config, path=path)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Found:
    """What a model name or folder means.

    Args:
        architecture: the family that has it.
        entry: the named model; `None` for a folder.
        config: the configuration, published or read from the folder.
        path: the folder; `None` for a named model.
    """

    architecture: Architecture
    entry: ModelEntry | None
    config: ModelConfig
    path: Path | None = None

    @property
    def name(self) -> str:
        """The model's published name, or the folder as given."""
        return self.entry.name if self.entry else str(self.path)


@dataclass(frozen=True)
class _Candidate:
    name: str
    distribution: str
    version: str
    plugin: Any = None
    error: str = ""


def _installed() -> list[_Candidate]:
    """Load every entry point of the group; what fails to load comes back with the reason."""
    points = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        distribution = point.dist.name if point.dist else ""
        points[point.name, point.value, distribution] = (point, point.dist.version if point.dist else "")
    names = [name for name, _, _ in points]
    found = []
    for (name, _, distribution), (point, version) in sorted(points.items()):
        shown = name if names.count(name) == 1 else f"{name} ({distribution})"
        try:
            found.append(_Candidate(shown, distribution, version, point.load()))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit while it is imported
            found.append(_Candidate(shown, distribution, version, None, _contract.said(error)))
    return found


class Registry:
    """The plugins that keep the contract, by family and by model name, and those that do not.

    Args:
        plugins: name -> module (or object) with the hooks, instead of what is installed; for tests.
    """

    def __init__(self, plugins: Mapping[str, Any] | None = None) -> None:
        if plugins is None:
            candidates = _installed()
        else:
            candidates = [_Candidate(name, "", "", plugin) for name, plugin in plugins.items()]
        self._broken: list[BrokenPlugin] = []
        self._manager = _contract.manager()
        accepted = [candidate for candidate in candidates if self._accept(candidate)]
        asked = [pair for candidate in accepted if (pair := self._architecture(candidate, accepted))]
        self._architectures = self._without_clashes(asked)
        self._by_name = {
            entry.name.casefold(): (architecture, entry)
            for architecture in self._architectures
            for entry in architecture.capabilities.models
        }

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """The families that can be used, by family name."""
        return tuple(self._architectures)

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """The plugins that were kept out, and why."""
        return tuple(self._broken)

    @property
    def models(self) -> tuple[tuple[Architecture, ModelEntry], ...]:
        """Every named model with its family, in the plugins' order."""
        return tuple(self._by_name.values())

    def family(self, name: str) -> Architecture:
        """Return the family called `name`.

        Raises:
            UnknownModelError: no usable plugin has it.
        """
        for architecture in self._architectures:
            if architecture.family.casefold() == name.casefold():
                return architecture
        families = [architecture.family for architecture in self._architectures]
        near = nearest(name, families)
        if near or not _known_family(name):
            todo = f"did you mean {near!r}?" if near else "`zoo plugins` lists what there is"
            raise UnknownModelError(f"no family {name!r}", "installed: " + (", ".join(families) or "none"), todo)
        raise self._unknown(name)

    def find(self, model: str) -> Found:
        """Return what `model` means: a name in any case, a short name, or a folder with `config.json`.

        Raises:
            UnknownModelError: nothing has that name, or several models do; says the nearest and what to install.
            PluginError: the plugin that has it is installed but broken.
            ConfigError: the folder's `config.json` cannot be read.
        """
        folder = Path(model).expanduser()
        if (folder / "config.json").is_file():
            return self._folder(folder)
        word = model.casefold()
        if word in self._by_name:
            architecture, entry = self._by_name[word]
            return Found(architecture, entry, entry.config)
        short = [pair for name, pair in self._by_name.items() if name.rpartition("/")[2] == word]
        if len(short) == 1:
            return Found(short[0][0], short[0][1], short[0][1].config)
        if short:
            names = ", ".join(entry.name for _, entry in short)
            raise UnknownModelError(
                f"{model!r} means more than one model", f"it could be {names}", "give the full name"
            )
        for architecture in self._architectures:
            if architecture.family.casefold() == word:
                raise UnknownModelError(
                    f"{model!r} is a family, not a model",
                    "its models are " + ", ".join(entry.name for entry in architecture.capabilities.models),
                    "choose one, or give a folder with config.json",
                )
        if folder.is_dir():
            raise UnknownModelError(
                f"the folder {model} has no config.json", "it says which family and which sizes", "add the model's own"
            )
        raise self._unknown(model)

    def _folder(self, folder: Path) -> Found:
        file = folder / "config.json"
        try:
            hf = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {file}", str(error), "restore the model's own config.json") from error
        kind = hf.get("model_type") if isinstance(hf, dict) else None
        if not isinstance(kind, str):
            raise ConfigError(f"{file} has no model_type", "it names the family", 'add "model_type": "llama", say')
        for architecture in self._architectures:
            if kind in architecture.capabilities.model_types:
                try:
                    config = architecture.capabilities.config_class.from_hf(hf)
                except (TypeError, ValueError, KeyError) as error:
                    raise ConfigError(
                        f"{file} is not a usable {kind} configuration",
                        _contract.said(error),
                        "compare it with the model's own",
                    ) from error
                return Found(architecture, None, config, folder)
        known = sorted({kind for a in self._architectures for kind in a.capabilities.model_types})
        family = _known_family(kind)
        if family and self._broken_plugin(family):
            raise self._broken_error(str(folder), family)
        near = nearest(kind, known)
        raise UnknownModelError(
            f"no installed plugin loads {file}",
            f"its model_type is {kind!r}; installed plugins load " + (", ".join(known) or "nothing"),
            f"pip install {family.distribution}" if family else f"did you mean {near!r}?" if near else "",
        )

    def _unknown(self, model: str) -> UnknownModelError | PluginError:
        word = model.casefold()
        for plugin in self._broken:
            if word in (claim.casefold() for claim in plugin.claims):
                return PluginError(
                    f"{model} cannot be used: plugin {plugin.name} is broken", plugin.reason, plugin.todo
                )
        family = _known_family(model)
        have = {a.family for a in self._architectures}
        if family and family.family not in have:
            if self._broken_plugin(family):
                return self._broken_error(model, family)
            return UnknownModelError(
                f"no installed plugin has the model {model!r}",
                f"{family.family} models come with the package {family.distribution}",
                f"pip install {family.distribution}",
            )
        names = {name: entry.name for name, (_, entry) in self._by_name.items()}
        near = nearest(word, names)
        missing = [f for f in KNOWN if f.family not in have and not self._broken_plugin(f)]
        elsewhere = {name.casefold(): name for f in missing for name in f.models}
        other = "" if near else nearest(word, elsewhere)
        if other:
            package = next(f.distribution for f in KNOWN if elsewhere[other] in f.models)
            todo = f"did you mean {elsewhere[other]!r}? pip install {package}"
        else:
            todo = (
                f"did you mean {names[near]!r}?"
                if near
                else "`zoo models` lists what there is; a folder needs config.json"
            )
        count = len(self._by_name)
        why = f"{count} models are installed and none has this name, nor is it a folder" if count else (
            "no plugin is installed" if not self._broken else "every installed plugin is broken; see `zoo plugins`"
        )  # fmt: skip
        return UnknownModelError(
            f"unknown model {model!r}", why, todo if count or other else "pip install zoo-llama, say"
        )

    def _broken_plugin(self, family: KnownFamily) -> BrokenPlugin | None:
        return next((b for b in self._broken if b.distribution == family.distribution or b.name == family.family), None)

    def _broken_error(self, model: str, family: KnownFamily) -> PluginError:
        plugin = self._broken_plugin(family)
        assert plugin is not None
        return PluginError(f"{model} cannot be used: plugin {plugin.name} is broken", plugin.reason, plugin.todo)

    def _reject(self, candidate: _Candidate, reason: str, todo: str = "", claims: Sequence[str] = ()) -> None:
        if not todo:
            package = candidate.distribution
            todo = f"pip install --upgrade {package}, or pip uninstall {package}" if package else "correct the plugin"
        self._broken.append(BrokenPlugin(candidate.name, candidate.distribution, reason, todo, tuple(claims)))

    def _accept(self, candidate: _Candidate) -> bool:
        """Check what can be checked without a call, and register the plugin; say whether it was good."""
        if candidate.error:
            self._reject(candidate, f"cannot be imported: {candidate.error}")
            return False
        fault = _contract.fault(candidate.plugin)
        if not fault:
            fault = _contract.register(self._manager, candidate.name, candidate.plugin)
        if fault:
            self._reject(candidate, fault)
        return not fault

    def _architecture(
        self, candidate: _Candidate, accepted: Sequence[_Candidate]
    ) -> tuple[_Candidate, Architecture] | None:
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
        return candidate, Architecture(candidate.name, capabilities, hooks, candidate.distribution, candidate.version)

    def _without_clashes(self, found: Sequence[tuple[_Candidate, Architecture]]) -> list[Architecture]:
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


def _claims(capabilities: Capabilities) -> list[tuple[str, str]]:
    return (
        [("family", capabilities.family.casefold())]
        + [("model", entry.name.casefold()) for entry in capabilities.models]
        + [("model_type", kind) for kind in capabilities.model_types]
    )


def _known_family(model: str) -> KnownFamily | None:
    """The family that zoo's own packages have for this name, by full name, short name, or the longest family prefix."""
    word = model.casefold().rstrip("/")
    short = word.rpartition("/")[2]
    for family in KNOWN:
        names = [name.casefold() for name in family.models]
        if word in names or short in (name.rpartition("/")[2] for name in names):
            return family
    plain = short.replace("-", "").replace("_", "")
    starts = [f for f in KNOWN if plain.startswith(f.family.replace("_", ""))]
    return max(starts, key=lambda f: len(f.family), default=None)


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Return the registry of what is installed; plugins are loaded once a process."""
    return Registry()


def find(model: str) -> Found:
    """Return what a model name or folder means, among the installed plugins; see `Registry.find`."""
    return registry().find(model)
