"""What the parameter table says of sizes, by layer of the pipeline list, without writing every expert's row out.

A layer's rows are counted once for each pattern: experts that are alike are one entry with a number of times. That
keeps a search over many plans of a model of 45,000 parameters within a second.

Shape legend: T tokens of a micro batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from math import prod
from typing import Any

from zoo_core import layout
from zoo_core.config import ModelConfig
from zoo_core.layout import Column, FusedColumn, Replicate, Row, Rule, Vocab
from zoo_core.pipeline import PipeLayer
from zoo_core.plan.owner import owners
from zoo_core.plan.tuned import EVERYTHING, Tuned
from zoo_core.quantized import with_quantised
from zoo_core.registry import Architecture

__all__ = ["Counted", "Entry", "Kind", "LayerSizes", "compact_table", "counted"]

_BYTES = {"int8": 1, "uint8": 1, "int32": 4, "float32": 4}


@dataclass(frozen=True)
class Entry:
    """Parameters that are alike, in one layer.

    Args:
        name: single-card name, of the first of them.
        rule: its row.
        layer: number of the pipeline layer that holds it.
        times: how many: the number of experts, else 1.
        added: an adapter's, or a prefix's: no parameter of the model itself.
    """

    name: str
    rule: Rule
    layer: int
    times: int = 1
    added: bool = False

    @property
    def is_expert(self) -> bool:
        """Whether it is routed experts'."""
        return self.rule.expert is not None

    @property
    def module(self) -> str:
        """The path of what holds the parameter's layer: `llama.layers.0.mlp` of `llama.layers.0.mlp.up_proj.weight`."""
        return self.name.rpartition(".")[0].rpartition(".")[0]


def compact_table(architecture: Architecture, config: ModelConfig) -> dict[str, Rule]:
    """Return the parameter table with only the first expert of each row of experts."""
    first = [
        replace(rule, experts=range(rule.experts.start, rule.experts.start + 1)) if rule.experts else rule
        for rule in architecture.rules(config)
    ]
    table = layout.expand(first, config.num_hidden_layers)
    whole = {rule.name: rule.experts for rule in architecture.rules(config) if rule.experts}
    if not whole:
        return table
    experts = next(iter(whole.values()))
    return {name: replace(rule, experts=experts) if rule.expert is not None else rule for name, rule in table.items()}


@dataclass(frozen=True, eq=False)
class LayerSizes:
    """What one pipeline layer has, on each rank of a tensor axis.

    Args:
        dense: elements of parameters that are no routed expert's, without tied copies.
        expert: elements of one routed expert; `experts` of them are in the layer.
        buffers: elements of persistent buffers.
        multiplied: elements that each token multiplies, of dense matrices; a tied head multiplies too.
        multiplied_expert: of one routed expert.
        tied: single-card names of parameters that belong to another layer, with their local elements.
        columns: for each shared input of column-parallel matrices: (input width, matrices).
        whole_inputs: widths of inputs of matrices that are not split, each shared input once.
        outputs: local widths of what the matrices give that something else reads, attention's apart.
        attention_outputs: local widths of queries, keys and values.
        row_inputs: local widths of the inputs of row-parallel matrices, attention's apart.
        attention_row: local width of what attention gives.
        gates: local widths of activations that a gate multiplies.
        norms: widths of inputs of norms.
        routed: the widths above, of one expert: (input, outputs, row input, gate).
        is_head: holds a vocabulary-parallel matrix that gives logits; then `vocabulary` is its local width.
        added: of `dense`, the elements of adapters and prefixes; `added_expert` of `expert`.
        adapted: of `added`, what each token multiplies; the ranks of the adapters, and the widths of their inputs.
        adapted_expert: the same of one routed expert.
        virtual: width of a prefix's keys and values.
    """

    dense: int = 0
    expert: int = 0
    experts: int = 0
    buffers: int = 0
    multiplied: int = 0
    multiplied_expert: int = 0
    tied: tuple[tuple[str, int], ...] = ()
    columns: tuple[tuple[int, int], ...] = ()
    whole_inputs: tuple[int, ...] = ()
    outputs: int = 0
    attention_outputs: int = 0
    row_inputs: int = 0
    attention_row: int = 0
    gates: int = 0
    norms: tuple[int, ...] = ()
    routed: tuple[int, int, int, int] = (0, 0, 0, 0)
    vocabulary: int = 0
    added: int = 0
    added_expert: int = 0
    adapted: tuple[int, int, int] = (0, 0, 0)
    adapted_expert: tuple[int, int, int] = (0, 0, 0)
    virtual: int = 0


