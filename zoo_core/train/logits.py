"""Logits of given ids under any plan, written to one file by the ranks that have them.

Shapes: B samples, S tokens of each, V vocabulary.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo_core._atomic import temporary_name
from zoo_core.arguments import Arguments
from zoo_core.checkpoint import Reader
from zoo_core.config import ModelConfig
from zoo_core.engine import state as states
from zoo_core.engine.build import from_both
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import Mesh, make_mesh
from zoo_core.engine.quiet import without_notices
from zoo_core.errors import ZooError
from zoo_core.peft.bases import other_bases
from zoo_core.peft.files import AdapterFiles, adapter_folder
from zoo_core.peft.prefix_files import PrefixFiles, prefix_folder
from zoo_core.plan import Plan
from zoo_core.registry import Found
from zoo_core.train.log import logger, set_up_logging
from zoo_core.train.prepare import other_fusing
from zoo_core.train.settings import chosen_kernels, precision

__all__ = ["write_logits"]


def write_logits(
    arguments: Arguments, plan: Plan, found: Found, config: ModelConfig, ids_BS: npt.NDArray[np.int64], out: Path
) -> None:
    """Compute the logits and write them to `out`, float32 [B, S, V]; every rank calls it.

    Args:
        found: the model, read from a Hugging Face folder or a zoo checkpoint.
        config: of the model, with the changes asked for.
        ids_BS: checked to fit the vocabulary.

    Raises:
        CheckpointError: weights are missing or wrong.
        ZooError: the file cannot be written; nothing is left behind, and a file of that name is as it was.
    """
    set_up_logging(is_first=os.environ.get("PADDLE_TRAINER_ID", "0") == "0")
    with without_notices():
        mesh = make_mesh(plan)
    assert found.path is not None
    chosen = precision(arguments, plan.device)
    adapter = adapter_folder(given) if (given := arguments.finetune.lora_path) else None
    before = prefix_folder(given) if (given := arguments.finetune.prefix_path) else None
    for folder in filter(None, (found.path, adapter, before)):
        states.check_files(folder, mesh, states=False)
    if mesh.rank == 0:
        for note in other_bases(found.path, [adapter] if adapter is not None else [], before):
            logger.warning("%s", note)
    table, lora, prefix = found.architecture.table(config), None, None
    with ExitStack() as opened:
        reader = opened.enter_context(Reader(found.path, table, other_fusing(found, config)))
        source = states.from_checkpoint(reader, mesh, chosen.dtype)
        if adapter is not None:
            files = opened.enter_context(AdapterFiles(adapter, table))
            source = from_both(source, files.source(plan.tensor, mesh.place.tensor, chosen.dtype))
            lora = files.spec
        elif before is not None:
            learned = opened.enter_context(PrefixFiles(before, found.architecture.pipe_layers(config), config))
            source = from_both(source, learned.source(plan.tensor, mesh.place.tensor, chosen.dtype))
            prefix = learned.spec
        engine = Engine(
            mesh, found.architecture, config, source, chosen.dtype, None, chosen_kernels(arguments, plan),
            gather_logits=True, lora=lora, prefix=prefix,
        )  # fmt: skip
    shape = (*ids_BS.shape, config.vocab_size)
    with _shared_file(mesh, out, shape) as (file, start):
        for first in range(mesh.replica * plan.micro_batch, len(ids_BS), plan.replicas * plan.micro_batch):
            rows = ids_BS[first : first + plan.micro_batch]
            found_BSV = engine.logits({"input_ids": rows})
            if found_BSV is not None and mesh.place.tensor == 0:
                values = np.ascontiguousarray(found_BSV.astype("float32").numpy()[..., : shape[-1]])
                _write_all(file, values, start + first * 4 * shape[1] * shape[2])


def _write_all(file: int, values: npt.NDArray[Any], offset: int) -> None:
    content = values.reshape(-1).view(np.uint8).data
    while content:
        done = os.pwrite(file, content, offset)
        content, offset = content[done:], offset + done


def _header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    description: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)
    return stream.getvalue()


@contextmanager
def _shared_file(mesh: Mesh, out: Path, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Give every rank an open file beside `out` and the offset of its data; it becomes `out` when all ranks are done.

    Raises:
        ZooError: on every rank, what went wrong on any; the file beside is gone.
    """
    beside = Path(_agree(mesh, str(temporary_name(out)) if mesh.rank == 0 else "")[0])
    header, failure, file = _header(shape), "", -1
    try:
        try:
            file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o644)
            if mesh.rank == 0:
                _write_all(file, np.frombuffer(header, np.uint8), 0)
            yield file, len(header)
            os.fsync(file)
        except OSError as error:
            failure = f"{error.strerror or error} ({beside.parent})"
        failed = next(filter(None, _agree(mesh, failure)), "")
        if failed:
            raise ZooError(f"cannot write {out}", failed, "free space, or change --out")
        if mesh.rank == 0:
            os.replace(beside, out)
    finally:
        if file >= 0:
            os.close(file)
        if mesh.rank == 0:
            beside.unlink(missing_ok=True)
    mesh.barrier()


def _agree(mesh: Mesh, text: str) -> list[str]:
    return [json.loads(told) for told in mesh.exchange(json.dumps(text))]
