"""The configuration of one model: sizes as plain data, read from and written to a Hugging Face `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from zoo_core.errors import ConfigError, nearest
from zoo_core.quantization import QuantSpec

__all__ = ["ModelConfig", "version4"]

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)

Self = TypeVar("Self", bound="ModelConfig")


def version4(hf: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parsed `config.json` in the spelling of transformers 4, which is that of the published models.

    transformers 5 writes `dtype` for `torch_dtype`, and `rope_parameters` for `rope_theta` and `rope_scaling`.
    """
    old = dict(hf)
    if "dtype" in old:
        old.setdefault("torch_dtype", old.pop("dtype"))
    rope = dict(old.pop("rope_parameters", None) or {})
    if rope:
        theta = rope.pop("rope_theta", None)
        if theta is not None:
            old.setdefault("rope_theta", theta)
        if rope.get("rope_type", "default") != "default":
            old.setdefault("rope_scaling", rope)
    return old


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every causal language model has; each family subclasses it with what is its own.

    A size that follows from others is `None` here and read through its property (`kv_heads`, `head_size`), so that
    `replace(hidden_size=...)` never leaves a stale derived number behind.
    """

    family: ClassVar[str] = ""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    torch_dtype: str = "float32"
    """dtype of the published weights: "float32", "float16" or "bfloat16"."""
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    quantization_config: QuantSpec | None = None
    """Which weights are held as integers; `None` for none."""

    def __post_init__(self) -> None:
        """Refuse sizes that are no positive whole numbers; a subclass that has its own calls this one.

        Raises:
            ConfigError: names the size and what it is.
        """
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}", "a size is a whole number above 0", "")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads; equals the query heads without grouped-query attention."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def cached_sizes(self) -> tuple[int, int, int]:
        """What attention keeps of each token: heads, and the widths of a head's key and of its value.

        Of 0 heads, one entry that serves all query heads, whole on every rank (a latent).
        """
        return self.kv_heads, self.head_size, self.head_size

    @property
    def learned_positions(self) -> bool:
        """Whether positions are rows of a table of `max_position_embeddings`, so that a longer sample has none."""
        return False

    @property
    def own_positions(self) -> bool:
        """Whether the model finds positions in the tokens themselves and does not read those of the batch."""
        return False

    @property
    def rotary_positions(self) -> bool:
        """Whether queries and keys are rotated by their positions."""
        return not self.learned_positions

    @property
    def reads_prompt_at_once(self) -> bool:
        """Whether a prompt given in pieces would be read otherwise than as a whole: one that is read both ways, say, or
        whose length sets the base of its rotary positions.
        """
        return getattr(getattr(self, "rope_scaling", None), "kind", "") == "dynamic"

    @property
    def fused_attention(self) -> bool:
        """Whether a GPU's fused attention kernels can do the model: no additive bias, no prompt read both ways."""
        return True

    @property
    def experts_per_token(self) -> int:
        """Routed experts that each token passes; 0 in a dense model."""
        return int(getattr(self, "num_experts_per_tok", 0) or 0)

    def replace(self: Self, **changes: Any) -> Self:
        """Return a copy with `changes` made.

        Raises:
            ConfigError: a name is not a field of this family's configuration; the nearest is suggested.
        """
        known = [f.name for f in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                near = nearest(name, known)
                raise ConfigError(
                    f"unknown model setting {name!r}",
                    f"a {self.family} configuration has no such field",
                    f"did you mean {near!r}?" if near else "fields: " + ", ".join(known),
                )
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_hf(cls: type[Self], hf: Mapping[str, Any]) -> Self:
        """Build the configuration from the parsed `config.json` of a Hugging Face folder."""
        known = {f.name for f in dataclasses.fields(cls)}
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in version4(hf).items()
            if name in known
        }
        found["quantization_config"] = QuantSpec.from_hf(hf.get("quantization_config"))
        return cls(**found)

    def to_hf(self) -> dict[str, Any]:
        """Return what the published model's `config.json` holds, ready for `json.dump`."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        quantised: QuantSpec | None = found.pop("quantization_config")
        return found if quantised is None else {**found, "quantization_config": quantised.to_hf()}
