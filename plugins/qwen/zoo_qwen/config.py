"""The sizes of a Qwen, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError
from zoo_ops import RopeScaling

__all__ = ["CAPABILITIES", "QwenConfig"]


@dataclass(frozen=True, kw_only=True)
class QwenConfig(ModelConfig):
    """A Qwen of any generation; `model_type` says which, and is the prefix of its parameter names too.

    Bai et al., "Qwen Technical Report" (2023); Yang et al., "Qwen2" and "Qwen2.5" (2024) and "Qwen3" (2025).

    Args:
        model_type: "qwen" (v1), "qwen2" (2 and 2.5) or "qwen3".
        rope_theta: base of the rotary frequencies.
        rope_scaling: how the frequencies are stretched beyond the trained length; read from a mapping too. v1 has a
            rule of its own.
        attention_bias: Qwen3, the projections of attention have a bias; Qwen2's q, k and v always have one.
        seq_length: v1, the trained length, from which the next two act, in evaluation only.
        use_dynamic_ntk: v1, stretch the rotary base by the length of the prompt.
        use_logn_attn: v1, multiply the queries by log(position) / log(seq_length).
        no_bias: v1, only `c_attn` has a bias.
        fuse_attention_qkv: hold q, k and v in one weight, as v1 always does; files of the others keep them apart.
        fuse_attention_ffn: hold gate and up in one weight; files keep them apart.

    v1's published `intermediate_size` counts gate and up together: the MLP is half as wide (`mlp_width`). It has no
    grouped heads and no head width of its own, so those two fields are `None` whatever a `--scale` for all says.
    """

    family: ClassVar[str] = "qwen"

    model_type: Literal["qwen", "qwen2", "qwen3"] = "qwen"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    attention_bias: bool = False
    seq_length: int = 2048
    use_dynamic_ntk: bool = False
    use_logn_attn: bool = False
    no_bias: bool = True
    fuse_attention_qkv: bool = False
    fuse_attention_ffn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rope_scaling, RopeScaling):
            try:
                object.__setattr__(self, "rope_scaling", RopeScaling.from_hf(self.rope_scaling))
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"unusable rope_scaling {self.rope_scaling!r}", str(error), "") from error
        if self.is_v1:
            object.__setattr__(self, "num_key_value_heads", None)
            object.__setattr__(self, "head_dim", None)
        if self.num_attention_heads % self.kv_heads or self.head_size % 2:
            raise ConfigError(
                f"{self.num_attention_heads} heads of {self.head_size} features over {self.kv_heads} key/value heads",
                "every key/value head serves as many heads, and rotary positions turn pairs of features",
                "change hidden_size, num_attention_heads, num_key_value_heads or head_dim",
            )

    @property
    def is_v1(self) -> bool:
        return self.model_type == "qwen"

    @property
    def reads_prompt_at_once(self) -> bool:
        return self.use_dynamic_ntk if self.is_v1 else super().reads_prompt_at_once

    @property
    def mlp_width(self) -> int:
        """Width of gate and of up."""
        return self.intermediate_size // 2 if self.is_v1 else self.intermediate_size

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias if self.model_type == "qwen3" else True

    @property
    def other_bias(self) -> bool:
        """Whether attention's output projection has a bias; in v1, the MLP too."""
        return {"qwen": not self.no_bias, "qwen2": False, "qwen3": self.attention_bias}[self.model_type]

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> QwenConfig:
        """Read a `config.json` of `model_type` qwen, qwen2 or qwen3, as transformers 4 or 5 writes it.

        Raises:
            ConfigError: a setting that no published Qwen has and this code does not do.
        """
        old = version4(hf)
        for name, only in _ONLY.items():
            if old.get(name) is not None and old[name] != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"a Qwen has {only!r}, and zoo nothing else", "")
        if old.get("model_type") == "qwen":
            for theirs, ours in _V1_NAMES.items():
                if theirs in old:
                    old[ours] = old[theirs]
            heads_width = old.get("kv_channels", 0) * old["num_attention_heads"]
            if heads_width and heads_width != old["hidden_size"]:
                raise ConfigError(f"kv_channels is {old['kv_channels']}", "Qwen v1's heads are hidden / heads wide", "")
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models, in the spelling of transformers 4."""
        return self._v1_to_hf() if self.is_v1 else self._v2_to_hf()

    def _v1_to_hf(self) -> dict[str, Any]:
        own = super().to_hf()
        absent = {"head_dim", "num_key_value_heads", "rope_scaling", "attention_bias", *_V1_NAMES.values()}
        hf = {
            "architectures": ["QWenLMHeadModel"],
            "auto_map": {
                "AutoConfig": "configuration_qwen.QWenConfig",
                "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
            },
            "attn_dropout_prob": 0.0,
            "emb_dropout_prob": 0.0,
            "kv_channels": self.head_size,
            "onnx_safe": None,
            "rotary_pct": 1.0,
            "scale_attn_weights": True,
            "tokenizer_class": "QWenTokenizer",
            **{name: value for name, value in own.items() if name not in absent},
            **{theirs: own[ours] for theirs, ours in _V1_NAMES.items()},
        }
        return _without(hf, fuse_attention_qkv=False, fuse_attention_ffn=False)

    def _v2_to_hf(self) -> dict[str, Any]:
        architecture = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[self.model_type]
        hf = {
            "architectures": [architecture],
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            **super().to_hf(),
            "rope_scaling": self.rope_scaling.to_hf(),
        }
        of_v1 = {"seq_length": 2048, "use_dynamic_ntk": False, "use_logn_attn": False, "no_bias": True}
        if self.model_type == "qwen2":
            of_v1["attention_bias"] = False
        none = {"num_key_value_heads": None, "head_dim": None}
        return _without(hf, fuse_attention_qkv=False, fuse_attention_ffn=False, **none, **of_v1)


_ONLY = {
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "use_sliding_window": False,
    "attn_dropout_prob": 0.0,
    "emb_dropout_prob": 0.0,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
}
_V1_NAMES = {"layer_norm_epsilon": "rms_norm_eps", "rotary_emb_base": "rope_theta"}


def _without(hf: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Leave out what a published file does not hold, unless it differs from the default."""
    return {name: value for name, value in hf.items() if name not in defaults or value != defaults[name]}


