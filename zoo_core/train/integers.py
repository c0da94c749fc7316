"""Runs over a model whose weights are integers: as its folder has them, or rounded when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from zoo_core.arguments import Arguments
from zoo_core.checkpoint.dtypes import Array
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError
from zoo_core.layout import Rule, split
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import ROWS
from zoo_core.quantized.pack import QuantisedWeight, quantise_rtn
from zoo_core.registry import Found

if TYPE_CHECKING:  # what a run needs from the disk is found without paddle
    from zoo_core.engine.build import Source

__all__ = ["base_of_run", "rounded_when_read", "stored_config"]


def base_of_run(arguments: Arguments, found: Found, config: ModelConfig) -> ModelConfig:
    """Return the configuration with the base model's weights as the run holds them (`weight_quantize_algo`).

    Raises:
        ConfigError: integers would have to be trained, or started at random, or the kind is not there.
    """
    algorithm, there = arguments.model.weight_quantize_algo, config.quantization_config
    wanted = arguments.finetune
    freezes = wanted.lora or wanted.prefix_tuning or arguments.task == "lora"
    if not freezes and (algorithm or there):
        raise ConfigError(
            f"weight_quantize_algo {algorithm} without LoRA"
            if algorithm
            else f"the weights of {found.name} are integers",
            "integers have no gradients: what is trained are adapters beside them, or a prefix",
            "--lora true, or train the weights as they were before they were quantised"
            if there
            else "--lora true, or leave it out",
        )
    if there and arguments.model.scale:
        raise ConfigError(
            f"--scale {arguments.model.scale} of a quantised model",
            "a shrunk model starts at random, and integers are made from weights that were trained",
            "name the model itself",
        )
    if not algorithm:
        return config
    if there:
        raise ConfigError(
            f"weight_quantize_algo {algorithm} of a quantised model",
            f"its weights are {there.describe()}",
            "leave it out",
        )
    if not algorithm.startswith("weight_only_int"):
        raise ConfigError(
            f"weight_quantize_algo {algorithm} is not supported",
            "zoo holds 4 bits as whole numbers with a scale; 4-bit floats (QLoRA, arXiv 2305.14314) need kernels",
            "--weight_quantize_algo weight_only_int4, or weight_only_int8",
        )
    return config.replace(quantization_config=QuantSpec(bits=int(algorithm[-1])))


def stored_config(found: Found, config: ModelConfig) -> ModelConfig:
    """The configuration of what lies on the disk, where the run rounds weights that are numbers there."""
    return config.replace(quantization_config=found.config.quantization_config)


def rounded_when_read(
    source: Source, whole: Source, table: Mapping[str, Rule], spec: QuantSpec, degree: int, rank: int
) -> Source:
    """Values from `source`, and integers made of whole weights as they are read, one weight at a time.

    Args:
        whole: gives weights as on one card, float32.
        table: the rows of the quantised model.
        spec: without what calibration finds.
        degree: of the tensor axis, `rank` the place on it.
    """
    last: tuple[str, Mapping[str, Array]] = ("", {})

    def part(rule: Rule) -> Array:
        nonlocal last
        module, _, own = rule.name.rpartition(".")
        integers = table.get(f"{module}.quant_weight")
        if own not in ROWS or integers is None or integers.weight is None:
            return source(rule)
        if last[0] != module:
            weight_IO = np.asarray(whole(integers.weight), np.float32)
            q_IO, scale_GO, zero_GO = quantise_rtn(weight_IO, spec.bits, spec.group_size, spec.symmetric)
            last = module, QuantisedWeight(q_IO, scale_GO, spec.group_size, zero_GO).stored(spec)
        return split(last[1][own], rule, degree, rank)

    return part
