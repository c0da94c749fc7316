"""OPT on one card, top to bottom.

A decoder with learned positions and a ReLU MLP (Zhang et al. 2022): norms before attention and MLP, or after the
residual sums (350m, whose word embeddings are narrower than the hidden states and are projected on the way in and out).

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, s the part of it that is here between blocks, K keys (past and present), H hidden,
E word embedding, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from zoo_core.errors import ConfigError
from zoo_ops import Batch, Cache, Dropout, LayerCache, LayerNorm, LMHead, Output, attention, mlp, project
from zoo_ops.parallel import sequence_shard
from zoo_opt.config import POSITION_OFFSET, OptConfig

__all__ = ["OptBlock", "OptEmbeddings", "OptForCausalLM", "OptHead", "OptTop"]


class OptEmbeddings(nn.Layer):
    """Words, projected if they are narrower, plus learned positions; the first layer of the pipeline."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.embedding_size
        self.longest = config.max_position_embeddings
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.project_in = nn.Linear(width, hidden, bias_attr=False) if width != hidden else None
        self.position_embeddings = nn.Embedding(self.longest + POSITION_OFFSET, hidden)

    def forward(self, x: None, batch: Batch, cache: Cache | LayerCache | None = None) -> Tensor:
        """Return the hidden state [B, s, H]; it takes none.

        Raises:
            ConfigError: a position lies beyond the table.
        """
        x_BsE = self.word_embeddings(batch.input_ids)
        x_BsH = x_BsE if self.project_in is None else self.project_in(x_BsE)
        start, stop = sequence_shard(batch.input_ids.shape[1])
        rows_BS = self._positions(batch, 0 if cache is None else cache.length) + POSITION_OFFSET
        return x_BsH + self.position_embeddings(rows_BS[:, start:stop])

    def _positions(self, batch: Batch, past: int) -> Tensor:
        """Return the positions, int64 [B, S]: those of the batch, else the count of real tokens before each.

        They are counted within a packed sample, and a pad token is at -1.
        """
        length, positions = batch.input_ids.shape[1], batch.position_ids
        if positions is None:
            highest = past + length - 1
        elif not paddle.in_dynamic_mode() or (self.training and length <= self.longest):
            # While training they count from 0 within the sequence: no need to wait for the device to say so.
            return positions
        else:
            highest = int(positions.max())
        if highest >= self.longest:
            raise ConfigError(
                f"position {highest} is beyond the model's {self.longest}",
                "its positions are learned, one by one (max_position_embeddings)",
                f"shorten the sequence (max_seq_length) to {self.longest}",
            )
        return self._count(batch, past, length) if positions is None else positions

    def _count(self, batch: Batch, past: int, length: int) -> Tensor:
        if batch.attention_mask is None and batch.segment_ids is None:
            return paddle.arange(past, past + length, dtype="int64").unsqueeze(0).expand([batch.input_ids.shape[0], -1])
        real_BK = paddle.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
        real_BK = (real_BK != 0).astype("int64")
        count_BK = real_BK.cumsum(axis=1)
        if batch.segment_ids is not None:
            same = batch.segment_ids[:, 1:] == batch.segment_ids[:, :-1]
            goes_on = paddle.concat([real_BK[:, :1] < 0, same], axis=1)
            before_BK = paddle.where(goes_on, paddle.zeros_like(count_BK), count_BK - real_BK).cummax(axis=1)[0]
            count_BK = count_BK - before_BK
        return (count_BK * real_BK - 1)[:, -length:]


