"""A model's state in and out of checkpoints: every rank its own slices, whatever layout wrote them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.checkpoint import LocalTensor, Ranks, Reader, contents, save_checkpoint, verify
from zoo_core.checkpoint.names import ADAPTERS, MANIFEST, PREFIX
from zoo_core.checkpoint.writer import Extras
from zoo_core.engine.build import Source
from zoo_core.engine.channel import Channel
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.parts import Parts, element_type, read_state, read_weight
from zoo_core.errors import CheckpointError
from zoo_core.layout import Rule
from zoo_core.peft import is_adapter

__all__ = ["check_files", "from_checkpoint", "load_states", "local_tensors", "pending_save", "save"]


def from_checkpoint(reader: Reader, mesh: Mesh, dtype: str = "float32", group: str = "") -> Source:
    """Values from a checkpoint or a Hugging Face folder: this rank's slices only.

    Args:
        reader: over the folder, with the model's table.
        dtype: element type the parameters are to have.
        group: the files of a checkpoint that they are in: of adapters, `ADAPTERS`; of a prefix, `PREFIX`.
    """
    degree, rank = mesh.cut

    def part(rule: Rule) -> np.ndarray[Any, Any]:
        return read_weight(reader, rule, degree, rank, dtype, group)

    return part


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rsplit(".", 1)[-1]


def _values(tensor: Any) -> np.ndarray[Any, Any]:
    """A host copy; bfloat16 as its uint16 bits, which is what Paddle's numpy() gives."""
    return np.ascontiguousarray(tensor.detach().numpy())


def saved_group(engine: Engine) -> str:
    """The files of a checkpoint that hold what is trained: those of adapters or of a prefix; empty for a model's."""
    if engine.prefix is not None:
        return PREFIX
    return ADAPTERS if engine.lora is not None else ""


def saved_role(engine: Engine, role: str) -> str:
    """The role under which a checkpoint keeps something: adapters and prefixes have files of their own."""
    group = saved_group(engine)
    return f"{group}:{role}" if group else role


def local_tensors(engine: Engine, states: bool = True) -> Iterator[LocalTensor]:
    """Yield what this rank holds and a checkpoint keeps, one tensor at a time; of equal copies one rank writes.

    Of a model with adapters, or with a prefix, that is these: the model stays what it was.
    """
    mesh, plan, updater = engine.mesh, engine.mesh.plan, engine.updater
    split: dict[str, Any] = {"degree": plan.tensor, "rank": mesh.place.tensor}
    parts = Parts(plan, mesh.rank, engine.table)
    whole = not saved_group(engine)
    kept = {name: held for name, held in engine.held.items() if whole or is_adapter(name)}
    for turn, (name, held) in enumerate(kept.items()):
        flat = updater.flat_range(name) if updater is not None else None
        tensor = held.tensor if updater is None else updater.weight(name)
        writes = parts.writes_weight(held.rule, turn, flat)
        role = saved_role(engine, "weight")
        yield LocalTensor(held.rule, _values(tensor), _dtype(tensor), role, flat=flat, writes=writes, **split)
    if updater is None or not states:
        return
    for state in updater.states():
        rule = engine.held[state.name].rule
        writes = parts.writes_state(rule, state.flat)
        role = saved_role(engine, state.role)
        yield LocalTensor(
            rule, _values(state.tensor), _dtype(state.tensor), role, flat=state.flat, writes=writes, **split
        )


def save(engine: Engine, root: Path, step: int, **more: Any) -> Path:
    """Write `ROOT/checkpoint-STEP` and return the folder; every rank calls it. See `pending_save`."""
    return pending_save(engine, root, step, **more)()


