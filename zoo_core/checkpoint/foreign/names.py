"""Names and shapes of another framework's tensors, presented as zoo's table has them.

PaddleNLP and FleetX name parameters as zoo does, with these differences: an output head is [hidden, vocabulary]; a
fused `qkv_proj` is interleaved, for each key/value head its queries, its key and its value; a pipeline stage of FleetX
counts layers instead of naming them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from zoo_core.checkpoint.foreign.folder import Foreign
from zoo_core.checkpoint.stored import Box, Pasted, Stored, Turned, covered
from zoo_core.errors import CheckpointError, LayoutError
from zoo_core.layout import Column, FusedColumn, Rule, Vocab, local_shape, pieces

__all__ = ["Form", "as_single", "form_of", "is_head", "is_interleaved", "presented", "separated"]

Form = Literal["single", "hf"]
"""Names of the table as on one card, or those of the published Hugging Face files."""

_HEAD = re.compile(r"(^|\.)(lm_head|output_layer|shared_head\.head)\.weight$")
_WRAPPED = re.compile(r"^(_layers|module|_orig_mod)\.")


def is_head(rule: Rule) -> bool:
    """Whether the parameter is an untied output head, which PaddleNLP has as [hidden, vocabulary]."""
    return isinstance(rule, Vocab) and rule.single == rule.name and bool(_HEAD.search(rule.name))


def is_interleaved(rule: Rule) -> bool:
    """Whether PaddleNLP interleaves the parts of this parameter head by head."""
    names = [part.name.rpartition(".")[0].rpartition(".")[2] for part in rule.segments()]
    return isinstance(rule, FusedColumn) and names == ["q_proj", "k_proj", "v_proj"]


def _runs(rule: Rule) -> Iterator[tuple[int, int, int]]:
    """Start in [q | k | v], start in the interleaved order, and width, of each head's run."""
    query, key, value = rule.segments()
    groups = key.units
    wide, narrow = query.width // groups, key.width // groups
    for group in range(groups):
        at = group * (wide + 2 * narrow)
        yield group * wide, at, wide
        yield query.width + group * narrow, at + wide, narrow
        yield query.width + key.width + group * narrow, at + wide + narrow, narrow


def separated(tensor: Stored, rule: Rule, back: bool = False) -> Stored:
    """A fused `qkv_proj` as [q | k | v], from interleaved heads, or `back`."""
    lead = rule.shape[:-1]
    boxes = []
    for ours, theirs, width in _runs(rule):
        at, start = (theirs, ours) if back else (ours, theirs)
        boxes.append(Box((*(0 for _ in lead), at), tensor, (*(0 for _ in lead), start), (*lead, width)))
    return Pasted(tensor.key, rule.shape, tensor.dtype, tuple(boxes))


def _names(rules: Iterable[Rule], form: Form) -> dict[str, Rule]:
    """Every name of the form under which a parameter, or a part of one, may lie in the files."""
    found: dict[str, Rule] = {}
    for rule in rules:
        for part in rule.segments():
            if form == "single" or part.hf:
                found.setdefault(part.name if form == "single" else part.hf, rule)
        if form == "single" or rule.hf:
            found[rule.name if form == "single" else rule.hf] = rule
    return found


def _short(name: str) -> str:
    return name.partition(".")[2]


def form_of(tensors: Mapping[str, Stored], rules: Iterable[Rule], default: Form) -> Form:
    """Whose names the files have: by names that only one form has, else by shapes, which the other form transposes.

    Args:
        rules: of the model, and of the model with its projections fused.
        default: where neither tells.
    """
    # a tied head's own name may stand in files of either form
    rules = [rule for rule in rules if rule.single == rule.name]
    single, hf = _names(rules, "single"), _names(rules, "hf")
    own = len((single.keys() - hf.keys()) & tensors.keys()) - len((hf.keys() - single.keys()) & tensors.keys())
    if own:
        return "single" if own > 0 else "hf"
    votes = [0, 0]
    for rule in rules:
        if not rule.hf_transposed or len(rule.shape) != 2 or rule.shape[0] == rule.shape[1] or rule.hf_run:
            continue
        for name in {rule.name, rule.hf, _short(rule.name), _short(rule.hf)} & tensors.keys():
            votes[0] += tensors[name].shape == rule.shape
            votes[1] += tensors[name].shape == rule.shape[::-1]
    return default if votes[0] == votes[1] else "single" if votes[0] > votes[1] else "hf"


