"""T0 and T1: the parameter table against itself, against splitting, against its fused form, and against the model."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint.hf import hf_places
from zoo_core.checkpoint.places import published_place, stored_shape
from zoo_core.config import ModelConfig
from zoo_core.errors import PluginError
from zoo_core.layout import local_shape, match, merge, objection, split
from zoo_core.plan.owner import owners
from zoo_core.registry import Architecture

__all__ = [
    "check_fusing",
    "check_layout",
    "check_model_matches",
    "check_pipe_prefixes",
    "check_published",
    "check_splits",
    "check_table",
]


def check_layout(arch: Architecture, config: ModelConfig) -> None:
    """`check_table`, `check_splits` and `check_model_matches`; imports paddle."""
    check_table(arch, config)
    check_splits(arch, config)
    check_model_matches(arch, config)


def check_table(arch: Architecture, config: ModelConfig) -> None:
    """Names are unique, parts fill what they are parts of, ties point at rows, and no two rows share a tensor."""
    table = arch.table(config)
    for name, rule in table.items():
        assert "*" not in name + rule.hf, f"{name} still has a star: give the row its layers or experts"
        assert all(size > 0 for size in rule.shape), f"{name} has the shape {rule.shape}"
        assert rule.single in table, f"{name} is tied to {rule.single}, which is no row"
        if rule.dim is not None:
            width = sum(part.width for part in rule.segments())
            assert width == rule.shape[rule.dim], f"the parts of {name} are {width} wide, and it {rule.shape}"
    published = Counter((place.key, place.offset) for rule in table.values() for place in hf_places(rule))
    twice = [key for key, count in published.items() if count > 1]
    assert not twice, f"two rows claim {twice[0][0]}"


def check_splits(arch: Architecture, config: ModelConfig, degrees: Iterable[int] = range(1, 9)) -> None:
    """Cutting every parameter into the shards of a degree, where the table allows it, and joining them loses no bit."""
    random = np.random.default_rng(0)
    for name, rule in arch.table(config).items():
        whole = random.standard_normal(rule.shape, np.float32)
        for degree in degrees:
            if objection(rule, degree):
                continue
            shards = [split(whole, rule, degree, rank) for rank in range(degree)]
            wanted = local_shape(rule, degree)
            assert all(shard.shape == wanted for shard in shards), f"{name} over {degree}: a shard is not {wanted}"
            assert np.array_equal(merge(shards, rule), whole), f"{name} over {degree}: joined shards differ"


def check_fusing(arch: Architecture, config: ModelConfig, **fuse: bool) -> None:
    """The fused layout must have the same published tensors, of the same shapes, and as many parameters."""
    separate, fused = arch.table(config), arch.table(config.replace(**fuse))
    assert set(separate) != set(fused), f"{fuse} changes no row of the table"
    tensors = [{p.key: p.shape for rule in table.values() for p in hf_places(rule)} for table in (separate, fused)]
    assert tensors[0] == tensors[1], f"published tensors differ: {sorted(set(tensors[0]) ^ set(tensors[1]))}"
    sizes = [sum(math.prod(rule.shape) for rule in table.values()) for table in (separate, fused)]
    assert sizes[0] == sizes[1], f"{sizes[0]} parameters apart, {sizes[1]} fused"


def check_published(arch: Architecture, model: str, folder: Path, **changes: Any) -> None:
    """A named model has the tensors that a reference implementation declares at its sizes: every name, every shape.

    Args:
        folder: of the files that `tools/published.py` wrote.
        changes: configuration fields to replace (`fuse_attention_qkv=True`); the tensors must stay.
    """
    entries = [entry for file in sorted(folder.glob("*.json")) for entry in json.loads(file.read_text())]
    declared = [entry["tensors"] for entry in entries if model in entry["models"]]
    assert len(declared) == 1, f"{folder} has {len(declared)} entries for {model}"
    wanted = {name: tuple(shape) for pattern, shape in declared[0].items() for name in _numbered(pattern)}
    (config,) = (entry.config for entry in arch.capabilities.models if entry.name == model)
    found: dict[str, tuple[int, ...]] = {}
    for rule in arch.table(config.replace(**changes)).values():
        copies = (published_place(rule, rule.hf),) if rule.single != rule.name and rule.hf else ()
        for place in (*hf_places(rule), *copies):
            shape = stored_shape(place)
            assert found.setdefault(place.key, shape) == shape, f"{place.key} is {found[place.key]} and {shape}"
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert not wrong, (
        f"{len(wrong)} tensors of {model} differ: {wrong[0]} is {found.get(wrong[0], 'missing')} in the table and "
        f"{wanted.get(wrong[0], 'missing')} in the reference implementation"
    )


def _numbered(pattern: str) -> Iterator[str]:
    """The names that `a.{0-31}.b` stands for."""
    pieces = re.split(r"\{(\d+)-(\d+)\}", pattern)
    ranges = [range(int(first), int(last) + 1) for first, last in zip(pieces[1::3], pieces[2::3], strict=True)]
    for numbers in itertools.product(*ranges):
        yield "".join(text + str(number) for text, number in zip(pieces[::3], [*numbers, ""], strict=True))


def check_model_matches(arch: Architecture, config: ModelConfig) -> None:
    """Every parameter and buffer that the model saves has one row of its kind and shape, and every row a tensor.

    What the model holds once under two names is tied in the table, and nothing else is. Imports paddle.
    """
    model = arch.build_model(config)
    tensors = model.state_dict()
    table = match(
        arch.rules(config), {name: tensor.shape for name, tensor in tensors.items()}, config.num_hidden_layers
    )
    order = {name: place for place, name in enumerate(table)}
    by_tensor: dict[int, list[str]] = {}
    for name in sorted(tensors, key=order.__getitem__):
        by_tensor.setdefault(id(tensors[name]), []).append(name)
    for owner, *others in by_tensor.values():
        for name in others:
            assert table[name].single == table[owner].single, (
                f"{owner} and {name} are one tensor in the model and two in the table; give the row of {name} "
                f"tied_to={owner!r}, or hold two parameters in the model"
            )
    trained = {table[name].single for name, _ in model.named_parameters()}
    for name, rule in table.items():
        if rule.single == name:
            assert rule.buffer != (name in trained), f"{name} is {'' if rule.buffer else 'not '}a buffer in the table"
        elif name in tensors:
            assert tensors[name] is tensors[rule.single], (
                f"the row of {name} is tied to {rule.single}, and in the model they are two tensors; "
                "take tied_to away, or share the parameter in the model"
            )


def check_pipe_prefixes(arch: Architecture, config: ModelConfig) -> None:
    """Without building anything: every parameter of the table lies under a layer of the list, every layer has some."""
    layers, table = arch.pipe_layers(config), arch.table(config)
    prefixes = [layer.prefix for layer in layers]
    blocks = [layer.prefix for layer in layers if layer.is_block]
    assert len(blocks) == config.num_hidden_layers, (
        f"the pipeline list has {len(blocks)} blocks (is_block=True) and the configuration {config.num_hidden_layers} "
        "layers; give one block for each"
    )
    twice = [prefix for prefix, count in Counter(blocks).items() if count > 1]
    assert not twice, f"two blocks of the pipeline list have the prefix {twice[0]!r}; each has its own layer number"
    for number, prefix in enumerate(blocks):
        if not any(name.startswith(f"{prefix}.") for name in table):
            missing = sorted({_numbered_prefix(name) for name in table} - {*blocks, ""}, key=_by_number)
            raise AssertionError(
                f"block {number} of the pipeline list has the prefix {prefix!r}, and no row of the table is under it"
                + (f"; {missing[0]!r} has parameters and no block: is the number in the prefix off?" if missing else "")
            )
    try:
        owned = owners(table, prefixes, [layer.is_block for layer in layers])
    except PluginError as error:
        raise AssertionError(f"{error.what}; {error.todo}") from error
    for index, prefix in enumerate(prefixes):
        assert index in owned.values(), (
            f"layer {index} of the pipeline list, with the prefix {prefix!r}, has no parameter of the table; "
            "correct its prefix"
        )


def _numbered_prefix(name: str) -> str:
    """The name up to its first number, that included; empty where it has none."""
    found = re.match(r"(.*?\.\d+)\.", name)
    return found[1] if found else ""


def _by_number(prefix: str) -> int:
    return int(prefix.rpartition(".")[2])
