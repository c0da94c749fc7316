"""Build the local stage: lazily on one card, swapped for its parallel form, and only then filled with its shard.

`paddle.LazyGuard` allocates nothing, so a rank never holds more than its shard plus the one tensor being loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.base.framework import EagerParamBase

from zoo_core.config import ModelConfig
from zoo_core.engine.integers import integer_rows, quantised
from zoo_core.engine.parts import element_type, has_expert
from zoo_core.errors import LayoutError
from zoo_core.layout import Column, FusedColumn, Init, Row, Rule, Vocab, local_shape, pieces
from zoo_core.peft import LoraSpec, PrefixSpec, is_adapter
from zoo_core.peft.prefix import SHARED
from zoo_core.pipeline import PipeLayer
from zoo_core.quantization import QuantSpec
from zoo_ops import Dropout, attach_prefix
from zoo_ops.fake_quant import faked
from zoo_ops.init import initial, initial_slice
from zoo_ops.linear import ColumnLinear, Embedding, Linear, LMHead, RowLinear, VocabEmbedding, VocabHead
from zoo_ops.lora import adapted

__all__ = ["Held", "Source", "Stage", "build_layer", "from_both", "from_seed", "initial_values"]

Source = Callable[[Rule], "np.ndarray[Any, Any]"]
"""Gives this rank's part of a parameter, in the element type it is to have (bfloat16 as uint16 bits)."""


@dataclass(frozen=True)
class Held:
    """A parameter that this rank holds: its row of the table, and the tensor."""

    rule: Rule
    tensor: Any


@dataclass
class Stage:
    """What is common to the layers that one rank builds.

    Args:
        table: single-card name -> row.
        source: where values come from.
        degree: of the tensor axis.
        rank: place on the tensor axis.
        dtype: element type of the parameters, "float32" or "bfloat16" or "float16".
        gather_logits: the head returns whole logits on every rank.
        experts: degree of the expert axis and the place on it; this rank has that share of a layer's experts.
        lora: adapters, whose rows are in `table`; then nothing else is trained.
        prefix: of every block, the same.
        shared: where the parameters lie that the blocks' prefixes share: the single-card name before theirs.
        cached: widths of a cached head's key and value.
        integers: how quantised weights, whose rows are in `table`, are held.
        rounded: the layers that are rounded in training (see `zoo_ops.fake_quant`), with the bits of weights and of
            inputs and whether each output feature has its own span.
        dresser: places parameters over a mesh, and activations around layers (see `zoo_core.engine.auto`); `None` in
            the first engine.
    """

    table: Mapping[str, Rule]
    source: Source
    degree: int = 1
    rank: int = 0
    dtype: str = "float32"
    gather_logits: bool = False
    experts: tuple[int, int] = (1, 0)
    lora: LoraSpec | None = None
    prefix: PrefixSpec | None = None
    shared: str = ""
    cached: tuple[int, int] = (0, 0)
    integers: QuantSpec | None = None
    rounded: Mapping[str, tuple[tuple[int, int], bool]] = field(default_factory=dict)
    dresser: Any = None

    @property
    def freezes(self) -> bool:
        """Whether the model itself is not trained."""
        return self.lora is not None or self.prefix is not None

    def __post_init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.adapted: dict[str, Any] = {}
        """The layers with adapters, by single-card name."""
        self.faked: dict[str, Any] = {}
        """The layers that are rounded, by single-card name."""

    def has(self, rule: Rule) -> bool:
        """Whether this rank holds (its part of) the parameter: not where another rank has the expert."""
        return has_expert(rule, *self.experts)


def initial_values(rule: Rule, config: ModelConfig) -> Init:
    """The row's initialiser, or by kind: zeros for a bias, ones for another 1-D parameter, else normal."""
    if rule.init is not None:
        return rule.init
    if rule.name.endswith("bias"):
        return Init("zeros")
    return Init("ones") if len(rule.shape) == 1 else Init("normal", config.initializer_range)