def presented(
    foreign: Foreign, folder: Path, table: Mapping[str, Rule], fused: Mapping[str, Rule]
) -> tuple[dict[str, Stored], Form]:
    """Return the tensors under zoo's or Hugging Face's names, whole and laid out as the table says.

    Args:
        table: every parameter of the model.
        fused: the table of the model with its projections fused.

    Raises:
        CheckpointError: shards do not fit the model or each other; names them.
    """
    rules = {**fused, **table}
    tensors = dict(foreign.tensors)
    if foreign.ranks:
        tensors = _merged(foreign, folder, table, rules)
        form: Form = "single"
    else:
        tensors = {_bare(name): tensor for name, tensor in tensors.items()}
        form = form_of(tensors, rules.values(), "single" if foreign.kind == "paddle" else "hf")
    return (as_single(tensors, rules) if form == "single" else tensors), form


def _bare(name: str) -> str:
    while _WRAPPED.match(name):
        name = _WRAPPED.sub("", name)
    return name


def as_single(tensors: Mapping[str, Stored], rules: Mapping[str, Rule]) -> dict[str, Stored]:
    """PaddleNLP's tensors as zoo lays them out: heads turned, interleaved projections apart, base prefixes added."""
    short = {_short(name): name for name in rules}
    found = {}
    for key, tensor in tensors.items():
        name = key if key in rules else short.get(key, key)
        rule = rules.get(name)
        if rule is not None and is_head(rule) and _is_turned(tensor, rule):
            tensor = tensor.source if isinstance(tensor, Turned) else Turned(tensor)
        elif rule is not None and is_interleaved(rule) and tensor.shape == rule.shape:
            tensor = separated(tensor, rule)
        found[name] = tensor
    return found


def _is_turned(tensor: Stored, rule: Rule) -> bool:
    return tensor.shape == rule.shape[::-1]


def _merged(foreign: Foreign, folder: Path, table: Mapping[str, Rule], rules: Mapping[str, Rule]) -> dict[str, Stored]:
    """The whole tensors of a folder of shards."""
    ranks = []
    for rank in range(foreign.tensor_degree):
        stages = [{_bare(k): v for k, v in foreign.ranks[rank, stage].items()} for stage in range(foreign.stages)]
        ranks.append(_joined_stages(stages, table, foreign, folder))
    merged: dict[str, Stored] = {}
    for name in dict.fromkeys(name for rank in ranks for name in rank):
        lacking = [rank for rank, held in enumerate(ranks) if name not in held]
        if lacking:
            files = sorted(file for (rank, _), file in foreign.files.items() if rank == lacking[0])
            raise CheckpointError(
                f"tensor {name} is missing in {folder}/{', '.join(files)}",
                f"other ranks' shards have it: {next(held[name].file for held in ranks if name in held)}",
                "copy the shards of one and the same step",
            )
        shards = [held[name] for held in ranks]
        merged[name] = _whole(name, shards, rules.get(name) or rules.get(_prefixed(name, rules)), folder)
    return merged


def _prefixed(name: str, rules: Mapping[str, Rule]) -> str:
    return next((full for full in rules if _short(full) == name), "")


def _joined_stages(
    stages: list[dict[str, Stored]], table: Mapping[str, Rule], foreign: Foreign, folder: Path
) -> dict[str, Stored]:
    if len(stages) == 1 and not any(re.match(r"(\d+|shared_layers)\.", name) for name in stages[0]):
        return stages[0]
    found: dict[str, Stored] = {}
    counted = sum(1 for name in table if re.search(r"\.layers\.\d+\.norm1\.weight$", name))
    before = 0
    for number, held in enumerate(stages):
        named = _renumbered(held, before, restart=_restarts(stages))
        before += 1 + max(_layers(held), default=-1)
        for name, tensor in named.items():
            full = _fleetx_name(name, table, counted)
            if full in found and found[full].shape != tensor.shape:
                raise CheckpointError(
                    f"tensor {full} has shape {list(tensor.shape)} in stage {number}",
                    f"an earlier stage of {folder} has it as {list(found[full].shape)}",
                    "copy the shards of one and the same step",
                )
            found.setdefault(full, tensor)
    return found


