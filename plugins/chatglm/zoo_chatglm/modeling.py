"""ChatGLM on one card, top to bottom: first where a v1 prompt ends, then v1, then ChatGLM2, then the ends of both.

v1 (ChatGLM-6B, v1.1; Du et al. 2022, Zeng et al. 2023) reads its prompt both ways: a sample is
`prompt [gMASK] bos answer`, every token sees the whole prompt, and the answer is causal. Two positions are rotated
(Su et al. 2021), each in a half of the head: that in the text, and that in the answer. ChatGLM2 (GLM team 2024) is a
causal decoder with RMSNorm, SwiGLU (Shazeer 2020), rotary positions in half of the head, and groups of queries that
share a key and value (Ainslie et al. 2023).

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, K keys (past ones included), H hidden, N query heads, M key/value heads, D head size,
R rotated width, V vocabulary; 1 where one value serves all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor, nn

from zoo_chatglm.config import ChatGLMConfig
from zoo_ops import (
    Batch,
    Cache,
    LayerCache,
    LayerNorm,
    LMHead,
    Output,
    RMSNorm,
    apply_rope,
    attention,
    fused_gated_mlp,
    mlp,
    rope_angles,
)

__all__ = ["ChatGLM2Block", "ChatGLMBlock", "ChatGLMEmbedding", "ChatGLMFinalNorm", "ChatGLMForCausalLM", "ChatGLMHead"]

_NEVER, _NO_ID = 1 << 30, -1


@dataclass(frozen=True)
class Places:
    """Where the tokens of a v1 batch stand, from their ids alone: `position_ids` are not read.

    Only tokens that are no padding count, and packed samples count from 0 each. A sample's prompt ends at its first
    `bos_token_id`, which is the first token of the answer; a sample without one (plain text) is causal from its
    first token, at positions 0, 1, ... and answer positions 0.

    From bos on, the position stays that of the first [gMASK], or where there is none, of the first [MASK], or where
    there is neither, of the token before bos; the answer positions are 1, 2, ... Without `position_encoding_2d` there
    are no answer positions, and after a [gMASK] the positions run on.

    Args:
        position: int64 [B or 1, S], the place in the text.
        answer: int64 [B or 1, S], the place in the answer.
        prefix_BK: bool, true for the tokens of a prompt, which all tokens see; `None` while decoding.
        notes: what decoding has to know of the prompt, [B, 1] each (with packed samples [B, S], of no use).
    """

    position: Tensor
    answer: Tensor
    prefix_BK: Tensor | None
    notes: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch, config: ChatGLMConfig, length: int, cache: LayerCache | None) -> Places:
        """Return the places of the last `length` tokens, made once for a micro batch.

        Raises:
            ValueError: a cache that was cut within a prompt, or a prompt that comes in pieces: what came first would
                have seen too little of it.
        """
        past = cache.length if cache is not None else 0

        def make() -> Places:
            count, prefix_BK = _count(batch, past, length), None
            if cache is not None and past:
                context, stay = cache.notes["context"], cache.notes["stay"]
                if length > 1 or past < cache.first_length:
                    _check_continued(batch, config, context, count)
            else:
                context, stay = _prompt(batch, config, count)
                if config.bos_token_id is not None:
                    in_prompt = paddle.logical_and(context < _NEVER, count < context)
                    prefix_BK = in_prompt.expand(batch.input_ids.shape)
            in_answer = count >= context
            position = paddle.where(paddle.logical_and(in_answer, stay >= 0), stay, count)
            answer = paddle.where(in_answer, count - context + 1, paddle.zeros_like(count))
            return cls(position, answer, prefix_BK, {"context": context, "stay": stay})

        places = batch.once(("zoo_chatglm.places", config, past, length), make)
        if cache is not None and past == 0:
            cache.notes.update(places.notes)
        return places


def _count(batch: Batch, past: int, length: int) -> Tensor:
    """Return how many tokens of its sample stand before each token, padding aside, int64 [B or 1, S]."""
    if batch.attention_mask is None:
        count = paddle.arange(past, past + length).unsqueeze(0)
    else:
        real_BK = (batch.attention_mask != 0).astype("int64")
        count = paddle.clip(real_BK.cumsum(axis=1) - 1, min=0)[:, past:]
    if batch.segment_ids is None:
        return count
    return count - _first(paddle.ones_like(batch.segment_ids, dtype="bool"), count, batch)


def _first(wanted_BS: Tensor, count: Tensor, batch: Batch) -> Tensor:
    """Return the least `count` of a wanted token of the same sample, `_NEVER` where there is none: [B, 1] or [B, S]."""
    found_BS = paddle.where(wanted_BS, count, paddle.full([1, 1], _NEVER, dtype="int64"))
    if batch.segment_ids is None:
        return found_BS.min(axis=-1, keepdim=True)
    same_BSS = batch.segment_ids.unsqueeze(-1) == batch.segment_ids.unsqueeze(1)
    return paddle.where(same_BSS, found_BS.unsqueeze(1), paddle.full([1, 1, 1], _NEVER, dtype="int64")).min(axis=-1)


def _prompt(batch: Batch, config: ChatGLMConfig, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return the length of the prompt and the position that the answer stays at (-1: it runs on), [B, 1 or S]."""

    def first(token: int | None) -> Tensor:
        wanted_BS = batch.input_ids == (_NO_ID if token is None else token)
        if batch.attention_mask is not None:
            wanted_BS = paddle.logical_and(wanted_BS, batch.attention_mask != 0)
        return _first(wanted_BS, count, batch)

    context, gmask, mask = (first(t) for t in (config.bos_token_id, config.gmask_token_id, config.mask_token_id))
    other = paddle.where(mask < _NEVER, mask, paddle.clip(context - 1, min=0))
    stay = paddle.where(gmask < _NEVER, gmask if config.position_encoding_2d else paddle.full_like(gmask, -1), other)
    return context, stay


