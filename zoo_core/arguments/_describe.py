"""The arguments as documentation: a Markdown reference and the text of `zoo run TASK --help`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from zoo_core.arguments._fleetx import COMPOSITES, RENAMED, UNUSED
from zoo_core.arguments._model import ConfigArguments
from zoo_core.arguments._registry import GROUPS, OVERRIDES, SPECS
from zoo_core.arguments._spec import Spec
from zoo_core.arguments._training import TrainingArguments

__all__ = ["describe", "help_text"]

_HEAD = (
    "Generated from the dataclasses of `zoo_core.arguments` by `python docs/generate.py`; do not edit.",
    "Sources, the later wins: a JSON or YAML file, `--flag value`, `-o Section.key=value`. Names and defaults are "
    "PaddleNLP's. Dashes and underscores are the same in a flag (`--max-steps`), a yes-or-no flag may stand alone or "
    "as `--no_flag`, an empty value in a file means the default. An unknown name stops the run and the nearest is "
    "suggested. An argument that is set and has no effect is named in one warning line.",
    "What differs from PaddleNLP: `do_train` is true and `device` is `auto` unless set; giving `save_steps` or "
    "`eval_steps` implies the strategy `steps`; `do_eval: false` wins over an evaluation strategy; of `warmup_steps` "
    "and `warmup_ratio`, and of `max_steps` and `num_train_epochs`, the one from a later source wins, and in one "
    "source the first of the two.",
)

_FINETUNE_TASKS = ("sft", "lora", "prefix", "dpo", "compress")
_SHOWN_FOR: dict[str, tuple[str, ...]] = {
    "generation": ("predict", "eval", "export", "serve", *_FINETUNE_TASKS),
    "finetune": ("predict", *_FINETUNE_TASKS),
}
"""Groups that `--help` lists for some tasks only."""

_ONLY = {("predict", "finetune"): ("lora_path", "prefix_path")}
"""What of a group it lists for a task, where that is not all."""


def _sections() -> Iterator[tuple[str, str, list[Spec]]]:
    """Yield (title, sentence, arguments) in the order of reading; the training loop in its parts."""
    classes: list[type[Any]] = []
    for cls in GROUPS.values():
        classes += reversed(TrainingArguments.__bases__) if cls is TrainingArguments else [cls]
    for cls in (*classes, ConfigArguments):
        sentence = (cls.__doc__ or "").strip()
        yield cls.__name__.removesuffix("Arguments"), sentence, [SPECS[e.name] for e in dataclasses.fields(cls)]


def _default(spec: Spec) -> str:
    if spec.default is None or spec.default in ("", ()):
        return ""
    if isinstance(spec.default, bool):
        return str(spec.default).lower()
    if isinstance(spec.default, tuple):
        return ",".join(str(item) for item in spec.default)
    return f"{spec.default:g}" if isinstance(spec.default, float) else str(spec.default)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _meaning(spec: Spec, say: Callable[[str], str]) -> str:
    said = [say(spec.help)]
    if spec.unit:
        said.append(f"{say('Unit')}: {say(spec.unit)}.")
    if spec.choices:
        said.append(f"{say('One of')} {', '.join(spec.choices)}.")
    return " ".join(said)


def _effect(spec: Spec, say: Callable[[str], str]) -> str:
    label, _, why = str(spec.effect).partition(": ")
    return f"{say(label)}: {say(why)}" if why else say(label)


def _table(columns: tuple[str, ...], say: Callable[[str], str]) -> list[str]:
    return [f"| {' | '.join(map(say, columns))} |", "|---" * len(columns) + "|"]


def describe(say: Callable[[str], str] = str) -> str:
    """Return the Markdown reference of every argument and of FleetX's keys.

    Args:
        say: translates a title, a sentence or a part of one; English stays as it is.
    """
    lines = [f"# {say('Arguments')}", ""]
    for paragraph in _HEAD:
        lines += [say(paragraph), ""]
    for title, sentence, specs in _sections():
        lines += [f"## {say(title)}", "", say(sentence), ""]
        lines += _table(("name", "default", "also", "effect", "meaning"), say)
        for spec in specs:
            also = ", ".join(f"`{alias}`" for alias in spec.aliases)
            shown = f"`{_default(spec)}`" if _default(spec) else ""
            cells = (f"`{spec.name}`", shown, also, _effect(spec, say), _meaning(spec, say))
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines.append("")
    lines += [f"## {say('FleetX sections')}", ""]
    lines += [say("`-o` takes these paths, and zoo's own names under a section."), "", *_table(("FleetX", "zoo"), say)]
    lines += [f"| `{path}` | `{name}` |" for path, name in RENAMED.items()]
    for composite in COMPOSITES:
        paths, names = (", ".join(f"`{item}`" for item in items) for items in (composite.keys, composite.names))
        lines.append(f"| {paths} | {names} |")
    lines += ["", say("Read and needed no more:"), "", *_table(("FleetX", "why"), say)]
    lines += [f"| `{path}` | {_cell(say(unused.why))} |" for path, unused in UNUSED.items()]
    return "\n".join(lines) + "\n"


def help_text(task: str) -> str:
    """Return the grouped listing of the arguments that do something for `task`, as `--help` prints it."""
    lines = [
        f"zoo run {task} [FILE.json|FILE.yaml ...] [--flag value ...] [-o Section.key=value ...]",
        "",
        "The later source wins: files, then flags, then -o. docs/en/arguments.md has every argument and alias.",
    ]
    for title, sentence, specs in _sections():
        group = specs[0].group
        tasks = _SHOWN_FOR.get(group)
        shown = [s for s in specs if s.effect.kind in ("works", "gpu") or (tasks and s.effect.kind == "later")]
        if not shown or (tasks is not None and task not in tasks):
            continue
        shown = [s for s in shown if s.name in _ONLY.get((task, group), (s.name,))]
        lines += ["", f"{title}: {sentence}" if group != OVERRIDES else f"Model sizes: {sentence}"]
        for spec in shown:
            flag = "  --" + spec.name + ("" if spec.base == "bool" else " " + _value_name(spec))
            default = f" [{_default(spec)}]" if _default(spec) else ""
            gpu = " (GPU)" if spec.effect.kind == "gpu" else ""
            lines.append(f"{flag:<42}{'' if len(flag) < 42 else ' '}{spec.help}{default}{gpu}")
    return "\n".join(lines) + "\n"


def _value_name(spec: Spec) -> str:
    if spec.choices:
        return "|".join(spec.choices) if len("|".join(spec.choices)) <= 24 else "NAME"
    if spec.base.startswith("tuple"):
        return "A,B,..."
    return {"int": "N", "float": "X", "str": "TEXT"}[spec.base]
