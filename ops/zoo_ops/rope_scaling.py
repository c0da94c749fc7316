"""How rotary frequencies are stretched beyond the trained length. Plain data: no paddle, so configurations use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

__all__ = ["RopeScaling"]

Kind = Literal["none", "linear", "dynamic", "llama3", "yarn"]
_KINDS = ("none", "linear", "dynamic", "llama3", "yarn")
_OPTIONAL = ("attention_factor", "mscale", "mscale_all_dim")


@dataclass(frozen=True)
class RopeScaling:
    """One rule of rotary scaling, hashable, read from and written to a Hugging Face configuration.

    Args:
        kind: "none"; "linear" (position interpolation, arXiv 2306.15595); "dynamic" (NTK-aware base that follows
            the sequence length); "llama3" (by wavelength, Llama 3.1); "yarn" (arXiv 2309.00071).
        factor: how many times longer than trained; `None` (yarn only) means max / original positions.
        low_freq_factor: llama3; wavelengths above original / low are stretched by the whole factor.
        high_freq_factor: llama3; wavelengths below original / high are left alone.
        original_max_position_embeddings: llama3 and yarn; the trained length. `None` means the model's maximum.
        beta_fast: yarn; rotations over the trained length above which a frequency is left alone.
        beta_slow: yarn; rotations below which it is stretched by the whole factor.
        attention_factor: yarn; multiplies cos and sin; `None` derives it from `factor` and the two `mscale`.
        mscale: yarn; with `mscale_all_dim` the ratio that multiplies cos and sin.
        mscale_all_dim: yarn; see `mscale`.
        truncate: yarn; round the band of blended frequencies outwards to whole dims.
    """

    kind: Kind = "none"
    factor: float | None = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @classmethod
    def from_hf(cls, parameters: Mapping[str, Any] | None) -> RopeScaling:
        """Read `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5); `None` means no scaling.

        Keys that are not about scaling (`rope_theta`, `partial_rotary_factor`) are left to the caller.

        Raises:
            ValueError: the kind is not one that zoo knows, or `factor` is missing.
        """
        if not parameters:
            return cls()
        named = parameters.get("rope_type", parameters.get("type", "default"))
        kind = "none" if named in ("default", None) else named
        if kind not in _KINDS:
            raise ValueError(f"rope scaling {named!r} is not known; known are default, " + ", ".join(_KINDS[1:]))
        if kind == "none":
            return cls()
        if "factor" not in parameters:
            raise ValueError(f"rope scaling {named!r} has no 'factor'")
        factor = parameters["factor"]
        if factor is None and kind != "yarn":
            raise ValueError(f"rope scaling {named!r} has no 'factor'")
        original = parameters.get("original_max_position_embeddings")
        optional = {name: parameters.get(name) for name in _OPTIONAL}
        return cls(
            kind=cast(Kind, kind),
            factor=None if factor is None else float(factor),
            low_freq_factor=float(parameters.get("low_freq_factor", 1.0)),
            high_freq_factor=float(parameters.get("high_freq_factor", 4.0)),
            original_max_position_embeddings=None if original is None else int(original),
            beta_fast=float(parameters.get("beta_fast") or 32.0),
            beta_slow=float(parameters.get("beta_slow") or 1.0),
            attention_factor=optional["attention_factor"],
            mscale=optional["mscale"],
            mscale_all_dim=optional["mscale_all_dim"],
            truncate=bool(parameters.get("truncate", True)),
        )

    def to_hf(self) -> dict[str, Any] | None:
        """Return the `rope_scaling` of a `config.json`; `None` where there is no scaling.

        Linear and dynamic are spelt with the `type` that published models have, and everyone reads.
        """
        if self.kind == "none":
            return None
        if self.kind in ("linear", "dynamic"):
            return {"type": self.kind, "factor": self.factor}
        found: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.original_max_position_embeddings is not None:
            found["original_max_position_embeddings"] = self.original_max_position_embeddings
        if self.kind == "llama3":
            return found | {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        found |= {"type": "yarn", "beta_fast": self.beta_fast, "beta_slow": self.beta_slow}
        found |= {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        return found if self.truncate else found | {"truncate": False}
