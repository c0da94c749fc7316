"""GPT on one card, top to bottom.

A pre-norm decoder with LayerNorm (Ba et al. 2016), learned positions and GELU (Hendrycks and Gimpel 2016): Radford et
al. 2019, Brown et al. 2020. Dropout acts in training only: on the embeddings, on the attention weights, and on what
attention and MLP add.

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, H hidden, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

from zoo_core.errors import ConfigError
from zoo_gpt3.config import GPTConfig
from zoo_ops import (
    Batch,
    Cache,
    Dropout,
    LayerCache,
    LayerNorm,
    LMHead,
    Output,
    attention,
    mlp,
    parallel,
    project,
)

__all__ = ["GPTBlock", "GPTEmbeddings", "GPTFinalNorm", "GPTForCausalLM", "GPTHead"]


class GPTEmbeddings(nn.Layer):
    """Words and their positions; the first layer of the pipeline, which takes no hidden state."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.limit = config.max_position_embeddings

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        """Return [B, S, H].

        Raises:
            ConfigError: a position lies beyond the table.
        """
        positions = self._positions(batch, cache.length if cache is not None else 0)
        # The words' embeddings may be a part of the sequence.
        start, stop = parallel.sequence_shard(positions.shape[1])
        x_BSH = self.word_embeddings(batch.input_ids) + self.position_embeddings(positions[:, start:stop])
        return self.dropout(x_BSH)

    def _positions(self, batch: Batch, past: int) -> Tensor:
        """Return the position of each new token, int64 [B or 1, S], all within the table."""
        length, positions = batch.input_ids.shape[1], batch.position_ids
        if positions is None and batch.segment_ids is not None:
            positions = _within_samples(batch.segment_ids)
        if positions is None:
            highest = past + length - 1
            positions = paddle.arange(past, past + length, dtype="int64").unsqueeze(0)
        elif not paddle.in_dynamic_mode() or (self.training and length <= self.limit):
            # While training they count from 0 within the sequence: no need to wait for the device to say so.
            return positions
        else:
            highest = int(positions.max())
        if highest >= self.limit:
            raise ConfigError(
                f"position {highest} is beyond the model's {self.limit}",
                "its positions are learned, one by one",
                f"shorten the sequence (max_seq_length) to {self.limit}, or train with a larger "
                "max_position_embeddings",
            )
        return positions


def _within_samples(segment_BS: Tensor) -> Tensor:
    """Return the position of each token in its packed sample, int64 [B, S]."""
    place_BS = paddle.arange(segment_BS.shape[1], dtype="int64").unsqueeze(0).expand_as(segment_BS)
    goes_on = paddle.concat([place_BS[:, :1] < 0, segment_BS[:, 1:] == segment_BS[:, :-1]], axis=1)
    return place_BS - paddle.where(goes_on, paddle.zeros_like(place_BS), place_BS).cummax(axis=1)[0]


class GPTAttention(nn.Layer):
    """Causal self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.head_size = config.head_size
        self.fused = config.fuse_attention_qkv
        self.shrink = config.num_hidden_layers if config.scale_qk_by_layer_num else 1
        if self.fused:
            self.qkv_proj = nn.Linear(hidden, 3 * hidden)
        else:
            self.q_proj = nn.Linear(hidden, hidden)
            self.k_proj = nn.Linear(hidden, hidden)
            self.v_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)
        self.dropout = Dropout(config.attention_probs_dropout_prob, inside=True)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        q_BSND, k_BSND, v_BSND = self._heads(x_BSH)
        past, scale = (cache.length if cache is not None else 0), None
        if self.shrink > 1:
            q_BSND, scale = q_BSND / self.shrink, self.shrink / math.sqrt(self.head_size)
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(q_BSND, k_BSND, v_BSND, batch, past=past, scale=scale, dropout=self.dropout)
        return self.out_proj(out_BSND.flatten(2))

    def _heads(self, x_BSH: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each [B, S, N, D]."""
        if self.fused:
            (qkv,) = project(x_BSH, self.qkv_proj)
            parts = paddle.chunk(qkv, 3, axis=-1)
        else:
            parts = project(x_BSH, self.q_proj, self.k_proj, self.v_proj)
        batch, length = parts[0].shape[:2]
        return tuple(part.reshape([batch, length, -1, self.head_size]) for part in parts)


class GPTBlock(nn.Layer):
    """One decoder layer: attention and MLP, each behind a norm, beside a residual, and dropped out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.intermediate_size
        self.activation = config.activation_function
        self.norm1 = LayerNorm(hidden, config.layer_norm_epsilon)
        self.self_attn = GPTAttention(config)
        self.dropout1 = Dropout(config.hidden_dropout_prob)
        self.norm2 = LayerNorm(hidden, config.layer_norm_epsilon)
        self.linear1 = nn.Linear(hidden, ffn)
        self.linear2 = nn.Linear(ffn, hidden)
        self.dropout2 = Dropout(config.hidden_dropout_prob)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.dropout1(self.self_attn(self.norm1(x_BSH), batch, cache))
        return x_BSH + self.dropout2(mlp(self.norm2(x_BSH), self.linear1, self.linear2, self.activation))


class GPTDecoder(nn.Layer):
    """Blocks and final norm, under the names of the parameter table."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.layers = nn.LayerList([GPTBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: Cache | None = None) -> Tensor:
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.norm(x_BSH)


class GPTModel(nn.Layer):
    """Embeddings and decoder."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embeddings = GPTEmbeddings(config)
        self.decoder = GPTDecoder(config)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.embeddings(None, batch, None if cache is None else cache[0])
        return self.decoder(x_BSH, batch, cache)


class GPTForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gpt = GPTModel(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.gpt.embeddings.word_embeddings.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.gpt(batch, cache)))


# The end of the pipeline: the same norm and head, each a layer that is called like a block.


class GPTFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.norm(x_BSH)


class GPTHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
