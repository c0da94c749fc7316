"""`zoo logits`: the logits of given ids under any plan, so that anyone can compare zoo with something else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo_core.arguments import load_arguments
from zoo_core.checkpoint import Reader, latest_checkpoint
from zoo_core.cli._failures import UsageFailure
from zoo_core.cli._names import argument_flags
from zoo_core.cli._words import split_model, take_option, take_switch
from zoo_core.engine.launch import in_worker, is_spawned, report_failure, spawn
from zoo_core.engine.quiet import import_paddle, quiet_environment
from zoo_core.environment import apply_cpu_environment, device_count, device_of, require_paddle
from zoo_core.errors import CheckpointError, ConfigError, DataError, ZooError
from zoo_core.peft.files import base_and_adapter, open_adapter
from zoo_core.peft.prefix_files import PrefixFiles, base_and_prefix
from zoo_core.plan import chosen_model, compose, from_arguments, world_size
from zoo_core.train.prepare import other_fusing

__all__ = ["complete", "main"]

_OWN = {"--ids": ".npy, int64 [batch, sequence]", "--out": ".npy to write, float32 [batch, sequence, vocabulary]"}

_HELP = """Usage: zoo logits PATH --ids FILE --out FILE [--nproc N] [--tp N] ...

Compute the logits of the ids in a file, with the weights in PATH, under any plan.
PATH is a Hugging Face folder or a zoo checkpoint, or the output folder of a run (its latest checkpoint).

  zoo logits ./qwen-7b --ids ids.npy --out logits.npy
  zoo logits ./checkpoint-100 --ids ids.npy --out logits.npy --nproc 4 --tp 2 --pp 2
  zoo logits ./qwen-7b --lora_path ./adapter --ids ids.npy --out logits.npy
  zoo logits ./qwen-7b --prefix_path ./prefix --ids ids.npy --out logits.npy

Options:
"""


def complete(words: Sequence[str], incomplete: str) -> dict[str, str]:
    """Return the flags; every other word is a file."""
    return {**_OWN, **argument_flags()} if incomplete.startswith("-") else {}


def main(words: Sequence[str], with_traceback: bool) -> int:
    """Parse, compose, compute; return the exit status.

    Raises:
        UsageFailure: something needed is missing.
        DataError: the file of ids is missing, no such array, or has ids beyond the vocabulary.
    """
    wants_help, rest = take_switch(words, "--help", "-h")
    if wants_help or not words:
        print(_HELP + "\n".join(f"  {name:<8}{text}" for name, text in _OWN.items()))
        print("  --nproc, --tp, --pp, --sharding, --device, ... as in zoo run")
        return 0 if wants_help else 2
    ids, rest = take_option(rest, "--ids")
    out, rest = take_option(rest, "--out")
    path, rest = split_model(rest)
    if not (path and ids and out):
        missing = [name for name, value in (("PATH", path), ("--ids", ids), ("--out", out)) if not value]
        raise UsageFailure(f"{' and '.join(missing)} missing", "", "zoo logits PATH --ids ids.npy --out logits.npy")
    if not Path(ids).is_file():
        raise DataError(f"there is no file {ids}", "--ids needs an .npy of int64 [batch, sequence]")
    if Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
        why = "it is a folder" if Path(out).is_dir() else f"there is no folder {Path(out).parent}"
        raise ConfigError(f"cannot write {out}", why, "change --out")
    try:
        given, rest = take_option(rest, "--lora_path")
        before, rest = take_option(rest, "--prefix_path")
        if given and before:
            raise ConfigError(
                "--lora_path and --prefix_path are given", "a model runs with one of them", "leave one out"
            )
        base, prefix = base_and_prefix(path, before) if not given else (Path(path), None)
        base, adapter = base_and_adapter(path, given) if prefix is None else (base, None)
        return _run(_folder(str(base)), adapter, prefix, Path(ids), Path(out), rest, ["logits", *words])
    except ZooError as error:
        if is_spawned() and report_failure(error):
            return 2
        raise


def _folder(path: str) -> Path:
    """The folder with weights that PATH means.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return folder
    latest = latest_checkpoint(folder) if folder.is_dir() else None
    if latest is None:
        why = "it has neither config.json nor checkpoints" if folder.is_dir() else "no such folder"
        raise CheckpointError(f"no weights at {path}", why, "give a Hugging Face folder or a zoo checkpoint-N folder")
    return latest


def _read_ids(path: Path) -> Any:
    """Return the ids, int64 [B, S].

    Raises:
        DataError: the file holds something else.
    """
    import numpy as np

    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is not an .npy file", str(error), "write it with numpy.save") from error
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim != 2 or ids.size == 0:
        found = f"{list(ids.shape)} of {ids.dtype}" if isinstance(ids, np.ndarray) else "an archive"
        raise DataError(f"{path} holds {found}", "ids are int64 [batch, sequence], not empty", "write such an array")
    return ids.astype(np.int64)


def _run(
    folder: Path,
    adapter: Path | None,
    prefix: Path | None,
    ids_path: Path,
    out: Path,
    rest: Sequence[str],
    words: Sequence[str],
) -> int:
    given = ["--lora_path", str(adapter)] if adapter is not None else []
    given += ["--prefix_path", str(prefix), "--prefix_tuning", "true"] if prefix is not None else []
    arguments = load_arguments("predict", (), ["--model", str(folder), *given, *rest])
    device = device_of(arguments.training.device)
    found, config = chosen_model(arguments)
    if adapter is not None:
        files, config = open_adapter(found.architecture, config, adapter)
        files.reader.close()
    if prefix is not None:
        with PrefixFiles(prefix, found.architecture.pipe_layers(config), config) as own:
            arguments = arguments.replace(num_prefix_tokens=own.spec.tokens)
    ids = _read_ids(ids_path)
    wrong = int(ids.max()) if ids.max() >= config.vocab_size else int(ids.min())
    if not 0 <= wrong < config.vocab_size:
        raise DataError(
            f"{ids_path} has the id {wrong}", f"the vocabulary has {config.vocab_size}", "use this model's tokenizer"
        )
    arguments = arguments.replace(device=device, max_seq_length=int(ids.shape[1]))
    world = world_size(arguments, os.environ, device_count(device, os.environ))
    plan = compose(from_arguments(arguments, world, device), found.architecture, config, found.name)
    if plan.sequence_parallel and ids.shape[1] % plan.tensor:
        raise ConfigError(
            f"{ids.shape[1]} tokens do not split over {plan.tensor} ranks",
            "sequence_parallel gives each rank an equal part of the sequence",
            "leave --sequence_parallel out",
        )
    with Reader(folder, found.architecture.table(config), other_fusing(found, config)) as reader:
        reader.check()
    require_paddle(device)
    quiet_environment(os.environ)
    if plan.world > 1 and not in_worker():
        return spawn(arguments.launch, plan, words)
    if device == "cpu":
        apply_cpu_environment(plan.local_world, os.environ)
    import_paddle(device)
    from zoo_core.train.logits import write_logits

    write_logits(arguments, plan, found, config, ids, out)
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        print(f"wrote {out}: float32 {[*ids.shape, config.vocab_size]}")
    return 0
