"""Llama on one card, top to bottom.

A pre-norm decoder with RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021), grouped-query attention
(Ainslie et al. 2023) and SwiGLU (Shazeer 2020).

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, H hidden, N query heads, M key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from zoo_llama.config import LlamaConfig
from zoo_ops import (
    Batch,
    Cache,
    LayerCache,
    LMHead,
    Output,
    RMSNorm,
    apply_rope,
    attention,
    fused_gated_mlp,
    gated_mlp,
    project,
    rope_angles,
)

__all__ = ["LlamaBlock", "LlamaEmbedding", "LlamaFinalNorm", "LlamaForCausalLM", "LlamaHead"]


class LlamaAttention(nn.Layer):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        hidden, head, bias = config.hidden_size, config.head_size, None if config.attention_bias else False
        q_width, kv_width = config.num_attention_heads * head, config.kv_heads * head
        if config.fuse_attention_qkv:
            self.qkv_proj = nn.Linear(hidden, q_width + 2 * kv_width, bias_attr=bias)
        else:
            self.q_proj = nn.Linear(hidden, q_width, bias_attr=bias)
            self.k_proj = nn.Linear(hidden, kv_width, bias_attr=bias)
            self.v_proj = nn.Linear(hidden, kv_width, bias_attr=bias)
        self.o_proj = nn.Linear(q_width, hidden, bias_attr=bias)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        q_BSND, k_BSMD, v_BSMD = self._heads(x_BSH)
        past = cache.length if cache is not None else 0
        cos, sin = self._angles(batch, past, q_BSND.shape[1])
        q_BSND, k_BSMD = apply_rope(q_BSND, cos, sin), apply_rope(k_BSMD, cos, sin)
        if cache is not None:
            k_BSMD, v_BSMD = cache.update(k_BSMD, v_BSMD)
        out_BSND = attention(q_BSND, k_BSMD, v_BSMD, batch, past=past)
        return self.o_proj(out_BSND.flatten(2))

    def _heads(self, x_BSH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, S, N, D], keys and values [B, S, M, D]."""
        head = self.config.head_size
        if not self.config.fuse_attention_qkv:
            q, k, v = project(x_BSH, self.q_proj, self.k_proj, self.v_proj)
        else:
            (qkv,) = project(x_BSH, self.qkv_proj)
            # Of the heads in this projection, the key's share; at least one, which several ranks then hold.
            all_q, all_kv = self.config.num_attention_heads, self.config.kv_heads
            kv = max(1, qkv.shape[-1] // head * all_kv // (all_q + 2 * all_kv)) * head
            q, k, v = paddle.split(qkv, [qkv.shape[-1] - 2 * kv, kv, kv], axis=-1)
        batch, length = q.shape[:2]
        return tuple(t.reshape([batch, length, -1, head]) for t in (q, k, v))

    def _angles(self, batch: Batch, past: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines and sines of this micro batch, which all blocks share."""
        config = self.config
        return batch.once(
            ("rope", config, past, length),
            lambda: rope_angles(
                batch.position_ids,
                past + length,
                config.head_size,
                config.rope_theta,
                config.rope_scaling,
                config.max_position_embeddings,
                past=past,
            ),
        )


class LlamaMLP(nn.Layer):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, ffn, bias = config.hidden_size, config.intermediate_size, None if config.mlp_bias else False
        self.fused = config.fuse_attention_ffn
        if self.fused:
            self.gate_up_fused_proj = nn.Linear(hidden, 2 * ffn, bias_attr=bias)
        else:
            self.gate_proj = nn.Linear(hidden, ffn, bias_attr=bias)
            self.up_proj = nn.Linear(hidden, ffn, bias_attr=bias)
        self.down_proj = nn.Linear(ffn, hidden, bias_attr=bias)

    def forward(self, x_BSH: Tensor) -> Tensor:
        if self.fused:
            return fused_gated_mlp(x_BSH, self.gate_up_fused_proj, self.down_proj)
        return gated_mlp(x_BSH, self.gate_proj, self.up_proj, self.down_proj)


class LlamaBlock(nn.Layer):
    """One decoder layer: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.self_attn(self.input_layernorm(x_BSH), batch, cache)
        return x_BSH + self.mlp(self.post_attention_layernorm(x_BSH))


class LlamaModel(nn.Layer):
    """Embedding, blocks and final norm, under the names of the parameter table."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([LlamaBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.embed_tokens(batch.input_ids)
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.norm(x_BSH)


class LlamaForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.llama = LlamaModel(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.llama.embed_tokens.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.llama(batch, cache)))


# The ends of the pipeline: the same embedding, norm and head, each a layer that is called like a block.


class LlamaEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.embed_tokens(batch.input_ids)


class LlamaFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.norm(x_BSH)


class LlamaHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
