"""What a run of prefix tuning adds to training: the prefix it asks for, where its values come from, and its files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from zoo_core.arguments import Arguments
from zoo_core.config import ModelConfig
from zoo_core.errors import CheckpointError, ConfigError
from zoo_core.peft import PrefixSpec, prefix_from_arguments, prefix_rows
from zoo_core.peft.digest import digest
from zoo_core.peft.files import AdapterFiles
from zoo_core.peft.prefix_files import PrefixFiles, peft_objection, prefix_folder, prefix_spec, write_peft_prefix
from zoo_core.registry import Found
from zoo_core.train.prepared import Prepared

__all__ = ["describe_prefix", "export_prefix", "given_prefix", "open_trained", "prefix_of_run"]


def prefix_of_run(
    arguments: Arguments, found: Found, config: ModelConfig, weights: Path | None, resume: Path | None
) -> PrefixSpec | None:
    """Return the prefix of a run, checked against its model and its checkpoint; `None` without prefix tuning.

    Args:
        weights: folder of the base model; `None` for a random one.
        resume: the checkpoint to go on from.

    Raises:
        ConfigError: arguments contradict each other or the checkpoint.
        CheckpointError: the checkpoint or `prefix_path` holds no prefix, or that of another model.
    """
    base = str(weights.absolute()) if weights else f"random weights of seed {arguments.training.seed}"
    spec = prefix_from_arguments(arguments, config, base, digest(weights) if weights else base)
    if spec is None:
        return None
    start = resume or given_prefix(arguments)
    if start is None:
        return spec
    there = prefix_spec(prefix_folder(start))
    given = {"num_prefix_tokens", "prefix_projection"} & set(arguments.given)
    if (resume is not None or given) and (differ := spec.differences(there)):
        raise ConfigError(
            f"the prefix in {start} is another", "; ".join(differ), "give the arguments that it was trained with"
        )
    if resume is not None and there.base_digest != spec.base_digest:
        raise CheckpointError(
            f"{resume} was trained on another base model", f"there: {there.base}; here: {spec.base}",
            "give the model that it was started with",
        )  # fmt: skip
    PrefixFiles(prefix_folder(start), found.architecture.pipe_layers(config), config).close()
    return replace(spec, tokens=there.tokens, hidden=there.hidden)


def given_prefix(arguments: Arguments) -> Path | None:
    """The folder of the prefix that training begins with, if one was named.

    Raises:
        CheckpointError: there is none in it.
    """
    given = arguments.finetune.prefix_path
    return prefix_folder(given) if given else None


def describe_prefix(found: Found, config: ModelConfig, spec: PrefixSpec) -> str:
    """How long the prefix is, and what share of the parameters is trained, in words."""
    rows = prefix_rows(found.architecture.pipe_layers(config), config, spec)
    own = sum(math.prod(rule.shape) for rule in rows.values())
    table = found.architecture.table(config)
    base = sum(math.prod(rule.shape) for rule in table.values() if rule.single == rule.name and not rule.buffer)
    how = f", projected from {spec.hidden} features" if spec.hidden else ""
    return f"a prefix of {spec.tokens} virtual tokens{how}: {own:,} parameters are trained beside {base:,}"


def open_trained(prepared: Prepared, found: Found, folder: Path) -> AdapterFiles | PrefixFiles:
    """Open the adapters or the prefix that training begins with.

    Raises:
        CheckpointError: what is in the folder does not fit the model.
    """
    config, architecture = prepared.config, found.architecture
    if prepared.prefix is not None:
        return PrefixFiles(folder, architecture.pipe_layers(config), config)
    return AdapterFiles(folder, architecture.table(config))


def export_prefix(checkpoint: Path, folder: Path, found: Found, config: ModelConfig) -> str:
    """Write the prefix of a checkpoint as PEFT has it, if PEFT can have it; say where it lies.

    Raises:
        CheckpointError: the checkpoint is damaged, or the disk is full.
    """
    if objection := peft_objection(config):
        return f"prefix     {checkpoint}; not for PEFT: {objection}"
    elements = found.architecture.pipe_layers(config)
    with PrefixFiles(checkpoint, elements, config) as files:
        return f"prefix     {write_peft_prefix(folder, files, elements, config)}, as PEFT loads it"
