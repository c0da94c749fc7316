"""The sizes of a GLM, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError

__all__ = ["CAPABILITIES", "SPECIAL_IDS", "GLMConfig"]


@dataclass(frozen=True, kw_only=True)
class GLMConfig(ModelConfig):
    """A GLM; `model_type` says which of the two architectures.

    Du et al., "GLM: General Language Model Pretraining with Autoregressive Blank Infilling" (2022, arXiv 2103.10360);
    Zeng et al., "GLM-130B: An Open Bilingual Pre-trained Model" (2023, arXiv 2210.02414).

    Args:
        model_type: "glm" (GLM-10B and its smaller kin: pre-norm, GELU, two learned positions) or "glm-130b" (DeepNorm,
            GeGLU, rotary positions).
        layernorm_epsilon: added to the variance in every LayerNorm.
        embedding_dropout_prob: dropout after the positions were added.
        attention_dropout_prob: dropout of attention weights.
        output_dropout_prob: dropout after attention and after the MLP.
        use_scaled_init_for_output_weights: the layers that write to the residual start smaller, by sqrt(2 x layers).
        start_token_id: begins a blank's text (`<|startofpiece|>`, sop). What stands before the first one is read both
            ways, what follows is causal. `None`: every text is causal.
        mask_token_ids: of [MASK], [sMASK] and [gMASK], the blanks; empty where `start_token_id` is `None`.

    The embedding is also the head. `max_position_embeddings` is the published `max_sequence_length`; GLM-10B's tables
    of positions have one row more.
    """

    family: ClassVar[str] = "glm"

    model_type: Literal["glm", "glm-130b"] = "glm"
    tie_word_embeddings: bool = True
    layernorm_epsilon: float = 1e-5
    embedding_dropout_prob: float = 0.1
    attention_dropout_prob: float = 0.1
    output_dropout_prob: float = 0.1
    use_scaled_init_for_output_weights: bool = True
    start_token_id: int | None = None
    mask_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tie_word_embeddings:
            raise ConfigError("tie_word_embeddings is false", "a GLM's embedding is its head", "")
        if self.hidden_size % self.num_attention_heads:
            sizes = f"hidden_size {self.hidden_size} does not divide over {self.num_attention_heads} heads"
            raise ConfigError(sizes, "a GLM's heads fill the hidden size", "change one of them")
        for name, only in (
            ("num_key_value_heads", self.num_attention_heads),
            ("head_dim", self.hidden_size // self.num_attention_heads),
        ):
            if getattr(self, name) not in (None, only):
                raise ConfigError(f"{name} is {getattr(self, name)}", f"a GLM of this size has {only}", "leave it out")
            object.__setattr__(self, name, None)
        special = [token for token in (self.start_token_id, *self.mask_token_ids) if token is not None]
        if len(special) not in (0, 4) or max(special, default=0) >= self.vocab_size:
            raise ConfigError(
                f"start_token_id is {self.start_token_id} and mask_token_ids are {self.mask_token_ids}",
                f"text with blanks needs the start token, [MASK], [sMASK] and [gMASK], all below {self.vocab_size}",
                "give all four, or null and [] for causal text",
            )

    @property
    def is_130b(self) -> bool:
        """Whether this is the architecture of GLM-130B."""
        return self.model_type == "glm-130b"

    @property
    def learned_positions(self) -> bool:
        return not self.is_130b

    @property
    def own_positions(self) -> bool:
        return True

    @property
    def reads_prompt_at_once(self) -> bool:
        return self.start_token_id is not None  # the text before its first start token is read both ways

    @property
    def fused_attention(self) -> bool:
        return self.start_token_id is None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> GLMConfig:
        """Read a `config.json` of `model_type` glm or glm-130b; the ids of special tokens follow from the vocabulary
        size of the published models where the file does not have them.

        Raises:
            ConfigError: a setting that no published GLM has and this code does not do, or the `config.json` of GLM-4,
                which calls itself glm too.
        """
        old = version4(hf)
        if "rms_norm_eps" in old or "partial_rotary_factor" in old:
            raise ConfigError("this is a GLM-4", "it is another architecture of the same model_type", "")
        for theirs, ours in _NAMES.items():
            if theirs in old:
                old[ours] = old[theirs]
        for name, only in _ONLY.items():
            if old.get(name, only) != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"a GLM has {only!r}, and zoo nothing else", "")
        if "intermediate_size" not in old and "hidden_size" in old:
            old["intermediate_size"] = 4 * old["hidden_size"]
        for name, default in SPECIAL_IDS.get(old.get("vocab_size", 0), {}).items():
            old.setdefault(name, default)
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models; `start_token_id` and `mask_token_ids` are zoo's own."""
        own = super().to_hf()
        own["mask_token_ids"] = list(self.mask_token_ids)
        hf = {theirs: own.pop(ours) for theirs, ours in _NAMES.items()}
        for name in ("num_key_value_heads", "head_dim", "tie_word_embeddings"):
            own.pop(name)
        if self.is_130b:
            return {**own, **hf, "architectures": ["GLM130B"], "layernorm_order": "post"}
        if hf["inner_hidden_size"] == 4 * self.hidden_size:
            hf.pop("inner_hidden_size")
        return {**_PUBLISHED, **own, **hf}


