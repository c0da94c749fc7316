"""DeepSeek-V3 on one card, top to bottom.

DeepSeek-AI, "DeepSeek-V3 Technical Report" (arXiv 2412.19437): a pre-norm decoder with multi-head latent attention
(section 2.1.1), many small experts behind a sigmoid router that is balanced without a loss (2.1.2), and multi-token
prediction beside the next token's (2.2).

Batch, sequence and the number of heads are read from a projection's output: its input may be a part of the sequence,
and the output may hold some of the heads.

Shape legend: B batch, S sequence, K keys (past and virtual ones included), H hidden, N heads, R width of the latent,
P width of a head without position, Q width that is rotated, D = P + Q, W width of a value, V vocabulary.
"""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

from zoo_deepseek_v3.config import DeepseekV3Config
from zoo_ops import (
    Batch,
    Cache,
    LayerCache,
    LMHead,
    Output,
    RMSNorm,
    Router,
    apply_rope,
    attach_loss,
    attention,
    gated_mlp,
    head_loss,
    moe,
    read_by_heads,
    rope_angles,
    virtual_entries,
)

__all__ = [
    "DeepseekV3Block",
    "DeepseekV3Embedding",
    "DeepseekV3FinalNorm",
    "DeepseekV3ForCausalLM",
    "DeepseekV3Head",
    "DeepseekV3Prediction",
]

# The norms of the latents have this epsilon in DeepSeek's own code, whatever `rms_norm_eps` says.
_LATENT_EPS = 1e-6


def _scale(config: DeepseekV3Config) -> float:
    """What multiplies the scores: 1 / sqrt(D), and YaRN's factor for all features, once for queries, once for keys."""
    scaling = config.rope_scaling
    scale = 1.0 / math.sqrt(config.head_size)
    if not scaling.mscale_all_dim:
        return scale
    trained = scaling.original_max_position_embeddings or config.max_position_embeddings
    factor = config.max_position_embeddings / trained if scaling.factor is None else scaling.factor
    magnitude = 1.0 if factor <= 1 else 0.1 * scaling.mscale_all_dim * math.log(factor) + 1.0
    return scale * magnitude * magnitude