def _check_continued(batch: Batch, config: ChatGLMConfig, context_B1: Tensor, count: Tensor) -> None:
    cut = paddle.logical_and(context_B1 < _NEVER, context_B1 >= count[:, :1]).any()
    bos = _NO_ID if config.bos_token_id is None else config.bos_token_id
    late = paddle.logical_and(context_B1 == _NEVER, batch.input_ids == bos).any()
    if bool(paddle.logical_or(cut, late)):
        raise ValueError("a prompt of ChatGLM v1 sees itself both ways: give all of it in one pass to an empty cache")


class ChatGLMAttention(nn.Layer):
    """Self-attention of v1: the prompt both ways, the answer causal, two positions in the halves of a head."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        qkv = self.query_key_value(x_BSH)
        qkv_BSNE = qkv.reshape([*qkv.shape[:2], -1, 3 * self.config.head_size])
        q_BSND, k_BSND, v_BSND = paddle.chunk(qkv_BSNE, 3, axis=-1)
        past, length = (cache.length if cache is not None else 0), qkv.shape[1]
        places = Places.of(batch, self.config, length, cache)
        angles = batch.once(("rope", self.config, past, length), lambda: self._angles(places))
        q_BSND, k_BSND = _turn(q_BSND, angles), _turn(k_BSND, angles)
        if cache is not None:
            k_BSND, v_BSND = cache.update(k_BSND, v_BSND)
        out_BSND = attention(q_BSND, k_BSND, v_BSND, batch, past=past, prefix_BK=places.prefix_BK)
        return self.dense(out_BSND.flatten(2))

    def _angles(self, places: Places) -> list[tuple[Tensor, Tensor]]:
        """Return (cos, sin) [B or 1, S, R] for each of the positions that a head is turned by."""
        rows = [places.position, places.answer] if self.config.position_encoding_2d else [places.position]
        width = self.config.head_size // len(rows)
        # The published code keeps these frequencies in float16, also where everything else is float32.
        frequency = (1.0 / 10000.0 ** (np.arange(0, width, 2, dtype=np.float32) / width)).astype(np.float16)
        frequency_R = paddle.to_tensor(np.tile(frequency, 2).astype(np.float32))
        angles = [row.astype("float32").unsqueeze(-1) * frequency_R for row in rows]
        return [(paddle.cos(angle), paddle.sin(angle)) for angle in angles]


def _turn(x_BSND: Tensor, angles: list[tuple[Tensor, Tensor]]) -> Tensor:
    parts = paddle.chunk(x_BSND, len(angles), axis=-1)
    return paddle.concat([apply_rope(part, cos, sin) for part, (cos, sin) in zip(parts, angles, strict=True)], axis=-1)


class ChatGLMMLP(nn.Layer):
    """The MLP of v1, with the tanh form of GELU (Hendrycks and Gimpel 2016)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BSH: Tensor) -> Tensor:
        return mlp(x_BSH, self.dense_h_to_4h, self.dense_4h_to_h, "gelu_tanh")


