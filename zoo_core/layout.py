"""The parameter table: one row a parameter name, which says its shape, how it splits, and its Hugging Face name.

Everything that places a parameter (splitting, merging, loading slices, resharding, memory estimates) reads `pieces`
of this file and nothing else, so that no two of them can disagree. Plain data: no paddle, hashable, printable.

A name may hold one `*` for the layer number and a second for the expert number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from zoo_core.errors import LayoutError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Column",
    "FusedColumn",
    "Init",
    "Part",
    "Piece",
    "Replicate",
    "Row",
    "Rule",
    "Vocab",
    "copied",
    "describe",
    "expand",
    "is_norm",
    "local_shape",
    "match",
    "merge",
    "objection",
    "pieces",
    "remarks",
    "split",
]

OnIndivisible = Literal["refuse", "replicate", "pad"]


@dataclass(frozen=True)
class Init:
    """How a parameter starts: `normal` or `uniform` with standard deviation `std` and mean 0, `zeros`, or `ones`."""

    kind: Literal["normal", "uniform", "zeros", "ones"]
    std: float = 0.0


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Args:
        name: single-card name, `*` for the layer (and then the expert) number.
        shape: global shape as Paddle holds it; a Linear weight is [in, out].
        hf: Hugging Face name, `*` likewise; empty where the published files have no such tensor.
        transpose: the Hugging Face tensor is the transpose; `None` means yes for a 2-D Column or Row.
        init: initial values; `None` means zeros for a bias, ones for another 1-D parameter, else normal with the
            configuration's `initializer_range`.
        layers: the layer numbers `*` stands for; `None` means all of the configuration's.
        experts: the expert numbers the second `*` stands for.
        buffer: a persistent buffer, saved and loaded but not trained.
        hf_run: (offset, full width): the Hugging Face tensor is wider, and this parameter is the run of its own width
            from `offset` along the split dim (queries in a fused `c_attn`); `None` means it is the whole tensor.
        expert: which expert's parameter this is; set by `expand`.
        dtype: element type that the parameter always has; empty for that of the model.
        weight: of the integers of a quantised weight, the row that the weight itself has.
    """

    name: str
    shape: tuple[int, ...]
    hf: str = ""
    transpose: bool | None = None
    init: Init | None = None
    layers: range | None = None
    experts: range | None = None
    buffer: bool = False
    hf_run: tuple[int, int] | None = None
    expert: int | None = None
    dtype: str = ""
    weight: Rule | None = None

    @property
    def dim(self) -> int | None:
        """The dim that is split over the tensor axis; `None` when every rank holds the whole."""
        return None

    @property
    def single(self) -> str:
        """The name that identifies the values: the name itself, or the parameter this one is tied to."""
        return self.name

    @property
    def hf_transposed(self) -> bool:
        """Whether the Hugging Face tensor is the transpose of ours."""
        return bool(self.transpose)

    def segments(self) -> tuple[Part, ...]:
        """The runs along `dim` that are split one by one; a plain row has one."""
        return ()


@dataclass(frozen=True)
class Part:
    """One projection inside a fused parameter.

    Args:
        name: single-card name of the parameter in the separate layout (or a short label where none exists).
        width: columns of this part.
        units: indivisible runs in `width`: attention heads, say.
        hf: Hugging Face name of the separate tensor; empty where the published files hold the fused one.
        on_indivisible: what happens when the tensor degree does not divide `units`.
    """

    name: str
    width: int
    units: int
    hf: str = ""
    on_indivisible: OnIndivisible = "refuse"


@dataclass(frozen=True)
class Column(Rule):
    """A Linear weight or bias that splits by output, the last dim, in `units` that stay whole (heads, say)."""

    units: int = 0
    on_indivisible: OnIndivisible = "refuse"

    @property
    def dim(self) -> int:
        return len(self.shape) - 1

    @property
    def hf_transposed(self) -> bool:
        return len(self.shape) == 2 if self.transpose is None else self.transpose

    def segments(self) -> tuple[Part, ...]:
        width = self.shape[-1]
        return (Part(self.name, width, self.units or width, self.hf, self.on_indivisible),)


@dataclass(frozen=True)
class FusedColumn(Rule):
    """Several projections side by side in one weight or bias, [q | k | v] say; each part splits by itself."""

    parts: tuple[Part, ...] = ()

    @property
    def dim(self) -> int:
        return len(self.shape) - 1

    @property
    def hf_transposed(self) -> bool:
        return len(self.shape) == 2 if self.transpose is None else self.transpose

    def segments(self) -> tuple[Part, ...]:
        return self.parts


