"""What compressing a model cost and saved: of each layer, and of the whole on text that was held out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo_core._counting import many

__all__ = ["CPU_NOTE", "LayerReport", "Report"]

CPU_NOTE = (
    "CPUs have no int8 kernel in Paddle: weights are stored quantised and turned back into floats a block at a time "
    "when they are multiplied, so a run needs less memory, and no less time."
)


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Args:
        name: single-card name of its weight.
        shape: [in, out].
        method: "gptq" or "rtn" (round to nearest), or what it was replaced by and why.
        bits: of a weight.
        groups: runs of input features with scales of their own.
        tokens: of the calibration text that reached it.
        weight_error: norm of the change of the weight over that of the weight.
        output_error: the same of what the layer gives for the calibration text; quantised activations count.
        rounded_error: what `output_error` would be with every weight rounded to the nearest, and nothing smoothed.
        bytes_before, bytes_after: of the weight as stored, its scales included.
        smooth: where the factors of smoothing went: "", "norm", or "input".
    """

    name: str
    shape: tuple[int, int]
    method: str
    bits: int
    groups: int
    tokens: int
    weight_error: float
    output_error: float
    rounded_error: float
    bytes_before: int
    bytes_after: int
    smooth: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a model.

    Args:
        model: its folder.
        method: in words.
        settings: of the method, by name.
        calibration: the text, in words.
        held_tokens: of the text that was measured on.
        ppl_before, ppl_after: perplexity of that text with the weights as they were, and as they are now.
        layers: of each quantised layer.
        notes: what a user should know.
    """

    model: str
    method: str
    settings: Mapping[str, Any]
    calibration: str
    held_tokens: int
    ppl_before: float
    ppl_after: float
    layers: Sequence[LayerReport]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def change(self) -> float:
        """By how much perplexity rose, as a share."""
        return self.ppl_after / self.ppl_before - 1

    @property
    def bytes_before(self) -> int:
        """Of the quantised layers' weights, before."""
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """Of the same, after, with their scales."""
        return sum(layer.bytes_after for layer in self.layers)

    def to_json(self) -> str:
        """All of it as JSON."""
        totals = {"bytes_before": self.bytes_before, "bytes_after": self.bytes_after, "change": self.change}
        return json.dumps({**asdict(self), **totals}, indent=1) + "\n"

    def summary(self) -> str:
        """A few lines: perplexities, sizes, and for each kind of layer its mean and its largest error."""
        lines = [
            f"method       {self.method}",
            f"calibration  {self.calibration}",
            f"perplexity   {self.ppl_before:.6g} before, {self.ppl_after:.6g} after ({self.change:+.2%}), "
            f"on {many(self.held_tokens, 'token')} held out",
            f"weights      {self.bytes_before / 1e6:.2f} MB before, {self.bytes_after / 1e6:.2f} MB after "
            f"({self.bytes_before / max(self.bytes_after, 1):.2f} times smaller), {many(len(self.layers), 'layer')}",
            "",
            f"{'layers':<40}{'count':>6}{'bits':>6}{'output error':>15}{'largest':>10}{'to nearest':>12}",
        ]
        for kind, layers in self._kinds().items():
            errors = [layer.output_error for layer in layers]
            nearest = sum(layer.rounded_error for layer in layers) / len(layers)
            lines.append(
                f"{kind:<40}{len(layers):>6}{layers[0].bits:>6}{sum(errors) / len(errors):>15.4%}{max(errors):>10.4%}"
                f"{nearest:>12.4%}"
            )
        return "\n".join([*lines, *("" for _ in self.notes[:1]), *self.notes])

    def table(self) -> str:
        """The summary, and under it a line for each layer."""
        width = max((len(layer.name) for layer in self.layers), default=0) + 2
        head = (
            f"{'layer':<{width}}{'in x out':>14}{'bits':>6}{'groups':>8}{'tokens':>9}{'weight error':>14}"
            f"{'output error':>14}{'to nearest':>12}{'bytes':>12}{'were':>12}  method"
        )
        lines = [
            f"{layer.name:<{width}}{layer.shape[0]:>7}x{layer.shape[1]:<6}{layer.bits:>6}{layer.groups:>8}"
            f"{layer.tokens:>9}{layer.weight_error:>14.4%}{layer.output_error:>14.4%}{layer.rounded_error:>12.4%}"
            f"{layer.bytes_after:>12,}{layer.bytes_before:>12,}  {layer.method}"
            f"{f', smoothed at its {layer.smooth}' if layer.smooth else ''}"
            for layer in self.layers
        ]
        return "\n".join([self.summary(), "", head, *lines]) + "\n"

    def _kinds(self) -> dict[str, list[LayerReport]]:
        """The layers by what they are, whatever their number."""
        kinds: dict[str, list[LayerReport]] = {}
        for layer in self.layers:
            words = re.sub(r"\.\d+\.", ".*.", layer.name).removesuffix(".weight").split(".*.")
            kinds.setdefault(words[-1], []).append(layer)
        return kinds
