"""GLM-10B and GLM-130B on one card, top to bottom: first where the tokens of a text with blanks stand.

A GLM fills blanks (Du et al. 2022, arXiv 2103.10360): a text with [MASK], [sMASK] or [gMASK] in it is read both ways,
and after it each blank's text is written from left to right behind a start token. GLM-10B is a pre-norm decoder with
GELU and two learned positions. GLM-130B (Zeng et al. 2023, arXiv 2210.02414) has DeepNorm (Wang et al. 2022), GeGLU
(Shazeer 2020) and rotary positions (Su et al. 2021).

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, K tokens so far (cached ones included), H hidden, N heads, D head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from zoo_core.errors import ConfigError
from zoo_glm.config import GLMConfig
from zoo_ops import (
    Batch,
    Cache,
    Dropout,
    LayerCache,
    LayerNorm,
    LMHead,
    Output,
    apply_rope,
    attention,
    mlp,
    parallel,
    rope_angles,
)

__all__ = [
    "GLMBlock",
    "GLMEmbedding",
    "GLMFinalNorm",
    "GLMFirstBlock",
    "GLMForCausalLM",
    "GLMHead",
    "Places",
    "places",
]

_IDS, _STARTED, _LARGE = "zoo_glm.ids", "zoo_glm.started", 1 << 40


@dataclass(frozen=True)
class Places:
    """Where the tokens of one pass stand.

    Args:
        position_BS: int64, the place in the text; of a blank's text, the place of the blank.
        block_BS: int64, 0 in the text, 1, 2, ... from the start token of a blank's text on.
        prefix_BK: bool, true for what is read both ways; `None` where nothing is.
    """

    position_BS: Tensor
    block_BS: Tensor
    prefix_BK: Tensor | None


def places(batch: Batch, config: GLMConfig, cache: LayerCache | None = None) -> Places:
    """Find where the tokens of `batch` stand, from the tokens alone; once for a micro batch.

    In a sample, all before the first start token is read both ways, at positions 0, 1, ... and block position 0. The
    text behind the n-th start token fills the n-th blank: block positions 1, 2, ... at the blank's position. A sample
    without a start token is plain causal text, at positions 0, 1, ... and block position 0. Padding, wherever it is,
    counts nothing; packed samples (`segment_ids`) count each from 0. `batch.position_ids` is not read.

    GLM-10B: all three masks are blanks, in the order of the text; more start tokens than blanks stay at the last one,
    and without a blank the text is continued at the position of its last token.
    GLM-130B: only [MASK] is a blank, or, in a sample without one, [sMASK]; in a sample with neither (a [gMASK] at its
    end) positions run on.

    With a cache the prompt is one call: a start token later begins the next blank, and in a sample whose prompt had
    none it means nothing.
    """
    past = cache.length if cache is not None else 0
    return batch.once(("zoo_glm.places", config, past), lambda: _places(batch, config, cache, past))


def _places(batch: Batch, config: GLMConfig, cache: LayerCache | None, past: int) -> Places:
    ids_BK = batch.input_ids
    if cache is not None:
        if past:
            ids_BK = paddle.concat([cache.token_notes[_IDS], ids_BK], axis=1)
        cache.token_notes[_IDS] = ids_BK
    real = paddle.ones_like(ids_BK, dtype="bool") if batch.attention_mask is None else batch.attention_mask != 0
    counting = _counter(batch.segment_ids, ids_BK)
    token, _, _ = counting(real)
    position = paddle.clip(token - 1, min=0)
    if config.start_token_id is None:
        return Places(position[:, past:], paddle.zeros_like(position)[:, past:], None)

    start = paddle.logical_and(ids_BK == config.start_token_id, real)
    if cache is not None:
        if not past:
            cache.notes[_STARTED] = start.any(axis=1, keepdim=True)
        start = paddle.logical_and(start, cache.notes[_STARTED])
    blank, blanks, _ = counting(start)
    writes = blank > 0
    prefix = paddle.logical_and(paddle.logical_and(real, blanks > 0), paddle.logical_not(writes))

    # How many tokens there were at the latest start token: the count never falls, so the latest is the largest.
    tokens = real.astype("int64").cumsum(axis=1)
    since = tokens - paddle.where(start, tokens, paddle.zeros_like(tokens)).cummax(axis=1)[0]
    block = paddle.where(writes, since + 1, paddle.zeros_like(since))

    mask = _blanks(ids_BK, prefix, config, counting)
    number, masks, before = counting(mask)
    # The position of every mask of the row by its number; number 0 takes what is no mask.
    slots = paddle.zeros([ids_BK.shape[0], ids_BK.shape[1] + 1], dtype="int64")
    slots = paddle.put_along_axis(slots, paddle.where(mask, before + number, paddle.zeros_like(number)), position, 1)
    filled = paddle.take_along_axis(slots, before + paddle.minimum(blank, masks), 1)
    without_mask = position if config.is_130b else paddle.clip(counting(prefix)[1] - 1, min=0)
    position = paddle.where(writes, paddle.where(masks > 0, filled, without_mask), position)

    is_one_token = past > 0 and batch.input_ids.shape[1] == 1
    return Places(position[:, past:], block[:, past:], None if is_one_token else prefix)


def _blanks(ids_BK: Tensor, prefix_BK: Tensor, config: GLMConfig, counting: Counter) -> Tensor:
    """Return bool [B, K], true for the masks that are blanks to fill."""
    short, sentence, long = (paddle.logical_and(ids_BK == token, prefix_BK) for token in config.mask_token_ids)
    if not config.is_130b:
        return paddle.logical_or(short, paddle.logical_or(sentence, long))
    return paddle.where(counting(short)[1] > 0, short, sentence)


Counter = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _counter(segment_BK: Tensor | None, like_BK: Tensor) -> Counter:
    """Return a function that counts flags, bool [B, K], in each packed sample: up to a token, in all, in those before.

    All counts are int64 [B, K].
    """
    segment_BK = paddle.zeros_like(like_BK) if segment_BK is None else segment_BK
    edge, changes = paddle.ones_like(like_BK[:, :1], dtype="bool"), segment_BK[:, 1:] != segment_BK[:, :-1]
    first, last = paddle.concat([edge, changes], axis=1), paddle.concat([changes, edge], axis=1)

    def count(flag_BK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = flag_BK.astype("int64")
        total = one.cumsum(axis=1)
        before = paddle.where(first, total - one, paddle.zeros_like(total)).cummax(axis=1)[0]
        at_end = paddle.where(last, total, paddle.full_like(total, _LARGE)).flip(axis=[1])
        return total - before, at_end.cummin(axis=1)[0].flip(axis=[1]) - before, before

    return count


class GLMAttention(nn.Layer):
    """Self-attention: both ways over the text, causal over what fills its blanks."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attention_dropout = Dropout(config.attention_dropout_prob, inside=True)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output_dropout = Dropout(config.output_dropout_prob)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        where = places(batch, self.config, cache)
        past = cache.length if cache is not None else 0
        q_BSND, k_BSND, v_BSND = self._heads(self.query_key_value(x_BSH))
        if self.config.is_130b:
            cos, sin = batch.once(
                ("zoo_glm.rope", self.config, past),
                lambda: rope_angles(where.position_BS, past + q_BSND.shape[1], self.config.head_size, 10000.0),
            )
            q_BSND, k_BSND = apply_rope(q_BSND, cos, sin), apply_rope(k_BSND, cos, sin)
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(
            q_BSND, k_BSND, v_BSND, batch, past=past, prefix_BK=where.prefix_BK, dropout=self.attention_dropout
        )
        return self.output_dropout(self.dense(out_BSND.flatten(2)))

    def _heads(self, qkv: Tensor) -> list[Tensor]:
        """Return queries, keys and values, [B, S, N, D] each."""
        batch, length = qkv.shape[:2]
        head = self.config.head_size
        if self.config.is_130b:
            return paddle.split(qkv.reshape([batch, length, -1, 3 * head]), 3, axis=-1)
        return [part.reshape([batch, length, -1, head]) for part in paddle.split(qkv, 3, axis=-1)]


