"""The sizes of a DeepSeek-V3, the published models, and what the family supports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from zoo_core.capabilities import Capabilities, ModelEntry, Support, declared
from zoo_core.config import ModelConfig, version4
from zoo_core.errors import ConfigError
from zoo_core.quantization import FORMAT
from zoo_ops import RopeScaling

__all__ = ["CAPABILITIES", "DeepseekV3Config"]

# What this code does and nothing else, by the name it has in `config.json`.
_ONLY: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
_FP8: dict[str, Any] = {"quant_method": "fp8", "fmt": "e4m3"}
# Fields that only training reads and only zoo writes, with their defaults: absent from a published file.
_OWN: dict[str, Any] = {"num_nextn_predict_lambda": 0.3, "bias_update_rate": 0.001, "rope_interleave": True}


@dataclass(frozen=True, kw_only=True)
class DeepseekV3Config(ModelConfig):
    """A DeepSeek-V3. DeepSeek-AI, "DeepSeek-V3 Technical Report" (arXiv 2412.19437).

    Latent attention has as many key/value heads as query heads, so `num_key_value_heads` and `head_dim` stay `None`.

    Args:
        kv_lora_rank: width of the latent that keys and values are made from, and that the cache holds.
        q_lora_rank: width of the queries' latent; `None` projects them from the hidden state.
        qk_nope_head_dim: part of a head of queries and keys that knows no position.
        qk_rope_head_dim: part that is rotated; all heads share the key's.
        v_head_dim: width of a head of values.
        moe_intermediate_size: width of one expert; `intermediate_size` is that of the dense layers.
        n_routed_experts: experts of a layer; `None` makes every layer dense.
        n_shared_experts: experts that see every token, held as one of so many times the width; `None` means none.
        num_experts_per_tok: routed experts that see a token.
        n_group: groups of experts.
        topk_group: groups a token may choose from.
        routed_scaling_factor: multiplies the weights of the routed experts.
        norm_topk_prob: the weights of a token's experts add up to one before that.
        first_k_dense_replace: the first layers, which are dense.
        moe_layer_freq: of the others, those whose number it divides have experts.
        bias_update_rate: what the bias of an expert's score moves by after each step, towards equal loads.
        num_nextn_predict_layers: depth of multi-token prediction, 0 or 1.
        num_nextn_predict_lambda: weight of its loss. The report has 0.3 for the first 10T tokens, then 0.1.
        rope_theta: base of the rotary frequencies.
        rope_scaling: how they are stretched beyond the trained length; read from a mapping too.
        rope_interleave: pairs of rotated features are neighbours, as in the published files.
    """

    family: ClassVar[str] = "deepseek_v3"

    rms_norm_eps: float = 1e-6
    kv_lora_rank: int = 512
    q_lora_rank: int | None = 1536
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    moe_intermediate_size: int = 2048
    n_routed_experts: int | None = 256
    n_shared_experts: int | None = 1
    num_experts_per_tok: int = 8
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    norm_topk_prob: bool = True
    first_k_dense_replace: int = 3
    moe_layer_freq: int = 1
    bias_update_rate: float = _OWN["bias_update_rate"]
    num_nextn_predict_layers: int = 0
    num_nextn_predict_lambda: float = _OWN["num_nextn_predict_lambda"]
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    rope_interleave: bool = _OWN["rope_interleave"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rope_scaling, RopeScaling):
            try:
                object.__setattr__(self, "rope_scaling", RopeScaling.from_hf(self.rope_scaling))
            except (ValueError, AttributeError) as error:
                raise ConfigError(f"unusable rope_scaling {self.rope_scaling!r}", str(error), "") from error
        for name, why in self._objections():
            raise ConfigError(f"{name} is {getattr(self, name)!r}", why, "")

    def _objections(self) -> list[tuple[str, str]]:
        """The settings that cannot be, each with the reason."""
        heads, experts = self.num_attention_heads, self.n_routed_experts
        found = []
        if self.num_key_value_heads not in (None, heads):
            found.append(("num_key_value_heads", f"latent attention has a key for each of its {heads} heads"))
        if self.head_dim is not None:
            found.append(("head_dim", "the parts of a head are qk_nope_head_dim, qk_rope_head_dim and v_head_dim"))
        if self.qk_rope_head_dim % 2:
            found.append(("qk_rope_head_dim", "features are rotated in pairs"))
        if self.num_nextn_predict_layers not in (0, 1):
            found.append(("num_nextn_predict_layers", "one more token is predicted ahead, or none"))
        if experts is not None:
            if self.n_group < 1 or self.moe_layer_freq < 1:
                found.append(("n_group" if self.n_group < 1 else "moe_layer_freq", "it counts from 1"))
            elif experts % self.n_group or (self.n_group > 1 and experts < 2 * self.n_group):
                found.append(("n_group", f"{experts} experts do not divide into groups of two or more"))
            elif not 0 < self.topk_group <= self.n_group:
                found.append(("topk_group", f"a token chooses from 1 to {self.n_group} groups"))
            elif not 0 < self.num_experts_per_tok <= self.topk_group * (experts // self.n_group):
                choice = self.topk_group * (experts // self.n_group)
                found.append(("num_experts_per_tok", f"a token chooses from {choice} experts"))
        return found

    @property
    def head_size(self) -> int:
        """Width of one head of queries and keys."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def cached_sizes(self) -> tuple[int, int, int]:
        """The latent and the rotated key, one of each for all heads."""
        return 0, self.qk_rope_head_dim, self.kv_lora_rank

    @property
    def total_layers(self) -> int:
        """Layers with a number: the blocks and then multi-token prediction."""
        return self.num_hidden_layers + self.num_nextn_predict_layers

    def has_experts(self, layer: int) -> bool:
        """Whether the layer of that number routes tokens to experts."""
        return (
            self.n_routed_experts is not None
            and layer >= self.first_k_dense_replace
            and layer % self.moe_layer_freq == 0
        )

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> DeepseekV3Config:
        """Read a `config.json` of `model_type` deepseek_v3, as DeepSeek or transformers 4 or 5 writes it.

        Raises:
            ConfigError: a setting that no published DeepSeek-V3 has and this code does not do.
        """
        old = version4(hf)
        for name, only in _ONLY.items():
            if old.get(name, only) != only:
                raise ConfigError(f"{name} is {old[name]!r}", f"a DeepSeek-V3 has {only!r}, and zoo nothing else", "")
        quantized = old.get("quantization_config") or {}
        if not isinstance(quantized, Mapping):
            raise ConfigError(f"quantization_config is {quantized!r}", "it is no JSON object", "take the model's own")
        ours = quantized.get("checkpoint_format") == FORMAT
        for name, only in _FP8.items():
            if not ours and quantized.get(name, only) != only:
                raise ConfigError(
                    f"the weights are quantised with {name} {quantized[name]!r}",
                    f"of quantised weights zoo reads those of DeepSeek, which have {only!r}",
                    "use a folder of bfloat16 weights",
                )
        if not ours:
            old.pop("quantization_config", None)  # float8 is read as the values it stands for
        # transformers 5 has another name for the depth, and states a `head_dim` that is the rotated part's.
        old.setdefault("num_nextn_predict_layers", old.get("num_mtp_layers", 0))
        old.pop("head_dim", None)
        if old.get("num_key_value_heads") == old.get("num_attention_heads"):
            old.pop("num_key_value_heads", None)
        return super().from_hf(old)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of the published models; the weights beside it are not float8."""
        hf = {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            **_ONLY,
            **super().to_hf(),
            "num_key_value_heads": self.num_attention_heads,
            "rope_scaling": self.rope_scaling.to_hf(),
        }
        optional = {"head_dim": None, **_OWN}
        return {name: value for name, value in hf.items() if name not in optional or value != optional[name]}


_V3 = DeepseekV3Config(
    vocab_size=129280,
    hidden_size=7168,
    intermediate_size=18432,
    num_hidden_layers=61,
    num_attention_heads=128,
    max_position_embeddings=163840,
    rope_scaling=RopeScaling("yarn", 40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=1.0),
    num_nextn_predict_layers=1,
    torch_dtype="bfloat16",
    bos_token_id=0,
    eos_token_id=1,
)
# Of the full width, so that it shows what a card does; 8 cards of 80 GB hold it.
_DEMO = _V3.replace(num_hidden_layers=2, first_k_dense_replace=0, n_routed_experts=16)

_MODELS = (
    ModelEntry("deepseek-ai/DeepSeek-V3", _V3, "chat, 160k context, 256 experts of which a token meets 8"),
    ModelEntry("deepseek-ai/DeepSeek-V3-Base", _V3, "base, 160k context, 256 experts of which a token meets 8"),
    ModelEntry("deepseek-ai/DeepSeek-V3-demo", _DEMO, "2 layers of 16 experts, for 8 cards; no weights are published"),
)

_TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 256,
    "rope_scaling": RopeScaling("yarn", 4.0, original_max_position_embeddings=64, mscale=1.0, mscale_all_dim=1.0),
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_SMALL: dict[str, Any] = {
    **_TINY,
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "num_attention_heads": 8,
    "moe_intermediate_size": 128,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 1024,
    "rope_scaling": RopeScaling("yarn", 4.0, original_max_position_embeddings=256, mscale=1.0, mscale_all_dim=1.0),
}

CAPABILITIES = Capabilities(
    family="deepseek_v3",
    config_class=DeepseekV3Config,
    model_types=("deepseek_v3",),
    models=_MODELS,
    scales={"tiny": _TINY, "small": _SMALL},
    cells={
        **declared(),
        "flash_attention": Support("declared", "a GPU whose kernels take values narrower than keys (Hopper)"),
    },
)
