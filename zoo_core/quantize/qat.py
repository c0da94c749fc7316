"""What quantisation-aware training leaves in a checkpoint: which layers it rounded, by which spans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo_core.checkpoint import read_state
from zoo_core.engine.qat import QatSpec
from zoo_core.errors import ConfigError
from zoo_core.quantization import QuantSpec
from zoo_core.quantize.recipe import of_blocks
from zoo_core.quantized import quantised_layers
from zoo_core.registry import registry

__all__ = ["Trained", "trained_rounding"]


@dataclass(frozen=True)
class Trained:
    """How the integers of a trained model are found.

    Args:
        spec: what its weights become.
        spans: of the inputs of its layers, by single-card name.
        per_channel: whether each output feature has a span of its own.
    """

    spec: QuantSpec
    spans: Mapping[str, float]
    per_channel: bool


def trained_rounding(folder: Path) -> Trained:
    """Read how a checkpoint was trained to be rounded.

    A layer that no token reached in training has no span: it is left as it is.

    Raises:
        ConfigError: it was not, or with bits that zoo does not store.
    """
    state = read_state(folder) if (folder / "manifest.json").is_file() else {}
    if "qat" not in state:
        raise ConfigError(
            f"{folder} was not trained to be rounded",
            "its training state knows of no quantisation-aware training",
            "train it with --do_qat, or compress it with `zoo compress ptq` or gptq",
        )
    kept = dict(state["qat"])
    inputs = kept.pop("inputs")
    trained = QatSpec(**kept)
    spans = {name: total / weight for name, (total, weight) in inputs.items()}
    bits, integers = trained.weight_bits, trained.weight_bits == trained.activation_bits == 8
    if bits not in (3, 4, 8):
        raise ConfigError(f"{folder} was trained with weights of {bits} bits", "zoo stores 3, 4 and 8", "train with 8")
    if not integers:  # activations of other widths run as they are
        return Trained(QuantSpec("weight_only", bits), {}, trained.per_channel)
    found = registry().find(str(folder))
    elements, table = found.architecture.pipe_layers(found.config), found.architecture.table(found.config)
    layers = quantised_layers(table, of_blocks(QuantSpec(), table, elements))
    idle = tuple(name for name in layers if not spans.get(name))
    return Trained(QuantSpec("w8a8", activations="static", skip=idle), spans, trained.per_channel)
