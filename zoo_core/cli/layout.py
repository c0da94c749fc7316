"""`zoo layout`: every parameter, how it splits, and what it is called in published files."""

from __future__ import annotations

from math import prod
from typing import Any

import click
from click.shell_completion import CompletionItem

from zoo_core import layout
from zoo_core.cli._text import bytes_text, count_text, print_json, table
from zoo_core.config import ModelConfig
from zoo_core.errors import PlanError
from zoo_core.layout import Rule
from zoo_core.plan import configured, owners
from zoo_core.quantized import split_objection
from zoo_core.registry import Architecture, registry

__all__ = ["command"]

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def _names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    word = incomplete.casefold()
    names = [entry.name for _, entry in registry().models if entry.name.casefold().startswith(word)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


@click.command(name="layout")
@click.argument("model", shell_complete=_names)
@click.option("--tp", "--tensor_parallel_degree", "tensor", type=click.IntRange(1), default=1, show_default=True,
              help="Ranks that share each layer.")  # fmt: skip
@click.option("--scale", type=click.Choice(["tiny", "small"]), help="The model shrunk, as `zoo run --scale` has it.")
@click.option("--rows", "by_row", is_flag=True, help="One line for each row of the table instead of each parameter.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, tensor: int, scale: str | None, by_row: bool, as_json: bool) -> None:
    """Show the global and the local shape of every parameter of MODEL, a name or a folder."""
    found = registry().find(model)
    config = configured(found, scale)
    parameters = found.architecture.table(config)
    cut = split_objection(parameters, config.quantization_config, tensor) if config.quantization_config else ""
    for name, rule in parameters.items():
        why = layout.objection(rule, tensor)
        if why:
            legal = [d for d in range(1, tensor) if not any(layout.objection(r, d) for r in parameters.values())]
            raise PlanError(
                f"{found.name} does not split over tp {tensor}",
                cut or f"{name}: {why}",
                f"--tp {legal[-1]} is legal" if legal else "",
            )
    whole, local = _totals(parameters, tensor)
    shown = {rule.name: rule for rule in found.architecture.rules(config)} if by_row else parameters
    if as_json:
        print_json(
            {
                "model": found.name,
                "tensor_parallel_degree": tensor,
                "parameters": [_as_dict(name, rule, tensor) for name, rule in shown.items()],
                "total": {
                    "names": len(parameters),
                    "elements": whole,
                    "elements_per_rank": local,
                    "dtype": config.torch_dtype,
                },
            }
        )
        return
    if not by_row:
        shown = _in_model_order(found.architecture, config, parameters)
    rows = [_row(name, rule, tensor) for name, rule in shown.items()]
    head = ("PARAMETER", "GLOBAL", "LOCAL", "SPLIT", "HUGGING FACE")
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    click.echo(table([head[column] for column in kept], [[row[column] for column in kept] for row in rows]))
    each = _BYTES.get(config.torch_dtype, 4)
    click.echo(f"\n{found.name}: {len(parameters)} parameters, {count_text(whole)} elements ({whole:,})")
    sizes = f"{bytes_text(local * each)} in {config.torch_dtype}"
    click.echo(f"each of {tensor} ranks: {count_text(local)} elements, {sizes}" if tensor > 1 else sizes)


def _in_model_order(architecture: Architecture, config: ModelConfig, table_: dict[str, Rule]) -> dict[str, Rule]:
    """The parameters layer by layer; the table has them row by row."""
    layers = architecture.pipe_layers(config)
    owned = owners(table_, [layer.prefix for layer in layers], [layer.is_block for layer in layers])
    return {name: table_[name] for name in sorted(table_, key=owned.__getitem__)}


def _totals(parameters: dict[str, Rule], tensor: int) -> tuple[int, int]:
    """Elements of the whole model and of one rank, what is tied counted once."""
    once = {rule.single: rule for rule in reversed(parameters.values())}.values()
    return sum(prod(rule.shape) for rule in once), sum(prod(layout.local_shape(rule, tensor)) for rule in once)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _published(rule: Rule) -> str:
    names = [part.hf for part in rule.segments() if part.hf] if not rule.hf else [rule.hf]
    return " + ".join(names) + (" (transposed)" if names and rule.hf_transposed else "")


def _split(rule: Rule, tensor: int) -> str:
    tied = getattr(rule, "tied_to", "")
    return (layout.describe(rule, tensor) if tensor > 1 else "") + (f" tied to {tied}" if tied else "")


def _row(name: str, rule: Rule, tensor: int) -> tuple[str, ...]:
    local = _shape(layout.local_shape(rule, tensor)) if tensor > 1 else ""
    return (name, _shape(rule.shape), local, _split(rule, tensor).strip(), _published(rule))


def _as_dict(name: str, rule: Rule, tensor: int) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(rule.shape),
        "local_shape": list(layout.local_shape(rule, tensor)),
        "kind": type(rule).__name__,
        "split_dim": rule.dim,
        "remarks": layout.remarks(rule, tensor),
        "tied_to": getattr(rule, "tied_to", ""),
        "hf": [part.hf for part in rule.segments() if part.hf] if not rule.hf else [rule.hf],
        "hf_transposed": rule.hf_transposed,
    }
