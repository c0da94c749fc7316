"""Prefix tuning: what a prefix is, and the rows of the table that it is made of. No paddle.

A prefix is, in every block, the keys and values of P virtual tokens that all queries see (Li and Liang 2021, arXiv
2101.00190; P-tuning v2, Liu et al. 2021, arXiv 2110.07602). With a projection they are made from an embedding by a
small network: embedding, dense and tanh are shared, and each block has its own slice of the last dense, so that it
splits as the block's heads do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, PluginError
from zoo_core.layout import Column, Init, Replicate, Rule
from zoo_core.pipeline import PipeLayer

__all__ = ["SHARED", "PrefixSpec", "attention_names", "prefix_from_arguments", "prefix_rows", "with_prefix"]

SHARED = ("prefix_embedding", "prefix_dense_weight", "prefix_dense_bias")
"""Parameters of a projection that all blocks share."""


@dataclass(frozen=True)
class PrefixSpec:
    """A prefix.

    Args:
        tokens: virtual tokens, P.
        hidden: width inside the projection; 0 trains keys and values themselves.
        base: where the base model lies, or what it was made from.
        base_digest: of its weights, see `zoo_core.peft.digest`.
    """

    tokens: int = 128
    hidden: int = 0
    base: str = ""
    base_digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which `from_dict` takes."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> PrefixSpec:
        """What `to_dict` gave."""
        return PrefixSpec(**values)

    def differences(self, there: PrefixSpec) -> list[str]:
        """In what another differs, in the words of the arguments; where the base lies does not count."""
        found = []
        if self.tokens != there.tokens:
            found.append(f"num_prefix_tokens is {there.tokens} there, {self.tokens} here")
        if self.hidden != there.hidden:
            how = [f"of width {width}" if width else "off" for width in (there.hidden, self.hidden)]
            found.append(f"prefix_projection is {how[0]} there, {how[1]} here")
        return found


def prefix_from_arguments(
    arguments: Arguments, config: ModelConfig, base: str = "", base_digest: str = ""
) -> PrefixSpec | None:
    """The prefix that the arguments ask for; `None` without `prefix_tuning`.

    Raises:
        ConfigError: adapters are asked for too.
    """
    wanted = arguments.finetune
    if not (wanted.prefix_tuning or arguments.task == "prefix"):
        return None
    if wanted.lora or arguments.task == "lora":
        raise ConfigError("lora and prefix_tuning are both on", "a run trains one or the other", "turn one off")
    hidden = config.hidden_size if wanted.prefix_projection else 0
    return PrefixSpec(wanted.num_prefix_tokens, hidden, base, base_digest)


def attention_names(elements: Sequence[PipeLayer]) -> tuple[str, ...]:
    """The single-card name of each block's attention module, in order.

    Raises:
        PluginError: a block does not say which of its modules that is.
    """
    for element in elements:
        if element.is_block and not element.attention:
            raise PluginError(
                f"the block {element.prefix} does not name its attention",
                "a prefix is hung on that module",
                "set PipeLayer.attention in the plugin's pipeline.py",
            )
    return tuple(element.single(element.attention) for element in elements if element.is_block)


def prefix_rows(elements: Sequence[PipeLayer], config: ModelConfig, spec: PrefixSpec) -> dict[str, Rule]:
    """Return the rows of a prefix, by single-card name.

    Keys and values split as the heads of the cache do; what serves all heads is whole on every rank, which sees its own
    heads' part of the gradient. They start as PEFT starts them: embeddings standard normal, dense layers uniform within
    1 / sqrt(in).

    Raises:
        PluginError: as `attention_names`.
    """
    heads, *widths = config.cached_sizes
    found: list[Rule] = []
    if spec.hidden:
        inner = max(heads, 1) * widths[0]
        shared = [elements[0].single(name) for name in SHARED]
        found += [
            Replicate(shared[0], (spec.tokens, inner), init=Init("normal", 1.0), partial_grad=True),
            Replicate(shared[1], (inner, spec.hidden), init=_dense(inner), partial_grad=True),
            Replicate(shared[2], (spec.hidden,), init=_dense(inner), partial_grad=True),
        ]
    for name in attention_names(elements):
        for which, width in zip(("key", "value"), widths, strict=True):
            own = f"{name}.prefix_{which}"
            shapes: dict[str, tuple[int, ...]] = {own: (spec.tokens,)}
            init = Init("normal", 1.0)
            if spec.hidden:
                shapes, init = {f"{own}_weight": (spec.hidden,), f"{own}_bias": ()}, _dense(spec.hidden)
            for parameter, shape in shapes.items():
                if heads:
                    whole = (*shape, heads * width)
                    found.append(
                        Column(parameter, whole, transpose=False, init=init, units=heads, on_indivisible="replicate")
                    )
                else:
                    found.append(Replicate(parameter, (*shape, width), init=init, partial_grad=True))
    return {row.name: row for row in found}


def _dense(width_in: int) -> Init:
    """kaiming_uniform with a = sqrt(5), as torch starts a Linear and its bias: uniform within 1 / sqrt(in)."""
    return Init("uniform", 1 / math.sqrt(3 * width_in))


def with_prefix(
    table: Mapping[str, Rule], elements: Sequence[PipeLayer], config: ModelConfig, spec: PrefixSpec
) -> dict[str, Rule]:
    """Return the table with the prefix's rows after it. Raises as `prefix_rows`."""
    return {**table, **prefix_rows(elements, config, spec)}
