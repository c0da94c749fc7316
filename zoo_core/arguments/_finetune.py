"""Arguments about fine-tuning: LoRA, prefix tuning, preference optimisation, quantisation."""

from __future__ import annotations

from zoo_core.arguments._group import Group, group
from zoo_core.arguments._spec import argument, no_effect, not_yet

__all__ = ["FinetuneArguments"]

_TASK = not_yet("fine-tuning")
_COMPRESS = not_yet("compression")
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
    do_qat: bool = argument(False, "Quantisation-aware training.", effect=_COMPRESS)
    do_ptq: bool = argument(False, "Quantise after training.", effect=_COMPRESS)
    ptq_step: int = argument(32, "Calibration batches of PTQ.", minimum=1, effect=_COMPRESS)
    do_gptq: bool = argument(False, "Quantise with GPTQ.", effect=_COMPRESS)
    gptq_step: int = argument(8, "Calibration batches of GPTQ.", minimum=1, effect=_COMPRESS)
    quant_type: str = argument(
        "a8w8", "Which numbers are quantised.", choices=("a8w8", "a8w8c8", "weight_only_int8", "weight_only_int4"),
        effect=_COMPRESS,
    )  # fmt: skip
    weight_bits: int = argument(8, "Bits of quantised weights.", minimum=2, maximum=8, effect=_COMPRESS)
    activation_bits: int = argument(8, "Bits of quantised activations.", minimum=2, maximum=16, effect=_COMPRESS)