class ChatGLMBlock(nn.Layer):
    """One layer of v1: what goes around attention and MLP is the norm's output, times sqrt(2 x layers)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.alpha = (2 * config.num_hidden_layers) ** 0.5
        self.input_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention = ChatGLMAttention(config)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = ChatGLMMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = self.input_layernorm(x_BSH)
        x_BSH = x_BSH * self.alpha + self.attention(x_BSH, batch, cache)
        x_BSH = self.post_attention_layernorm(x_BSH)
        return x_BSH * self.alpha + self.mlp(x_BSH)


class ChatGLM2Attention(nn.Layer):
    """Causal self-attention of ChatGLM2, with groups of queries."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.config = config
        hidden, head, heads, groups = config.hidden_size, config.head_size, config.num_attention_heads, config.kv_heads
        has_bias = config.add_qkv_bias or config.add_bias_linear
        self.query_key_value = nn.Linear(hidden, (heads + 2 * groups) * head, bias_attr=_bias(has_bias))
        self.dense = nn.Linear(heads * head, hidden, bias_attr=_bias(config.add_bias_linear))

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        q_BSND, k_BSMD, v_BSMD = self._heads(x_BSH)
        past, width = (cache.length if cache is not None else 0), self.config.head_size // 2
        seen = past + q_BSND.shape[1]
        cos, sin = batch.once(
            ("rope", self.config, past, seen), lambda: rope_angles(batch.position_ids, seen, width, past=past)
        )
        q_BSND = apply_rope(q_BSND, cos, sin, rotary_dim=width, interleaved=True)
        k_BSMD = apply_rope(k_BSMD, cos, sin, rotary_dim=width, interleaved=True)
        if cache is not None:
            k_BSMD, v_BSMD = cache.update(k_BSMD, v_BSMD)
        return self.dense(attention(q_BSND, k_BSMD, v_BSMD, batch, past=past).flatten(2))

    def _heads(self, x_BSH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, S, N, D], keys and values [B, S, M, D]."""
        qkv, head = self.query_key_value(x_BSH), self.config.head_size
        # Of the heads in this projection, the key's share; at least one, which several ranks then hold.
        all_q, all_kv = self.config.num_attention_heads, self.config.kv_heads
        kv = max(1, qkv.shape[-1] // head * all_kv // (all_q + 2 * all_kv)) * head
        parts = paddle.split(qkv, [qkv.shape[-1] - 2 * kv, kv, kv], axis=-1)
        return tuple(part.reshape([*qkv.shape[:2], -1, head]) for part in parts)


class ChatGLM2MLP(nn.Layer):
    """down(silu(gate(x)) * up(x)), gate and up side by side in one projection."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        hidden, width, bias = config.hidden_size, config.intermediate_size, _bias(config.add_bias_linear)
        self.dense_h_to_4h = nn.Linear(hidden, 2 * width, bias_attr=bias)
        self.dense_4h_to_h = nn.Linear(width, hidden, bias_attr=bias)

    def forward(self, x_BSH: Tensor) -> Tensor:
        return fused_gated_mlp(x_BSH, self.dense_h_to_4h, self.dense_4h_to_h)


class ChatGLM2Block(nn.Layer):
    """One decoder layer of ChatGLM2: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = ChatGLM2Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = ChatGLM2MLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.self_attention(self.input_layernorm(x_BSH), batch, cache)
        return x_BSH + self.mlp(self.post_attention_layernorm(x_BSH))


def _bias(has_bias: bool) -> bool | None:
    """What `nn.Linear` calls it: `None` is a bias, `False` none."""
    return None if has_bias else False


# The ends of the pipeline: each a layer that is called like a block. The whole models hold them too.


class ChatGLMEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.word_embeddings(batch.input_ids)


class ChatGLMFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        kind = LayerNorm if config.is_v1 else RMSNorm
        self.final_layernorm = kind(config.hidden_size, config.layernorm_epsilon)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.final_layernorm(x_BSH)


class ChatGLMHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.name = "lm_head" if config.is_v1 else "output_layer"
        self.add_sublayer(self.name, LMHead(config.hidden_size, config.vocab_size))

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return getattr(self, self.name)(x_BSH)


class ChatGLMEncoder(ChatGLMFinalNorm):
    """Blocks and final norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        block = ChatGLMBlock if config.is_v1 else ChatGLM2Block
        self.layers = nn.LayerList([block(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x_BSH: Tensor, batch: Batch, cache: Cache | None = None) -> Tensor:
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.final_layernorm(x_BSH)


class ChatGLMForCausalLM(nn.Layer):
    """Token ids to logits, for both generations, under the names of their parameter tables."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.is_v1 = config.is_v1
        encoder = ChatGLMEncoder(config)
        embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            head.weight = embedding.weight
        if self.is_v1:
            encoder.word_embeddings = embedding
            self.chatglm = nn.LayerDict({"transformer": encoder})
            self.lm_head = head
        else:
            embeddings = nn.LayerDict({"word_embeddings": embedding})
            self.chatglm_v2 = nn.LayerDict({"embedding": embeddings, "encoder": encoder, "output_layer": head})

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        if self.is_v1:
            encoder, head = self.chatglm["transformer"], self.lm_head
            embedding = encoder.word_embeddings
        else:
            encoder, head = self.chatglm_v2["encoder"], self.chatglm_v2["output_layer"]
            embedding = self.chatglm_v2["embedding"]["word_embeddings"]
        return Output(head(encoder(embedding(batch.input_ids), batch, cache)))