def from_seed(seed: int, config: ModelConfig, degree: int, rank: int) -> Source:
    """Random values as a function of (seed, single-card name) only, never of the layout."""

    def part(rule: Rule) -> np.ndarray[Any, Any]:
        init = initial_values(rule, config)
        if rule.dim is None:
            return initial(seed, rule.single, rule.shape, init.kind, init.std)
        local = np.zeros(local_shape(rule, degree), np.float32)
        for p in pieces(rule, degree, rank):
            index = (slice(None),) * rule.dim
            local[(*index, slice(p.offset, p.offset + p.stop - p.start))] = initial_slice(
                seed, rule.single, rule.shape, init.kind, init.std, (*index, slice(p.start, p.stop))
            )
        return local

    return part


def from_both(base: Source, adapters: Source) -> Source:
    """Values of adapters from one source, all others from the other."""
    return lambda rule: (adapters if is_adapter(rule.name) else base)(rule)


def build_layer(element: PipeLayer, stage: Stage) -> nn.Layer:
    """Build one layer of the pipeline, put parallel layers in place, and load this rank's values.

    Raises:
        LayoutError: a parameter has no row, or the module around it cannot be split as its row says.
    """
    with paddle.LazyGuard():
        layer = element.factory()
    for path, module in list(layer.named_sublayers(include_self=True)):
        prefix = ".".join(filter(None, (element.prefix, path)))
        rules: dict[str, Rule] = {}
        for own in [*module._parameters, *module._buffers]:
            name = ".".join(filter(None, (prefix, own)))
            if module._parameters.get(own) is None and own not in module._buffers:
                continue
            if own in module._buffers and name not in stage.table:
                continue
            if own == "weight" and f"{prefix}.quant_weight" in stage.table:
                rules |= integer_rows(stage.table, prefix)
                continue
            if name not in stage.table:
                raise LayoutError(f"parameter {name} has no row in the table", "", "add one to the plugin's layout.py")
            rules[own] = stage.table[name]
        if not rules:
            if isinstance(module, Dropout):
                module.name_ = prefix
            continue
        if not all(map(stage.has, rules.values())):
            _drop_expert(layer, path, next(iter(rules.values())))
            continue
        made = {own: _materialise(rule, stage) for own, rule in rules.items()}
        swapped = _swap(module, rules, made, stage)
        if swapped is None and type(module) is nn.Linear:
            swapped = Linear(made["weight"], made.get("bias"))
        elif swapped is None and type(module) is nn.Embedding and _is_plain(module):
            swapped = Embedding(made["weight"])
        if swapped is None:
            for own, tensor in made.items():
                if own in module._parameters:
                    module._parameters[own] = tensor
                else:
                    module._buffers[own] = tensor
        final = _round(_adapt(swapped or module, prefix, stage), prefix, stage)
        if final is not module:
            _put(layer, path, final)
        if stage.dresser is not None:
            stage.dresser.dress(final, {own: rule.name for own, rule in rules.items()})
    if stage.prefix is not None and element.is_block:
        _attach_prefix(layer, element, stage)
    if stage.dresser is not None:
        stage.dresser.finish(layer, element.prefix, element.is_block)
    return layer


def _is_plain(module: nn.Embedding) -> bool:
    """Whether all that an embedding does is to take rows of its weight."""
    return module._padding_idx is None and module._max_norm is None and not module._sparse


def _attach_prefix(layer: nn.Layer, element: PipeLayer, stage: Stage) -> None:
    """Hang the block's prefix on its attention."""
    module = layer
    for name in element.attention.split("."):
        module = module._sub_layers[name]
    start = f"{element.single(element.attention)}.prefix_"
    names = [name for name in stage.table if name.startswith(start)]
    if stage.prefix is not None and stage.prefix.hidden:
        names += [f"{stage.shared}.{own}" if stage.shared else own for own in SHARED]
    made = {name.rpartition(".")[2]: _materialise(stage.table[name], stage) for name in names}
    attach_prefix(module, made, *stage.cached)


