"""Mynah on one card, top to bottom.

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads. Nothing else here knows of parallelism.

Shape legend: B batch, S sequence, H hidden, N query heads, M key/value heads, D head size, V vocabulary.
"""

from __future__ import annotations

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
    gated_mlp,
    project,
    rope_angles,
)

from zoo_mynah.config import MynahConfig

__all__ = [
    "MynahBlock",
    "MynahEmbedding",
    "MynahFinalNorm",
    "MynahForCausalLM",
    "MynahHead",
]


class MynahAttention(nn.Layer):
    """Causal self-attention with rotary positions and grouped queries."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.config = config
        q_width = config.num_attention_heads * config.head_size
        kv_width = config.kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, q_width, bias_attr=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias_attr=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias_attr=False)
        self.o_proj = nn.Linear(q_width, config.hidden_size, bias_attr=False)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        q, k, v = project(x_BSH, self.q_proj, self.k_proj, self.v_proj)
        count, length = q.shape[:2]
        q_BSND, k_BSMD, v_BSMD = (t.reshape([count, length, -1, self.config.head_size]) for t in (q, k, v))
        past = cache.length if cache is not None else 0
        cos, sin = self._angles(batch, past, length)
        q_BSND, k_BSMD = apply_rope(q_BSND, cos, sin), apply_rope(k_BSMD, cos, sin)
        if cache is not None:
            k_BSMD, v_BSMD = cache.update(k_BSMD, v_BSMD)
        return self.o_proj(attention(q_BSND, k_BSMD, v_BSMD, batch, past=past).flatten(2))

    def _angles(self, batch: Batch, past: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines and sines, which all blocks share."""
        size, theta = self.config.head_size, self.config.rope_theta
        return batch.once(
            ("rope", self.config, past, length),
            lambda: rope_angles(batch.position_ids, past + length, size, theta, past=past),
        )


class MynahMLP(nn.Layer):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias_attr=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias_attr=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias_attr=False)

    def forward(self, x_BSH: Tensor) -> Tensor:
        return gated_mlp(x_BSH, self.gate_proj, self.up_proj, self.down_proj)


class MynahBlock(nn.Layer):
    """One decoder layer: attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = MynahAttention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MynahMLP(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.attention(self.attention_norm(x_BSH), batch, cache)
        return x_BSH + self.mlp(self.mlp_norm(x_BSH))


class MynahModel(nn.Layer):
    """Embedding, blocks and final norm, under the names of the parameter table."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([MynahBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.embed_tokens(batch.input_ids)
        for i, block in enumerate(self.layers):
            x_BSH = block(x_BSH, batch, None if cache is None else cache[i])
        return self.norm(x_BSH)


class MynahForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.mynah = MynahModel(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.mynah.embed_tokens.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.mynah(batch, cache)))


# The ends of the pipeline: the same embedding, norm and head, each a layer that is called like a block.


class MynahEmbedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.embed_tokens(batch.input_ids)


class MynahFinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.norm(x_BSH)


class MynahHead(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: MynahConfig) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
