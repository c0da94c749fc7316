"""Baichuan on one card, top to bottom.

A pre-norm decoder with RMSNorm (Zhang and Sennrich 2019) and SwiGLU (Shazeer 2020). The 7B models have rotary positions
(Su et al. 2021), the 13B models linear biases (ALiBi, Press et al. 2022). Baichuan2's head has rows of length 1.

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, H hidden, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from zoo_baichuan.config import BaichuanConfig
from zoo_ops import (
    Batch,
    Cache,
    LayerCache,
    LMHead,
    Output,
    RMSNorm,
    alibi_bias,
    apply_rope,
    attention,
    fused_gated_mlp,
    gated_mlp,
    project,
    rope_angles,
)

__all__ = ["BaichuanBlock", "BaichuanEmbedding", "BaichuanFinalNorm", "BaichuanForCausalLM", "BaichuanHead"]


class BaichuanAttention(nn.Layer):
    """Causal self-attention; one projection holds queries, keys and values."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.config = config
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias_attr=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias_attr=False)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        (packed,) = project(x_BSH, self.W_pack)
        size, length = packed.shape[:2]
        heads = (size, length, -1, self.config.head_size)
        q_BSND, k_BSND, v_BSND = (t.reshape(heads) for t in paddle.chunk(packed, 3, axis=-1))
        past, bias = cache.length if cache is not None else 0, None
        if self.config.position_embedding == "alibi":
            bias = alibi_bias(batch, self.config.num_attention_heads, length, past)
        else:
            cos, sin = self._angles(batch, past, length)
            q_BSND, k_BSND = apply_rope(q_BSND, cos, sin), apply_rope(k_BSND, cos, sin)
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(q_BSND, k_BSND, v_BSND, batch, past=past, bias=bias)
        return self.o_proj(out_BSND.flatten(2))

    def _angles(self, batch: Batch, past: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines and sines of this micro batch, which all blocks share."""
        config = self.config
        return batch.once(
            ("rope", config, past, length),
            lambda: rope_angles(batch.position_ids, past + length, config.head_size, config.rope_theta, past=past),
        )


class BaichuanMLP(nn.Layer):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.intermediate_size
        self.fused = config.fuse_attention_ffn
        if self.fused:
            self.gate_up_fused_proj = nn.Linear(hidden, 2 * ffn, bias_attr=False)
        else:
            self.gate_proj = nn.Linear(hidden, ffn, bias_attr=False)
            self.up_proj = nn.Linear(hidden, ffn, bias_attr=False)
        self.down_proj = nn.Linear(ffn, hidden, bias_attr=False)

    def forward(self, x_BSH: Tensor) -> Tensor:
        if self.fused:
            return fused_gated_mlp(x_BSH, self.gate_up_fused_proj, self.down_proj)
        return gated_mlp(x_BSH, self.gate_proj, self.up_proj, self.down_proj)


class BaichuanBlock(nn.Layer):
    """One decoder layer: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = BaichuanAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = BaichuanMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.self_attn(self.input_layernorm(x_BSH), batch, cache)
        return x_BSH + self.mlp(self.post_attention_layernorm(x_BSH))


class BaichuanModel(nn.Layer):
    """Embedding, blocks and final norm, under the names of the parameter table."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([BaichuanBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.embed_tokens(batch.input_ids)
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.norm(x_BSH)


class BaichuanForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.baichuan = BaichuanModel(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size, normalize=config.normalize_head)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.baichuan.embed_tokens.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.baichuan(batch, cache)))


# The ends of the pipeline: the same embedding, norm and head, each a layer that is called like a block.


class BaichuanEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.embed_tokens(batch.input_ids)


class BaichuanFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.norm(x_BSH)


class BaichuanHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size, normalize=config.normalize_head)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
