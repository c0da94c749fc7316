"""What an argument is: a dataclass field whose metadata says all that loading, checking and documenting need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from typing import Any, NamedTuple

__all__ = [
    "ANSWERING",
    "GENERATING",
    "TUNING",
    "WORKS",
    "Effect",
    "Spec",
    "argument",
    "no_effect",
    "not_yet",
    "on_gpu",
    "spec_of",
]


TUNING = ("sft", "lora", "prefix", "dpo", "compress")
"""The tasks that go on from a trained model with conversations."""

ANSWERING = ("sft", "lora", "prefix")
"""Those that can be evaluated by letting the model answer."""

GENERATING = (*ANSWERING, "predict")
"""Those in which a model answers."""


class Effect(NamedTuple):
    """What setting an argument does in this version.

    `kind` is "works", "none" (known, changes nothing, `why` says why), "gpu" (changes something on a GPU only) or
    "later" (read and kept; `why` names the piece of work that will use it).
    """

    kind: str
    why: str = ""

    def __str__(self) -> str:
        label = {"works": "works", "none": "no effect", "gpu": "on GPU only", "later": "not yet"}[self.kind]
        return f"{label}: {self.why}" if self.why else label


WORKS = Effect("works")


def no_effect(why: str) -> Effect:
    """Return the mark of an argument that is accepted for compatibility and changes nothing."""
    return Effect("none", why)


def on_gpu(why: str = "") -> Effect:
    """Return the mark of an argument that changes something on a GPU only."""
    return Effect("gpu", why)


def not_yet(task: str) -> Effect:
    """Return the mark of an argument that waits for the piece of work named `task`."""
    return Effect("later", task)


class Spec(NamedTuple):
    """One argument: where it lives, what it accepts, what it means.

    `kind` is the annotation's text: "int", "float", "bool", "str", each also with " | None", or
    "tuple[str, ...]", "tuple[int, ...]".
    """

    name: str
    group: str
    kind: str
    default: Any
    help: str
    aliases: tuple[str, ...] = ()
    unit: str = ""
    effect: Effect = WORKS
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    bare: str | None = None
    parse: Callable[[Any], Any] | None = None
    tasks: tuple[str, ...] = ()

    @property
    def optional(self) -> bool:
        """Whether `None` is a value of this argument."""
        return self.kind.endswith("| None")

    @property
    def base(self) -> str:
        """The kind without " | None"."""
        return self.kind.removesuffix(" | None")


def argument(
    default: Any,
    help: str,
    *,
    aliases: tuple[str, ...] = (),
    unit: str = "",
    effect: Effect = WORKS,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    bare: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    tasks: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field for one argument.

    Args:
        default: the value when no source sets it.
        help: one sentence.
        aliases: other names for it in PaddleNLP, FleetX or on zoo's command line.
        unit: the unit of a number ("steps", "tokens").
        effect: what setting it does in this version.
        choices: the only strings it may be; compared without case.
        minimum, maximum: inclusive bounds of a number.
        above, below: exclusive bounds of a number.
        bare: the value that the flag stands for when it is given without one.
        parse: turns a raw value into the argument's type; raises ValueError with what was expected.
        tasks: the only ones in which it changes anything; empty is all.
    """
    metadata = {
        "help": help, "aliases": aliases, "unit": unit, "effect": effect, "choices": choices, "minimum": minimum,
        "maximum": maximum, "above": above, "below": below, "bare": bare, "parse": parse,
        "tasks": tasks,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def spec_of(group: str, entry: Field[Any]) -> Spec:
    """Return the spec of one field of the group whose attribute name in `Arguments` is `group`."""
    return Spec(name=entry.name, group=group, kind=str(entry.type), default=entry.default, **entry.metadata)
