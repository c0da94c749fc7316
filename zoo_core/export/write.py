"""`zoo export`: a model's programs, traced, compared with the model, and only then given their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import paddle

from zoo_core._atomic import replaced_folder
from zoo_core.checkpoint.conversion import check_free
from zoo_core.checkpoint.disk import as_json
from zoo_core.engine.engine import Engine
from zoo_core.errors import CheckpointError, ConfigError, PlanError
from zoo_core.export.equal import Wanted, compare, prompts_for, tolerance_of, wanted_of
from zoo_core.export.onnx_files import OnnxPrograms, check_onnx, write_onnx
from zoo_core.export.passes import StaticPasses
from zoo_core.export.programs import JitPrograms, PredictorPrograms, ReplayPrograms
from zoo_core.export.spec import EXPORT_FILE, Exported
from zoo_core.export.trace import save_programs
from zoo_core.generate.model import TextModel
from zoo_core.generate.passes import EnginePasses
from zoo_core.peft.digest import digest
from zoo_core.replay.cached import sizes_up_to
from zoo_core.replay.tracing import cached_of

__all__ = ["LEAST_PROMPT", "LEAST_WINDOW", "USUAL_LENGTH", "export_model", "export_programs"]

LEAST_PROMPT, LEAST_WINDOW, USUAL_LENGTH = 32, 64, 2048
"""The shortest prompt and the narrowest window there are programs for, and the most tokens of a row by default."""

_TEXTS = ("In the beginning God created the heaven and the earth.", "床前明月光,疑是地上霜。")


def export_model(
    model: TextModel,
    folder: Path,
    batch_size: int = 1,
    max_length: int | None = None,
    say: Callable[[str], None] | None = None,
    onnx: bool = False,
) -> Exported:
    """Write a model as prefill and decode programs, once they are found to be the model.

    Adapters in use, and a prefix, are part of the programs.

    Args:
        folder: must not exist, or be empty.
        batch_size: rows of a decode program.
        max_length: most tokens of a row, prompt and answer; by default the model's context, and at most 2048.
        say: told what is being done.
        onnx: write each program as ONNX, too.

    Returns:
        What was written, with the differences from the model.

    Raises:
        CheckpointError: the folder is in use, or could not be written.
        ConfigError: the model cannot be traced, rows would be longer than its context, or the programs differ from
            it; nothing is left behind.
        PlanError: the model is split over processes.
    """
    room = min(model.context, USUAL_LENGTH) if max_length is None else max_length
    _check(model, batch_size, room)
    check_free(folder.expanduser().absolute())
    if onnx:
        check_onnx(model.engine.dtype)
    texts = [model.tokenizer.encode(text, add_special_tokens=True) for text in _TEXTS]
    try:
        with replaced_folder(folder.expanduser().absolute()) as beside:
            spec = export_programs(model.engine, beside, batch_size, room, model.context, texts, say or _silent, onnx)
            spec = replace(spec, source=digest(model.folder))
            (beside / EXPORT_FILE).write_bytes(spec.to_json())
            (beside / "config.json").write_bytes(as_json(model.config.to_hf()))
            model.tokenizer.save(beside)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}", str(error), "choose another folder, or free space") from error
    return spec


def _silent(_: str) -> None:
    """Say nothing."""


def export_programs(
    engine: Engine,
    folder: Path,
    batch_size: int,
    max_length: int,
    context: int,
    texts: Sequence[Sequence[int]] = (),
    say: Callable[[str], None] = _silent,
    onnx: bool = False,
) -> Exported:
    """Write the programs and the weights, and compare them with the model; see `export_model`.

    Args:
        folder: exists.
        context: tokens of the model's longest text.
        texts: ids of prompts to compare with, beside random ones.
    """
    cached = cached_of(engine)
    spec = Exported(
        cached.dtype, cached.entries, cached.notes, version("zoo-core"), str(paddle.__version__), batch_size,
        max_length, sizes_up_to(max_length - 1, LEAST_PROMPT), sizes_up_to(max_length - 1, LEAST_WINDOW), context,
    )  # fmt: skip
    save_programs(engine, spec, folder, say)
    device = paddle.get_device().partition(":")[0]
    loaded = JitPrograms(folder)
    ways: dict[str, JitPrograms | ReplayPrograms | PredictorPrograms | OnnxPrograms] = {
        "paddle.jit.load": loaded,
        "paddle.inference": PredictorPrograms(folder, device),
    }
    replays = ReplayPrograms(loaded, device)
    if replays.replayed(f"decode_{spec.decode[0]}") is not None:
        ways["replay"] = replays
    if onnx:
        write_onnx(folder, spec, say)
        ways["onnxruntime"] = OnnxPrograms(folder)
    say("comparing them with the model")
    return replace(spec, equality=_compared(engine, spec, ways, texts))


def _check(model: TextModel, batch_size: int, room: int) -> None:
    plan = model.engine.mesh.plan
    if plan.tensor > 1 or plan.pipeline > 1 or plan.expert > 1:
        raise PlanError(
            "a model that is split over processes is not exported",
            "its programs would hold collectives, and each process's another part of the weights",
            "export in one process",
        )
    if batch_size < 1 or room < 2:
        raise ConfigError(
            f"an export of {batch_size} rows of {room} tokens",
            "a row has a prompt and an answer",
            "give at least 1 and 2",
        )
    if room > model.context:
        raise ConfigError(
            f"max_length {room}", f"the model's context is {model.context}", f"--max_length {model.context}, or less"
        )


def _compared(
    engine: Engine,
    spec: Exported,
    ways: dict[str, JitPrograms | ReplayPrograms | PredictorPrograms | OnnxPrograms],
    texts: Sequence[Sequence[int]],
) -> dict[str, dict[str, float]]:
    """The differences from the model, by way of running."""
    vocab_size = engine.config.vocab_size
    texts = [[token for token in ids if token < vocab_size] for ids in texts]
    passes = EnginePasses(engine)
    wanted: list[Wanted] = [wanted_of(passes, prompts, spec) for prompts in prompts_for(spec, vocab_size, texts)]
    tolerance = tolerance_of(spec.dtype, engine.config.quantization_config)
    found: dict[str, dict[str, float]] = {}
    for way, programs in ways.items():
        largest: dict[str, float] = {}
        for one in wanted:
            own = compare(way, StaticPasses(programs, spec), [one], spec, tolerance)
            largest = {
                name: value + largest.get(name, 0) if name == "tokens" else max(value, largest.get(name, 0.0))
                for name, value in own.items()
            }
            programs.forget()  # some have a copy of the weights for each program
        found[way] = largest
    return found
