"""Arguments about fine-tuning: LoRA, prefix tuning, preference optimisation, quantisation."""

from __future__ import annotations

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import argument, no_effect, not_yet

__all__ = ["FinetuneArguments"]

_TASK = not_yet("fine-tuning")
_COMPRESS = no_effect("`zoo compress` compresses, and has its own flags")
_SLIM = no_effect("zoo smooths by one alpha, as the paper has it, and does not shift")
_QAT = ("pretrain", "sft")
_DPO = ("dpo",)


@group
class FinetuneArguments(Group):
    """What is trained when not all weights are, and against which loss."""

    lora: bool = argument(False, "Train low-rank adapters.")
    lora_path: str | None = argument(None, "Adapter to start from.")
    lora_rank: int = argument(8, "Rank of the adapters.", minimum=1)
    lora_alpha: int | None = argument(None, "Scale of the adapters is lora_alpha / lora_rank; empty is 2 x rank.",
                                      minimum=1)  # fmt: skip
    lora_dropout: float = argument(0.0, "Dropout before the adapters.", minimum=0, below=1)
    lora_target_modules: tuple[str, ...] = argument(
        (), "Name patterns of the layers with adapters; empty is all linear layers."
    )
    lora_plus_scale: float = argument(1.0, "Learning rate of B over that of A.", above=0)
    rslora: bool = argument(False, "Scale by the square root of the rank.")
    pissa: bool = argument(False, "Refused: adapters that begin with singular vectors of the base's weights.")
    use_quick_lora: bool = argument(
        False, "PaddleNLP: faster LoRA backward.",
        effect=no_effect("zoo's adapters add no collective, and frozen weights have no gradient"),
    )  # fmt: skip
    prefix_tuning: bool = argument(False, "Train keys and values of virtual tokens in every layer.")
    prefix_path: str | None = argument(None, "Prefix to start from.")
    num_prefix_tokens: int = argument(128, "Length of the prefix.", unit="tokens", minimum=1)
    prefix_projection: bool = argument(False, "Make the prefix from an embedding by a small network.")
    neftune: bool = argument(False, "Add noise to embeddings.", effect=_TASK)
    neftune_noise_alpha: float = argument(5.0, "Size of that noise.", minimum=0, effect=_TASK)
    beta: float = argument(0.1, "DPO: weight of the distance from the reference model.", above=0, tasks=_DPO)
    loss_type: str = argument(
        "sigmoid", "DPO: which preference loss.",
        choices=("sigmoid", "hinge", "ipo", "simpo", "orpo", "dpop", "kto_pair", "sppo_hard", "nca_pair"),
        tasks=_DPO,
    )  # fmt: skip
    label_smoothing: float = argument(0.0, "DPO: share of labels taken as flipped (sigmoid and simpo).", minimum=0,
                                      below=0.5, tasks=_DPO)  # fmt: skip
    simpo_gamma: float = argument(0.5, "DPO: margin of SimPO.", tasks=_DPO)
    dpop_lambda: float = argument(50.0, "DPO: penalty of DPO-positive.", minimum=0, tasks=_DPO)
    pref_loss_ratio: float = argument(1.0, "DPO: weight of the preference loss.", minimum=0, tasks=_DPO)
    sft_loss_ratio: float = argument(0.0, "DPO: weight of the chosen answer's likelihood; orpo's is 1.", minimum=0,
                                     tasks=_DPO)  # fmt: skip
    reference_free: bool = argument(False, "DPO: no reference model; simpo and orpo never have one.", tasks=_DPO)
    ref_model_update_steps: int = argument(-1, "DPO: copy the policy to the reference so often; -1 is never.",
                                           unit="steps", minimum=-1, tasks=_DPO)  # fmt: skip
    do_qat: bool = argument(False, "Quantisation-aware training: round weights and inputs of linear layers.",
                            tasks=_QAT)  # fmt: skip
    do_ptq: bool = argument(False, "Refused, and the `zoo compress ptq` to type instead is told.")
    ptq_step: int = argument(32, "Calibration batches of PTQ.", minimum=1, effect=_COMPRESS)
    do_gptq: bool = argument(False, "Refused, and the `zoo compress gptq` to type instead is told.")
    gptq_step: int = argument(8, "Calibration batches of GPTQ.", minimum=1, effect=_COMPRESS)
    do_awq: bool = argument(
        False, "PaddleNLP: AWQ.", effect=no_effect("zoo compress has round to nearest, GPTQ and smoothing")
    )
    auto_clip: bool = argument(False, "PaddleNLP: AWQ's clipping.", effect=no_effect("zoo has no AWQ"))
    smooth: bool = argument(False, "Smooth activations before they are quantised (a8w8).", effect=_COMPRESS)
    smooth_all_linears: bool = argument(False, "Smooth layers without a norm before them, too.", effect=_COMPRESS)
    smooth_step: int = argument(32, "Calibration batches of smoothing.", minimum=1, effect=_COMPRESS)
    smooth_sampler: str = argument("none", "PaddleNLP: how activations are sampled.", effect=_SLIM)
    smooth_piecewise_search: bool = argument(False, "PaddleNLP: search factors piece by piece.", effect=_SLIM)
    smooth_k_piece: int = argument(3, "PaddleNLP: pieces of that search.", minimum=1, effect=_SLIM)
    smooth_search_piece: bool = argument(False, "PaddleNLP: search the number of pieces.", effect=_SLIM)
    shift: bool = argument(False, "PaddleNLP: shift activations before they are quantised.", effect=_SLIM)
    shift_all_linears: bool = argument(False, "PaddleNLP: shift all layers' inputs.", effect=_SLIM)
    shift_sampler: str = argument("ema", "PaddleNLP: how shifts are sampled.", effect=_SLIM)
    shift_step: int = argument(32, "PaddleNLP: calibration batches of shifting.", minimum=1, effect=_SLIM)
    load_quant_model: bool = argument(
        False, "PaddleNLP: the model is quantised.", effect=no_effect("its config.json says so")
    )
    weight_quantize_type: str = argument(
        "channel_wise_abs_max", "QAT: a span for each output feature, or one for a weight.",
        choices=("channel_wise_abs_max", "abs_max"), tasks=_QAT,
    )  # fmt: skip
    activation_quantize_type: str = argument(
        "moving_average_abs_max", "QAT: the span of a layer's inputs.", choices=("moving_average_abs_max",), tasks=_QAT,
    )  # fmt: skip
    quant_type: str = argument(
        "a8w8", "Which numbers are quantised.", choices=("a8w8", "a8w8c8", "weight_only_int8", "weight_only_int4"),
        effect=_COMPRESS,
    )  # fmt: skip
    weight_bits: int = argument(8, "QAT: bits of weights.", minimum=2, maximum=8, tasks=_QAT)
    activation_bits: int = argument(8, "QAT: bits of layers' inputs.", minimum=2, maximum=16, tasks=_QAT)
