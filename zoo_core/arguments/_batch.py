"""Batch arithmetic between the arguments and the number of replicas that the plan found."""

from __future__ import annotations

import math

from zoo_core.arguments._container import Arguments
from zoo_core.arguments._spec import TUNING
from zoo_core.errors import ConfigError

__all__ = ["accumulation_steps", "row_multiple", "sample_tokens"]


def accumulation_steps(arguments: Arguments, replicas: int) -> int:
    """Return the micro batches for each optimizer step.

    Args:
        arguments: the arguments of the run.
        replicas: data-parallel times sharding degree.

    Raises:
        ConfigError: `global_batch_size` is given and is not micro batch x accumulation x replicas.
    """
    training = arguments.training
    micro, steps, total = (
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
        training.global_batch_size,
    )
    if total is None:
        return steps
    fixed = "gradient_accumulation_steps" in arguments.given or training.local_batch_size is not None
    if not fixed and total % (micro * replicas) == 0:
        return total // (micro * replicas)
    if micro * steps * replicas == total:
        return steps
    raise ConfigError(
        f"global_batch_size = {total} does not fit",
        f"micro batch {micro} x accumulation {steps if fixed else 'any'} x {replicas} replicas"
        + (f" is {micro * steps * replicas}" if fixed else " has no whole accumulation"),
        "change global_batch_size, per_device_train_batch_size or gradient_accumulation_steps",
    )


def row_multiple(arguments: Arguments) -> int:
    """Return what the length of a fine-tuning row is a multiple of: the ranks that share one, too."""
    parallel = arguments.parallel
    shared = parallel.tp if parallel.sequence_parallel else 1
    return math.lcm(arguments.data.pad_to_multiple_of or 1, max(shared, 1))


def sample_tokens(arguments: Arguments) -> int:
    """Return the tokens of the longest sample that the task may meet, as the model gets it."""
    data = arguments.data
    if arguments.task not in TUNING:
        return data.max_seq_length
    if arguments.task == "dpo":
        longest = data.max_seq_len
    else:
        packed = data.zero_padding and "intokens_max_length" in arguments.given
        longest = data.intokens_max_length if packed else data.max_length
    multiple = row_multiple(arguments)
    return -(-longest // multiple) * multiple
