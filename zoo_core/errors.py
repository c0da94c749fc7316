"""Expected failures: what happened, why, and what to do about it.

Every failure that a user can cause or cure is a `ZooError`. The command line prints its three lines and exits with
status 2; a traceback appears only with `--traceback`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LayoutError",
    "MachineError",
    "PlanError",
    "PluginError",
    "TokenizerError",
    "UnknownModelError",
    "ZooError",
    "nearest",
]


class ZooError(Exception):
    """One line of what happened, one of why, one of what to do.

    Args:
        what: what happened, naming the thing (a model, a flag, a file, a tensor).
        why: the reason, with the numbers that show it; may be empty.
        todo: what the user can do now; may be empty.
    """

    def __init__(self, what: str, why: str = "", todo: str = "") -> None:
        super().__init__(what, why, todo)
        self.what, self.why, self.todo = what, why, todo

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.todo:
            lines.append(f"  do:  {self.todo}")
        return "\n".join(lines)


class PluginError(ZooError):
    """A plugin is broken, misspelt a hook, or claims a name that another one has."""


class UnknownModelError(ZooError):
    """No installed plugin has a model of this name."""


class ConfigError(ZooError):
    """An argument, a key of a file, or a model configuration is unknown or has a wrong value."""


class PlanError(ZooError):
    """The requested parallel degrees are not legal for this model and world."""


class LayoutError(ZooError):
    """The parameter table and the model disagree, or a tensor cannot be split as the table says."""


class DataError(ZooError):
    """A corpus or data file is missing, truncated, corrupt or foreign."""


class TokenizerError(ZooError):
    """A tokenizer's files are missing, foreign or inconsistent."""


class CheckpointError(ZooError):
    """A weight or checkpoint folder is missing, incomplete, of another model, or could not be written."""


class MachineError(ZooError):
    """This machine lacks what the command needs (PaddlePaddle, a device, a free port)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like `word`, or an empty string if none is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else ""
