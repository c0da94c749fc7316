"""The sizes of a Llama, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError
from zoo_ops import RopeScaling

__all__ = ["CAPABILITIES", "LlamaConfig"]


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """A Llama of any generation.

    Touvron et al., "LLaMA" (2023) and "Llama 2" (2023); Grattafiori et al., "The Llama 3 Herd of Models" (2024).

    Args:
        rope_theta: base of the rotary frequencies.
        rope_scaling: how the frequencies are stretched beyond the trained length; read from a mapping too.
        attention_bias: q, k, v and o projections have a bias.
        mlp_bias: gate, up and down projections have a bias.
        fuse_attention_qkv: hold q, k and v in one weight; files keep them apart.
        fuse_attention_ffn: hold gate and up in one weight; files keep them apart.
    """

    family: ClassVar[str] = "llama"

    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    attention_bias: bool = False
    mlp_bias: bool = False
    fuse_attention_qkv: bool = False
    fuse_attention_ffn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rope_scaling, RopeScaling):
            try:
                object.__setattr__(self, "rope_scaling", RopeScaling.from_hf(self.rope_scaling))
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"unusable rope_scaling {self.rope_scaling!r}", str(error), "") from error
        if self.num_attention_heads % self.kv_heads or self.head_size % 2:
            raise ConfigError(
                f"{self.num_attention_heads} heads of {self.head_size} features over {self.kv_heads} key/value heads",
                "every key/value head serves as many heads, and rotary positions turn pairs of features",
                "change hidden_size, num_attention_heads, num_key_value_heads or head_dim",
            )

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> LlamaConfig:
        """Read a `config.json` of `model_type` llama, as transformers 4 or 5 writes it.

        Raises:
            ConfigError: a setting that no published Llama has and this code does not do.
        """
        old = version4(hf)
        for name, only in (("hidden_act", "silu"), ("attention_dropout", 0.0)):
            if old.get(name, only) != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"a Llama has {only!r}, and zoo nothing else", "")
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models, in the spelling of transformers 4."""
        hf = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            **super().to_hf(),
            "rope_scaling": self.rope_scaling.to_hf(),
        }
        # What a published file holds only where it is not the default.
        optional: dict[str, Any] = {"num_key_value_heads": None, "head_dim": None}
        optional |= {"fuse_attention_qkv": False, "fuse_attention_ffn": False}
        return {name: value for name, value in hf.items() if name not in optional or value != optional[name]}


def _entry(name: str, sizes: tuple[int, ...], note: str, **more: Any) -> ModelEntry:
    hidden, ffn, layers, heads, kv_heads = sizes
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **more,
    )
    return ModelEntry(name, config, note)


# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads
_7B = (4096, 11008, 32, 32, 32)
_13B = (5120, 13824, 40, 40, 40)
_30B = (6656, 17920, 60, 52, 52)
_65B = (8192, 22016, 80, 64, 64)
_70B = (8192, 28672, 80, 64, 8)
_8B = (4096, 14336, 32, 32, 8)

_V1: dict[str, Any] = {
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "float16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_V2: dict[str, Any] = {**_V1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_V3: dict[str, Any] = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
_V31: dict[str, Any] = {
    **_V3,
    "max_position_embeddings": 131072,
    "rope_scaling": RopeScaling("llama3", 8.0, original_max_position_embeddings=8192),
    "eos_token_id": (128001, 128008, 128009),
}

_LINLY = "Llama 2, Chinese words added (their number follows from the sizes of the published files)"

_MODELS = (
    _entry("facebook/llama-7b", _7B, "base, 2k context", **_V1),
    _entry("facebook/llama-13b", _13B, "base, 2k context", **_V1),
    _entry("facebook/llama-30b", _30B, "base, 2k context", **_V1),
    _entry("facebook/llama-65b", _65B, "base, 2k context", **{**_V1, "rms_norm_eps": 1e-5}),
    _entry("meta-llama/Llama-2-7b", _7B, "base, 4k context", **_V2),
    _entry("meta-llama/Llama-2-7b-chat", _7B, "chat, 4k context", **_V2),
    _entry("meta-llama/Llama-2-13b", _13B, "base, 4k context", **_V2),
    _entry("meta-llama/Llama-2-13b-chat", _13B, "chat, 4k context", **_V2),
    _entry("meta-llama/Llama-2-70b", _70B, "base, 4k context, grouped-query attention", **_V2),
    _entry("meta-llama/Meta-Llama-3-8B", _8B, "base, 8k context", **_V3),
    _entry("meta-llama/Meta-Llama-3-70B", _70B, "base, 8k context", **_V3),
    _entry("meta-llama/Meta-Llama-3.1-8B-Instruct", _8B, "chat, 128k context", **_V31),
    _entry("FlagAlpha/Llama2-Chinese-7b-Chat", _7B, "Llama-2-7b-chat tuned on Chinese, 4k context", **_V2),
    _entry("FlagAlpha/Llama2-Chinese-13b-Chat", _13B, "Llama-2-13b-chat tuned on Chinese, 4k context", **_V2),
    _entry("idea-ccnl/ziya-llama-13b-v1", _13B, "Llama 1, Chinese words added", **{**_V1, "vocab_size": 39424}),
    _entry("linly-ai/chinese-llama-2-7b", _7B, _LINLY, **{**_V2, "vocab_size": 40076}),
    _entry("linly-ai/chinese-llama-2-13b", _13B, _LINLY, **{**_V2, "vocab_size": 40076}),
)

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": None,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_SMALL: dict[str, Any] = {
    **_TINY,
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}

CAPABILITIES = Capabilities(
    family="llama",
    config_class=LlamaConfig,
    model_types=("llama",),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU"),
    },
)
