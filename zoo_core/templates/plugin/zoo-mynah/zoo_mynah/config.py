"""The sizes of Mynah, its named models, and what the family supports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "MynahConfig"]


@dataclass(frozen=True, kw_only=True)
class MynahConfig(ModelConfig):
    """Mynah of any size; what every decoder has (`hidden_size` ...) is in `ModelConfig`.

    Args:
        rms_norm_eps: epsilon of the norms.
        rope_theta: base of the rotary frequencies.
    """

    family: ClassVar[str] = "mynah"

    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_attention_heads % self.kv_heads or self.head_size % 2:
            raise ConfigError(
                f"{self.num_attention_heads} heads of {self.head_size} features over {self.kv_heads} key/value heads",
                "every key/value head serves as many heads, and rotary positions turn pairs of features",
                "change hidden_size, num_attention_heads, num_key_value_heads or head_dim",
            )

    def to_hf(self) -> dict[str, Any]:
        """Return the model's `config.json`."""
        return {
            "architectures": ["MynahForCausalLM"],
            "model_type": "mynah",
            **super().to_hf(),
        }


_160M = MynahConfig(
    vocab_size=32000,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_key_value_heads=4,
    max_position_embeddings=4096,
)

_MODELS = (
    ModelEntry("mynah/mynah-160m", _160M, "base, 4k context"),
    ModelEntry(
        "mynah/mynah-130m-tied",
        _160M.replace(tie_word_embeddings=True),
        "base, 4k context, tied embeddings",
    ),
)

# What --scale tiny puts in the place of a model's sizes; the kit's tests use it too.
_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}

CAPABILITIES = Capabilities(
    family="mynah",
    config_class=MynahConfig,
    model_types=("mynah",),
    models=_MODELS,
    scales={"tiny": _TINY},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU"),
    },
)
