"""Which architectures are installed, and which of them a model name means.

Plugins are found by the entry-point group `zoo`. Each is checked when it is loaded; one that breaks the contract is
kept out and listed in `Registry.broken` with the reason, and the others keep working.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo_core import _contract
from zoo_core._architecture import Architecture
from zoo_core._intake import ENTRY_POINT_GROUP, BrokenPlugin, Candidate, Intake, Wrapper, installed
from zoo_core.capabilities import ModelEntry
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, PluginError, UnknownModelError, nearest
from zoo_core.known import KNOWN, KnownFamily

__all__ = ["ENTRY_POINT_GROUP", "Architecture", "BrokenPlugin", "Found", "Registry", "Wrapper", "find", "registry"]


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


class Registry:
    """The plugins that keep the contract, by family and by model name, and those that do not.

    Args:
        plugins: name -> module (or object) with the hooks, instead of what is installed; for tests.
    """

    def __init__(self, plugins: Mapping[str, Any] | None = None) -> None:
        given = None if plugins is None else [Candidate(name, "", "", plugin) for name, plugin in plugins.items()]
        intake = Intake(installed() if given is None else given)
        self._broken, self._architectures = tuple(intake.broken), tuple(intake.architectures)
        self._wrappers = tuple(intake.wrappers)
        self._by_name = {
            entry.name.casefold(): (architecture, entry)
            for architecture in self._architectures
            for entry in architecture.capabilities.models
        }

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """The families that can be used, by family name."""
        return self._architectures

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """The plugins that were kept out, and why."""
        return self._broken

    @property
    def wrappers(self) -> tuple[Wrapper, ...]:
        """The plugins that own no family and wrap the hooks of others."""
        return self._wrappers

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

        A run's output folder means the checkpoint that was saved last.

        Raises:
            UnknownModelError: nothing has that name, or several models do; says the nearest and what to install.
            PluginError: the plugin that has it is installed but broken.
            ConfigError: the folder's `config.json` cannot be read.
        """
        folder = Path(model).expanduser()
        for place in (folder, folder / _latest(folder)):
            if (place / "config.json").is_file():
                return self._folder(place)
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
                except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
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


def _latest(folder: Path) -> str:
    """The name of the checkpoint that was saved last, as the file `latest` of a run's output folder has it."""
    try:
        return (folder / "latest").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


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
