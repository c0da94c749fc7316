"""The sizes of a Baichuan, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "BaichuanConfig"]


@dataclass(frozen=True, kw_only=True)
class BaichuanConfig(ModelConfig):
    """A Baichuan or Baichuan2.

    Yang et al., "Baichuan 2: Open Large-scale Language Models" (2023, arXiv 2309.10305).

    Args:
        position_embedding: "rope" (the 7B models) or "alibi" (the 13B models). Published files do not say it: see
            `from_hf`.
        normalize_head: each row of the head's weight is divided by its length (Baichuan2).
        rope_theta: base of the rotary frequencies.
        fuse_attention_ffn: hold gate and up in one weight; files keep them apart.

    There are no grouped heads and no head width of its own, so those two fields are `None` whatever a `--scale` for all
    says. `max_position_embeddings` is what the 13B files call `model_max_length`.
    """

    family: ClassVar[str] = "baichuan"

    position_embedding: Literal["rope", "alibi"] = "rope"
    normalize_head: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    fuse_attention_ffn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position_embedding not in ("rope", "alibi"):
            raise ConfigError(f"position_embedding is {self.position_embedding!r}", "a Baichuan has rope or alibi", "")
        object.__setattr__(self, "num_key_value_heads", None)
        object.__setattr__(self, "head_dim", None)
        if self.hidden_size % self.num_attention_heads or (self.position_embedding == "rope" and self.head_size % 2):
            raise ConfigError(
                f"hidden_size is {self.hidden_size} and num_attention_heads {self.num_attention_heads}",
                "a Baichuan's heads share it evenly, and rotary positions turn pairs of features",
                "change one of them",
            )

    @property
    def rotary_positions(self) -> bool:
        return self.position_embedding == "rope"

    @property
    def fused_attention(self) -> bool:
        return self.rotary_positions

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> BaichuanConfig:
        """Read a `config.json` of `model_type` baichuan.

        Positions and head follow from what is in a published file, unless it says `position_embedding` or
        `normalize_head` itself: the sizes of the 7B and 13B models, else `max_position_embeddings` (rope) or only
        `model_max_length` (ALiBi); Baichuan2's vocabulary or its `z_loss_weight`.

        Raises:
            ConfigError: a setting that no published Baichuan has and this code does not do, or no way to tell the
                positions.
        """
        old = version4(hf)
        for name, only in _ONLY.items():
            if old.get(name, only) != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"a Baichuan has {only!r}, and zoo nothing else", "")
        if old.get("num_key_value_heads") not in (None, old["num_attention_heads"]):
            raise ConfigError(
                f"num_key_value_heads is {old['num_key_value_heads']}", "Baichuan's W_pack has no grouped heads", ""
            )
        old["position_embedding"] = old.get("position_embedding") or _positions(old)
        old["normalize_head"] = old.get("normalize_head", _is_second(old))
        old.setdefault("max_position_embeddings", old.get("model_max_length", 4096))
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models; what they do not say is added only where it must be."""
        rope, second = self.position_embedding == "rope", self.normalize_head
        name = "BaichuanForCausalLM" if second or not rope else "BaiChuanForCausalLM"
        hf = {
            "architectures": [name],
            "auto_map": {
                "AutoConfig": f"configuration_baichuan.{name.removesuffix('ForCausalLM')}Config",
                "AutoModelForCausalLM": f"modeling_baichuan.{name}",
            },
            "model_type": "baichuan",
            "hidden_act": "silu",
            **super().to_hf(),
        }
        for own in ("position_embedding", "normalize_head", "num_key_value_heads", "head_dim"):
            del hf[own]
        for own, default in (("rope_theta", 10000.0), ("fuse_attention_ffn", False)):
            if hf[own] == default:
                del hf[own]
        if second or not rope:
            hf["model_max_length"] = self.max_position_embeddings
        if not rope:
            del hf["max_position_embeddings"]
        if second:
            hf["z_loss_weight"] = 0
        if _positions(hf) != self.position_embedding:
            hf["position_embedding"] = self.position_embedding
        if _is_second(hf) != second:
            hf["normalize_head"] = second
        return hf


_ONLY: dict[str, Any] = {"hidden_act": "silu", "z_loss_weight": 0, "rope_scaling": None}
_V2_VOCABULARY = 125696
_PUBLISHED: dict[tuple[int, int, int], Literal["rope", "alibi"]] = {(4096, 32, 32): "rope", (5120, 40, 40): "alibi"}


def _positions(hf: Mapping[str, Any]) -> Literal["rope", "alibi"]:
    sizes = (hf["hidden_size"], hf["num_hidden_layers"], hf["num_attention_heads"])
    if sizes in _PUBLISHED:
        return _PUBLISHED[sizes]
    if "max_position_embeddings" in hf:
        return "rope"
    if "model_max_length" in hf:
        return "alibi"
    raise ConfigError(
        "cannot tell how this Baichuan encodes positions",
        "it has neither the sizes of a published model, nor max_position_embeddings (7B), nor model_max_length (13B)",
        'add "position_embedding": "rope" or "alibi" to its config.json',
    )


def _is_second(hf: Mapping[str, Any]) -> bool:
    return hf["vocab_size"] == _V2_VOCABULARY or "z_loss_weight" in hf


_7B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "position_embedding": "rope",
}
_13B: dict[str, Any] = {
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "position_embedding": "alibi",
}
_V1: dict[str, Any] = {
    "vocab_size": 64000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_V2: dict[str, Any] = {**_V1, "vocab_size": _V2_VOCABULARY, "normalize_head": True}


def _entry(name: str, note: str, **config: Any) -> ModelEntry:
    made = BaichuanConfig(**config)
    return ModelEntry(f"baichuan-inc/{name}", made, note, _ALIBI_CELLS if made.position_embedding == "alibi" else {})


_ALIBI_CELLS = {"flash_attention": Support("not applicable", "its kernels take no bias, and ALiBi is one")}


_MODELS = (
    _entry("Baichuan-7B", "base, 4k context, rope", **_V1, **_7B),
    _entry("Baichuan-13B-Base", "base, 4k context, ALiBi", **_V1, **_13B),
    _entry("Baichuan-13B-Chat", "chat, 4k context, ALiBi", **_V1, **_13B),
    _entry("Baichuan2-7B-Base", "base, 4k context, rope, normalised head", **_V2, **_7B),
    _entry("Baichuan2-7B-Chat", "chat, 4k context, rope, normalised head", **_V2, **_7B),
    _entry("Baichuan2-13B-Base", "base, 4k context, ALiBi, normalised head", **_V2, **_13B),
    _entry("Baichuan2-13B-Chat", "chat, 4k context, ALiBi, normalised head", **_V2, **_13B),
)

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
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
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": 1024,
}

CAPABILITIES = Capabilities(
    family="baichuan",
    config_class=BaichuanConfig,
    model_types=("baichuan",),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU"),
    },
)
