"""The sizes of a Bloom, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "BloomConfig"]

_SPELLINGS = {
    "hidden_size": ("n_embed", "hidden_size"),
    "num_hidden_layers": ("n_layer", "num_hidden_layers"),
    "num_attention_heads": ("n_head", "num_attention_heads"),
    "intermediate_size": ("n_inner", "intermediate_size"),
    "max_position_embeddings": ("seq_length", "max_position_embeddings"),
}
"""Our field, and what published files call it: the first that is there counts."""

_ONLY = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "slow_but_exact": False}


@dataclass(frozen=True, kw_only=True)
class BloomConfig(ModelConfig):
    """A Bloom or Bloomz of any size.

    BigScience Workshop, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model" (2022, arXiv 2211.05100).

    `max_position_embeddings` is the trained length; with linear biases nothing in the weights depends on it.

    Args:
        layer_norm_epsilon: of every LayerNorm.
        apply_residual_connection_post_layernorm: the residual starts behind a block's norms instead of before them.

    Raises:
        ConfigError: the MLP is not four times as wide as the hidden state, heads do not fill it, or keys and values
            have heads of their own number: there is no such Bloom, nor a way to publish one.
    """

    family: ClassVar[str] = "bloom"

    layer_norm_epsilon: float = 1e-5
    apply_residual_connection_post_layernorm: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden, heads = self.hidden_size, self.num_attention_heads
        if hidden % heads:
            raise ConfigError(f"{heads} heads do not fill a hidden size of {hidden}", "a Bloom's heads are equal", "")
        for name, only in (
            ("intermediate_size", 4 * hidden),
            ("num_key_value_heads", heads),
            ("head_dim", hidden // heads),
        ):
            value = getattr(self, name)
            if value is not None and value != only:
                raise ConfigError(
                    f"{name} is {value}",
                    f"in a Bloom with a hidden size of {hidden} and {heads} heads it is {only}",
                    f"set {name} to {only}",
                )

    @property
    def rotary_positions(self) -> bool:
        return False

    @property
    def fused_attention(self) -> bool:
        return False

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> BloomConfig:
        """Read a `config.json` of `model_type` bloom, as transformers 4 or 5 or the first published files have it.

        Raises:
            ConfigError: a setting that no published Bloom has and this code does not do.
        """
        old = version4(hf)
        for name, only in _ONLY.items():
            if old.get(name, only) != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"a published Bloom has {only!r}, and zoo no other", "")
        found = {name: value for name, value in old.items() if not any(name in names for names in _SPELLINGS.values())}
        for ours, names in _SPELLINGS.items():
            given = [old[name] for name in names if old.get(name) is not None]
            if given:
                found[ours] = given[0]
        if "hidden_size" in found:
            found.setdefault("intermediate_size", 4 * found["hidden_size"])
        return super().from_hf({"bos_token_id": 1, "eos_token_id": 2, **found})

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models, in the spelling of transformers 4."""
        own = super().to_hf()
        return {
            "architectures": ["BloomForCausalLM"],
            "model_type": "bloom",
            **_ONLY,
            "hidden_size": self.hidden_size,
            "n_layer": self.num_hidden_layers,
            "n_head": self.num_attention_heads,
            "n_inner": None,
            "seq_length": self.max_position_embeddings,
            **{name: own[name] for name in own if name not in {*_SPELLINGS, "num_key_value_heads", "head_dim"}},
        }


def _entry(name: str, sizes: tuple[int, int, int], note: str, torch_dtype: str = "float16") -> ModelEntry:
    hidden, layers, heads = sizes
    config = BloomConfig(
        vocab_size=250880,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        torch_dtype=torch_dtype,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    return ModelEntry(name, config, note)


# hidden_size, num_hidden_layers, num_attention_heads
_560M = (1024, 24, 16)
_1B1 = (1536, 24, 16)
_1B7 = (2048, 24, 16)
_3B = (2560, 30, 32)
_7B1 = (4096, 30, 32)
_176B = (14336, 70, 112)
_SMALLER = (("560m", _560M), ("1b1", _1B1), ("1b7", _1B7), ("3b", _3B), ("7b1", _7B1))

_BASE = "base, 46 languages, trained at 2k"
_XP3, _XP3MT, _P3 = "tuned on xP3, English prompts", "tuned on xP3mt, translated prompts", "tuned on P3, English only"

_MODELS = (
    *(_entry(f"bigscience/bloom-{size}", sizes, _BASE) for size, sizes in _SMALLER),
    _entry("bigscience/bloom", _176B, _BASE, "bfloat16"),
    *(_entry(f"bigscience/bloomz-{size}", sizes, _XP3) for size, sizes in _SMALLER),
    _entry("bigscience/bloomz-7b1-mt", _7B1, _XP3MT),
    _entry("bigscience/bloomz-7b1-p3", _7B1, _P3),
    _entry("bigscience/bloomz", _176B, _XP3, "bfloat16"),
    _entry("bigscience/bloomz-mt", _176B, _XP3MT, "bfloat16"),
    _entry("bigscience/bloomz-p3", _176B, _P3, "bfloat16"),
)

# Twelve heads: no power of two, as the 112 of the largest Bloom, so that its biases are those that small runs prove.
_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_SMALL: dict[str, Any] = {
    **_TINY,
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "max_position_embeddings": 1024,
}

CAPABILITIES = Capabilities(
    family="bloom",
    config_class=BloomConfig,
    model_types=("bloom",),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("not applicable", "its kernels take no bias, and ALiBi is one"),
    },
)