def _entry(
    name: str, sizes: tuple[int, int, int, int, int], note: str, base: dict[str, Any], **more: Any
) -> ModelEntry:
    hidden, ffn, layers, heads, kv_heads = sizes
    config = QwenConfig(
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        **{**base, **more},
    )
    return ModelEntry(name, config, note)


_EOS, _IM_END = 151643, 151645

_V1: dict[str, Any] = {
    "model_type": "qwen",
    "torch_dtype": "bfloat16",
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "eos_token_id": _EOS,
}
_V1_CHAT = {**_V1, "eos_token_id": (_IM_END, _EOS)}
_V1_7B: dict[str, Any] = {"vocab_size": 151936, "max_position_embeddings": 32768, "seq_length": 8192}
_V1_14B: dict[str, Any] = {"vocab_size": 152064, "max_position_embeddings": 8192, "seq_length": 2048}

_V2: dict[str, Any] = {
    "model_type": "qwen2",
    "torch_dtype": "bfloat16",
    "rope_theta": 1000000.0,
    "max_position_embeddings": 131072,
    "vocab_size": 152064,
    "bos_token_id": _EOS,
    "eos_token_id": _EOS,
}
_V2_TIED = {**_V2, "vocab_size": 151936, "tie_word_embeddings": True}
_V2_LARGE = {**_V2, "rms_norm_eps": 1e-5}
_CHAT: dict[str, Any] = {"max_position_embeddings": 32768, "eos_token_id": _IM_END}

_V3: dict[str, Any] = {
    **_V2,
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "eos_token_id": _IM_END,
}
_V3_TIED = {**_V3, "tie_word_embeddings": True}

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads
_Q1_7B = (4096, 22016, 32, 32, 32)
_Q1_14B = (5120, 27392, 40, 40, 40)
_HALF_B = (896, 4864, 24, 14, 2)
_1_5B = (1536, 8960, 28, 12, 2)
_3B = (2048, 11008, 36, 16, 2)
_7B = (3584, 18944, 28, 28, 4)
_14B = (5120, 13824, 48, 40, 8)
_32B = (5120, 27648, 64, 40, 8)
_72B = (8192, 29568, 80, 64, 8)
_SIZES_25 = (
    ("0.5B", _HALF_B, {**_V2_TIED, "max_position_embeddings": 32768}),
    ("1.5B", _1_5B, _V2_TIED),
    ("3B", _3B, {**_V2_TIED, "max_position_embeddings": 32768}),
    ("7B", _7B, _V2),
    ("14B", _14B, _V2_LARGE),
    ("32B", _32B, _V2_LARGE),
    ("72B", _72B, _V2_LARGE),
)

_MODELS = (
    _entry("qwen/qwen-7b", _Q1_7B, "base, v1, trained at 8k", _V1, **_V1_7B),
    _entry("qwen/qwen-7b-chat", _Q1_7B, "chat, v1, trained at 8k", _V1_CHAT, **_V1_7B),
    _entry("qwen/qwen-14b", _Q1_14B, "base, v1, trained at 2k", _V1, **_V1_14B),
    _entry("qwen/qwen-14b-chat", _Q1_14B, "chat, v1, trained at 2k", _V1_CHAT, **_V1_14B),
    _entry("Qwen/Qwen2-0.5B", _HALF_B, "base, tied embeddings", _V2_TIED),
    _entry("Qwen/Qwen2-1.5B", _1_5B, "base, tied embeddings", _V2_TIED),
    _entry("Qwen/Qwen2-7B", _7B, "base", _V2),
    _entry("Qwen/Qwen2-72B", _72B, "base", _V2_LARGE),
    *(_entry(f"Qwen/Qwen2.5-{size}", sizes, "base", config) for size, sizes, config in _SIZES_25),
    *(_entry(f"Qwen/Qwen2.5-{size}-Instruct", sizes, "chat", {**config, **_CHAT}) for size, sizes, config in _SIZES_25),
    _entry("Qwen/Qwen3-0.6B", (1024, 3072, 28, 16, 8), "chat, tied embeddings", _V3_TIED),
    _entry("Qwen/Qwen3-1.7B", (2048, 6144, 28, 16, 8), "chat, tied embeddings", _V3_TIED),
    _entry("Qwen/Qwen3-4B", (2560, 9728, 36, 32, 8), "chat, tied embeddings", _V3_TIED),
    _entry("Qwen/Qwen3-8B", (4096, 12288, 36, 32, 8), "chat", _V3),
    _entry("Qwen/Qwen3-14B", (5120, 17408, 40, 40, 8), "chat", _V3),
    _entry("Qwen/Qwen3-32B", (5120, 25600, 64, 64, 8), "chat", _V3),
)

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": None,
    "max_position_embeddings": 256,
    "seq_length": 256,
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
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "seq_length": 1024,
}

CAPABILITIES = Capabilities(
    family="qwen",
    config_class=QwenConfig,
    model_types=("qwen", "qwen2", "qwen3"),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU"),
    },
)
