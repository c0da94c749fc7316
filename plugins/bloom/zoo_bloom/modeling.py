"""Bloom on one card, top to bottom.

A pre-norm decoder with LayerNorm, also after the embedding, linear biases for positions (ALiBi, Press et al. 2022) and
the tanh form of GELU (Hendrycks and Gimpel 2016); BigScience Workshop 2022.

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, H hidden, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

from paddle import Tensor, nn

from zoo_bloom.config import BloomConfig
from zoo_ops import Batch, Cache, LayerCache, LayerNorm, LMHead, Output, alibi_bias, attention, mlp

__all__ = ["BloomBlock", "BloomEmbedding", "BloomFinalNorm", "BloomForCausalLM", "BloomHead"]


def _norm(config: BloomConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, epsilon=config.layer_norm_epsilon)


class BloomAttention(nn.Layer):
    """Causal self-attention with linear biases."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        qkv = self.query_key_value(x_BSH)
        length = qkv.shape[1]
        # Each head has its query, key and value side by side.
        qkv_BSN3D = qkv.reshape([qkv.shape[0], length, -1, 3, self.config.head_size])
        q_BSND, k_BSND, v_BSND = qkv_BSN3D.unbind(3)
        past = cache.length if cache is not None else 0
        bias_1NSK = alibi_bias(batch, self.config.num_attention_heads, length, past)
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(q_BSND, k_BSND, v_BSND, batch, past=past, bias=bias_1NSK)
        return self.dense(out_BSND.flatten(2))


class BloomMLP(nn.Layer):
    """dense_4h_to_h(gelu(dense_h_to_4h(x))), by the tanh form of GELU."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BSH: Tensor) -> Tensor:
        return mlp(x_BSH, self.dense_h_to_4h, self.dense_4h_to_h, "gelu_tanh")


class BloomBlock(nn.Layer):
    """One decoder layer: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.residual_after_norm = config.apply_residual_connection_post_layernorm
        self.input_layernorm = _norm(config)
        self.self_attention = BloomAttention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp = BloomMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        normed_BSH = self.input_layernorm(x_BSH)
        residual_BSH = normed_BSH if self.residual_after_norm else x_BSH
        x_BSH = residual_BSH + self.self_attention(normed_BSH, batch, cache)
        normed_BSH = self.post_attention_layernorm(x_BSH)
        residual_BSH = normed_BSH if self.residual_after_norm else x_BSH
        return residual_BSH + self.mlp(normed_BSH)


class BloomModel(nn.Layer):
    """Embedding with its norm, blocks and final norm, under the names of the parameter table."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.word_embeddings_layernorm = _norm(config)
        self.h = nn.LayerList([BloomBlock(config) for _ in range(config.num_hidden_layers)])
        self.ln_f = _norm(config)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.word_embeddings_layernorm(self.word_embeddings(batch.input_ids))
        for i, block in enumerate(self.h):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.ln_f(x_BSH)


class BloomForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.bloom = BloomModel(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.bloom.word_embeddings.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.bloom(batch, cache)))


# The ends of the pipeline: the same embedding, norms and head, each a layer that is called like a block.


class BloomEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.word_embeddings_layernorm = _norm(config)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.word_embeddings_layernorm(self.word_embeddings(batch.input_ids))


class BloomFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.ln_f = _norm(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.ln_f(x_BSH)


class BloomHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