class DeepseekV3Attention(nn.Layer):
    """Causal multi-head latent attention.

    Keys and values are made from a latent and from one rotated key for all heads. A pass over a whole sequence makes
    them; a pass over new tokens keeps to the cached latents, and multiplies queries and outputs instead (the report's
    section 2.1.1 and, in full, DeepSeek-V2's, arXiv 2405.04434, appendix C).
    """

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.config = config
        self.scale = _scale(config)
        hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden, heads * config.head_size, bias_attr=False)
        else:
            self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias_attr=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, _LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.head_size, bias_attr=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, latent + config.qk_rope_head_dim, bias_attr=False)
        self.kv_a_layernorm = RMSNorm(latent, _LATENT_EPS)
        self.kv_b_proj = nn.Linear(latent, heads * (config.qk_nope_head_dim + config.v_head_dim), bias_attr=False)
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias_attr=False)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        config, plain = self.config, self.config.qk_nope_head_dim
        q_BSND = self._queries(x_BSH)
        both = self.kv_a_proj_with_mqa(x_BSH)
        latent_BSR = self.kv_a_layernorm(both[..., : config.kv_lora_rank])
        key_BS1Q = read_by_heads(both[..., config.kv_lora_rank :]).unsqueeze(2)
        past = cache.length if cache is not None else 0
        cos, sin = self._angles(batch, past, q_BSND.shape[1])
        key_BS1Q = apply_rope(key_BS1Q, cos, sin, interleaved=config.rope_interleave)
        q_BSNQ = apply_rope(q_BSND[..., plain:], cos, sin, interleaved=config.rope_interleave)
        q_BSNP = q_BSND[..., :plain]
        if cache is not None:
            latent_BK1R, key_BK1Q = cache.update(read_by_heads(latent_BSR).unsqueeze(2), key_BS1Q)
            if past:
                return self.o_proj(self._absorbed(q_BSNP, q_BSNQ, latent_BK1R, key_BK1Q, batch, past).flatten(2))
        front = virtual_entries()
        kv = front.project_values(self.kv_b_proj, latent_BSR)
        kv = kv.reshape([*kv.shape[:2], -1, plain + config.v_head_dim])
        key_BKNQ = front.before_keys(key_BS1Q).expand([*kv.shape[:3], config.qk_rope_head_dim])
        q_BSND, k_BKND = paddle.concat([q_BSNP, q_BSNQ], -1), paddle.concat([kv[..., :plain], key_BKNQ], -1)
        out_BSNW = attention(q_BSND, k_BKND, kv[..., plain:], batch, scale=self.scale, virtual=front.count)
        return self.o_proj(out_BSNW.flatten(2))

    def _queries(self, x_BSH: Tensor) -> Tensor:
        """Return [B, S, N, D]."""
        if self.config.q_lora_rank is None:
            q = self.q_proj(x_BSH)
        else:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BSH)))
        return q.reshape([*q.shape[:2], -1, self.config.head_size])

    def _absorbed(
        self, q_BSNP: Tensor, q_BSNQ: Tensor, latent_BK1R: Tensor, key_BK1Q: Tensor, batch: Batch, past: int
    ) -> Tensor:
        """Return [B, S, N, W] from the latents c alone: a score q (c U) is (q U^T) c, and a sum p (c W) is (p c) W."""
        plain = self.config.qk_nope_head_dim
        weight_RN = self.kv_b_proj.weight.reshape([self.config.kv_lora_rank, q_BSNP.shape[2], -1])
        q_BSNR = paddle.einsum("bsnp,rnp->bsnr", q_BSNP, weight_RN[..., :plain])
        front = virtual_entries()
        latent_BK1R, key_BK1Q = front.before_values(latent_BK1R), front.before_keys(key_BK1Q)
        q, k = paddle.concat([q_BSNR, q_BSNQ], -1), paddle.concat([latent_BK1R, key_BK1Q], -1)
        out_BSNR = attention(q, k, latent_BK1R, batch, past=past, scale=self.scale, virtual=front.count)
        return paddle.einsum("bsnr,rnw->bsnw", out_BSNR, weight_RN[..., plain:])

    def _angles(self, batch: Batch, past: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the rotary cosines and sines of this micro batch, which all blocks share."""
        config = self.config
        return batch.once(
            ("rope", config, past, length),
            lambda: rope_angles(
                batch.position_ids,
                past + length,
                config.qk_rope_head_dim,
                config.rope_theta,
                config.rope_scaling,
                config.max_position_embeddings,
                past=past,
            ),
        )


class DeepseekV3MLP(nn.Layer):
    """down(silu(gate(x)) * up(x)): a dense layer's, and also one expert."""

    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn, bias_attr=False)
        self.up_proj = nn.Linear(hidden, ffn, bias_attr=False)
        self.down_proj = nn.Linear(ffn, hidden, bias_attr=False)

    def forward(self, x_BSH: Tensor) -> Tensor:
        return gated_mlp(x_BSH, self.gate_proj, self.up_proj, self.down_proj)


class DeepseekV3MoE(nn.Layer):
    """The routed experts of each token, and beside them the shared one."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        hidden, width, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts or 0
        self.gate = Router(
            hidden,
            experts,
            config.num_experts_per_tok,
            config.n_group,
            config.topk_group,
            config.routed_scaling_factor,
            config.norm_topk_prob,
            config.bias_update_rate,
        )
        self.experts = nn.LayerList([DeepseekV3MLP(hidden, width) for _ in range(experts)])
        shared = config.n_shared_experts or 0
        self.shared_experts = DeepseekV3MLP(hidden, width * shared) if shared else None

    def forward(self, x_BSH: Tensor, batch: Batch) -> Tensor:
        return moe(x_BSH, self.gate, self.experts, self.shared_experts, batch)


class DeepseekV3Block(nn.Layer):
    """One decoder layer: attention, then a dense block or experts, each behind a norm and beside a residual."""

    def __init__(self, config: DeepseekV3Config, number: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DeepseekV3Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        dense = not config.has_experts(number)
        self.mlp = DeepseekV3MLP(config.hidden_size, config.intermediate_size) if dense else DeepseekV3MoE(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        x_BSH = x_BSH + self.self_attn(self.input_layernorm(x_BSH), batch, cache)
        between_BSH = self.post_attention_layernorm(x_BSH)
        has_experts = isinstance(self.mlp, DeepseekV3MoE)
        return x_BSH + (self.mlp(between_BSH, batch) if has_experts else self.mlp(between_BSH))


class DeepseekV3SharedHead(nn.Layer):
    """The norm and the head of multi-token prediction; the head's weight is the model's."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = LMHead(config.hidden_size, config.vocab_size)


