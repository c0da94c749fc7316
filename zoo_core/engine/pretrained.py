"""`from_pretrained`: a model with its weights, for library users, alone or inside a running fleet job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo_core.checkpoint import Ranks, Reader, find_weights, verify
from zoo_core.checkpoint.names import MANIFEST
from zoo_core.engine import cpu
from zoo_core.engine.build import Stage, build_layer
from zoo_core.errors import PlanError
from zoo_core.layout import objection
from zoo_core.pipeline import PipeLayer
from zoo_core.registry import registry
from zoo_ops import parallel

__all__ = ["from_pretrained"]


def _running_job() -> Any:
    """fleet's hybrid communicate group, if a job was initialised in this process."""
    from paddle.distributed import fleet

    return getattr(fleet.fleet, "_hcg", None)


def from_pretrained(
    path: str | Path,
    tensor_parallel_degree: int | None = None,
    tensor_parallel_rank: int | None = None,
    dtype: str | None = None,
) -> Any:
    """Return the model in `path` with its weights, or this rank's shard of it.

    The model is an `nn.Layer`: `model(Batch(input_ids))` returns `Output(logits)`, with logits [B, S, V] whole on every
    rank. Only this rank's part of the weights is read.

    Args:
        path: a Hugging Face folder, a zoo checkpoint or run folder, or a model's name with its weights in
            `$ZOO_HOME/NAME` or here.
        tensor_parallel_degree: of how many ranks; by default the running fleet job's, or 1.
        tensor_parallel_rank: which of them; by default the running fleet job's, or 0.
        dtype: "float32", "bfloat16" or "float16"; by default as stored.

    Raises:
        CheckpointError: no weights there, or a tensor is missing or has another shape.
        UnknownModelError: no installed plugin loads this folder.
        PlanError: the model does not split over so many ranks.
    """
    folder = find_weights(str(path), str(path) if Path(path).is_dir() else None)
    found = registry().find(str(folder))
    job = _running_job()
    group = None
    if job is not None and tensor_parallel_degree in (None, job.get_model_parallel_world_size()):
        tensor_parallel_degree = job.get_model_parallel_world_size()
        group = job.get_model_parallel_group()
        if tensor_parallel_rank is None:
            tensor_parallel_rank = job.get_model_parallel_rank()
    degree, rank = tensor_parallel_degree or 1, tensor_parallel_rank or 0
    table = found.architecture.table(found.config)
    refused = next((f"{name}: {why}" for name, rule in table.items() if (why := objection(rule, degree))), "")
    if refused or not 0 <= rank < degree:
        raise PlanError(
            f"{path} does not split over {degree} ranks" if refused else f"there is no rank {rank} of {degree}",
            refused,
            "choose a tensor_parallel_degree that divides the heads",
        )
    if degree > 1:
        shared = cpu.reduce_scatter if cpu.is_active() else None
        parallel.configure(parallel.Axis(degree, rank, group), reduce_scatter=shared)
    if (folder / MANIFEST).is_file():
        # each rank a share of the files, and it raises by itself: there may be no job to tell the others through
        verify(folder, Ranks(rank, degree, lambda text: [text]), states=False)
    with Reader(folder, table) as reader:
        reader.check()
        kept = dtype or reader.dtype_of(next(iter(table)))
        stage = Stage(
            table,
            lambda rule: reader.read_local(rule.name, degree, rank, dtype=rule.dtype or kept),
            degree,
            rank,
            kept,
            gather_logits=True,
            integers=found.config.quantization_config,
        )
        model = build_layer(PipeLayer(lambda: found.architecture.build_model(found.config), ""), stage)
    model.eval()
    return model