_LAYER = re.compile(r"^(.*?(?:^|\.)(?:layers|h)\.|)(\d+)(?=\.)")


def _layers(held: Iterable[str]) -> set[int]:
    return {int(found[2]) for name in held if (found := _LAYER.match(name))}


def _restarts(stages: list[dict[str, Stored]]) -> bool:
    """Whether every stage counts its layers from 0, instead of one count over all."""
    seen: set[int] = set()
    for held in stages:
        layers = _layers(held)
        if seen & layers:
            return True
        seen |= layers
    return False


def _renumbered(held: Mapping[str, Stored], before: int, restart: bool) -> dict[str, Stored]:
    if not restart:
        return dict(held)
    return {_LAYER.sub(lambda m: f"{m[1]}{int(m[2]) + before}", name): tensor for name, tensor in held.items()}


def _fleetx_name(name: str, table: Mapping[str, Rule], layers: int) -> str:
    """The single-card name of what FleetX's pipeline counts: 0 the embeddings, then the layers, then the last norm.

    Interleaved stages count twice: `4.1.` is the second layer of the chunk that begins with layer 4.
    """
    counted = re.match(r"(\d+)\.(?:(\d+)\.)?(.+)", name)
    shared = re.match(r"shared_layers\.\w+\.(.+)", name)
    if shared or (counted and int(counted[1]) + int(counted[2] or 0) == 0):
        rest = shared[1] if shared else counted[3] if counted else ""
        return next((full for full in table if full.endswith(f".{rest}")), name)
    if counted is None:
        return name
    number, rest = int(counted[1]) + int(counted[2] or 0) - 1, counted[3]
    if number < layers:
        first = next(full for full in table if re.search(r"\.layers\.\d+\.", full))
        return first[: first.index(".layers.")] + f".layers.{number}.{rest}"
    last = next((full for full in table if re.search(r"\bdecoder\.norm\.weight$", full)), "")
    return last.removesuffix("weight") + rest.removeprefix("norm.") if last else name


def _whole(name: str, shards: list[Stored], rule: Rule | None, folder: Path) -> Stored:
    """One tensor out of the shards of all tensor-parallel ranks."""
    degree = len(shards)
    if degree == 1:
        return shards[0]
    same = all(shard.shape == shards[0].shape and shard.dtype == shards[0].dtype for shard in shards)
    if not same:
        said = ", ".join(f"{shard.file} {list(shard.shape)} {shard.dtype}" for shard in shards)
        raise CheckpointError(
            f"the shards of {name} differ in {folder}", said, "copy the shards of one and the same run"
        )
    if rule is None or rule.dim is None:
        return shards[0]
    shape, turned = shards[0].shape, False
    split = _split_rule(rule)
    try:
        local = local_shape(split, degree)
    except LayoutError:
        local = ()
    if is_head(rule) and shape == local[::-1]:
        shape, turned = shape[::-1], True
    if shape == rule.shape:
        # what cannot be divided, PaddleNLP leaves whole on every rank
        return shards[0]
    if shape != local:
        raise CheckpointError(
            f"the shards of {name} in {folder} have shape {list(shards[0].shape)}",
            f"the model's {list(rule.shape)} over {degree} ranks makes {list(local) or 'none'}",
            "give the model they belong to, and the shards of all ranks",
        )
    dim = split.dim or 0
    boxes = []
    for rank, shard in enumerate(shards):
        source: Stored = Turned(shard) if turned else shard
        for piece in pieces(split, degree, rank):
            if piece.start < piece.stop and rank % piece.copies == 0:
                at, start, extent = [0] * len(shape), [0] * len(shape), list(shape)
                at[dim], start[dim], extent[dim] = piece.start, piece.offset, piece.stop - piece.start
                boxes.append(Box(tuple(at), source, tuple(start), tuple(extent)))
    whole = Pasted(name, split.shape, shards[0].dtype, tuple(boxes))
    if not covered(whole):
        raise CheckpointError(f"the shards of {name} in {folder} do not make {list(split.shape)}", "", "")
    return Turned(whole) if turned else whole


def _split_rule(rule: Rule) -> Rule:
    """How PaddleNLP splits a parameter: an interleaved one by whole groups of heads."""
    if not is_interleaved(rule):
        return rule
    return Column(rule.name, rule.shape, units=rule.segments()[1].units)
