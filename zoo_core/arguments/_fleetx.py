"""FleetX's sections as zoo's arguments: the table, and the few settings that are made of several keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zoo_core.errors import ConfigError

__all__ = ["COMPOSITES", "RENAMED", "SECTIONS", "UNUSED", "Composite", "Unused"]

SECTIONS: dict[str, tuple[str, ...]] = {
    "Global": ("training", "launch", "parallel"),
    "Engine": ("training", "parallel"),
    "Model": ("model", "parallel", "overrides"),
    "Data": ("data",),
    "Optimizer": ("training",),
    "Distributed": ("parallel",),
    "Generation": ("generation", "model"),
    "Inference": ("generation", "parallel"),
    "Profiler": (),
    "Quantization": ("finetune",),
    "Compress": ("finetune",),
    "FusedPasses": (),
}
"""Section -> groups whose arguments may be named under it by zoo's own names too (`-o Optimizer.adam_beta2=0.95`)."""

RENAMED: dict[str, str] = {
    "Global.device": "device",
    "Global.seed": "seed",
    "Global.global_batch_size": "global_batch_size",
    "Global.local_batch_size": "local_batch_size",
    "Global.micro_batch_size": "per_device_train_batch_size",
    "Engine.max_steps": "max_steps",
    "Engine.num_train_epochs": "num_train_epochs",
    "Engine.accumulate_steps": "gradient_accumulation_steps",
    "Engine.logging_freq": "logging_steps",
    "Engine.eval_iters": "eval_iters",
    "Engine.test_iters": "test_iters",
    "Engine.mix_precision.level": "fp16_opt_level",
    "Engine.mix_precision.scale_loss": "scale_loss",
    "Engine.mix_precision.main_grad": "amp_master_grad",
    "Engine.mix_precision.custom_black_list": "amp_custom_black_list",
    "Engine.mix_precision.custom_white_list": "amp_custom_white_list",
    "Engine.save_load.save_epoch": "save_epoch",
    "Engine.save_load.output_dir": "output_dir",
    "Engine.save_load.ckpt_dir": "resume_from_checkpoint",
    "Model.num_layers": "num_hidden_layers",
    "Model.fuse_attn_qkv": "fuse_attention_qkv",
    "Model.use_flash_attn": "use_flash_attention",
    "Model.use_recompute": "recompute",
    "Model.pretrained": "model_path",
    "Data.Train.dataset.input_dir": "input_dir",
    "Data.Train.dataset.split": "split",
    "Data.Train.dataset.max_seq_len": "max_seq_length",
    "Data.Train.loader.num_workers": "dataloader_num_workers",
    "Optimizer.weight_decay": "weight_decay",
    "Optimizer.beta1": "adam_beta1",
    "Optimizer.beta2": "adam_beta2",
    "Optimizer.epsilon": "adam_epsilon",
    "Optimizer.tensor_fusion": "tensor_fusion",
    "Optimizer.lr.decay_steps": "decay_steps",
    "Optimizer.lr.max_lr": "learning_rate",
    "Optimizer.lr.learning_rate": "learning_rate",
    "Optimizer.lr.min_lr": "min_learning_rate",
    "Optimizer.grad_clip.clip_norm": "max_grad_norm",
    "Profiler.enable": "profile",
    "Distributed.dp_degree": "data_parallel_degree",
    "Distributed.mp_degree": "tensor_parallel_degree",
    "Distributed.pp_degree": "pipeline_parallel_degree",
    "Inference.model_dir": "export_dir",
    "Inference.mp_degree": "tensor_parallel_degree",
    "Compress.pretrained": "model_path",
    "Compress.Quantization.enable": "do_qat",
    "Compress.Quantization.weight_bits": "weight_bits",
    "Compress.Quantization.activation_bits": "activation_bits",
    "Compress.Quantization.weight_quantize_type": "weight_quantize_type",
    "Compress.Quantization.activation_quantize_type": "activation_quantize_type",
    "Quantization.enable": "do_qat",
    "Quantization.weight_bits": "weight_bits",
    "Quantization.activation_bits": "activation_bits",
    "Quantization.weight_quantize_type": "weight_quantize_type",
    "Quantization.activation_quantize_type": "activation_quantize_type",
}
"""FleetX key -> zoo's argument, where one key is one argument of the same meaning."""


class Unused(NamedTuple):
    """A FleetX key that zoo needs no argument for; named in the warning unless its value is one of `fits`."""

    why: str
    fits: tuple[Any, ...] = ()


