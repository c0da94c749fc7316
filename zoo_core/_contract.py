"""What a plugin must keep to, checked at registration, and the routing of a hook call to one plugin."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_args

import pluggy

from zoo_core import hookspecs
from zoo_core.capabilities import CELLS, MODES, Capabilities, Declaration, ModelEntry, Support
from zoo_core.config import ModelConfig
from zoo_core.errors import PluginError, nearest

__all__ = [
    "HOOKS",
    "Hooks",
    "capabilities_fault",
    "fault",
    "manager",
    "owns_family",
    "register",
    "said",
    "unwrap",
    "version_fault",
    "wrapped",
]

HOOKS = ("capabilities", "build_model", "tp_mappings", "pipe_layers", "tokenizer")
_WRAPPERS = " (wrappers)"


def said(error: BaseException) -> str:
    """Return an exception as one line: its type, its message, and the plugin's file and line where it began."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" + (f" ({where})" if where and "<frozen" not in where else "")


def manager() -> pluggy.PluginManager:
    """Return an empty plugin manager that knows the five hooks."""
    found = pluggy.PluginManager("zoo")
    found.add_hookspecs(hookspecs)
    return found


def _marked(plugin: Any) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """The functions of the plugin that carry the hook marker: name -> (function, options)."""
    found = {}
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        options = getattr(function, "zoo_impl", None)
        if callable(function) and isinstance(options, dict):
            found[name] = (function, options)
    return found


def _wraps(options: dict[str, Any]) -> bool:
    return bool(options.get("wrapper") or options.get("hookwrapper"))


def owns_family(plugin: Any) -> bool:
    """Whether the plugin implements hooks of its own, rather than only wrapping those of others."""
    return any(not _wraps(options) for _, options in _marked(plugin).values())


def wrapped(plugin: Any) -> tuple[str, ...]:
    """The hooks of others that the plugin wraps."""
    return tuple(options.get("specname") or name for name, (_, options) in _marked(plugin).items() if _wraps(options))


def version_fault(plugin: Any) -> tuple[str, str]:
    """Return why the plugin's version of the contract will not do, and what to do; both empty when it will."""
    version, current = getattr(plugin, "contract_version", 1), hookspecs.CONTRACT_VERSION
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        return f"contract_version is {version!r}; versions are 1 to {current}", f"set contract_version = {current}"
    reason = f"written for contract version {version}; this zoo-core speaks version {current}"
    if version > current:
        return reason, "pip install --upgrade zoo-core"
    steps = [(step, change) for step in range(version + 1, current + 1) for change in hookspecs.CONTRACT_CHANGES[step]]
    if not steps:
        return "", ""
    changes = "; ".join(f"for version {step}, {change}" for step, change in steps)
    return reason, f"install a newer release of it, or change it: {changes}; then set contract_version = {current}"


def fault(plugin: Any) -> str:
    """Return what is wrong with a plugin's hooks, found without calling it; empty when nothing is."""
    marked = _marked(plugin)
    own = set()
    for name, (function, options) in marked.items():
        hook = options.get("specname") or name
        if hook not in HOOKS:
            near = nearest(hook, HOOKS)
            return f"{hook!r} is not a hook" + (f"; did you mean {near!r}?" if near else "; hooks: " + ", ".join(HOOKS))
        problem = _signature_fault(hook, function)
        if problem:
            return problem
        if not _wraps(options):
            own.add(hook)
    if own or not marked:
        missing = [hook for hook in HOOKS if hook not in own]
        unmarked = [hook for hook in missing if callable(getattr(plugin, hook, None)) and hook not in marked]
        if unmarked:
            return f"{unmarked[0]}() is not marked with @hookimpl"
        if missing:
            return "lacks the hook" + ("s " if len(missing) > 1 else " ") + ", ".join(missing)
    return ""


def _signature_fault(hook: str, function: Callable[..., Any]) -> str:
    """A hook takes a subset of the specified arguments, by those names."""
    allowed = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    wanted = f"{hook}({', '.join(allowed)})"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return f"{hook}() takes *{parameter.name}; it must be {wanted}"
        if parameter.name not in allowed and parameter.default is parameter.empty:
            return f"{hook}() takes {parameter.name!r}; it must be {wanted}"
        if parameter.name in allowed and parameter.kind is parameter.KEYWORD_ONLY:
            return f"{hook}() takes {parameter.name!r} by keyword only; it must be {wanted}"
    return ""


