"""The sizes of a GPT, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "GPTConfig"]

_ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu")


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    """A GPT-2 or GPT-3.

    Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); Brown et al., "Language Models are
    Few-Shot Learners" (2020), dense attention throughout, as PaddleFleetX and PaddleNLP have it.

    Args:
        layer_norm_epsilon: epsilon of every LayerNorm.
        activation_function: Hugging Face's name: "gelu_new" (the tanh form, as published), "gelu", "relu" or "silu".
        hidden_dropout_prob: dropout of the embeddings and after attention and MLP, while training.
        attention_probs_dropout_prob: dropout of the attention weights, while training.
        fuse_attention_qkv: hold q, k and v in one weight, [q | k | v] as in the published files.
        scale_qk_by_layer_num: divide the queries by the number of layers and multiply the scores by it, as FleetX does
            so that float16 scores stay small; no change but for rounding.
        type_vocab_size: carried along for FleetX's and PaddleNLP's files; neither model has token types.
    """

    family: ClassVar[str] = "gpt3"

    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    fuse_attention_qkv: bool = False
    scale_qk_by_layer_num: bool = False
    type_vocab_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation_function not in _ACTIVATIONS:
            why = "zoo's GPT has " + ", ".join(_ACTIVATIONS)
            raise ConfigError(f"activation_function is {self.activation_function!r}", why, "")
        if self.num_key_value_heads not in (None, self.num_attention_heads) or self.head_dim not in (None, self._split):
            raise ConfigError(
                f"num_key_value_heads is {self.num_key_value_heads} and head_dim {self.head_dim}",
                "a GPT's keys have the heads of its queries, hidden_size / num_attention_heads wide",
                "leave both out",
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_attention_heads} attention heads",
                "a GPT's heads are hidden_size / num_attention_heads wide",
                "change one of them",
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}", "it is a probability below 1", "")

    @property
    def _split(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def learned_positions(self) -> bool:
        return True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> GPTConfig:
        """Read a `config.json` of `model_type` gpt2 (Hugging Face), or gpt (PaddleNLP).

        Raises:
            ConfigError: a setting that this code does not do.
        """
        old = version4(hf)
        if old.get("model_type") == "gpt" and old.get("hidden_act", "gelu") == "gelu":
            # PaddleNLP's "gelu" is the tanh form.
            old["hidden_act"] = "gelu_new"
        for theirs, ours in (("hidden_act", "activation_function"), *_HF_NAMES.items()):
            if old.get(theirs) is not None:
                old[ours] = old[theirs]
        if old.get("intermediate_size") is None:
            old["intermediate_size"] = 4 * old["hidden_size"]
        for name, only in (*_ONLY.items(), ("normalize_before", True)):
            if old.get(name) is not None and old[name] != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"zoo's GPT has {only!r}, and nothing else", "")
        for name, twin in (("embd_pdrop", "resid_pdrop"), ("n_ctx", "n_positions")):
            if name in old and old[name] != old.get(twin, old[name]):
                raise ConfigError(f"{name} is {old[name]} and {twin} {old[twin]}", "zoo's GPT has one for both", "")
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return Hugging Face's `config.json` of a GPT-2."""
        own = super().to_hf()
        wide = 4 * self.hidden_size
        hf = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **_ONLY,
            **{theirs: own.pop(ours) for theirs, ours in _HF_NAMES.items()},
            "n_inner": None if self.intermediate_size == wide else self.intermediate_size,
            "n_ctx": self.max_position_embeddings,
            "embd_pdrop": self.hidden_dropout_prob,
            **own,
        }
        # What a published file holds only where it is not the default.
        optional: dict[str, Any] = {"num_key_value_heads": None, "head_dim": None, "type_vocab_size": 16}
        optional |= {"fuse_attention_qkv": False, "scale_qk_by_layer_num": False}
        return {name: value for name, value in hf.items() if name not in optional or value != optional[name]}


_HF_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
}
# `reorder_and_upcast_attn` is of no account: zoo's softmax is float32 whatever the model's type.
_ONLY: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def _entry(name: str, sizes: tuple[int, int, int], note: str, **more: Any) -> ModelEntry:
    hidden, layers, heads = sizes
    config = GPTConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **{"bos_token_id": _END, "eos_token_id": _END, **more},
    )
    return ModelEntry(name, config, note)


_END = 50256
_GPT2: dict[str, Any] = {"vocab_size": 50257}
# FleetX and PaddleNLP round GPT-2's vocabulary up to a multiple of 128.
_PADDED: dict[str, Any] = {"vocab_size": 50304}

# hidden_size, num_hidden_layers, num_attention_heads
_SMALL_GPT2 = (768, 12, 12)
_345M = (1024, 24, 16)
_LARGE_GPT2 = (1280, 36, 20)
_XL_GPT2 = (1600, 48, 25)
_1_3B = (2048, 24, 16)
_6_7B = (4096, 32, 32)
_13B = (5120, 40, 40)
_175B = (12288, 96, 96)

_MODELS = (
    _entry("gpt3", _SMALL_GPT2, "a FleetX file's GPT: its Model section has the sizes", **_PADDED),
    _entry("gpt3-345M", _345M, "FleetX's 345M", **_PADDED),
    _entry("gpt3-1.3B", _1_3B, "FleetX's 1.3B", **_PADDED),
    _entry("gpt3-6.7B", _6_7B, "FleetX's 6.7B", **_PADDED),
    _entry("gpt3-13B", _13B, "FleetX's 13B, 4k context", **_PADDED, max_position_embeddings=4096),
    _entry("gpt3-175B", _175B, "FleetX's 175B", vocab_size=51200),
    _entry("gpt2-en", _SMALL_GPT2, "PaddleNLP's GPT-2, 124M", **_GPT2),
    _entry("gpt2-medium-en", _345M, "PaddleNLP's GPT-2 medium, vocabulary padded to 50304", **_PADDED),
    _entry("gpt2-large-en", _LARGE_GPT2, "PaddleNLP's GPT-2 large, 774M", **_GPT2),
    _entry("gpt2-xl-en", _XL_GPT2, "PaddleNLP's GPT-2 XL, 1.6B", **_GPT2),
    _entry("openai-community/gpt2", _SMALL_GPT2, "Hugging Face's GPT-2, 124M", **_GPT2),
    _entry("openai-community/gpt2-medium", _345M, "Hugging Face's GPT-2 medium, 355M", **_GPT2),
    _entry("openai-community/gpt2-large", _LARGE_GPT2, "Hugging Face's GPT-2 large, 774M", **_GPT2),
    _entry("openai-community/gpt2-xl", _XL_GPT2, "Hugging Face's GPT-2 XL, 1.6B", **_GPT2),
)

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
}
_SMALL: dict[str, Any] = {
    **_TINY,
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": 1024,
}

CAPABILITIES = Capabilities(
    family="gpt3",
    config_class=GPTConfig,
    model_types=("gpt2", "gpt"),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU; not with attention dropout"),
    },
)