class GLMMLP(nn.Layer):
    """GLM-10B: GELU (its tanh form). GLM-130B: GeGLU, whose gate is the second half of the projection."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.gated = config.is_130b
        hidden, ffn = config.hidden_size, config.intermediate_size
        self.dense_h_to_4h = nn.Linear(hidden, 2 * ffn if self.gated else ffn)
        self.dense_4h_to_h = nn.Linear(ffn, hidden)
        self.dropout = Dropout(config.output_dropout_prob)

    def forward(self, x_BSH: Tensor) -> Tensor:
        if not self.gated:
            return self.dropout(mlp(x_BSH, self.dense_h_to_4h, self.dense_4h_to_h, "gelu_tanh"))
        up, gate = paddle.chunk(self.dense_h_to_4h(x_BSH), 2, axis=-1)
        return self.dropout(self.dense_4h_to_h(up * F.gelu(gate)))


class GLMBlock(nn.Layer):
    """One layer: attention and MLP, each behind a norm and beside a residual.

    GLM-10B's residual is what came in; GLM-130B's is what the norm made of it, times sqrt(2 x layers) (DeepNorm).
    """

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.alpha = math.sqrt(2 * config.num_hidden_layers) if config.is_130b else None
        self.input_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention = GLMAttention(config)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = GLMMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        y_BSH = self.input_layernorm(x_BSH)
        x_BSH = (x_BSH if self.alpha is None else y_BSH * self.alpha) + self.attention(y_BSH, batch, cache)
        y_BSH = self.post_attention_layernorm(x_BSH)
        return (x_BSH if self.alpha is None else y_BSH * self.alpha) + self.mlp(y_BSH)


class _Positions(nn.Layer):
    """The tables of positions, which GLM-130B has none of, and the dropout behind them."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.config = config
        if not config.is_130b:
            rows = config.max_position_embeddings + 1
            self.position_embeddings = nn.Embedding(rows, config.hidden_size)
            self.block_position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.embedding_dropout = Dropout(config.embedding_dropout_prob)

    def add_positions(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None) -> Tensor:
        if not self.config.is_130b:
            where, limit = places(batch, self.config, cache), self.config.max_position_embeddings
            if batch.input_ids.shape[1] + (0 if cache is None else cache.length) > limit:
                highest = int(paddle.maximum(where.position_BS, where.block_BS).max())
                if highest > limit:
                    why = f"its positions are learned, up to {limit} (max_position_embeddings)"
                    raise ConfigError(f"position {highest} is beyond the model's", why, "shorten the sequence")
            # The hidden state may be a part of the sequence already.
            start, stop = parallel.sequence_shard(where.position_BS.shape[1])
            x_BSH = x_BSH + self.position_embeddings(where.position_BS[:, start:stop])
            x_BSH = x_BSH + self.block_position_embeddings(where.block_BS[:, start:stop])
        return self.embedding_dropout(x_BSH)


class GLMStack(_Positions):
    """Positions, blocks and final norm, under the names of the parameter table."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.layers = nn.LayerList([GLMBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.add_positions(x_BSH, batch, None if cache is None else cache[0])
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.final_layernorm(x_BSH)


class GLMModel(nn.Layer):
    """Embedding and stack."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = GLMStack(config)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        return self.transformer(self.word_embeddings(batch.input_ids), batch, cache)


class GLMForCausalLM(nn.Layer):
    """Token ids to logits; the embedding is the head."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.glm = GLMModel(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        self.lm_head.weight = self.glm.word_embeddings.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only.

        Which tokens are read both ways, and their positions, follow from `batch.input_ids` (see `places`).
        """
        return Output(self.lm_head(self.glm(batch, cache)))


# The ends of the pipeline, each a layer that is called like a block.


class GLMEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.word_embeddings(batch.input_ids)


class GLMFirstBlock(_Positions):
    """The positions and the first block."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.layers = nn.LayerList([GLMBlock(config)])

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.layers[0](self.add_positions(x_BSH, batch, cache), batch, cache)


class GLMFinalNorm(LayerNorm):
    """The norm after the last block."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config.hidden_size, config.layernorm_epsilon)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return super().forward(x_BSH)


class GLMHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
