"""What a LoRA run adds to training: the adapters it asks for, where their values come from, and their files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from zoo_core._counting import many
from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.layout import Rule
from zoo_core.peft import LoraSpec, adapter_rows, chosen, spec_from_arguments
from zoo_core.peft.digest import digest
from zoo_core.peft.export import write_peft
from zoo_core.peft.files import AdapterFiles, adapter_folder, adapter_spec
from zoo_core.registry import Found

__all__ = ["describe_lora", "export_adapter", "given_adapter", "lora_of_run"]


def lora_of_run(
    arguments: Arguments, found: Found, config: ModelConfig, weights: Path | None, resume: Path | None
) -> LoraSpec | None:
    """Return the adapters of a run, checked against its model and its checkpoint; `None` without LoRA.

    Args:
        weights: folder of the base model; `None` for a random one.
        resume: the checkpoint to go on from.

    Raises:
        ConfigError: patterns mean no layer, or arguments contradict the checkpoint.
        CheckpointError: the checkpoint or `lora_path` holds no adapters, or those of another model.
    """
    base = str(weights.absolute()) if weights else f"random weights of seed {arguments.training.seed}"
    spec = spec_from_arguments(arguments, base, digest(weights) if weights else base)
    if spec is None:
        return None
    _refuse(arguments)
    table = found.architecture.table(config)
    start = resume or given_adapter(arguments)
    if start is None:
        adapter_rows(table, spec)
        return spec
    if resume is not None:
        _check_resumed(resume, spec)
    with AdapterFiles(adapter_folder(start), table) as files:
        return replace(
            spec, rank=files.spec.rank, alpha=files.spec.alpha, rslora=files.spec.rslora, targets=files.spec.targets,
            modules=files.spec.modules,
        )  # fmt: skip


def describe_lora(table: Mapping[str, Rule], spec: LoraSpec) -> str:
    """How many layers have adapters, and what share of the parameters is trained, in words."""
    rows = adapter_rows(table, spec)
    own = sum(math.prod(rule.shape) for rule in rows.values())
    whole = [rule.weight or rule for rule in table.values() if rule.weight or not rule.buffer]
    base = sum(math.prod(rule.shape) for rule in whole if rule.single == rule.name)
    layers = many(len(rows) // 2, "layer")
    return f"LoRA of rank {spec.rank} on {layers}: {own:,} parameters are trained beside {base:,}"


def given_adapter(arguments: Arguments) -> Path | None:
    """The folder of the adapters that training begins with, if one was named.

    Raises:
        CheckpointError: there are none in it.
    """
    given = arguments.finetune.lora_path
    return adapter_folder(given) if given else None


def _refuse(arguments: Arguments) -> None:
    """Refuse what would change the base model or the numbers in a way that zoo does not have."""
    if arguments.finetune.pissa:
        raise ConfigError(
            "pissa is not supported",
            "it takes the adapter's first value out of the base's weights, which LoRA leaves as they are",
            "leave it out; rslora and lora_plus_scale are there",
        )


def _check_resumed(resume: Path, spec: LoraSpec) -> None:
    """Compare a checkpoint's adapters and base with the run's.

    Raises:
        CheckpointError: it holds no adapters, or its base is another one.
        ConfigError: the adapters are others.
    """
    there = adapter_spec(adapter_folder(resume))
    # adapters that came from another file are named one by one, whatever the arguments say
    if not there.modules and (differ := spec.differences(there)):
        raise ConfigError(
            f"the adapters in {resume} are others", "; ".join(differ), "give the arguments that it was started with"
        )
    if there.base_digest and there.base_digest != spec.base_digest:
        raise CheckpointError(
            f"{resume} was trained on another base model", f"there: {there.base}; here: {spec.base}",
            "give the model that it was started with",
        )  # fmt: skip


def export_adapter(checkpoint: Path, folder: Path, found: Found, config: ModelConfig) -> Path:
    """Write the adapters of a checkpoint as PEFT has them.

    Raises:
        CheckpointError: the checkpoint is damaged, or the disk is full.
    """
    table = found.architecture.table(config)
    with AdapterFiles(checkpoint, table) as files:
        modules = tuple(files.spec.modules) or chosen(table, files.spec.targets)
        return write_peft(folder, table, files.spec, modules, files.read)