_TASK = Unused(
    "the command names the task", ("GPTModule", "GPTModuleAuto", "GPTGenerationModule", "GPTGenerationModuleAuto")
)
_INDEXED = Unused("zoo reads every corpus as an indexed one", ("GPTDataset",))
_SAMPLER = Unused("the order of samples follows from the seed", ("GPTBatchSampler", "DistributedBatchSampler"))
_COLLATE = Unused("batches are typed", (False, "gpt_collate_fn", "gpt_inference_collate_fn"))
_OVERLAP = Unused("fusion and overlap are the engine's choice", (False,))
_PROFILER = Unused("profiling is not in this version", ([1, 5], "profiler_log", False))
_LAYERS = Unused("all linear layers of the blocks are rounded, whatever their class")
_SLIM = Unused("zoo's own format is written, by `zoo compress qat`", (False, True))
_PREPROCESS = Unused("inputs are clipped by the moving average of their largest magnitudes alone")

UNUSED: dict[str, Unused] = {
    "Engine.run_mode": Unused("max_steps and num_train_epochs say how long", ("step", "epoch")),
    "Engine.mix_precision.use_fp16_guard": Unused("the operator lists decide", (False,)),
    "Engine.save_load.save_load_epoch": Unused("save_strategy decides"),
    "Model.module": _TASK,
    "Data.Train.dataset.name": _INDEXED,
    "Data.Train.sampler.name": _SAMPLER,
    "Data.Train.sampler.shuffle": Unused("pretraining samples are always shuffled by the index", (True,)),
    "Data.Train.sampler.drop_last": Unused("samples run on from epoch to epoch", (True,)),
    "Data.Train.sampler.batch_size": Unused("Global.micro_batch_size decides"),
    "Data.Train.loader.return_list": _COLLATE,
    "Data.Train.loader.collate_fn": _COLLATE,
    "Data.Train.collate_fn": _COLLATE,
    "Data.Train.sample_split": Unused("each replica reads its own samples"),
    "Optimizer.multi_precision": Unused("O2 always keeps fp32 masters", (True,)),
    "Optimizer.lr.use_increments": Unused("the schedule counts optimizer steps", (False,)),
    "Profiler.scheduler": _PROFILER,
    "Profiler.profiler_log": _PROFILER,
    "Profiler.detailed": _PROFILER,
    "Profiler.record_shapes": _PROFILER,
    "Profiler.profile_memory": _PROFILER,
    "Profiler.summary": _PROFILER,
    "Distributed.sharding.reduce_overlap": _OVERLAP,
    "Distributed.sharding.broadcast_overlap": _OVERLAP,
    "FusedPasses.enable": Unused("the kernels are chosen by the use_fused_ arguments", (False,)),
    "FusedPasses.fused_passes_list": Unused("the kernels are chosen by the use_fused_ arguments", ([],)),
    "Compress.Quantization.activation_preprocess_type": _PREPROCESS,
    "Compress.Quantization.weight_preprocess_type": _PREPROCESS,
    "Compress.Quantization.quantizable_layer_type": _LAYERS,
    "Compress.Quantization.onnx_format": _SLIM,
    "Compress.Quantization.for_tensorrt": _SLIM,
    "Compress.Quantization.is_full_quantize": _SLIM,
    "Quantization.activation_preprocess_type": _PREPROCESS,
    "Quantization.weight_preprocess_type": _PREPROCESS,
    "Quantization.quantizable_layer_type": _LAYERS,
    "Quantization.onnx_format": _SLIM,
    "Quantization.for_tensorrt": _SLIM,
    "Quantization.is_full_quantize": _SLIM,
}

Values = Mapping[str, Any]
"""The set (not empty) keys of the tree, by dotted path."""


