"""Arguments about the model: which one, its weights, its kernels; and the sizes that may be overridden."""

from __future__ import annotations

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import argument, no_effect, on_gpu

__all__ = ["ConfigArguments", "ModelArguments"]


@group
class ModelArguments(Group):
    """Which model, from which weights, with which kernels."""

    model_name_or_path: str | None = argument(
        None, "Model name (`zoo models` lists them) or a folder with config.json and weights.", aliases=("model",)
    )
    tokenizer_name_or_path: str | None = argument(
        None, "Tokenizer name or folder; empty means the model's own.", aliases=("tokenizer",)
    )
    model_path: str | None = argument(
        None, "Folder with the named model's weights; else $ZOO_HOME/NAME and the current folder are searched."
    )
    scale: str | None = argument(
        None, "Shrink the architecture to try it: same structure, small sizes.", choices=("tiny", "small")
    )
    continue_training: bool = argument(
        False, "Start from the model's weights instead of random ones (the default for fine-tuning tasks)."
    )
    lm_shift_labels: bool = argument(
        False, "Shift labels inside the loss: position i predicts token i+1 of the same row."
    )
    tensor_parallel_output: bool = argument(
        True, "Keep the logits split over the vocabulary under tensor parallelism; false gathers them first."
    )
    use_flash_attention: bool = argument(
        False, "Use the flash attention kernel; where the device has none the run says so once.",
        aliases=("use_flash_attn",),
    )  # fmt: skip
    use_fused_rms_norm: bool = argument(False, "Use the fused RMSNorm kernel where the device has one.")
    use_fused_rope: bool = argument(False, "Use the fused rotary embedding kernel where the device has one.")
    fuse_attention_qkv: bool | None = argument(
        None, "Store query, key and value as one projection; empty means as the model was published.",
        aliases=("fuse_attn_qkv",),
    )  # fmt: skip
    fuse_flash_qkv: bool = argument(False, "Hand the fused projection to flash attention unsplit.", effect=on_gpu())
    fuse_attention_ffn: bool | None = argument(
        None, "Store the MLP's gate and up projections as one; empty means as the model was published."
    )
    fused_linear: bool = argument(
        False, "Fuse a linear layer's bias into its matrix product.", effect=on_gpu("cublasLt epilogue")
    )
    fused_linear_param_grad_add: bool = argument(
        False, "Add weight gradients in place in one kernel.", aliases=("enable_linear_fused_grad_add",),
        effect=on_gpu("cuBLAS kernel"),
    )  # fmt: skip
    fused_softmax_with_triangular: bool = argument(
        True, "FleetX: fuse the causal mask into softmax.",
        effect=no_effect("attention is always causal without a stored mask"),
    )  # fmt: skip
    use_fused_rms_norm_linear: bool = argument(
        False, "PaddleNLP: fuse RMSNorm with the following projection.", effect=no_effect("no such kernel is used")
    )
    use_fused_dropout_add: bool = argument(
        False, "PaddleNLP: fuse dropout with the residual addition.",
        effect=no_effect("zoo's dropout is a function of position, so that masks do not depend on the layout"),
    )  # fmt: skip
    use_fused_linear_cross_entropy: bool = argument(
        False, "PaddleNLP: fuse the head with the loss.", effect=no_effect("the loss has its own parallel form")
    )
    use_fast_layer_norm: bool = argument(
        False, "PaddleNLP GPT-3: the fast LayerNorm kernel.", effect=no_effect("needs PaddleNLP's custom operators")
    )
    flash_mask: bool = argument(
        False, "Use sparse column masks in flash attention.", aliases=("use_sparse_mask", "use_flash_mask"),
        effect=no_effect("packed rows use them wherever flash attention runs"),
    )  # fmt: skip
    use_attn_mask_startend_row_indices: bool = argument(
        False, "PaddleNLP: sparse row-index masks.", aliases=("use_attn_mask_start_row_indices",),
        effect=no_effect("packed rows use sparse masks wherever flash attention runs"),
    )  # fmt: skip
    model_type: str | None = argument(
        None, "PaddleNLP auto parallel: which of its model files to use.",
        effect=no_effect("zoo has one model file for each family"),
    )  # fmt: skip
    weight_quantize_algo: str | None = argument(
        None, "Quantise the base weights while fine-tuning.",
        choices=("nf4", "fp4", "weight_only_int4", "weight_only_int8"),
    )  # fmt: skip


@group
class ConfigArguments(Group):
    """Architecture settings that may be overridden by name; they go to `Arguments.overrides` when set."""

    vocab_size: int | None = argument(None, "Vocabulary size.", unit="tokens", minimum=1)
    hidden_size: int | None = argument(None, "Width of the residual stream.", minimum=1)
    num_hidden_layers: int | None = argument(None, "Number of blocks.", aliases=("num_layers",), minimum=1)
    num_attention_heads: int | None = argument(None, "Number of query heads.", minimum=1)
    num_key_value_heads: int | None = argument(None, "Number of key/value heads.", minimum=1)
    head_dim: int | None = argument(None, "Width of one head.", minimum=1)
    intermediate_size: int | None = argument(
        None, "Width of the MLP; empty in a FleetX file means 4 x hidden_size.", aliases=("ffn_hidden_size",), minimum=1
    )
    max_position_embeddings: int | None = argument(None, "Longest sequence.", unit="tokens", minimum=1)
    hidden_dropout_prob: float | None = argument(None, "Dropout after each sublayer.", minimum=0, below=1)
    attention_probs_dropout_prob: float | None = argument(None, "Dropout of attention weights.", minimum=0, below=1)
    initializer_range: float | None = argument(None, "Standard deviation of the initial weights.", above=0)
    rms_norm_eps: float | None = argument(None, "Epsilon of RMSNorm.", above=0)
    layer_norm_epsilon: float | None = argument(None, "Epsilon of LayerNorm.", above=0)
    rope_theta: float | None = argument(None, "Base of the rotary frequencies.", above=0)
    tie_word_embeddings: bool | None = argument(None, "Share the embedding with the head.")
    vocab_size_divisible_unit: int | None = argument(None, "Round the vocabulary up to a multiple of this.", minimum=1)
    type_vocab_size: int | None = argument(None, "Number of token types (GPT).", minimum=0)
    scale_qk_by_layer_num: bool | None = argument(None, "Divide attention scores by the layer number (GPT).")
