"""What quantised weights a model has: plain data, as `config.json` says it. No numpy, no paddle.

The spelling in `config.json` is Hugging Face's where it has one (`quant_method`, `bits`, `group_size`, `desc_act`,
`sym`, `modules_to_not_convert`, `activation_scheme`); `checkpoint_format` says that the tensors are laid out as
`zoo_core.quantized` has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from zoo_core.errors import ConfigError

__all__ = ["FORMAT", "PER_CHANNEL", "Method", "QuantSpec"]

Method = Literal["weight_only", "w8a8", "gptq"]
Scheme = Literal["dynamic", "static"]

FORMAT = "zoo"
PER_CHANNEL = -1
"""Group size that means one scale for each output feature."""

_BLOCK_FLOAT = "fp8"
"""DeepSeek's published weights: read as the values they stand for, by `zoo_core.checkpoint.Reader`."""


@dataclass(frozen=True)
class QuantSpec:
    """Which weights of a model are quantised, and how.

    Args:
        method: `weight_only` (rounded to nearest), `gptq` (Frantar et al. 2022, arXiv 2210.17323), or `w8a8`, where
            the activations are quantised too (Xiao et al. 2022, SmoothQuant, arXiv 2211.10438).
        bits: of a weight: 3, 4 or 8.
        group_size: input features that share a scale, for each output feature; -1 is all of them.
        symmetric: zero stays zero, and there are no zero points.
        act_order: features that matter more were rounded first (GPTQ's `desc_act`).
        static_groups: with act_order, groups are runs of the input features all the same; else each feature has a
            group number (`ordered`).
        targets: patterns of the single-card names of the layers; empty is every linear layer of the blocks, never
            embeddings, heads or routers. See `zoo_core.quantized.quantised_layers`.
        skip: patterns of layers that are left as they are.
        activations: of w8a8, where the scale of the activations comes from: `dynamic` is each token's own largest
            value, `static` one number a layer from calibration.
        smooth: of w8a8, the input features are divided by factors that the weights were multiplied by.

    Raises:
        ConfigError: settings that do not go together.
    """

    method: Method = "weight_only"
    bits: int = 8
    group_size: int = PER_CHANNEL
    symmetric: bool = True
    act_order: bool = False
    static_groups: bool = True
    targets: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    activations: Scheme = "dynamic"
    smooth: bool = False

    def __post_init__(self) -> None:
        def refuse(what: str, why: str, todo: str) -> None:
            raise ConfigError(what, why, todo)

        if self.method not in get_args(Method):
            refuse(f"quantisation {self.method!r} is not known", "", "choose " + ", ".join(get_args(Method)))
        if self.bits not in (3, 4, 8):
            refuse(f"weights of {self.bits} bits", "zoo has them of 3, 4 and 8 bits", "choose one of these")
        if self.group_size != PER_CHANNEL and (self.group_size < 8 or self.group_size % 8):
            refuse(
                f"group_size is {self.group_size}",
                "a group is a multiple of 8 input features, which is what 3 bits are packed by",
                "choose 32, 64 or 128, or -1 for one scale an output feature",
            )
        if self.activations not in get_args(Scheme):
            refuse(f"activation scheme {self.activations!r}", "", "choose dynamic or static")
        if self.method == "w8a8" and (
            self.bits != 8 or self.group_size != PER_CHANNEL or not self.symmetric or self.act_order
        ):
            refuse(
                "w8a8 has 8 bits, one scale an output feature and no zero points",
                "products are summed as integers before they are scaled",
                "leave bits, group_size, symmetric and act_order at their defaults",
            )
        if self.method != "w8a8" and (self.smooth or self.activations != "dynamic"):
            refuse(f"{self.method} does not quantise activations", "", "smoothing and their scheme belong to w8a8")
        if self.ordered and self.group_size == PER_CHANNEL:
            refuse(
                "groups of any order, without groups", "one scale an output feature has no order", "set static_groups"
            )

    @property
    def ordered(self) -> bool:
        """Whether each input feature has a group number, instead of groups being runs of them."""
        return self.act_order and not self.static_groups

    def groups(self, features: int) -> int:
        """Number of groups of a layer with so many input features; the last may be short."""
        return 1 if self.group_size == PER_CHANNEL else -(-features // self.group_size)

    def describe(self) -> str:
        """In words: `gptq, 4 bits, groups of 128, act order`."""
        said = [self.method, f"{self.bits} bits"]
        said.append("a scale for each output feature" if self.group_size < 0 else f"groups of {self.group_size}")
        said += ["act order"] if self.act_order else []
        said += [] if self.symmetric else ["zero points"]
        said += [f"{self.activations} activations"] if self.method == "w8a8" else []
        return ", ".join([*said, "smoothed"] if self.smooth else said)

    def to_hf(self) -> dict[str, Any]:
        """The `quantization_config` of a `config.json`; `from_hf` takes it."""
        found: dict[str, Any] = {
            "quant_method": self.method,
            "checkpoint_format": FORMAT,
            "bits": self.bits,
            "group_size": self.group_size,
            "sym": self.symmetric,
            "desc_act": self.act_order,
            "static_groups": self.static_groups,
            "targets": list(self.targets),
            "modules_to_not_convert": list(self.skip),
        }
        if self.method == "w8a8":
            found |= {"activation_scheme": self.activations, "smooth": self.smooth}
        return found

    @staticmethod
    def from_hf(values: Mapping[str, Any] | None) -> QuantSpec | None:
        """Read the `quantization_config` of a `config.json`; `None` where the weights are read as floats.

        Raises:
            ConfigError: another tool quantised the weights, or settings do not go together.
        """
        if not isinstance(values or {}, Mapping):
            raise ConfigError(f"quantization_config is {values!r}", "it is no JSON object", "take the model's own")
        if not values or values.get("quant_method") == _BLOCK_FLOAT:
            return None
        if values.get("checkpoint_format") != FORMAT:
            raise ConfigError(
                f"quantization_config is another tool's ({values.get('quant_method', 'unknown')})",
                f"zoo reads the quantised weights it wrote (checkpoint_format {FORMAT}), and {_BLOCK_FLOAT}",
                "give the weights as they were published, and quantise them with `zoo compress`",
            )
        return QuantSpec(
            method=values["quant_method"],
            bits=int(values["bits"]),
            group_size=int(values.get("group_size", PER_CHANNEL)),
            symmetric=bool(values.get("sym", True)),
            act_order=bool(values.get("desc_act", False)),
            static_groups=bool(values.get("static_groups", True)),
            targets=tuple(values.get("targets") or ()),
            skip=tuple(values.get("modules_to_not_convert") or ()),
            activations=values.get("activation_scheme", "dynamic"),
            smooth=bool(values.get("smooth", False)),
        )