class Composite(NamedTuple):
    """Keys that make arguments together.

    `make` gets all set keys and returns name -> value (None: the default) for those of `names` that they decide. A
    change of a key in `reads` makes them anew too, and the key also keeps its own meaning.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    make: Callable[[Values], Mapping[str, Any]]
    reads: tuple[str, ...] = ()


def _one_of(values: Values, key: str, table: Mapping[str, Any]) -> Any:
    """Return what `table` says of a key's text.

    Raises:
        ConfigError: the text is not in the table.
    """
    value = str(values[key])
    for name, meaning in table.items():
        if name.lower() == value.lower():
            return meaning
    known = ", ".join(name for name in table if name)
    raise ConfigError(f"{key} = {value!r} is not known", f"known here: {known}", f"change {key} to one of them")


def _truth(values: Values, key: str, default: bool) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    return bool(_one_of(values, key, words)) if key in values else default


def _number(values: Values, key: str) -> float | None:
    if key not in values:
        return None
    try:
        return float(values[key])
    except (TypeError, ValueError):
        raise ConfigError(f"{key} = {values[key]!r} is not a number", "", f"give {key} a number") from None


def _model_name(values: Values) -> Mapping[str, Any]:
    key = "Model.name"
    return {"model_name_or_path": _one_of(values, key, {"GPT": "gpt3"}) if key in values else None}


def _precision(values: Values) -> Mapping[str, Any]:
    mix = "Engine.mix_precision."
    pure = _truth(values, mix + "use_pure_fp16", False)
    enabled = _truth(values, mix + "enable", pure)
    kinds = {"float16": "fp16", "bfloat16": "bf16", "float32": ""}
    kind = _one_of(values, mix + "dtype", kinds) if mix + "dtype" in values else "fp16"
    made: dict[str, Any] = {"fp16": enabled and kind == "fp16", "bf16": enabled and kind == "bf16"}
    if pure and mix + "level" not in values:
        made["fp16_opt_level"] = "O2"
    return made


def _saving(values: Values) -> Mapping[str, Any]:
    """`save_steps: -1` saves by epoch."""
    steps = _number(values, "Engine.save_load.save_steps")
    if steps is not None and steps < 1:
        return {"save_steps": None, "save_strategy": "epoch"}
    return {"save_steps": values.get("Engine.save_load.save_steps")}


def _evaluation(values: Values) -> Mapping[str, Any]:
    """`eval_freq: -1` never evaluates."""
    freq = _number(values, "Engine.eval_freq")
    if freq is not None and freq < 1:
        return {"eval_steps": None, "evaluation_strategy": "no"}
    return {"eval_steps": values.get("Engine.eval_freq")}


def _schedule(values: Values) -> Mapping[str, Any]:
    table = {
        "CosineAnnealingWithWarmupDecay": "cosine",
        "LinearAnnealingWithWarmupDecay": "linear",
        "LinearDecayWithWarmup": "linear",
    }
    key = "Optimizer.lr.name"
    return {"lr_scheduler_type": _one_of(values, key, table) if key in values else None}


def _warmup(values: Values) -> Mapping[str, Any]:
    """FleetX's warmup_rate is a part of decay_steps, PaddleNLP's warmup_ratio a part of max_steps."""
    rate, decay = _number(values, "Optimizer.lr.warmup_rate"), _number(values, "Optimizer.lr.decay_steps")
    warmup = _number(values, "Optimizer.lr.warmup")
    if rate is not None and decay is not None:
        return {"warmup_steps": round(rate * decay)}
    if warmup is not None and warmup >= 1:
        return {"warmup_steps": warmup}
    if rate is None and warmup is None:
        return {}
    return {"warmup_ratio": rate if warmup is None else warmup}


def _sharding(values: Values) -> Mapping[str, Any]:
    """A sharding_degree of 1 is no sharding, whatever the stage says; the stage is 2 unless it is said."""
    prefix = "Distributed.sharding."
    made: dict[str, Any] = {}
    if prefix + "sharding_degree" in values:
        if (_number(values, prefix + "sharding_degree") or 0) <= 1:
            # The degree stays free, so that `--sharding stage2` over such a file shards over all replicas.
            return {"sharding": "", "sharding_parallel_degree": None}
        made["sharding_parallel_degree"] = values[prefix + "sharding_degree"]
    if prefix + "sharding_stage" not in values and "sharding" in values:
        return made
    stage = values.get(prefix + "sharding_stage", 2)
    offload = " offload" if _truth(values, prefix + "sharding_offload", False) else ""
    return {**made, "sharding": f"stage{stage}{offload}"}


def _optimizer(values: Values) -> Mapping[str, Any]:
    key, clip = "Optimizer.name", "Optimizer.grad_clip.name"
    if clip in values:
        _one_of(values, clip, {"ClipGradByGlobalNorm": True})
    return {"optim": _one_of(values, key, {"FusedAdamW": "adamw", "AdamW": "adamw"}) if key in values else None}


COMPOSITES: tuple[Composite, ...] = (
    Composite(("Model.name",), ("model_name_or_path",), _model_name),
    Composite(
        ("Engine.mix_precision.enable", "Engine.mix_precision.dtype", "Engine.mix_precision.use_pure_fp16"),
        ("fp16", "bf16", "fp16_opt_level"), _precision,
    ),
    Composite(("Engine.save_load.save_steps",), ("save_steps", "save_strategy"), _saving),
    Composite(("Engine.eval_freq",), ("eval_steps", "evaluation_strategy"), _evaluation),
    Composite(("Optimizer.lr.name",), ("lr_scheduler_type",), _schedule),
    Composite(
        ("Optimizer.lr.warmup_rate", "Optimizer.lr.warmup"),
        ("warmup_steps", "warmup_ratio"), _warmup, reads=("Optimizer.lr.decay_steps",),
    ),
    Composite(
        ("Distributed.sharding.sharding_degree", "Distributed.sharding.sharding_stage",
         "Distributed.sharding.sharding_offload"),
        ("sharding", "sharding_parallel_degree"), _sharding,
    ),
    Composite(("Optimizer.name", "Optimizer.grad_clip.name"), ("optim",), _optimizer),
)  # fmt: skip
