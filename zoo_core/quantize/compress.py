"""From a folder with a model to a folder with the model compressed, and a report beside it."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from zoo_core._counting import many
from zoo_core.checkpoint import Reader
from zoo_core.checkpoint.conversion import check_free
from zoo_core.checkpoint.quantised import write_quantised
from zoo_core.checkpoint.writer import Extras
from zoo_core.errors import ConfigError
from zoo_core.peft.files import fused_table
from zoo_core.quantize.calibration import Texts
from zoo_core.quantize.recipe import Compression, Recipe
from zoo_core.quantize.report import CPU_NOTE, Report
from zoo_core.quantized.pack import QuantisedWeight
from zoo_core.registry import Found

__all__ = ["REPORT", "TABLE", "Job", "compress"]

REPORT, TABLE = "compression.json", "compression.txt"


@dataclass(frozen=True)
class Job:
    """What is compressed, and where to.

    Args:
        found: the model.
        source: folder of its weights.
        folder: must not exist, or be empty.
        files: small files that go along: the tokenizer's.
    """

    found: Found
    source: Path
    folder: Path
    files: Extras


class _Spilled(Mapping[str, QuantisedWeight]):
    """Quantised weights in files of a folder, so that memory holds one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, dict[str, Path]()

    def add(self, name: str, weight: QuantisedWeight) -> None:
        """Write one."""
        path = self._folder / f"{len(self._files)}.pickle"
        with path.open("wb") as stream:
            pickle.dump(weight, stream, protocol=5)
        self._files[name] = path

    def __getitem__(self, name: str) -> QuantisedWeight:
        with self._files[name].open("rb") as stream:
            found = pickle.load(stream)
        assert isinstance(found, QuantisedWeight)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def compress(job: Job, texts: Texts, recipe: Recipe, progress: Callable[[str], None] = lambda words: None) -> Report:
    """Compress a model and write it, with its report in `compression.json` and `compression.txt`.

    Args:
        texts: to calibrate with and to measure on.
        recipe: how.
        progress: called with words after each block.

    Raises:
        ConfigError: the model is quantised already, or the recipe does not fit it.
        DataError: the text does not suit the model.
        CheckpointError: the folder is in use, or the disk is full; nothing is left of it.
    """
    found = job.found
    check_free(job.folder)
    refuse_quantised(found, job.source)
    table = found.architecture.table(found.config)
    fused = fused_table(found.architecture, found.config)
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        Reader(job.source, table, fused) as reader,
        tempfile.TemporaryDirectory(prefix=f".{job.folder.name}-", dir=job.folder.parent) as spilled,
    ):
        reader.check()
        work = Compression(found.architecture, found.config, reader, texts, recipe, progress)
        arrays = _Spilled(Path(spilled))
        for name, weight in work.layers():
            arrays.add(name, weight)
        report = report_of(job, work)
        files = {**job.files, REPORT: report.to_json().encode(), TABLE: report.table().encode()}
        write_quantised(job.folder, reader, found.architecture, found.config, work.spec, arrays, files, work.changed)
    return report


def refuse_quantised(found: Found, source: Path) -> None:
    """Raise `ConfigError` if a model's weights are quantised already."""
    spec = found.config.quantization_config
    if spec is not None:
        raise ConfigError(
            f"{source} is compressed already",
            f"its weights are {spec.describe()}",
            "compress the model that it was made from",
        )


def report_of(job: Job, work: Compression) -> Report:
    """What became of the model."""
    spec, recipe = work.spec, work.recipe
    settings = {**asdict(spec), "alpha": recipe.alpha, "samples": len(work.texts.calibration)}
    if spec.method == "gptq":
        settings |= {"percdamp": recipe.percdamp, "true_sequential": recipe.true_sequential}
    notes = [CPU_NOTE]
    unseen = [layer.name for layer in work.reports if not layer.tokens]
    if unseen:
        notes.append(
            f"no calibration token reached {many(len(unseen), 'layer')} ({unseen[0]} the first), rounded to nearest"
        )
    if recipe.alpha is not None:
        into, at = (sum(layer.smooth == where for layer in work.reports) for where in ("norm", "input"))
        notes.append(f"smoothing: of {many(len(work.reports), 'layer')} {into} by the norm before, {at} by dividing "
                     f"the input, {len(work.reports) - into - at} not at all")  # fmt: skip
    held = int(work.texts.held[:, 1:].size)
    return Report(
        str(job.source), spec.describe(), settings, work.texts.source, held, work.ppl_before, work.ppl_after,
        tuple(work.reports), tuple(notes),
    )  # fmt: skip