class DeepseekV3Prediction(DeepseekV3Block):
    """Multi-token prediction: one more block, which learns to predict the token after the next.

    It hands on what it is given, and only adds its loss to the gradients, in training, where the batch has labels. It
    stands behind the final norm: the weights that DeepSeek publishes expect hidden states from there (as vLLM, SGLang
    and transformers run them), which the report leaves open.
    """

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__(config, config.num_hidden_layers)
        self.weight_of_loss = config.num_nextn_predict_lambda
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias_attr=False)
        self.shared_head = DeepseekV3SharedHead(config)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        if not self.training or batch.labels is None:
            return x_BSH
        return attach_loss(x_BSH, self.losses(x_BSH, batch).sum() * self.weight_of_loss)

    def losses(self, x_BSH: Tensor, batch: Batch) -> Tensor:
        """Return the cross entropy of the token after the next, float32 [B, S] (equations 21 to 24 of the report).

        It is 0 where the next token lies beyond the end of the sequence or of the packed sample, which this layer would
        have to read, and where the one after bears no loss itself.
        """
        knows_BS = _knows_next(batch)
        next_BS = _ahead(batch.input_ids, 1)
        mixed = paddle.concat([self.enorm(self.embed_tokens(next_BS)), self.hnorm(x_BSH)], -1)
        if batch.segment_ids is not None or batch.attention_mask is not None:
            # what ends a sample has no input here: it counts as padding, so that its neighbour in a row is all one
            known = knows_BS.astype("int64").expand(batch.input_ids.shape)
            batch = Batch(batch.input_ids, batch.position_ids, batch.segment_ids, known, batch.labels)
        y_BSH = super().forward(self.eh_proj(mixed), batch)
        labels_BS = _ahead(batch.labels, 1)
        labels_BS = paddle.where(knows_BS, labels_BS, paddle.full_like(labels_BS, -100))
        return head_loss(self.shared_head.head, self.shared_head.norm(y_BSH), labels_BS)


def _knows_next(batch: Batch) -> Tensor:
    """Say of which tokens the next one is in the same sample, bool [B or 1, S]."""
    length = batch.input_ids.shape[1]
    knows_BS = (paddle.arange(length) < length - 1).unsqueeze(0)
    if batch.segment_ids is not None:
        knows_BS = paddle.logical_and(knows_BS, _ahead(batch.segment_ids, 1) == batch.segment_ids)
    if batch.attention_mask is not None:
        both = batch.attention_mask * _ahead(batch.attention_mask, 1)
        knows_BS = paddle.logical_and(knows_BS, both != 0)
    return knows_BS


def _ahead(x_BS: Tensor, steps: int) -> Tensor:
    """What stands `steps` further on in each row; beyond the end, what stands last."""
    last = x_BS.shape[1] - 1
    return paddle.index_select(x_BS, paddle.clip(paddle.arange(steps, steps + last + 1), max=last), axis=1)


class DeepseekV3Model(nn.Layer):
    """Embedding, blocks, final norm and multi-token prediction, under the names of the parameter table."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.LayerList([DeepseekV3Block(config, i) for i in range(config.num_hidden_layers)])
        if config.num_nextn_predict_layers:
            self.layers.append(DeepseekV3Prediction(config))
            self.layers[-1].embed_tokens.weight = self.embed_tokens.weight
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch, cache: Cache | None = None) -> Tensor:
        x_BSH = self.embed_tokens(batch.input_ids)
        blocks = self.config.num_hidden_layers
        for i in range(blocks):
            x_BSH = self.layers[i](x_BSH, batch, None if cache is None else cache[i])
        x_BSH = self.norm(x_BSH)
        return self.layers[blocks](x_BSH, batch) if self.config.num_nextn_predict_layers else x_BSH


class DeepseekV3ForCausalLM(nn.Layer):
    """Token ids to logits."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.deepseek_v3 = DeepseekV3Model(config)
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.deepseek_v3.embed_tokens.weight
        if config.num_nextn_predict_layers:
            self.deepseek_v3.layers[-1].shared_head.head.weight = self.lm_head.weight

    def forward(self, batch: Batch, cache: Cache | None = None) -> Output:
        """Return logits [B, S, V]; with a cache, `batch` holds the new tokens only."""
        return Output(self.lm_head(self.deepseek_v3(batch, cache)))


# The ends of the pipeline: the same embedding, norm and head, each a layer that is called like a block.


class DeepseekV3Embedding(nn.Layer):
    """First layer of the pipeline; it takes no hidden state."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)

    def forward(self, x: None, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.embed_tokens(batch.input_ids)


class DeepseekV3FinalNorm(nn.Layer):
    """The norm after the last block."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.norm(x_BSH)


class DeepseekV3Head(nn.Layer):
    """Last layer of the pipeline: hidden states to logits [B, S, V]."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.lm_head = LMHead(config.hidden_size, config.vocab_size)

    def forward(self, x_BSH: Tensor, batch: Batch, cache: LayerCache | None = None) -> Tensor:
        return self.lm_head(x_BSH)