def _adapt(module: nn.Layer, name: str, stage: Stage) -> nn.Layer:
    """The layer with its adapter, if it has one."""
    if stage.lora is None or f"{name}.lora_A" not in stage.table:
        return module
    lora_A, lora_B = (_materialise(stage.table[f"{name}.lora_{which}"], stage) for which in "AB")
    try:
        stage.adapted[name] = adapted(module, lora_A, lora_B, stage.lora.scale(name), stage.lora.dropout, name)
    except TypeError as error:
        raise LayoutError(
            f"{name} cannot have an adapter", str(error), "leave it out with lora_target_modules"
        ) from error
    return stage.adapted[name]  # type: ignore[no-any-return]


def _round(module: nn.Layer, name: str, stage: Stage) -> nn.Layer:
    """The layer with rounded weights and inputs, if training is to know of them."""
    if name not in stage.rounded:
        return module
    stage.faked[name] = faked(module, *stage.rounded[name])
    return stage.faked[name]  # type: ignore[no-any-return]


def _drop_expert(layer: nn.Layer, path: str, rule: Rule) -> None:
    """Take the expert that holds the module at `path` out of its list; the others keep their numbers."""
    words = path.split(".")
    for depth in range(len(words)):
        parent = layer
        for name in words[:depth]:
            parent = parent._sub_layers.get(name)
            if parent is None:
                return
        if isinstance(parent, nn.LayerList) and words[depth] == str(rule.expert):
            parent._sub_layers.pop(words[depth], None)  # gone already with the first of the expert's parameters
            return
    raise LayoutError(
        f"{rule.name} cannot be left to another rank", "its expert is not an element of an nn.LayerList", ""
    )


def _put(layer: nn.Layer, path: str, module: nn.Layer) -> None:
    *parents, last = path.split(".")
    for name in parents:
        layer = layer._sub_layers[name]
    layer._sub_layers[last] = module


def _materialise(rule: Rule, stage: Stage) -> Any:
    """Return this rank's tensor; a tied name that is already here is the same tensor."""
    if rule.single in stage.held:
        return stage.held[rule.single].tensor
    owner = stage.table[rule.single]
    values = stage.source(owner)
    tensor = paddle.to_tensor(values)
    if values.dtype == np.uint16:
        tensor = tensor.view("bfloat16")
    dtype = element_type(owner, stage.dtype)
    if str(tensor.dtype).rsplit(".", 1)[-1] != dtype:
        tensor = tensor.astype(dtype)
    if owner.buffer:
        tensor.stop_gradient = True
        tensor.name = rule.single  # a traced program keeps it by its name
    else:
        trained = not stage.freezes or is_adapter(rule.single)
        tensor = EagerParamBase.from_tensor(tensor, name=rule.single, trainable=trained)
        tensor.is_distributed = owner.dim is not None
        tensor.no_sync = True  # values follow from the name or the checkpoint: nothing is broadcast at the start
    if stage.dresser is not None:
        tensor = stage.dresser.place(owner, tensor)
    stage.held[rule.single] = Held(owner, tensor)
    return tensor


def _swap(module: nn.Layer, rules: Mapping[str, Rule], made: Mapping[str, Any], stage: Stage) -> nn.Layer | None:
    """The form of a layer whose weight splits, or is integers; `None` where the layer stays as it is."""
    if stage.integers is not None and "quant_weight" in rules:
        return quantised(module, rules, made, stage.integers, stage.degree)
    rule = rules.get("weight")
    if stage.degree == 1 or rule is None or rule.dim is None:
        return None
    weight, bias = made["weight"], made.get("bias")
    if isinstance(module, nn.Linear):
        if isinstance(rule, Column | FusedColumn):
            return ColumnLinear(weight, bias)
        if isinstance(rule, Row):
            return RowLinear(weight, bias)
    if isinstance(rule, Vocab):
        start = stage.rank * local_shape(rule, stage.degree)[0]
        if isinstance(module, nn.Embedding):
            return VocabEmbedding(weight, start)
        if isinstance(module, LMHead):
            return VocabHead(weight, start, rule.shape[0], stage.gather_logits, module.normalize)
    raise LayoutError(
        f"{rule.name} cannot be split as {type(rule).__name__}",
        f"it belongs to a {type(module).__name__}",
        "Column and Row rows are for nn.Linear, Vocab rows for nn.Embedding and zoo_ops.LMHead",
    )
