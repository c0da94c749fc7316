"""T2: short runs of `zoo run pretrain` under several layouts, held against the one in a single process.

No paddle in this process: every run is the command that a user types.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo_core.checkpoint import Reader
from zoo_core.checkpoint.dtypes import Array
from zoo_core.data.indexed import bin_path, idx_path, index_bytes
from zoo_core.layout import Replicate, Rule
from zoo_core.peft.files import AdapterFiles

__all__ = ["LAYOUTS", "LORA", "SINGLE", "Layout", "Run", "Runs", "check_losses", "check_weights"]

STEPS, HALFWAY = 4, 2
LIMIT = 300
"""Seconds after which a run counts as stuck; generous, for a loaded machine."""


@dataclass(frozen=True)
class Layout:
    """How a run is spread.

    Args:
        name: for people.
        cells: the cells of the capability matrix that it needs.
        degrees: the words that ask for it.
        processes: how many there are.
        replicas: how many of them read different samples.
        adapters: low-rank adapters are trained, and the weights below them stay as they are.
    """

    name: str
    cells: tuple[str, ...]
    degrees: tuple[str, ...] = ()
    processes: int = 1
    replicas: int = 1
    adapters: bool = False

    @property
    def alone(self) -> Layout:
        """The single process that it must equal."""
        return LORA if self.adapters else SINGLE


SINGLE = Layout("single", ("pretrain",))
_TENSOR, _PIPELINE, _LORA = ("--tp", "2"), ("--pp", "2"), ("--lora", "true", "--lora_rank", "4")
LORA = Layout("lora", ("lora",), _LORA, adapters=True)
LAYOUTS = {
    layout.name: layout
    for layout in (
        SINGLE,
        Layout("tp2", ("pretrain", "tensor_parallel"), _TENSOR, 2),
        Layout("tp2+sp", ("pretrain", "tensor_parallel", "sequence_parallel"),
               (*_TENSOR, "--sequence_parallel", "true"), 2),
        Layout("pp2", ("pretrain", "pipeline_parallel"), _PIPELINE, 2),
        Layout("tp2xpp2", ("pretrain", "tensor_parallel", "pipeline_parallel"), (*_TENSOR, *_PIPELINE), 4),
        Layout("sharding2", ("pretrain",), ("--sharding", "stage1"), 2, 2),
        LORA,
        Layout("lora+tp2", ("lora", "tensor_parallel"), (*_TENSOR, *_LORA), 2, adapters=True),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a run left.

    Args:
        folder: its output.
        losses: one a step.
    """

    folder: Path
    losses: tuple[float, ...]

    def checkpoint(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"checkpoint-{step}"


class Runs:
    """Trains one model under the layouts that are asked for, each once.

    Args:
        model: what stands after `--model`; it is trained at scale tiny.
        vocab_size: of the model at that scale, for the tokens of the corpus.
        folder: where corpus and output go.
    """

    def __init__(self, model: str, vocab_size: int, folder: Path) -> None:
        self._model, self._folder = model, folder
        self._found: dict[str, Run] = {}
        folder.mkdir(parents=True, exist_ok=True)
        lengths, random = np.full(100, 50), np.random.default_rng(0)
        tokens = random.integers(0, vocab_size, lengths.sum()).astype("<u2" if vocab_size <= 1 << 16 else "<u4")
        (folder / "corpus").mkdir(exist_ok=True)
        bin_path(folder / "corpus" / "random").write_bytes(tokens.tobytes())
        idx_path(folder / "corpus" / "random").write_bytes(index_bytes(lengths, np.arange(101), tokens.dtype.str))

    def of(self, layout: Layout) -> Run:
        """Return the run of a layout, which takes place on the first call.

        Raises:
            AssertionError: it failed or did not end; with what it printed.
        """
        return self._run(layout.name, layout)

    def resumed(self, source: Layout) -> Run:
        """Return the run that goes on in a single process from the checkpoint that `source` left halfway."""
        saved = self.of(source).checkpoint(HALFWAY)
        return self._run(f"{source.name}-to-single", SINGLE, "--resume", str(saved))

    def refused(self, layout: Layout) -> str:
        """Return what zoo says to a layout that it refuses.

        Raises:
            AssertionError: it does not.
        """
        status, said = self._zoo(self._words(layout, "refused", "--dry_run", "true"))
        assert status == 2, f"the family refuses {layout.name}, and zoo would run it (status {status})\n{said}"
        return said

    def _words(self, layout: Layout, name: str, *more: str) -> list[str]:
        nproc = ("--nproc", str(layout.processes)) if layout.processes > 1 else ()
        return [
            *("run", "pretrain", "--model", self._model, "--scale", "tiny", "--device", "cpu"),
            *("--input_dir", str(self._folder / "corpus"), "--output_dir", str(self._folder / name)),
            *("--log_dir", str(self._folder / name / "log"), "--disable_tqdm", "true", "--split", "100,0,0"),
            *("--max_seq_length", "32", "--per_device_train_batch_size", "1"),
            *("--gradient_accumulation_steps", str(4 // layout.replicas), "--learning_rate", "1e-3"),
            # AdamW's own epsilon lets the rounding noise of gradients that are zero in exact arithmetic move weights.
            *("--adam_epsilon", "1e-3", "--max_steps", str(STEPS), "--save_steps", str(HALFWAY)),
            *("--logging_steps", "1"),
            *nproc, *layout.degrees, *more,
        ]  # fmt: skip

    def _run(self, name: str, layout: Layout, *more: str) -> Run:
        if name not in self._found:
            words = self._words(layout, name, *more)
            status, said = self._zoo(words)
            assert status == 0, f"zoo {' '.join(words)}\nended with status {status}\n{_end_of(said)}"
            with open(self._folder / name / "loss.csv", newline="", encoding="utf-8") as file:
                losses = tuple(float(row["loss"]) for row in csv.DictReader(file) if row["loss"])
            self._found[name] = Run(self._folder / name, losses)
        return self._found[name]

    def _zoo(self, words: Sequence[str]) -> tuple[int, str]:
        """Run a command of zoo; return its status and what it printed."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE_", "ZOO_LAUNCH"))}
        command = [sys.executable, "-m", "zoo_core", *words]
        with open(self._folder / "said", "w+b") as said:
            process = subprocess.Popen(
                command, env={**kept, "OMP_NUM_THREADS": "1"}, stdout=said, stderr=said, cwd=self._folder,
                start_new_session=True,
            )  # fmt: skip
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"zoo {' '.join(words)}\ndid not end within {LIMIT} s") from None
            finally:
                _end(process)
            said.seek(0)
            return process.returncode, said.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs; it ends its workers itself."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_of(said: str, lines: int = 30) -> str:
    return "\n".join([line for line in said.splitlines() if line.strip()][-lines:])


def check_losses(found: Sequence[float], wanted: Sequence[float], what: str) -> None:
    """Losses must be equal to 1e-5."""
    assert len(found) == len(wanted), f"{what} has {len(found)} steps, and the single process {len(wanted)}"
    apart = np.abs(np.subtract(found, wanted))
    assert (apart <= 1e-5 + 1e-5 * np.abs(wanted)).all(), (
        f"losses of {what} differ from the single process by {apart.max():.1e}, first at step "
        f"{1 + int((apart > 1e-5).argmax())}: {found} and {wanted}"
    )


@contextmanager
def _weights(
    folder: Path, table: dict[str, Rule], adapters: bool
) -> Iterator[tuple[dict[str, Rule], Callable[[str], Array]]]:
    """The rows of what a checkpoint holds, and how each is read."""
    if adapters:
        with AdapterFiles(folder, table) as files:
            yield files.rows, files.read
    else:
        with Reader(folder, table) as reader:
            yield table, lambda name: np.asarray(reader.read_local(name))


def check_weights(found: Path, wanted: Path, table: dict[str, Rule], what: str, adapters: bool = False) -> None:
    """The weights of two checkpoints must be equal: 1e-6 + 1e-5 |wanted|; names the parameter that is furthest off.

    Args:
        adapters: compare the adapters over the model of the table instead.
    """
    worst: tuple[float, str] = (0.0, "")
    with _weights(found, table, adapters) as (rows, first), _weights(wanted, table, adapters) as (_, second):
        for name, rule in rows.items():
            if rule.single == name:
                ours, theirs = first(name), second(name)
                worst = max(worst, (float((np.abs(ours - theirs) - 1e-5 * np.abs(theirs)).max()), name))
    excess, name = worst
    if excess > 1e-6:
        rule = rows[name]
        plain = isinstance(rule, Replicate) and not (rule.sequence_parallel_grad or rule.partial_grad)
        fix = (
            "its row is Replicate: a norm or a Row layer's bias needs sequence_parallel_grad=True, and what each rank "
            "reads for its own heads partial_grad=True"
            if plain
            else f"its row is {type(rule).__name__}: look at what it is read by, and at its units"
        )
        raise AssertionError(f"weights of {what} differ from the single process, most in {name} by {excess:.1e}; {fix}")
