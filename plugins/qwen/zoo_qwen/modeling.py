"""Qwen on one card, top to bottom: first v1, then Qwen2 and Qwen3, then what they share.

All are pre-norm decoders with RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021) and SwiGLU (Shazeer
2020). v1 (Bai et al. 2023) has one projection for queries, keys and values, and stretches long prompts in evaluation;
Qwen2 has grouped-query attention (Ainslie et al. 2023), and Qwen3 norms of queries and keys besides.

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, H hidden, N query heads, M key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

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
    logn_scale,
    project,
    rope_angles,
)
from zoo_qwen.config import QwenConfig

__all__ = ["QwenBlock", "QwenEmbedding", "QwenFinalNorm", "QwenForCausalLM", "QwenHead", "QwenV1Block"]


def _bias(has_bias: bool) -> bool | None:
    """What `nn.Linear` calls it: `None` is a bias, `False` none."""
    return None if has_bias else False


class QwenV1Attention(nn.Layer):
    """Causal self-attention of v1, with dynamic NTK and log-n scaling in evaluation."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size, bias_attr=_bias(config.other_bias))

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        qkv = self.c_attn(x_BSH)
        q_BSND, k_BSND, v_BSND = (
            part.reshape([*part.shape[:2], -1, self.config.head_size]) for part in paddle.chunk(qkv, 3, axis=-1)
        )
        past, length = (cache.length if cache is not None else 0), q_BSND.shape[1]
        if cache is not None and not past:
            cache.notes["prompt"] = _tokens(batch, length)
        cos, sin = batch.once(
            ("rope", self.config, self.training, past, length), lambda: self._angles(batch, past, length, cache)
        )
        q_BSND, k_BSND = apply_rope(q_BSND, cos, sin), apply_rope(k_BSND, cos, sin)
        if self.config.use_logn_attn and not self.training and past + length > self.config.seq_length:
            scale = batch.once(
                ("logn", self.config, past, length),
                lambda: logn_scale(batch.position_ids, self.config.seq_length, past, query_len=length),
            )
            q_BSND = q_BSND * scale.astype(q_BSND.dtype)
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(q_BSND, k_BSND, v_BSND, batch, past=past)
        return self.c_proj(out_BSND.flatten(2))

    def _angles(self, batch: Batch, past: int, length: int, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines; the base of a sample follows the tokens of its prompt, and stays while it is continued."""
        config, scales = self.config, [1.0]
        longest = cache.first_length if cache is not None and past else length
        if config.use_dynamic_ntk and not self.training and longest > config.seq_length:
            tokens_B1 = cache.notes["prompt"] if cache is not None and past else _tokens(batch, length)
            scales = [_ntk_alpha(count, config.seq_length) for count in tokens_B1.flatten().tolist()]

        def angles(positions: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
            return rope_angles(
                positions, past + length, config.head_size, config.rope_theta, past=past, base_scale=scale
            )

        if len(set(scales)) == 1:
            return angles(batch.position_ids, scales[0])
        positions = [None] * len(scales) if batch.position_ids is None else batch.position_ids.split(len(scales))
        cos, sin = zip(*(angles(p, scale) for p, scale in zip(positions, scales, strict=True)), strict=True)
        return paddle.concat(cos), paddle.concat(sin)


def _tokens(batch: Batch, length: int) -> Tensor:
    """How many tokens each row of a prompt has, int64 [B, 1]."""
    mask = batch.attention_mask
    if mask is None:
        return paddle.full([batch.input_ids.shape[0], 1], length, dtype="int64")
    return batch.once("zoo_qwen.tokens", lambda: mask.sum(axis=-1, keepdim=True))


def _ntk_alpha(tokens: int, seq_length: int) -> float:
    """How v1 scales its rotary base (to the power of D / (D - 2)) for a prompt longer than it was trained for."""
    if tokens <= seq_length:
        return 1.0
    return 2.0 ** math.ceil(math.log2(tokens / seq_length) + 1) - 1


class QwenV1MLP(nn.Layer):
    """c_proj(silu(w2(x)) * w1(x)): the gate is w2."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        hidden, width, bias = config.hidden_size, config.mlp_width, _bias(config.other_bias)
        self.fused = config.fuse_attention_ffn
        if self.fused:
            self.gate_up_fused_proj = nn.Linear(hidden, 2 * width, bias_attr=bias)
        else:
            self.w1 = nn.Linear(hidden, width, bias_attr=bias)
            self.w2 = nn.Linear(hidden, width, bias_attr=bias)
        self.c_proj = nn.Linear(width, hidden, bias_attr=bias)

    def forward(self, x_BSH: Tensor) -> Tensor:
        if self.fused:
            return fused_gated_mlp(x_BSH, self.gate_up_fused_proj, self.c_proj)
        return gated_mlp(x_BSH, self.w2, self.w1, self.c_proj)


class QwenV1Block(nn.Layer):
    """One decoder layer of v1: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = QwenV1Attention(config)
        self.ln_2 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = QwenV1MLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.attn(self.ln_1(x_BSH), batch, cache)
        return x_BSH + self.mlp(self.ln_2(x_BSH))


class QwenAttention(nn.Layer):
    """Causal self-attention of Qwen2 and Qwen3."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        hidden, head, bias = config.hidden_size, config.head_size, _bias(config.qkv_bias)
        q_width, kv_width = config.num_attention_heads * head, config.kv_heads * head
        if config.fuse_attention_qkv:
            self.qkv_proj = nn.Linear(hidden, q_width + 2 * kv_width, bias_attr=bias)
        else:
            self.q_proj = nn.Linear(hidden, q_width, bias_attr=bias)
            self.k_proj = nn.Linear(hidden, kv_width, bias_attr=bias)
            self.v_proj = nn.Linear(hidden, kv_width, bias_attr=bias)
        self.has_head_norms = config.model_type == "qwen3"
        if self.has_head_norms:
            self.q_norm = RMSNorm(head, config.rms_norm_eps)
            self.k_norm = RMSNorm(head, config.rms_norm_eps)
        self.o_proj = nn.Linear(q_width, hidden, bias_attr=_bias(config.other_bias))

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        q_BSND, k_BSMD, v_BSMD = self._heads(x_BSH)
        if self.has_head_norms:
            q_BSND, k_BSMD = self.q_norm(q_BSND), self.k_norm(k_BSMD)
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


class QwenMLP(nn.Layer):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.mlp_width
        self.fused = config.fuse_attention_ffn
        if self.fused:
            self.gate_up_fused_proj = nn.Linear(hidden, 2 * width, bias_attr=False)
        else:
            self.gate_proj = nn.Linear(hidden, width, bias_attr=False)
            self.up_proj = nn.Linear(hidden, width, bias_attr=False)
        self.down_proj = nn.Linear(width, hidden, bias_attr=False)

    def forward(self, x_BSH: Tensor) -> Tensor:
        if self.fused:
            return fused_gated_mlp(x_BSH, self.gate_up_fused_proj, self.down_proj)
        return gated_mlp(x_BSH, self.gate_proj, self.up_proj, self.down_proj)


class QwenBlock(nn.Layer):
    """One decoder layer of Qwen2 and Qwen3: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = QwenAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = QwenMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.self_attn(self.input_layernorm(x_BSH), batch, cache)
        return x_BSH + self.mlp(self.post_attention_layernorm(x_BSH))


class QwenV1Model(nn.Layer):
    """Embedding, blocks and final norm of v1, under the names of its parameter table."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.LayerList([QwenV1Block(config) for _ in range(config.num_hidden_layers)])
        self.ln_f = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.wte(batch.input_ids)
        for i, block in enumerate(self.h):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.ln_f(x_BSH)


class QwenModel(nn.Layer):
    """Embedding, blocks and final norm of Qwen2 and Qwen3, under the names of their parameter table."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([QwenBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.embed_tokens(batch.input_ids)
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.norm(x_BSH)


class QwenForCausalLM(nn.Layer):
    """Token ids to logits, for every generation; the decoder's attribute is its parameters' prefix."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.base = config.model_type
        decoder = QwenV1Model(config) if config.is_v1 else QwenModel(config)
        self.add_sublayer(self.base, decoder)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = (decoder.wte if config.is_v1 else decoder.embed_tokens).weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(getattr(self, self.base)(batch, cache)))


# The ends of the pipeline: the same embedding, norm and head, each a layer that is called like a block.


class QwenEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.name = "wte" if config.is_v1 else "embed_tokens"
        self.add_sublayer(self.name, nn.Embedding(config.vocab_size, config.hidden_size))

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return getattr(self, self.name)(batch.input_ids)


class QwenFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.name = "ln_f" if config.is_v1 else "norm"
        self.add_sublayer(self.name, RMSNorm(config.hidden_size, config.rms_norm_eps))

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return getattr(self, self.name)(x_BSH)


class QwenHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