_NAMES = {
    "num_layers": "num_hidden_layers",
    "max_sequence_length": "max_position_embeddings",
    "inner_hidden_size": "intermediate_size",
}
_ONLY = {
    "attention_scale": 1.0,
    "block_position_encoding": True,
    "layernorm_order": "post",
    "no_glu": False,
    "position_encoding_2d": False,
    "relative_encoding": False,
    "spell_length": None,
}
_PUBLISHED: dict[str, Any] = {
    "architectures": ["GLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_glm.GLMConfig",
        "AutoModel": "modeling_glm.GLMModel",
        "AutoModelForSeq2SeqLM": "modeling_glm.GLMForConditionalGeneration",
        "AutoModelForMultipleChoice": "modeling_glm.GLMForMultipleChoice",
    },
    "attention_scale": 1.0,
    "block_position_encoding": True,
    "checkpoint_num_layers": 1,
    "output_predict": True,
    "parallel_output": True,
    "pool_token": "cls",
    "relative_encoding": False,
    "spell_func": "lstm",
    "spell_length": None,
}


def _special(start: int, masks: tuple[int, int, int], end: tuple[int, int], pad: int) -> dict[str, Any]:
    return {"start_token_id": start, "mask_token_ids": masks, "eos_token_id": end, "pad_token_id": pad}


SPECIAL_IDS: dict[int, dict[str, Any]] = {
    50304: _special(50257, (50260, 50264, 50263), (50258, 50256), 50256),
    # The Hugging Face files give [gMASK] the id 50009; in training it shared 50007 with the end of a piece.
    50048: _special(50006, (50003, 50008, 50009), (50007, 50000), 50000),
    150528: _special(150004, (150000, 150002, 150001), (150005, 20002), 0),
}
"""By size of a published vocabulary: the start token; [MASK], [sMASK] and [gMASK]; what ends a text; padding."""


def _entry(name: str, vocab_size: int, sizes: tuple[int, int, int, int], note: str, **more: Any) -> ModelEntry:
    hidden, ffn, layers, heads = sizes
    config = GLMConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        torch_dtype="float16",
        **{**SPECIAL_IDS[vocab_size], **more},
    )
    return ModelEntry(name, config, note)


# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads
_10B, _130B = (4096, 16384, 48, 64), (12288, 32768, 70, 96)
_NO_DROPOUT = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}
_LARGE = {"model_type": "glm-130b", **_NO_DROPOUT}

_MODELS = (
    _entry("THUDM/glm-10b", 50304, _10B, "base, English", max_position_embeddings=1024),
    _entry("THUDM/glm-10b-chinese", 50048, _10B, "base, Chinese", max_position_embeddings=1024),
    _entry("THUDM/glm-130b", 150528, _130B, "base, English and Chinese", **{**_LARGE, "max_position_embeddings": 2048}),
)

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    # The ids of a small vocabulary are words; none of them may begin a blank.
    "start_token_id": None,
    "mask_token_ids": (),
    "eos_token_id": None,
    "pad_token_id": None,
    **_NO_DROPOUT,
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
    family="glm",
    config_class=GLMConfig,
    model_types=("glm", "glm-130b"),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "expert_parallel": Support("not applicable", "its blocks have no experts"),
        "flash_attention": Support("not applicable", "its kernels have no prompt that is read both ways"),
    },
)