class OptAttention(nn.Layer):
    """Causal self-attention."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        self.config = config
        hidden, bias = config.hidden_size, None if config.enable_bias else False
        if config.fuse_attention_qkv:
            self.qkv_proj = nn.Linear(hidden, 3 * hidden, bias_attr=bias)
        else:
            self.q_proj = nn.Linear(hidden, hidden, bias_attr=bias)
            self.k_proj = nn.Linear(hidden, hidden, bias_attr=bias)
            self.v_proj = nn.Linear(hidden, hidden, bias_attr=bias)
        self.out_proj = nn.Linear(hidden, hidden, bias_attr=bias)
        self.dropout = Dropout(config.attention_probs_dropout_prob, inside=True)

    def forward(self, x_BsH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        q_BSND, k_BSND, v_BSND = self._heads(x_BsH)
        past = cache.length if cache is not None else 0
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(q_BSND, k_BSND, v_BSND, batch, past=past, dropout=self.dropout)
        return self.out_proj(out_BSND.flatten(2))

    def _heads(self, x_BsH: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each [B, S, N, D]."""
        if self.config.fuse_attention_qkv:
            (qkv,) = project(x_BsH, self.qkv_proj)
            parts = paddle.chunk(qkv, 3, axis=-1)
        else:
            parts = project(x_BsH, self.q_proj, self.k_proj, self.v_proj)
        batch, length = parts[0].shape[:2]
        return tuple(t.reshape([batch, length, -1, self.config.head_size]) for t in parts)


class OptBlock(nn.Layer):
    """One decoder layer: attention and MLP beside a residual, with a norm before each or after each sum."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        hidden, ffn, bias = config.hidden_size, config.intermediate_size, None if config.enable_bias else False
        self.norm_first, self.activation = config.do_layer_norm_before, config.activation_function
        self.norm1 = _norm(config)
        self.self_attn = OptAttention(config)
        self.dropout1 = Dropout(config.hidden_dropout_prob)
        self.norm2 = _norm(config)
        self.linear1 = nn.Linear(hidden, ffn, bias_attr=bias)
        self.linear2 = nn.Linear(ffn, hidden, bias_attr=bias)
        self.dropout2 = Dropout(config.hidden_dropout_prob)

    def forward(self, x_BsH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        if self.norm_first:
            x_BsH = x_BsH + self.dropout1(self.self_attn(self.norm1(x_BsH), batch, cache))
            return x_BsH + self._mlp(self.norm2(x_BsH))
        x_BsH = self.norm1(x_BsH + self.dropout1(self.self_attn(x_BsH, batch, cache)))
        return self.norm2(x_BsH + self._mlp(x_BsH))

    def _mlp(self, x_BsH: Tensor) -> Tensor:
        return self.dropout2(mlp(x_BsH, self.linear1, self.linear2, self.activation))


class OptTop(nn.Layer):
    """What follows the last block: the final norm and the projection to the embeddings' width, if there are such."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.embedding_size
        self.final_layer_norm = _norm(config) if config.has_final_norm else None
        self.project_out = nn.Linear(hidden, width, bias_attr=False) if width != hidden else None

    def forward(self, x_BsH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        """Return [B, s, E]."""
        if self.final_layer_norm is not None:
            x_BsH = self.final_layer_norm(x_BsH)
        return x_BsH if self.project_out is None else self.project_out(x_BsH)


class OptDecoder(OptTop):
    """All blocks, and what follows them."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__(config)
        self.layers = nn.LayerList([OptBlock(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x_BsH: Tensor, batch: Batch, cache: Cache | None = None) -> Tensor:
        for i, block in enumerate(self.layers):
            x_BsH = block(x_BsH, batch, None if cache is None else cache[i])
        return super().forward(x_BsH, batch)


class OptModel(nn.Layer):
    """Embeddings and decoder, under the names of the parameter table."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        self.embeddings = OptEmbeddings(config)
        self.decoder = OptDecoder(config)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        return self.decoder(self.embeddings(None, batch, cache), batch, cache)


class OptHead(nn.Layer):
    """Last layer of the pipeline: [B, s, E] to logits [B, S, V]."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.embedding_size, config.vocab_size)

    def forward(self, x_BsE: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BsE)


class OptForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        self.opt = OptModel(config)
        self.lm_head = LMHead(config.embedding_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.opt.embeddings.word_embeddings.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.opt(batch, cache)))


def _norm(config: OptConfig) -> LayerNorm:
    attribute = None if config.layer_norm_elementwise_affine else False
    return LayerNorm(config.hidden_size, epsilon=1e-5, weight_attr=attribute, bias_attr=attribute)
