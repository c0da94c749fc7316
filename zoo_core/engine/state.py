"""A model's state in and out of checkpoints: every rank its own slices, whatever layout wrote them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint import LocalTensor, Ranks, Reader, contents, save_checkpoint
from zoo_core.checkpoint.writer import Extras
from zoo_core.engine.build import Source
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.parts import Parts, element_type, read_state, read_weight
from zoo_core.layout import Rule

__all__ = ["from_checkpoint", "load_states", "local_tensors", "save"]


def from_checkpoint(reader: Reader, mesh: Mesh, dtype: str = "float32") -> Source:
    """Values from a checkpoint or a Hugging Face folder: this rank's slices only.

    Args:
        reader: over the folder, with the model's table.
        dtype: element type the parameters are to have.
    """
    degree, rank = mesh.plan.tensor, mesh.place.tensor

    def part(rule: Rule) -> np.ndarray[Any, Any]:
        return read_weight(reader, rule, degree, rank, dtype)

    return part


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1]


def _values(tensor: Any) -> np.ndarray[Any, Any]:
    """A host copy; bfloat16 as its uint16 bits, which is what Paddle's numpy() gives."""
    return np.ascontiguousarray(tensor.detach().numpy())


def local_tensors(engine: Engine, states: bool = True) -> Iterator[LocalTensor]:
    """Yield what this rank holds, one tensor at a time; of equal copies only one rank is told to write."""
    mesh, plan, updater = engine.mesh, engine.mesh.plan, engine.updater
    split: dict[str, Any] = {"degree": plan.tensor, "rank": mesh.place.tensor}
    parts = Parts(plan, mesh.rank, engine.table)
    for turn, (name, held) in enumerate(engine.held.items()):
        flat = updater.flat_range(name) if updater is not None else None
        tensor = held.tensor if updater is None else updater.weight(name)
        writes = parts.writes_weight(held.rule, turn, flat)
        yield LocalTensor(held.rule, _values(tensor), _dtype(tensor), flat=flat, writes=writes, **split)
    if updater is None or not states:
        return
    for state in updater.states():
        rule = engine.held[state.name].rule
        writes = parts.writes_state(rule, state.flat)
        yield LocalTensor(
            rule, _values(state.tensor), _dtype(state.tensor), state.role, flat=state.flat, writes=writes, **split
        )


def save(
    engine: Engine,
    root: Path,
    step: int,
    *,
    state: Mapping[str, Any],
    files: Extras | None = None,
    max_shard_size: int = 5 * 10**9,
    save_total_limit: int | None = None,
    keep: Collection[str] = (),
) -> Path:
    """Write `ROOT/checkpoint-STEP`; every rank calls it.

    Args:
        state: what the training loop needs to resume, as JSON values.
        files: small files that go along: the tokenizer's.

    Returns:
        The folder.

    Raises:
        CheckpointError: on every rank; what was there before is whole.
    """
    mesh, plan, updater = engine.mesh, engine.mesh.plan, engine.updater
    roles: tuple[str, ...] = ()
    powers, scale = None, None
    if updater is not None:
        master = updater.adamw._multi_precision
        roles = ("moment1", "moment2", "master") if master else ("moment1", "moment2")
        powers, scale = updater.powers(), updater.loss_scale.state()
    return save_checkpoint(
        root,
        step,
        local_tensors(engine),
        entries=contents(
            engine.table,
            weight=engine.dtype,
            states=roles,
            trained=engine.is_trained,
            dtypes={name: element_type(rule, engine.dtype) for name, rule in engine.table.items()},
        ),
        table=engine.table,
        config=engine.config,
        state={**state, "beta_powers": powers, "loss_scale": scale},
        layout={
            "data_parallel_degree": plan.data,
            "sharding_parallel_degree": plan.sharding,
            "sharding_stage": plan.sharding_stage,
            "tensor_parallel_degree": plan.tensor,
            "pipeline_parallel_degree": plan.pipeline,
            "virtual_pp_degree": plan.virtual_stages,
            "expert_parallel_degree": plan.expert,
            "sequence_parallel": int(plan.sequence_parallel),
        },
        ranks=Ranks(mesh.rank, plan.world, mesh.exchange),
        files=files,
        max_shard_size=max_shard_size,
        save_total_limit=save_total_limit,
        keep=keep,
    )


def load_states(engine: Engine, reader: Reader) -> None:
    """Fill the optimizer's states from a zoo checkpoint, whatever layout wrote it.

    Raises:
        CheckpointError: a state is missing or has another shape.
    """
    updater, mesh = engine.updater, engine.mesh
    if updater is None:
        return
    updater.make_states()
    for state in updater.states():
        values = read_state(reader, state.name, state.role, mesh.plan.tensor, mesh.place.tensor, state.flat)
        state.tensor.set_value(values.reshape(state.tensor.shape))
    powers = reader.state.get("beta_powers")
    if powers:
        updater.set_powers(*powers)
    if scale := reader.state.get("loss_scale"):
        updater.loss_scale.restore(*scale)
