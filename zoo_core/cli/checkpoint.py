"""`zoo checkpoint`: which there are, whether their files are as they were written, what is in one."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import click

from zoo_core._counting import many
from zoo_core.checkpoint import verify as verify_files
from zoo_core.checkpoint.disk import read_json
from zoo_core.checkpoint.dtypes import item_size
from zoo_core.checkpoint.folders import newest_folder
from zoo_core.checkpoint.inspect import Looked, Tensor, layout_text, look, look_all, tensors
from zoo_core.checkpoint.names import GROUPS, MANIFEST
from zoo_core.cli._text import bytes_text, count_text, print_json, table
from zoo_core.errors import CheckpointError

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="checkpoint")
def command() -> None:
    """List, verify and show the checkpoints of runs."""


def _none(path: Path) -> CheckpointError:
    why = "it has no checkpoint-N" if path.is_dir() else "there is no such folder"
    return CheckpointError(f"no checkpoints in {path}", why, "give the output_dir of a run")


@command.command(name="ls", short_help="List the checkpoints of a run.")
@click.argument("folder", type=_PATH, default=Path("output"))
@_AS_JSON
def list_(folder: Path, as_json: bool) -> None:
    """List the checkpoints in FOLDER, the output_dir of a run (./output)."""
    found = look_all(folder)
    if not found:
        raise _none(folder)
    if as_json:
        print_json([_as_dict(one) for one in found])
        return
    rows = []
    for one in found:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.saved_at)) if one.saved_at else ""
        size = bytes_text(one.size) if one.size else ""
        rows.append(
            (one.path.name, _step(one), saved, size, layout_text(one.layout), _state(one), ", ".join(one.marks))
        )
    click.echo(table(("CHECKPOINT", "STEP", "SAVED", "SIZE", "WRITTEN BY", "STATE", ""), rows, right=(1, 3)))
    for one in found:
        for why in one.wrong if one.finished else ():
            click.echo(f"{one.path.name}: {why}")
    click.echo(f"\nsizes were compared; `zoo checkpoint verify {folder}` reads every file")


def _step(one: Looked) -> str:
    return str(one.step) if one.step >= 0 else ""


def _state(one: Looked) -> str:
    if not one.finished:
        return "unfinished"
    return "damaged" if one.wrong else "whole"


def _as_dict(one: Looked) -> dict[str, Any]:
    return {
        "path": str(one.path),
        "step": one.step,
        "saved_at": one.saved_at,
        "bytes": one.size,
        "files": one.files,
        "state": _state(one),
        "wrong": list(one.wrong),
        "layout": dict(one.layout),
        "latest": "latest" in one.marks,
        "best": "best" in one.marks,
        "metrics": one.state.get("metrics", {}),
    }


@command.command(short_help="Compare every file with its checksum.")
@click.argument("path", type=_PATH)
@_AS_JSON
def verify(path: Path, as_json: bool) -> int:
    """Read every file of a checkpoint and compare it with its checksum.

    PATH is a checkpoint-N, or the output_dir of a run for all of them. The exit status is 2 if anything differs.
    """
    folders = [path] if (path / MANIFEST).is_file() or path.name.startswith("checkpoint-") else []
    folders = folders or [one.path for one in look_all(path) if one.path.suffix != ".tmp"]
    if not folders or not path.is_dir():
        raise _none(path)
    told, first = [], None
    for folder in folders:
        begin = time.perf_counter()
        try:
            read = verify_files(folder)
        except CheckpointError as error:
            first = first or error
            told.append({"path": str(folder), "ok": False, "wrong": error.why.split("; ")})
            if not as_json:
                click.echo(f"DAMAGED  {folder}")
            continue
        told.append({"path": str(folder), "ok": True, "bytes": read})
        if not as_json:
            seconds = time.perf_counter() - begin
            click.echo(
                f"ok       {folder}  {many(look(folder).files, 'file')}, {bytes_text(read)}, read in {seconds:.2f} s"
            )
    if as_json:
        print_json(told)
        return 2 if first else 0
    if first is not None:
        raise first
    return 0


@command.command(short_help="Show configuration, layout and tensors.")
@click.argument("path", type=_PATH)
@_AS_JSON
def show(path: Path, as_json: bool) -> None:
    """Show what a checkpoint holds: configuration, the layout that wrote it, and every tensor.

    PATH is a checkpoint-N, or the output_dir of a run for its latest.
    """
    folder = path if (path / MANIFEST).is_file() else newest_folder(path)
    if folder is None:
        raise _none(path)
    found, held = look(folder), tensors(folder)
    config = read_json(folder / "config.json")
    if as_json:
        rows = [asdict(tensor) | {"shape": list(tensor.shape)} for tensor in held]
        print_json({**_as_dict(found), "config": config, "trainer_state": dict(found.state), "tensors": rows})
        return
    state = found.state
    click.echo(f"{folder}: step {found.step}, {bytes_text(found.size)} in {many(found.files, 'file')}, {_state(found)}")
    for why in found.wrong:
        click.echo(f"  {why}")
    click.echo(f"model       {state.get('model_name', config.get('model_type', ''))}")
    click.echo(f"written by  {layout_text(found.layout)}, zoo {state.get('zoo_version', '')}")
    for name, said in dict(state.get("remarks", {})).items():
        click.echo(f"            {name}: {said}")
    if "consumed_samples" in state:
        click.echo(
            f"data        {many(state['consumed_samples'], 'sample')} consumed, epoch {state.get('epoch', 0):.3f}"
        )
    if metrics := state.get("metrics"):
        click.echo("metrics     " + ", ".join(f"{name} {value:.5g}" for name, value in metrics.items()))
    click.echo("config      " + ", ".join(f"{name} {json.dumps(value)}" for name, value in config.items()))
    click.echo("\n" + _tensor_table(held))
    click.echo("\n" + "\n".join(_totals(held)))


def _tensor_table(held: list[Tensor]) -> str:
    """One line for each parameter with the roles it has."""
    rows: dict[str, dict[str, Tensor]] = {}
    for tensor in held:
        rows.setdefault(tensor.name, {})[tensor.role] = tensor
    lines = []
    for name, roles in rows.items():
        shape = " x ".join(map(str, next(iter(roles.values())).shape)) or "scalar"
        lines.append((name, shape, ", ".join(f"{role} {tensor.dtype}" for role, tensor in roles.items())))
    return table(("PARAMETER", "SHAPE", "HELD AS"), lines)


def _totals(held: list[Tensor]) -> list[str]:
    lines = []
    for group in dict.fromkeys(tensor.group for tensor in held):
        own = [tensor for tensor in held if tensor.group == group]
        elements = sum(prod(tensor.shape) for tensor in own)
        size = sum(prod(tensor.shape) * item_size(tensor.dtype) for tensor in own)
        files = len({tensor.file for tensor in own})
        sizes = f"{count_text(elements)} elements, {bytes_text(size)}"
        lines.append(f"{GROUPS.get(group, group)}: {len(own)} tensors, {sizes}, {files} file{'s' if files > 1 else ''}")
    return lines