@dataclass(frozen=True, eq=False)
class Counted:
    """A model's table, counted.

    Args:
        config: the model's.
        layers: the pipeline list.
        entries: layer by layer, and within one in table order, as the engine builds them.
        tuned: what of it is trained.
    """

    config: ModelConfig
    layers: Sequence[PipeLayer]
    entries: tuple[Entry, ...]
    tuned: Tuned = EVERYTHING

    @cached_property
    def table(self) -> dict[str, Rule]:
        """The compact table, without adapters."""
        return {entry.name: entry.rule for entry in self.entries if not entry.added}

    @cached_property
    def parameters(self) -> int:
        """Elements of all parameters of the model itself, a tied one once."""
        return sum(prod(e.rule.shape) * e.times for e in self._own if not e.added)

    @property
    def added(self) -> int:
        """Elements of adapters, or of a prefix; 0 where all of the model is trained."""
        return sum(prod(e.rule.shape) * e.times for e in self._own if e.added)

    @property
    def _own(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.rule.buffer and entry.rule.single == entry.name]

    @lru_cache(maxsize=64)  # noqa: B019  counted once a model, and let go with it
    def sizes(self, tensor: int) -> tuple[LayerSizes, ...]:
        """Return the sizes of each pipeline layer at a tensor degree.

        Raises:
            LayoutError: a parameter does not split over it.
        """
        by_layer: list[list[Entry]] = [[] for _ in self.layers]
        for entry in self.entries:
            by_layer[entry.layer].append(entry)
        known: dict[object, LayerSizes] = {}
        found = []
        for layer, entries in zip(self.layers, by_layer, strict=True):
            # layers with the same rows but for the number have the same sizes
            start = len(layer.prefix)
            key = tuple((e.name[start:], e.rule.shape, e.times, e.rule.single == e.name) for e in entries)
            if key not in known:
                known[key] = _layer_sizes(layer, entries, tensor)
            sizes = known[key]
            if sizes.tied:
                sizes = _layer_sizes(layer, entries, tensor)
            found.append(sizes)
        return tuple(found)

    @lru_cache(maxsize=64)  # noqa: B019  as above
    def _local(self, tensor: int) -> tuple[tuple[tuple[str, int, int, bool, bool], ...], ...]:
        """Of each layer's parameters: whose they are, local elements, how many there are, experts' or not, trained."""
        by_layer: list[list[tuple[str, int, int, bool, bool]]] = [[] for _ in self.layers]
        known: dict[object, int] = {}
        for entry in self.entries:
            rule = entry.rule
            if not rule.buffer:
                key = entry.name[len(self.layers[entry.layer].prefix) :], rule.shape
                if key not in known:
                    known[key] = prod(layout.local_shape(rule, tensor))
                trained = entry.added or not self.tuned.frozen
                by_layer[entry.layer].append((rule.single, known[key], entry.times, entry.is_expert, trained))
        return tuple(map(tuple, by_layer))

    @lru_cache(maxsize=4096)  # noqa: B019  as above
    def parameter_sizes(
        self, tensor: int, chunks: tuple[tuple[int, int], ...], spread: bool, frozen: bool = False
    ) -> tuple[int, ...]:
        """Return the local elements of each trained parameter of a stage, in the model's order, a tied one once.

        Args:
            chunks: the runs of layers that the stage holds.
            spread: leave the experts out, which expert parallelism spreads.
            frozen: those that are not trained, too.
        """
        local, found, seen = self._local(tensor), [], set()
        for start, stop in chunks:
            for layer in local[start:stop]:
                own = [one for one in layer if (one[4] or frozen) and not (one[3] and spread)]
                for times, alike in groupby(own, lambda one: one[2]):
                    each = []  # one expert is built after the other
                    for single, elements, *_ in alike:
                        if single not in seen:
                            seen.add(single)
                            each.append(elements)
                    found += each * times
        return tuple(found)

    @cached_property
    def layer_of(self) -> dict[str, int]:
        """The pipeline layer of each parameter of the compact table."""
        return {entry.name: entry.layer for entry in self.entries}

    @cached_property
    def _known(self) -> dict[object, tuple[Kind, ...]]:
        return {}

    @lru_cache(maxsize=4096)  # noqa: B019  as above
    def kinds(self, tensor: int, chunks: tuple[tuple[int, int], ...], interval: int) -> tuple[Kind, ...]:
        """Return the layers of a stage, those that are alike together; stages that are alike give the same object.

        Args:
            chunks: the runs of layers that the stage holds.
            interval: every so many blocks of the stage are recomputed; 0 for none.
        """
        sizes, number = self.sizes(tensor), 0
        tally: dict[tuple[int, bool, bool], list[int]] = {}
        for start, stop in chunks:
            for i in range(start, stop):
                block = self.layers[i].is_block
                again = block and interval > 0 and number % interval == 0
                number += block
                tally.setdefault((id(sizes[i]), block, again), []).append(i)
        found = tuple(
            Kind(sizes[members[0]], len(members), block, again) for (_, block, again), members in tally.items()
        )
        return self._known.setdefault(tuple((key, len(members)) for key, members in tally.items()), found)

    @lru_cache(maxsize=4096)  # noqa: B019  as above
    def elements(self, tensor: int, expert: int, chunks: tuple[tuple[int, int], ...]) -> tuple[int, int, int]:
        """Return what a rank of a stage holds: elements that are no experts', its experts', its buffers'."""
        sizes = self.sizes(tensor)
        here = {i for start, stop in chunks for i in range(start, stop)}
        tied = {name: size for i in here for name, size in sizes[i].tied if self.layer_of[name] not in here}
        dense = sum(sizes[i].dense for i in here) + sum(tied.values())
        experts = sum(sizes[i].expert * (sizes[i].experts // expert) for i in here)
        return dense, experts, sum(sizes[i].buffers for i in here)

    @cached_property
    def _integers(self) -> tuple[tuple[Rule, Rule, int], ...]:
        """The rows of quantised weights, each with the weight's own, and its layer."""
        spec = self.config.quantization_config
        if spec is None:
            return ()
        table = with_quantised(self.table, spec)
        named = ((row, f"{name.rpartition('.')[0]}.weight") for name, row in table.items() if name not in self.table)
        return tuple((row, self.table[weight], self.layer_of[weight]) for row, weight in named)

    @lru_cache(maxsize=4096)  # noqa: B019  as above
    def saved_bytes(self, tensor: int, expert: int, chunks: tuple[tuple[int, int], ...], width: int) -> int:
        """Return how many bytes less a rank of a stage holds where weights are integers, than as `elements` of width.

        Args:
            width: bytes of an element of a weight that is not quantised.
        """
        here = {i for start, stop in chunks for i in range(start, stop)}
        floats, integers = dict[str, int](), 0
        for row, weight, layer in self._integers:
            if layer in here:
                times = _times(weight) // expert if weight.expert is not None else 1
                floats[weight.name] = times * prod(layout.local_shape(weight, tensor)) * width
                integers += times * prod(layout.local_shape(row, tensor)) * _BYTES[row.dtype]
        return sum(floats.values()) - integers

    @lru_cache(maxsize=4096)  # noqa: B019  as above
    def trained(self, tensor: int, expert: int, chunks: tuple[tuple[int, int], ...]) -> tuple[int, int]:
        """Return what is trained of the first two of `elements`."""
        if not self.tuned.frozen:
            return self.elements(tensor, expert, chunks)[:2]
        sizes = self.sizes(tensor)
        here = [sizes[i] for start, stop in chunks for i in range(start, stop)]
        return sum(s.added for s in here), sum(s.added_expert * (s.experts // expert) for s in here)


@dataclass(frozen=True, eq=False)
class Kind:
    """Layers of a stage that are alike.

    Args:
        sizes: of each of them.
        times: how many.
        is_block: decoder blocks.
        again: recomputed, where the plan recomputes.
    """

    sizes: LayerSizes
    times: int
    is_block: bool
    again: bool


def counted(architecture: Architecture, config: ModelConfig, tuned: Tuned = EVERYTHING) -> Counted:
    """Count a model's parameter table, and what is trained beside it.

    Raises:
        ConfigError: patterns of adapters mean no layer of the model.
    """
    table, layers = compact_table(architecture, config), architecture.pipe_layers(config)
    added = tuned.added(table, layers) if tuned.added is not None else {}
    owned = owners([*table, *added], [layer.prefix for layer in layers], [layer.is_block for layer in layers])
    if tuned.virtual_tokens:
        # what the blocks' prefixes share lies outside of them, and is built with the first
        start = next(number for number, layer in enumerate(layers) if layer.is_block)
        owned |= {name: start for name in added if not layers[owned[name]].is_block}
    entries = [Entry(name, rule, owned[name], _times(rule), name in added) for name, rule in {**table, **added}.items()]
    first: dict[str, int] = {}  # a weight and its bias are made together, wherever their rows are
    for number, entry in enumerate(entries):
        first.setdefault(entry.name.rpartition(".")[0], number)
    entries.sort(key=lambda entry: (entry.layer, first[entry.name.rpartition(".")[0]]))
    return Counted(config, layers, tuple(entries), tuned)


def _times(rule: Rule) -> int:
    return len(rule.experts) if rule.expert is not None and rule.experts is not None else 1


def _layer_sizes(layer: PipeLayer, entries: Sequence[Entry], tensor: int) -> LayerSizes:
    attention = ".".join(filter(None, (layer.prefix, layer.attention))) if layer.attention else None
    columns: dict[tuple[str, int], int] = {}
    whole: set[tuple[str, int]] = set()
    counts: dict[str, Any] = dict.fromkeys(
        ("dense", "expert", "experts", "buffers", "multiplied", "multiplied_expert", "outputs", "attention_outputs",
         "row_inputs", "attention_row", "gates", "vocabulary"), 0,
    )  # fmt: skip
    tied, norms, routed = [], [], [0, 0, 0, 0]
    modules: dict[str, list[Entry]] = {}
    vocabularies = [e for e in entries if isinstance(e.rule, Vocab) and len(e.rule.shape) == 2]
    added = _added([entry for entry in entries if entry.added], tensor)
    for entry in entries:
        rule = entry.rule
        local = layout.local_shape(rule, tensor)
        elements = prod(local)
        if rule.buffer:
            counts["buffers"] += elements * entry.times
            continue
        if rule.single != entry.name:
            tied.append((rule.single, elements))
        elif entry.is_expert:
            counts["expert"] += elements
            counts["experts"] = entry.times
        else:
            counts["dense"] += elements
        if entry.added:
            continue
        if len(local) == 1:
            if layout.is_norm(entry.name) and entry.name.endswith("weight"):
                norms.append(rule.shape[0])
            continue
        if isinstance(rule, Vocab):
            # the first vocabulary row of the first layer is looked up, not multiplied
            if entry is not vocabularies[0] or entry.layer > 0:
                counts["multiplied"] += elements
                counts["vocabulary"] += local[0]
            continue
        if len(local) != 2:
            continue
        modules.setdefault(entry.module, []).append(entry)
        if entry.is_expert:
            counts["multiplied_expert"] += elements
            if isinstance(rule, Row):
                routed[2] += local[0]
            else:
                routed[0] = local[0]
                routed[1] += local[1]
            continue
        counts["multiplied"] += elements
        inside = attention is not None and (entry.module == attention or entry.module.startswith(attention + "."))
        if isinstance(rule, Column | FusedColumn):
            key = (entry.module, local[0])
            columns[key] = columns.get(key, 0) + 1
            counts["attention_outputs" if inside else "outputs"] += local[1]
        elif isinstance(rule, Row):
            counts["attention_row" if inside else "row_inputs"] += local[0]
        elif isinstance(rule, Replicate) and not rule.transpose and not rule.partial_grad:
            counts["multiplied"] -= elements  # a table of positions is looked up
        elif isinstance(rule, Replicate):
            whole.add((entry.module, local[0]))
            counts["attention_outputs" if inside else "outputs"] += (
                local[1] if entry.name.endswith("proj.weight") else 0
            )
    for module, members in modules.items():
        if module == attention:
            continue
        width = _gate(members, tensor)
        if members[0].is_expert:
            routed[3] = width
        else:
            counts["gates"] += width
    return LayerSizes(
        **counts,
        **added,
        tied=tuple(tied),
        columns=tuple((width, number) for (_, width), number in columns.items()),
        whole_inputs=tuple(width for _, width in whole),
        norms=tuple(norms),
        routed=(routed[0], routed[1], routed[2], routed[3]),
    )


def _added(entries: Sequence[Entry], tensor: int) -> dict[str, Any]:
    """What adapters and prefixes add to the sizes of a layer."""
    elements, virtual = [0, 0], 0
    adapted = [[0, 0, 0], [0, 0, 0]]
    for entry in entries:
        local, last = layout.local_shape(entry.rule, tensor), entry.name.rpartition(".")[2]
        elements[entry.is_expert] += prod(local)
        if last.startswith("lora_"):
            widths = (prod(local), local[1], local[0]) if last == "lora_A" else (prod(local), 0, 0)
            adapted[entry.is_expert] = [a + b for a, b in zip(adapted[entry.is_expert], widths, strict=True)]
        elif last in ("prefix_key", "prefix_value", "prefix_key_bias", "prefix_value_bias"):
            virtual += local[-1]
    return {
        "added": elements[0], "added_expert": elements[1], "adapted": tuple(adapted[0]),
        "adapted_expert": tuple(adapted[1]), "virtual": virtual,
    }  # fmt: skip


def _gate(members: Sequence[Entry], tensor: int) -> int:
    """The local width of the activation that a gate multiplies; 0 in a module without a gate."""
    rows = [layout.local_shape(e.rule, tensor)[0] for e in members if isinstance(e.rule, Row)]
    columns = [layout.local_shape(e.rule, tensor)[1] for e in members if isinstance(e.rule, Column | FusedColumn)]
    return rows[0] if len(rows) == 1 and sum(columns) == 2 * rows[0] else 0