def register(plugins: pluggy.PluginManager, name: str, plugin: Any) -> str:
    """Register a plugin that `fault` found good, its own hooks apart from its wrappers; return what failed, or "".

    `subset_hook_caller` removes whole plugins. Kept apart, the wrappers stay when the plugin's own hooks are removed,
    so a plugin with a family of its own can still wrap the hooks of another.
    """
    own, wrappers = ModuleType(name), ModuleType(name + _WRAPPERS)
    for attribute, (function, options) in _marked(plugin).items():
        setattr(wrappers if _wraps(options) else own, attribute, function)
    try:
        plugins.register(own, name)
        plugins.register(wrappers, wrappers.__name__)
    except (pluggy.PluginValidationError, ValueError) as error:
        for part in (own, wrappers):
            if plugins.is_registered(part):
                plugins.unregister(part)
        return said(error)
    return ""


def unwrap(plugins: pluggy.PluginManager, name: str, hook: str) -> bool:
    """Withdraw the wrappers of plugin `name` if it wraps `hook`; say whether it did."""
    wrappers = plugins.get_plugin(name + _WRAPPERS)
    if wrappers is None or not any((o.get("specname") or n) == hook for n, (_, o) in _marked(wrappers).items()):
        return False
    plugins.unregister(wrappers)
    return True


class Hooks:
    """The hooks of one plugin: it answers alone, wrapped by whatever wraps the hook."""

    def __init__(self, plugins: pluggy.PluginManager, name: str) -> None:
        self._plugins, self._name = plugins, name

    def call(self, hook: str, *, wrapped: bool = True, **arguments: Any) -> Any:
        """Call `hook` of this plugin, with the wrappers around it or without.

        Raises:
            PluginError: it returned nothing.
        """
        others = [
            plugin
            for name, plugin in self._plugins.list_name_plugin()
            if plugin is not None and name != self._name and not (wrapped and name.endswith(_WRAPPERS))
        ]
        answer = self._plugins.subset_hook_caller(hook, others)(**arguments)
        if answer is None:
            raise PluginError(f"plugin {self._name} returned nothing from {hook}()", "", "report it to its author")
        return answer

    def capabilities(self, *, wrapped: bool = True) -> tuple[Capabilities | None, str]:
        """Return the plugin's capabilities and what is wrong with them; one of the two is empty."""
        try:
            found = self.call("capabilities", wrapped=wrapped)
            problem = capabilities_fault(found)
        except Exception as error:
            return None, f"capabilities() raised {said(error)}"
        return (None, problem) if problem else (found, "")


def capabilities_fault(found: Any) -> str:
    """Return what is wrong with the answer of `capabilities()`; empty when nothing is."""
    if not isinstance(found, Capabilities):
        return f"capabilities() returned {type(found).__name__}, not Capabilities"
    if not isinstance(found.family, str) or not found.family:
        return "capabilities() has no family name"
    if not (isinstance(found.config_class, type) and issubclass(found.config_class, ModelConfig)):
        return f"capabilities().config_class is {found.config_class!r}, not a ModelConfig class"
    seen = set()
    for entry in found.models:
        if not isinstance(entry, ModelEntry) or not isinstance(entry.config, ModelConfig):
            return f"capabilities().models holds {entry!r}, not a ModelEntry with a ModelConfig"
        if entry.name.casefold() in seen:
            return f"capabilities() lists the model {entry.name!r} twice"
        seen.add(entry.name.casefold())
    for where, cells in (("", found.cells), *((f" of the model {e.name}", e.cells) for e in found.models)):
        for name, cell in cells.items():
            problem = _cell_fault(name, cell)
            if problem:
                return f"capabilities().cells[{name!r}]{where} {problem}"
    for pair in found.exclusions:
        for name in (pair.first, pair.second):
            if name not in CELLS and name not in MODES:
                near = nearest(name, [*CELLS, *MODES])
                return f"capabilities().exclusions names {name!r}, which is nothing" + _meant(near)
    fields = {field.name for field in dataclasses.fields(found.config_class)}
    for scale, changes in found.scales.items():
        unknown = [name for name in changes if name not in fields]
        if unknown:
            return f"capabilities().scales[{scale!r}] sets {unknown[0]!r}, which {found.config_class.__name__} lacks"
    return ""


def _meant(near: str) -> str:
    return f"; did you mean {near!r}?" if near else "; zoo_core.capabilities.CELLS has the names"


def _cell_fault(name: str, cell: Any) -> str:
    if name not in CELLS:
        return "is no cell of the matrix" + _meant(nearest(name, CELLS))
    if not isinstance(cell, Support):
        return f"is {type(cell).__name__}, not Support"
    if cell.state not in get_args(Declaration):
        return f"says {cell.state!r}; a plugin says " + ", ".join(get_args(Declaration)) + ", tests record the rest"
    if cell.state != "declared" and not cell.why:
        return f"is {cell.state} without a reason"
    return ""
