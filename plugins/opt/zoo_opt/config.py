"""The sizes of an OPT, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "POSITION_OFFSET", "OptConfig"]

POSITION_OFFSET = 2
"""Rows of the position table before that of position 0; padding, which has position -1, reads the second of them."""

_ACTIVATIONS = ("relu", "gelu")


@dataclass(frozen=True, kw_only=True)
class OptConfig(ModelConfig):
    """An OPT of any size.

    Zhang et al., "OPT: Open Pre-trained Transformer Language Models" (2022).

    Args:
        word_embed_proj_dim: width of the word embeddings; where it is not `hidden_size`, two projections lie between
            (350m). `None` means `hidden_size`.
        do_layer_norm_before: norms stand before attention and MLP, and one after the last block; else they stand after
            each residual sum, and there is no last one (350m).
        remove_final_layer_norm: leave out the norm after the last block all the same, as checkpoints tuned with early
            code have it.
        layer_norm_elementwise_affine: norms have a weight and a bias.
        enable_bias: the projections of attention and of the MLP have biases.
        activation_function: of the MLP, "relu" or "gelu".
        hidden_dropout_prob: dropout of what attention and MLP add to the residual stream, while training.
        attention_probs_dropout_prob: dropout of attention weights, while training.
        fuse_attention_qkv: hold q, k and v in one weight; files keep them apart.
    """

    family: ClassVar[str] = "opt"

    tie_word_embeddings: bool = True
    word_embed_proj_dim: int | None = None
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = False
    layer_norm_elementwise_affine: bool = True
    enable_bias: bool = True
    activation_function: str = "relu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    fuse_attention_qkv: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.word_embed_proj_dim == self.hidden_size:
            object.__setattr__(self, "word_embed_proj_dim", None)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"{self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}",
                "OPT's heads share it evenly",
                "change one of the two",
            )
        head = self.hidden_size // self.num_attention_heads
        for name, own in (("num_key_value_heads", self.num_attention_heads), ("head_dim", head)):
            if getattr(self, name) not in (None, own):
                raise ConfigError(f"{name} is {getattr(self, name)}", f"in this OPT it is {own}", f"leave {name} out")
            object.__setattr__(self, name, None)
        if self.activation_function not in _ACTIVATIONS:
            known = " or ".join(_ACTIVATIONS)
            raise ConfigError(f"activation_function is {self.activation_function!r}", f"zoo's OPT has {known}", "")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}", "it is a share that is dropped", "give [0, 1)")

    @property
    def embedding_size(self) -> int:
        """Width of the word embeddings and of what the head reads."""
        return self.hidden_size if self.word_embed_proj_dim is None else self.word_embed_proj_dim

    @property
    def has_final_norm(self) -> bool:
        """Whether a norm follows the last block."""
        return self.do_layer_norm_before and not self.remove_final_layer_norm

    @property
    def learned_positions(self) -> bool:
        return True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> OptConfig:
        """Read a `config.json` of `model_type` opt, as transformers 4 or 5 or PaddleNLP writes it.

        Raises:
            ConfigError: a setting that no published OPT has and this code does not do.
        """
        old = version4(hf)
        for name in ("layerdrop", "activation_dropout"):
            if old.get(name):
                raise ConfigError(f"{name} is {old[name]!r}", "a published OPT has 0.0, and zoo nothing else", "")
        for theirs, ours in _NAMES.items():
            if theirs in old:
                old[ours] = old.pop(theirs)
        for theirs, ours in _PADDLENLP_NAMES.items():
            if theirs in old:
                old.setdefault(ours, old[theirs])
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models, in the spelling of transformers 4."""
        own = super().to_hf()
        hf: dict[str, Any] = {
            "architectures": ["OPTForCausalLM"],
            "model_type": "opt",
            "activation_dropout": 0.0,
            "layerdrop": 0.0,
            **{name: value for name, value in own.items() if name not in _NAMES.values()},
            **{theirs: own[ours] for theirs, ours in _NAMES.items()},
            "word_embed_proj_dim": self.embedding_size,
        }
        for name in ("num_key_value_heads", "head_dim"):
            del hf[name]
        # What a published file holds only where it is not the default.
        optional = {
            "tie_word_embeddings": True,
            "layer_norm_elementwise_affine": True,
            "enable_bias": True,
            "fuse_attention_qkv": False,
        }
        return {name: value for name, value in hf.items() if name not in optional or value != optional[name]}


_NAMES = {
    "ffn_dim": "intermediate_size",
    "init_std": "initializer_range",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "_remove_final_layer_norm": "remove_final_layer_norm",
}
"""Names of the published files, and ours, which are PaddleNLP's."""
_PADDLENLP_NAMES = {"normalize_before": "do_layer_norm_before", "hidden_act": "activation_function"}
"""Of the others, PaddleNLP's where they are not the published ones."""


def _entry(size: str, hidden: int, layers: int, heads: int, note: str = "", **more: Any) -> ModelEntry:
    config = OptConfig(
        vocab_size=50272,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        torch_dtype="float16",
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
        **more,
    )
    return ModelEntry(f"facebook/opt-{size}", config, "base, 2k context" + note)


_350M: dict[str, Any] = {"do_layer_norm_before": False, "word_embed_proj_dim": 512}

_MODELS = (
    _entry("125m", 768, 12, 12),
    _entry("350m", 1024, 24, 16, ", norms after the sums, projected embeddings", **_350M),
    _entry("1.3b", 2048, 24, 32),
    _entry("2.7b", 2560, 32, 32),
    _entry("6.7b", 4096, 32, 32),
    _entry("13b", 5120, 40, 40),
    _entry("30b", 7168, 48, 56),
    _entry("66b", 9216, 64, 72),
)

# word_embed_proj_dim is left alone, so that a small 350m keeps its projections; the position table has room for the
# default max_seq_length.
_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_SMALL: dict[str, Any] = {
    **_TINY,
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
}

CAPABILITIES = Capabilities(
    family="opt",
    config_class=OptConfig,
    model_types=("opt",),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("declared", "a GPU; not with attention dropout"),
    },
)