def pending_save(
    engine: Engine,
    root: Path,
    step: int,
    *,
    state: Mapping[str, Any],
    files: Extras | None = None,
    max_shard_size: int = 5 * 10**9,
    save_total_limit: int | None = None,
    keep: Collection[str] = (),
    best: str | None = None,
    states: bool = True,
    copied: bool = False,
) -> Callable[[], Path]:
    """Return what writes `ROOT/checkpoint-STEP` when it is called; every rank calls both, one save at a time.

    Args:
        state: what the training loop needs to resume, as JSON values.
        files: small files that go along: the tokenizer's.
        best: name of the best checkpoint so far.
        states: whether the optimizer's states are saved too.
        copied: copy now what this rank writes, so that the rest may be done in a thread while training goes on. The
            copy goes away tensor by tensor as it is written. Otherwise memory is that of one tensor.

    Returns:
        A call that gives the folder and raises `CheckpointError` on every rank; what was there before is whole then.
    """
    mesh, plan, updater = engine.mesh, engine.mesh.plan, engine.updater
    roles: tuple[str, ...] = ()
    powers, scale = None, None
    if updater is not None and states:
        master = updater.adamw._multi_precision
        roles = ("moment1", "moment2", "master") if master else ("moment1", "moment2")
        powers, scale = updater.powers(), updater.loss_scale.state()
    tensors = local_tensors(engine, states)
    if copied:
        tensors = _drained(deque(tensor for tensor in tensors if tensor.writes))
    channel, group, spec = _channel(mesh), saved_group(engine), engine.prefix or engine.lora
    table = {name: rule for name, rule in engine.table.items() if not group or is_adapter(name)}
    return partial(
        save_checkpoint,
        root,
        step,
        tensors,
        entries=contents(
            table,
            weight=engine.dtype,
            states=roles,
            trained=engine.is_trained,
            dtypes={name: element_type(rule, engine.dtype) for name, rule in table.items()},
            group=group,
        ),
        table=table,
        config=engine.config,
        state={
            **state,
            "beta_powers": powers,
            "loss_scale": scale,
            **({group: spec.to_dict()} if spec else {}),
            **_rounding(engine),
        },
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
        ranks=channel,
        files=files,
        max_shard_size=max_shard_size,
        save_total_limit=save_total_limit,
        keep=keep,
        best=best,
    )


def _rounding(engine: Engine) -> dict[str, Any]:
    """What quantisation-aware training keeps."""
    return {"qat": engine.rounding.state()} if engine.rounding is not None else {}


def _drained(held: deque[LocalTensor]) -> Iterator[LocalTensor]:
    while held:
        yield held.popleft()


def check_files(folder: Path, mesh: Mesh, states: bool = True) -> None:
    """Compare every file of a zoo checkpoint with its checksum, each rank a share of them; every rank calls it.

    A Hugging Face folder, which has no checksums, passes.

    Args:
        states: also the files of the optimizer.

    Raises:
        CheckpointError: on every rank; names the damaged files and another checkpoint.
    """
    if (folder / MANIFEST).is_file():
        verify(folder, _channel(mesh), states)


_opened: list[Channel] = []


def _channel(mesh: Mesh) -> Ranks:
    """The processes of this run, which open their sockets at the first call, on all ranks."""
    world = mesh.plan.world
    if world == 1:
        return Ranks()
    if not _opened:
        _opened.append(Channel(mesh.rank, world, mesh.exchange))
    return Ranks(mesh.rank, world, _opened[0].exchange)


def load_states(engine: Engine, reader: Reader) -> None:
    """Fill the optimizer's states from a zoo checkpoint, whatever layout wrote it.

    Raises:
        CheckpointError: a state is missing or has another shape; or the checkpoint was saved without states.
    """
    updater, mesh = engine.updater, engine.mesh
    if updater is None:
        return
    if engine.rounding is not None and "qat" in reader.state:
        engine.rounding.restore(reader.state["qat"])
    updater.make_states()
    first = next(iter(updater.states()), None)
    if first is not None and not reader.has(first.name, saved_role(engine, first.role)):
        raise CheckpointError(
            f"{reader.folder} has no optimizer states",
            f"{first.role} of {first.name} is not in it; --ignore_save_lr_and_optim saves weights alone",
            "--ignore_load_lr_and_optim goes on from its weights alone",
        )
    for state in updater.states():
        role = saved_role(engine, state.role)
        values = engine.part(state.name, read_state(reader, state.name, role, *mesh.cut, state.flat))
        state.tensor.set_value(values.reshape(state.tensor.shape))
    powers = reader.state.get("beta_powers")
    if powers:
        updater.set_powers(*powers)
    if scale := reader.state.get("loss_scale"):
        updater.loss_scale.restore(*scale)
