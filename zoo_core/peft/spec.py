"""What a run's adapters are: rank, scale, which layers, and which base model they belong to. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo_core.arguments import Arguments

__all__ = ["Adapter", "LoraSpec", "is_adapter", "module_of", "spec_from_arguments"]

_ENDINGS = (".lora_A", ".lora_B")
_PREFIX = "prefix_"


@dataclass(frozen=True)
class Adapter:
    """Of one layer: its rank, and the numerator of its scale."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters of a model (Hu et al. 2021, LoRA, arXiv 2106.09685).

    Args:
        rank: of the adapters.
        alpha: they are multiplied by alpha / rank.
        dropout: share of their input that they do not see in training.
        targets: patterns of the layers that have one; empty is every linear layer. See `zoo_core.peft.targets`.
        rslora: multiply by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732).
        plus: learning rate of B over that of A (Hayou et al. 2024, LoRA+, arXiv 2402.12354).
        modules: adapters of a file that names its layers one by one, by single-card name of the layer; they are in
            the place of `rank`, `alpha` and `targets`.
        base: where the base model lies, or what it was made from.
        base_digest: of its weights, see `zoo_core.peft.digest`.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    rslora: bool = False
    plus: float = 1.0
    modules: Mapping[str, Adapter] = field(default_factory=dict)
    base: str = ""
    base_digest: str = ""

    def of(self, module: str) -> Adapter:
        """The adapter of a layer, by its single-card name."""
        return self.modules.get(module) or Adapter(self.rank, self.alpha)

    def scale(self, module: str) -> float:
        """What the adapter of a layer is multiplied by."""
        own = self.of(module)
        return own.alpha / (math.sqrt(own.rank) if self.rslora else own.rank)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which `from_dict` takes."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> LoraSpec:
        """What `to_dict` gave."""
        modules = {name: Adapter(**own) for name, own in values.get("modules", {}).items()}
        return LoraSpec(**{**values, "targets": tuple(values.get("targets", ())), "modules": modules})

    def differences(self, other: LoraSpec) -> list[str]:
        """In what two differ, in words; where the base lies does not count, nor how fast they learn."""
        names = ("rank", "alpha", "targets", "rslora")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} is {there} there, {here} here" for name, here, there in pairs if there != here]


def is_adapter(name: str) -> bool:
    """Whether a parameter, by its single-card name, is part of an adapter, or of a prefix."""
    return name.endswith(_ENDINGS) or name.rpartition(".")[2].startswith(_PREFIX)


def module_of(name: str) -> str:
    """The single-card name of the layer that a parameter belongs to."""
    return name.rpartition(".")[0]


def spec_from_arguments(arguments: Arguments, base: str = "", base_digest: str = "") -> LoraSpec | None:
    """The adapters that the arguments ask for; `None` without `lora`."""
    wanted = arguments.finetune
    if not (wanted.lora or arguments.task == "lora"):
        return None
    return LoraSpec(
        rank=wanted.lora_rank,
        alpha=float(wanted.lora_alpha if wanted.lora_alpha is not None else 2 * wanted.lora_rank),
        dropout=wanted.lora_dropout,
        targets=tuple(wanted.lora_target_modules),
        rslora=wanted.rslora,
        plus=wanted.lora_plus_scale,
        base=base,
        base_digest=base_digest,
    )
