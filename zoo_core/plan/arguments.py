"""From the loaded arguments of a run to a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from zoo_core.arguments import Arguments, accumulation_steps, sample_tokens
from zoo_core.plan.request import Recompute, Request

__all__ = ["from_arguments", "world_size"]

_RECOMPUTE: dict[str, Recompute] = {"full": "full", "full_attn": "full_attn", "core_attn": "core_attn"}


def world_size(arguments: Arguments, environ: Mapping[str, str], devices: int = 1) -> int:
    """Return the number of processes of the run.

    Args:
        environ: a worker that the launcher started finds the number in `PADDLE_TRAINERS_NUM`.
        devices: accelerators of this machine, used when neither `--nproc` nor `--devices` is given; 1 on CPU.
    """
    started = environ.get("PADDLE_TRAINERS_NUM", "")
    if started.isdigit() and "PADDLE_TRAINER_ID" in environ:
        return int(started)
    launch = arguments.launch
    return (launch.nproc or len(launch.devices) or max(devices, 1)) * launch.nnodes


def _task(arguments: Arguments) -> str:
    """The task; `lora` or `prefix_tuning` in a file of sft means theirs."""
    if arguments.task == "sft" and arguments.finetune.lora:
        return "lora"
    return "prefix" if arguments.task == "sft" and arguments.finetune.prefix_tuning else arguments.task


def _virtual_tokens(arguments: Arguments) -> int:
    wanted = arguments.finetune
    return wanted.num_prefix_tokens if wanted.prefix_tuning or arguments.task == "prefix" else 0


def from_arguments(arguments: Arguments, world: int, device: str = "") -> Request:
    """Return what the arguments ask of a mesh of `world` processes.

    Args:
        device: what `--device auto` turned out to be; empty takes the argument as it is.

    Raises:
        ConfigError: `global_batch_size` does not fit the replicas.
    """
    parallel, training = arguments.parallel, arguments.training
    request = Request(
        world=world,
        tensor=parallel.tp,
        pipeline=parallel.pp,
        sharding=parallel.sharding_parallel_degree if parallel.sharding_parallel_degree > 0 else None,
        sharding_stage=parallel.sharding_stage,
        data=parallel.data_parallel_degree if parallel.data_parallel_degree > 0 else None,
        expert=parallel.ep,
        virtual_stages=parallel.virtual_pp_degree,
        sequence_parallel=parallel.sequence_parallel,
        micro_batch=training.per_device_train_batch_size,
        accumulate=training.gradient_accumulation_steps,
        sequence=sample_tokens(arguments),
        recompute=_RECOMPUTE[parallel.recompute_granularity] if parallel.recompute else "none",
        recompute_interval=parallel.pp_recompute_interval,
        offload=parallel.offload,
        pipeline_cuts=parallel.pipeline_cuts,
        task=_task(arguments),
        lora=arguments.finetune.lora or arguments.task == "lora",
        virtual_tokens=_virtual_tokens(arguments),
        projects_prefix=_virtual_tokens(arguments) > 0 and arguments.finetune.prefix_projection,
        generation_evaluation=arguments.data.eval_with_do_generation,
        flash_attention=arguments.model.use_flash_attention,
        semi_auto=parallel.engine == "auto" or parallel.enable_auto_parallel,
        to_static=parallel.to_static,
        nodes=arguments.launch.nnodes,
        device=device or training.device,
    )
    degrees = request.resolved()
    if world % (request.tensor * request.pipeline * degrees.sharding):
        return request  # the planner refuses it; there is no number of replicas to divide a batch by
    return replace(request, accumulate=accumulation_steps(arguments, degrees.data * degrees.sharding))
