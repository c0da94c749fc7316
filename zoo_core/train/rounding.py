"""Compression as a run's arguments ask for it: quantisation-aware training, or a command to type instead. No paddle."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.engine.qat import QatSpec
from zoo_core.errors import ConfigError
from zoo_core.registry import Found

__all__ = ["check_compression", "qat_of_run"]


def check_compression(arguments: Arguments, found: Found) -> None:
    """Refuse `do_ptq` and `do_gptq`, which PaddleNLP has as runs of fine-tuning, and tell the command.

    Raises:
        ConfigError: one of them is set.
    """
    wanted = arguments.finetune
    if not (wanted.do_ptq or wanted.do_gptq):
        return
    name = "do_gptq" if wanted.do_gptq else "do_ptq"
    model = str(found.path or found.name)
    data = str(arguments.data.dataset_name_or_path or arguments.data.input_dir or "TEXT")
    words = ["zoo", "compress", name[3:], model, "--data", data, "--output", str(arguments.training.output_dir)]
    if wanted.do_gptq:
        words += ["--bits", "4"]
    elif wanted.quant_type == "a8w8c8":
        words += ["--quant_type", "a8w8"]
    else:
        words += ["--quant_type", wanted.quant_type]
    if wanted.do_ptq and wanted.smooth_all_linears and wanted.quant_type.startswith("a8w8"):
        words += ["--smooth_all_linears"]
    steps = wanted.gptq_step if wanted.do_gptq else wanted.ptq_step
    words += ["--samples", str(steps * arguments.training.per_device_train_batch_size)]
    why = "a model is compressed on one process, from text, by a command of its own"
    if wanted.quant_type == "a8w8c8":
        why += "; its cache of keys and values is not quantised"
    raise ConfigError(f"{name} is no part of a run", why, shlex.join(words))


def qat_of_run(arguments: Arguments, found: Found, config: ModelConfig, state: Mapping[str, Any]) -> QatSpec | None:
    """How a run rounds while it trains; `None` without `do_qat`.

    Args:
        state: of the checkpoint that the run goes on from.

    Raises:
        ConfigError: it does not combine with what else is asked for, or the checkpoint was trained otherwise.
    """
    wanted = arguments.finetune
    if not wanted.do_qat:
        if "qat" in state:
            raise ConfigError(
                "the checkpoint is of quantisation-aware training", "its weights were trained to be rounded",
                "--do_qat goes on with it; `zoo compress qat` writes its integers",
            )  # fmt: skip
        return None

    def refuse(what: str, why: str, todo: str) -> None:
        raise ConfigError(f"do_qat does not combine with {what}", why, todo)

    if arguments.task not in ("pretrain", "sft") or wanted.lora or wanted.prefix_tuning:
        other = "adapters" if wanted.lora or wanted.prefix_tuning else arguments.task
        refuse(other, "it trains the weights that are rounded", "use it in pretrain or sft, without adapters")
    if config.quantization_config is not None:
        refuse("a compressed model", "integers are not trained", "give the model that it was made from")
    if arguments.parallel.engine == "auto" or arguments.parallel.enable_auto_parallel:
        refuse("the semi-automatic engine", "spans are found by the manual one", "leave it out")
    if arguments.parallel.to_static:
        refuse("to_static", "what layers see of their inputs would stay in the graph", "leave it out")
    if arguments.parallel.sharding.startswith("stage3"):
        refuse(
            "sharding stage3", "no process holds a whole weight, whose largest magnitude is its span",
            "take stage2, or tensor parallelism",
        )  # fmt: skip
    return QatSpec(
        wanted.weight_bits, wanted.activation_bits, per_channel=wanted.weight_quantize_type == "channel_wise_abs_max"
    )