@dataclass(frozen=True)
class Row(Rule):
    """A Linear weight that splits by input, dim 0; its bias, if any, is a `Replicate` row."""

    units: int = 0

    @property
    def dim(self) -> int:
        return 0

    @property
    def hf_transposed(self) -> bool:
        return len(self.shape) == 2 if self.transpose is None else self.transpose

    def segments(self) -> tuple[Part, ...]:
        return (Part(self.name, self.shape[0], self.units or self.shape[0], self.hf),)


@dataclass(frozen=True)
class Vocab(Rule):
    """An embedding or a head, [vocabulary, hidden], that splits by vocabulary, dim 0, padded where need be.

    Args:
        tied_to: single-card name of the embedding whose values this head shares; empty when untied. A tied row that
            has an `hf` name is a copy in the published files: written there, and read from its owner.
    """

    tied_to: str = ""
    on_indivisible: OnIndivisible = "pad"

    @property
    def dim(self) -> int:
        return 0

    @property
    def single(self) -> str:
        return self.tied_to or self.name

    def segments(self) -> tuple[Part, ...]:
        return (Part(self.name, self.shape[0], self.shape[0], self.hf, self.on_indivisible),)


@dataclass(frozen=True)
class Replicate(Rule):
    """A parameter that every rank of the tensor axis holds whole.

    Args:
        sequence_parallel_grad: under sequence parallelism each rank sees its part of the sequence only, so the
            gradients are summed over the tensor axis (norms, biases of Row layers).
        partial_grad: each rank sees its own heads only, so gradients are summed over the tensor axis, sequence
            parallelism or not (norms of queries and keys).
    """

    sequence_parallel_grad: bool = False
    partial_grad: bool = False


@dataclass(frozen=True)
class Piece:
    """Global `[start, stop)` along the split dim lies at local `offset`; `copies` ranks hold the same values."""

    start: int
    stop: int
    offset: int
    copies: int = 1


def _segment(part: Part, degree: int, rank: int) -> tuple[int, int, int, int]:
    """Return (start, stop, local width, copies) of `rank`'s share, relative to the part's start."""
    if part.units % degree == 0:
        width = part.width // degree
        return rank * width, (rank + 1) * width, width, 1
    if part.on_indivisible == "replicate" and degree % part.units == 0:
        copies, width = degree // part.units, part.width // part.units
        return rank // copies * width, (rank // copies + 1) * width, width, copies
    if part.on_indivisible == "pad":
        width = -(-part.width // degree)
        return min(rank * width, part.width), min((rank + 1) * width, part.width), width, 1
    raise LayoutError(
        f"{part.name} does not split over {degree} ranks",
        f"it has {part.units} units, and {part.units} is not divisible by {degree}",
        "choose a tensor_parallel_degree that divides it",
    )


def pieces(rule: Rule, degree: int, rank: int) -> tuple[Piece, ...]:
    """Say which runs of the global parameter make the local one of `rank` of `degree`, along `rule.dim`.

    A replicated parameter has no pieces. Where the local parameter is padded, the pieces do not fill it; what they
    leave is zero.

    Raises:
        LayoutError: the parameter does not split over `degree` ranks.
    """
    found, start, offset = [], 0, 0
    for part in rule.segments():
        first, last, width, copies = _segment(part, degree, rank)
        found.append(Piece(start + first, start + last, offset, copies))
        start, offset = start + part.width, offset + width
    return tuple(found)


def local_shape(rule: Rule, degree: int) -> tuple[int, ...]:
    """The shape of the parameter on each rank of a tensor axis of `degree`.

    Raises:
        LayoutError: the parameter does not split over `degree` ranks.
    """
    if rule.dim is None:
        return rule.shape
    width = sum(_segment(part, degree, 0)[2] for part in rule.segments())
    return rule.shape[: rule.dim] + (width,) + rule.shape[rule.dim + 1 :]


def objection(rule: Rule, degree: int) -> str:
    """Why the parameter cannot split over `degree` ranks; empty when it can."""
    try:
        pieces(rule, degree, 0)
    except LayoutError as error:
        return error.why
    return ""


def remarks(rule: Rule, degree: int) -> str:
    """Padding or replication that this degree causes, for the plan, the log and the checkpoint; empty when none."""
    said = []
    for part in rule.segments():
        _, _, width, copies = _segment(part, degree, 0)
        if copies > 1:
            said.append(f"{part.units} units on {degree} ranks: each held {copies} times")
        elif width * degree != part.width:
            said.append(f"{part.width} rows padded to {width * degree}")
    return "; ".join(said)


def copied(rule: Rule, degree: int, rank: int) -> tuple[tuple[int, int, int], ...]:
    """Local runs (start, stop, copies) along `rule.dim` that other ranks hold too, whose gradients are summed."""
    return tuple((p.offset, p.offset + p.stop - p.start, p.copies) for p in pieces(rule, degree, rank) if p.copies > 1)


def _at(dim: int, start: int, stop: int) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(start, stop),)


