"""What stays of a run besides its checkpoints: a table of losses, event files, a plot."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from zoo_core._atomic import written_beside
from zoo_core.arguments import Arguments
from zoo_core.errors import ConfigError, ZooError

__all__ = [
    "COLUMNS",
    "TUNED",
    "EventWriters",
    "LossTable",
    "columns_of",
    "event_kinds",
    "event_writers",
    "plot_losses",
    "plot_rewards",
    "recorded",
]

COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "eval_loss")
TUNED = (*COLUMNS, "eval_ppl", "eval_accuracy")
"""The columns of fine-tuning, which evaluates more."""


def columns_of(measured: Sequence[str], tuned: bool, scored: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the columns of a run that tells the `measured` of steps and of evaluations, or `scored` of these."""
    if scored:
        return (*COLUMNS[:-1], *(f"eval_{name}" for name in scored))
    if measured:
        return (*COLUMNS, *measured, *(f"eval_{name}" for name in measured))
    return TUNED if tuned else COLUMNS


@contextmanager
def recorded(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a run's records; it is written whole, or stays as it was.

    Raises:
        ZooError: the disk is full or cannot be written.
    """
    try:
        with written_beside(path) as stream:
            yield stream
    except OSError as error:
        why = error.strerror or str(error)
        raise ZooError(f"cannot write {path}", why, "free space, or change output_dir") from error


@dataclass
class LossTable:
    """One row a step in a CSV file; a resumed run goes on with the rows up to its checkpoint.

    Args:
        path: of the file.
        rows: by step; a value that is not known is left out.
        columns: of the file, the step first.
    """

    path: Path
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    columns: tuple[str, ...] = COLUMNS

    def open(self, resumed_at: int) -> None:
        """Keep the rows of an earlier run up to `resumed_at` and drop the others."""
        if resumed_at and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    values = {k: float(v) for k, v in row.items() if k in self.columns[1:] and v}
                    if (row.get("step") or "").isdigit() and int(row["step"]) <= resumed_at:
                        self.rows[int(row["step"])] = values
        self.write()

    def add(self, step: int, **values: float) -> None:
        """Add to the row of a step."""
        self.rows.setdefault(step, {}).update(values)

    def write(self) -> None:
        """Write the whole table, or leave the file as it was.

        Raises:
            ZooError: the disk is full or cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for step, row in sorted(self.rows.items()):
            writer.writerow([step, *(repr(row[name]) if name in row else "" for name in self.columns[1:])])
        with recorded(self.path) as stream:
            stream.write(text.getvalue().encode())

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """The steps that have a value of `name`, and the values."""
        steps = [step for step in sorted(self.rows) if name in self.rows[step]]
        return steps, [self.rows[step][name] for step in steps]


class EventWriters:
    """Event files of TensorBoard or VisualDL, behind one method."""

    def __init__(self, writers: list[Any]) -> None:
        self._writers = writers

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars under their names."""
        for writer in self._writers:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._writers:
            writer.close()


def event_kinds(arguments: Arguments) -> frozenset[str]:
    """Return which event files `report_to` asks for: "visualdl", "tensorboard", both or none.

    By default they are VisualDL's where it is installed, else TensorBoard's.

    Raises:
        ConfigError: what was asked for is unknown or not installed.
    """
    has_visualdl = importlib.util.find_spec("visualdl") is not None
    wanted = {word.lower() for word in arguments.training.report_to}
    if "all" in wanted:
        wanted = {"tensorboard", *(("visualdl",) if has_visualdl else ())}
    unknown = wanted - {"visualdl", "tensorboard", "none"}
    if unknown:
        raise ConfigError(f"report_to = {min(unknown)!r} is not known", "", "use visualdl, tensorboard, all or none")
    if "visualdl" in wanted and not has_visualdl:
        if "report_to" in arguments.given:
            raise ConfigError(
                "report_to asks for VisualDL, which is not installed",
                "it is an optional package",
                "pip install 'zoo-core[visualdl]', or --report_to tensorboard",
            )
        wanted = {"tensorboard"}
    return frozenset(wanted - {"none"})


def event_writers(kinds: frozenset[str], folder: Path) -> EventWriters:
    """Open event files of these kinds in `folder`.

    Raises:
        ZooError: the folder cannot be made or written.
    """
    writers: list[Any] = []
    try:
        if "visualdl" in kinds:
            writers.append(importlib.import_module("visualdl").LogWriter(logdir=str(folder)))
        if "tensorboard" in kinds:
            writers.append(importlib.import_module("tensorboardX").SummaryWriter(logdir=str(folder)))
    except OSError as error:
        why = error.strerror or str(error)
        raise ZooError(f"cannot write event files to {folder}", why, "change output_dir or logging_dir") from error
    return EventWriters(writers)


def plot_losses(table: LossTable, path: Path, title: str, unit: str = "nats per token") -> None:
    """Draw training and validation loss over the steps as a PNG, and the accuracy where it was measured."""
    import matplotlib  # takes half a second, and only the end of a run needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=120, layout="constrained")
    steps, losses = table.column("loss")
    axes.plot(steps, losses, color="#4477aa", linewidth=1.2, marker="." if len(steps) < 50 else "", label="training")
    steps, losses = table.column("eval_loss")
    if steps:
        axes.plot(steps, losses, color="#cc6677", linewidth=1.6, marker="o", markersize=4, label="validation")
    axes.set_title(title)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"loss ({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    steps, hits = table.column("eval_accuracy")
    if steps:
        other = axes.twinx()
        axes.plot([], [], color="#228833", linestyle="--", marker="s", markersize=4, label="accuracy (right)")
        other.plot(steps, hits, color="#228833", linewidth=1.2, linestyle="--", marker="s", markersize=4)
        other.set_ylabel("next-token accuracy")
        other.set_ylim(0, 1)
    axes.legend()
    with recorded(path) as stream:
        figure.savefig(stream, format="png")
    pyplot.close(figure)


def plot_rewards(table: LossTable, path: Path, title: str) -> None:
    """Draw the rewards of chosen and rejected answers over the steps as a PNG, and how often the better is higher."""
    import matplotlib  # as above

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 7), dpi=120, layout="constrained", sharex=True)
    for axes, shown in (
        (above, (("chosen", "#228833"), ("rejected", "#cc6677"))),
        (below, (("accuracies", "#4477aa"),)),
    ):
        for name, color in shown:
            steps, values = table.column(f"rewards/{name}")
            axes.plot(steps, values, color=color, linewidth=1.2, label=f"{name}, training")
            steps, values = table.column(f"eval_rewards/{name}")
            if steps:
                axes.plot(steps, values, color=color, linestyle="--", marker="o", markersize=4,
                          label=f"{name}, validation")  # fmt: skip
        axes.grid(alpha=0.3)
        axes.legend(loc="best" if axes is above else "lower right")
    above.set_title(title)
    above.set_ylabel("reward (nats times beta)")
    below.set_ylabel("pairs with the chosen answer higher")
    below.set_ylim(-0.02, 1.02)
    below.set_xlabel("optimizer step")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    with recorded(path) as stream:
        figure.savefig(stream, format="png")
    pyplot.close(figure)
