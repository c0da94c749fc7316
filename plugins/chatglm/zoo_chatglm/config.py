"""The sizes of a ChatGLM, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "ChatGLMConfig"]


@dataclass(frozen=True, kw_only=True)
class ChatGLMConfig(ModelConfig):
    """A ChatGLM of the first or the second generation.

    Du et al., "GLM" (2022); Zeng et al., "GLM-130B" (2023); GLM team, "ChatGLM: A Family of LLMs" (2024). Both
    generations publish the `model_type` chatglm; only the second has `padded_vocab_size` and `multi_query_attention`.

    Args:
        version: 1 (ChatGLM-6B v1 and v1.1) or 2 (ChatGLM2-6B).
        layernorm_epsilon: of LayerNorm (v1) and RMSNorm (v2).
        mask_token_id: v1, [MASK]: a short blank, filled in after `bos_token_id`.
        gmask_token_id: v1, [gMASK]: a blank that is the rest of the text.
        position_encoding_2d: v1, half of a head is turned by the position and half by the place in the answer.
        add_qkv_bias: v2, the projection of queries, keys and values has a bias.
        add_bias_linear: v2, every projection but the head has a bias.

    v1 has no grouped heads and no head width of its own, so those two fields are `None` whatever a `--scale` for all
    says. v1's head is the embedding unless `tie_word_embeddings` is false, as transformers has it where a `config.json`
    says nothing; `bos_token_id` marks the end of a prompt.
    """

    family: ClassVar[str] = "chatglm"

    version: Literal[1, 2] = 1
    layernorm_epsilon: float = 1e-5
    mask_token_id: int | None = None
    gmask_token_id: int | None = None
    position_encoding_2d: bool = True
    add_qkv_bias: bool = True
    add_bias_linear: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_v1:
            object.__setattr__(self, "num_key_value_heads", None)
            object.__setattr__(self, "head_dim", None)
        whole = 4 if self.position_encoding_2d or not self.is_v1 else 2
        if self.head_size % whole:
            raise ConfigError(
                f"a head of {self.head_size} features",
                f"this ChatGLM turns pairs of features, so the width is a multiple of {whole}",
                "choose hidden_size and num_attention_heads so",
            )
        if self.num_attention_heads % self.kv_heads:
            what = f"{self.num_attention_heads} heads do not divide over {self.kv_heads} groups"
            raise ConfigError(what, "every group of queries has one key and value", "choose one of the numbers")

    @property
    def is_v1(self) -> bool:
        return self.version == 1

    @property
    def own_positions(self) -> bool:
        return self.is_v1

    @property
    def reads_prompt_at_once(self) -> bool:
        return self.is_v1  # whose prompts are read both ways

    @property
    def fused_attention(self) -> bool:
        return not self.is_v1

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> ChatGLMConfig:
        """Read a `config.json` of `model_type` chatglm.

        Raises:
            ConfigError: a setting that no published ChatGLM-6B or ChatGLM2-6B has and this code does not do.
        """
        old = version4(hf)
        is_v1 = not {"padded_vocab_size", "multi_query_attention"} & set(old)
        if not is_v1:
            old.setdefault("multi_query_attention", False)
        for name, only in (_V1_ONLY if is_v1 else _V2_ONLY).items():
            if old.get(name) not in (None, only):
                raise ConfigError(f"{name} is {old[name]!r}", f"this ChatGLM has {only!r}, and zoo nothing else", "")
        for theirs, ours in (_V1_NAMES if is_v1 else _V2_NAMES).items():
            if theirs in old:
                old[ours] = old[theirs]
        if old.get("head_dim") == old["hidden_size"] // old["num_attention_heads"]:
            old["head_dim"] = None
        old.setdefault("tie_word_embeddings", is_v1)
        return super().from_hf({**old, "version": 1 if is_v1 else 2})

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models, in the spelling of transformers 4."""
        own, names = super().to_hf(), _V1_NAMES if self.is_v1 else _V2_NAMES
        own["head_dim"], own["num_key_value_heads"] = self.head_size, self.kv_heads
        hidden = {"version", *names.values(), *(_OF_V2 if self.is_v1 else _OF_V1)}
        hf: dict[str, Any] = {
            "architectures": ["ChatGLMModel"],
            "model_type": "chatglm",
            "auto_map": _AUTO_MAP,
            **({} if self.is_v1 else _V2_FIXED),
            **{name: value for name, value in own.items() if name not in hidden},
            **{theirs: own[ours] for theirs, ours in names.items()},
        }
        if self.is_v1 and self.tie_word_embeddings:
            del hf["tie_word_embeddings"]
        return hf


_AUTO_MAP = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
    "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
}

_V1_NAMES = {
    "num_layers": "num_hidden_layers",
    "inner_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
}
_V2_NAMES = {
    "num_layers": "num_hidden_layers",
    "ffn_hidden_size": "intermediate_size",
    "seq_length": "max_position_embeddings",
    "padded_vocab_size": "vocab_size",
    "kv_channels": "head_dim",
    "multi_query_group_num": "num_key_value_heads",
}
_OF_V1 = {"mask_token_id", "gmask_token_id", "position_encoding_2d"}
_OF_V2 = {"add_qkv_bias", "add_bias_linear", "head_dim", "num_key_value_heads"}

_V1_ONLY: dict[str, Any] = {"quantization_bit": 0, "pre_seq_len": None}
_V2_FIXED: dict[str, Any] = {
    "multi_query_attention": True,
    "rmsnorm": True,
    "post_layer_norm": True,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "original_rope": True,
}
_V2_ONLY: dict[str, Any] = {**_V1_ONLY, **_V2_FIXED, "interleaved_qkv": False, "rope_ratio": 1}

_V1 = ChatGLMConfig(
    version=1,
    vocab_size=130528,
    hidden_size=4096,
    intermediate_size=16384,
    num_hidden_layers=28,
    num_attention_heads=32,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    torch_dtype="float16",
    mask_token_id=130000,
    gmask_token_id=130001,
    bos_token_id=130004,
    eos_token_id=130005,
    pad_token_id=3,
)
_V2 = ChatGLMConfig(
    version=2,
    vocab_size=65024,
    hidden_size=4096,
    intermediate_size=13696,
    num_hidden_layers=28,
    num_attention_heads=32,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    torch_dtype="float16",
    eos_token_id=2,
    pad_token_id=0,
)

_V1_CELLS = {"flash_attention": Support("not applicable", "its kernels have no prompt that is read both ways")}

_MODELS = (
    ModelEntry("THUDM/chatglm-6b", _V1, "chat, v1, 2k context", _V1_CELLS),
    ModelEntry("THUDM/chatglm-6b-v1.1", _V1, "chat, v1.1, 2k context", _V1_CELLS),
    ModelEntry("THUDM/chatglm2-6b", _V2, "chat, v2, 32k context"),
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
    "mask_token_id": None,
    "gmask_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_SMALL: dict[str, Any] = {
    **_TINY,
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}

CAPABILITIES = Capabilities(
    family="chatglm",
    config_class=ChatGLMConfig,
    model_types=("chatglm",),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU"),
    },
)