def split(array: np.ndarray[Any, Any], rule: Rule, degree: int, rank: int) -> np.ndarray[Any, Any]:
    """Return the local parameter of `rank` from the global `array`; a copy, padded with zeros where need be."""
    import numpy as np  # here, because `zoo models` reads tables without ever touching an array

    if rule.dim is None:
        return array
    local = np.zeros(local_shape(rule, degree), array.dtype)
    for p in pieces(rule, degree, rank):
        local[_at(rule.dim, p.offset, p.offset + p.stop - p.start)] = array[_at(rule.dim, p.start, p.stop)]
    return local


def merge(shards: Sequence[np.ndarray[Any, Any]], rule: Rule) -> np.ndarray[Any, Any]:
    """Return the global parameter from the local ones of all ranks; of copies, the first counts."""
    import numpy as np

    if rule.dim is None:
        return shards[0]
    whole = np.zeros(rule.shape, shards[0].dtype)
    for rank in reversed(range(len(shards))):
        for p in pieces(rule, len(shards), rank):
            whole[_at(rule.dim, p.start, p.stop)] = shards[rank][_at(rule.dim, p.offset, p.offset + p.stop - p.start)]
    return whole


def _fill(pattern: str, numbers: Sequence[int]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", str(number), 1)
    return pattern


def expand(rules: Iterable[Rule], num_layers: int) -> dict[str, Rule]:
    """Return every parameter of the model, by single-card name, in table order, each with its own row.

    Raises:
        LayoutError: two rows give the same name.
    """
    table: dict[str, Rule] = {}
    for rule in rules:
        stars = rule.name.count("*")
        layers = rule.layers if rule.layers is not None else range(num_layers)
        experts = rule.experts if rule.experts is not None else range(0)
        numbers: list[tuple[int, ...]] = [()]
        if stars == 1:
            numbers = [(layer,) for layer in layers]
        elif stars == 2:
            numbers = [(layer, expert) for layer in layers for expert in experts]
        for chosen in numbers:
            name = _fill(rule.name, chosen)
            if name in table:
                raise LayoutError(f"two rows of the table give {name}", "every parameter has exactly one row", "")
            row = replace(rule, name=name, hf=_fill(rule.hf, chosen), expert=chosen[1] if stars == 2 else None)
            if isinstance(row, FusedColumn):
                filled = tuple(
                    replace(part, name=_fill(part.name, chosen), hf=_fill(part.hf, chosen)) for part in row.parts
                )
                row = replace(row, parts=filled)
            table[name] = row
    return table


def is_norm(name: str) -> bool:
    """Whether a parameter is a norm's: the module that holds it has `norm` in its name, or the name begins `ln_`."""
    module = f".{name}".split(".")[-2]
    return "norm" in module or module.startswith("ln_")


def match(rules: Sequence[Rule], shapes: Mapping[str, Sequence[int]], num_layers: int) -> dict[str, Rule]:
    """Hold the table against a model's parameters: every name one row, every row a name, every shape as stated.

    Args:
        shapes: single-card name -> global shape of each parameter of the model.

    Raises:
        LayoutError: names the parameter without a row, the row without a parameter, or the shape that differs.
    """
    table = expand(rules, num_layers)
    for name, shape in shapes.items():
        if name not in table:
            generic = re.sub(r"\.\d+\.", ".*.", name)
            raise LayoutError(f"parameter {name} has no row in the table", "", f"add a row for {generic!r}")
        if tuple(shape) != table[name].shape:
            raise LayoutError(
                f"parameter {name} is {tuple(shape)} in the model and {table[name].shape} in the table",
                "",
                "correct the shape in its row; a Linear weight is [in, out]",
            )
    for name, rule in table.items():
        if name not in shapes and not getattr(rule, "tied_to", ""):
            raise LayoutError(f"row {name} of the table matches no parameter of the model", "", "remove or correct it")
    return table


def describe(rule: Rule, degree: int) -> str:
    """The split in words, for `zoo layout`."""
    if rule.dim is None:
        return "whole on every rank"
    kind = {Column: "columns", FusedColumn: "columns of each part", Row: "rows", Vocab: "vocabulary rows"}[type(rule)]
    note = remarks(rule, degree)
    return f"{kind} (dim {rule.dim})" + (f"; {note}" if note else "")
