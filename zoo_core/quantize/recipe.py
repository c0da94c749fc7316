"""Compress a model block by block: calibrate on real text, quantise, and hand the result on to the next block.

What a block is calibrated with comes from the blocks before it as they are after quantisation, so each makes up for
errors of those before. Inside a block, GPTQ takes the layers in the order in which they run, for the same reason.

Nothing here knows an architecture: which layers there are follows from the table, and which of them share an input, and
which come right behind a norm, from a pass.

Shape legend: I/O in and out features, R rows, M/N samples, S tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle import nn

from zoo_core.checkpoint import Reader
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, DataError
from zoo_core.layout import Rule
from zoo_core.pipeline import PipeLayer
from zoo_core.quantization import QuantSpec
from zoo_core.quantize.calibration import Texts
from zoo_core.quantize.gptq import GptqOptions, gptq, output_error
from zoo_core.quantize.observe import Input, Observer
from zoo_core.quantize.report import LayerReport
from zoo_core.quantize.smooth import smoothing
from zoo_core.quantize.walk import Flow, Walk
from zoo_core.quantized import quantised_layers
from zoo_core.quantized.pack import QuantisedWeight, quantise_rtn
from zoo_core.registry import Architecture
from zoo_ops import LayerNorm, RMSNorm

__all__ = ["Compression", "Recipe", "of_blocks"]

Floats = npt.NDArray[np.float32]

_ROWS = 2048
"""Rows of an input that are kept to measure output errors with."""

_SAME = 1e-4
"""What folding smoothing into a norm may change of a block's output, relative to its largest value: rounding."""


@dataclass(frozen=True)
class Recipe:
    """How to compress.

    Args:
        spec: what the weights become.
        alpha: of smoothing (w8a8 only): how much of the difficulty goes to the weights; `None` does not smooth.
            Layers behind a norm that nothing else reads are smoothed at no cost: the norm takes the factors in. The
            inputs of others are divided as they run, if `spec.smooth` says so; else they are not smoothed.
        percdamp: see `GptqOptions`.
        true_sequential: GPTQ calibrates each layer with the quantised ones before it in its block.
        rows: samples of a pass.
        spans: largest magnitudes of inputs, by single-card name of the layer, where training has found them.
        per_channel: each output feature has a scale of its own; else all of a weight have one.
    """

    spec: QuantSpec
    alpha: float | None = None
    percdamp: float = 0.01
    true_sequential: bool = True
    rows: int = 4
    spans: Mapping[str, float] = field(default_factory=dict)
    per_channel: bool = True


def of_blocks(spec: QuantSpec, table: Mapping[str, Rule], elements: Sequence[PipeLayer]) -> QuantSpec:
    """The spec without layers that are in no block, which no pass reaches: those of multi-token prediction.

    Raises:
        ConfigError: the spec means no layer, or a pattern of it does not.
    """
    blocks = [f"{element.prefix}." for element in elements if element.is_block]
    outside = [name for name in quantised_layers(table, spec) if not name.startswith(tuple(blocks))]
    holders = [f"{element.prefix}." for element in elements if not element.is_block and element.prefix]
    skip = dict.fromkeys(
        re.escape(max((holder for holder in holders if name.startswith(holder)), key=len, default=name)) + ".*"
        for name in outside
    )
    return replace(spec, skip=(*spec.skip, *skip)) if skip else spec


@dataclass
class Compression:
    """A model on its way through a recipe. Use it once: iterate over `layers`, then read the rest.

    Args:
        architecture, config: the model.
        reader: over its weights.
        texts: to calibrate with and to measure on.
        recipe: how.
        progress: called with words after each block.

    Attributes:
        reports: of each quantised layer.
        spec: the recipe's, without layers that are in no block.
        changed: parameters of norms that took smoothing in, float32, by single-card name.
        ppl_before, ppl_after: perplexity of the held-out text; known at the end.
    """

    architecture: Architecture
    config: ModelConfig
    reader: Reader
    texts: Texts
    recipe: Recipe
    progress: Callable[[str], None] = lambda words: None
    reports: list[LayerReport] = field(default_factory=list)
    changed: dict[str, Floats] = field(default_factory=dict)
    ppl_before: float = 0.0
    ppl_after: float = 0.0

    def __post_init__(self) -> None:
        table, elements = self.architecture.table(self.config), self.architecture.pipe_layers(self.config)
        self.spec = of_blocks(self.recipe.spec, table, elements)

    def layers(self) -> Iterator[tuple[str, QuantisedWeight]]:
        """Yield the quantised weights, by the single-card names of their layers.

        Raises:
            ConfigError: a block's weights are not linear layers as the table says, or the spec means none.
            DataError: the model cannot run the text.
        """
        walk, rows = Walk(self.architecture, self.config, self.reader), self.recipe.rows
        chosen = quantised_layers(walk.table, self.spec)
        calibration, before, after = (
            Flow(ids, rows) for ids in (self.texts.calibration, self.texts.held, self.texts.held)
        )
        blocks = sum(element.is_block for element in walk.elements)
        number = 0
        for element, layer in walk.layers():
            last = element is walk.elements[-1]
            if last:
                self.ppl_before, self.ppl_after = before.perplexity(layer), after.perplexity(layer)
                if not np.isfinite(self.ppl_before):
                    raise DataError("the model's loss on this text is no number", "", "look at its weights")
                continue
            if not element.is_block:
                for flow in (calibration, before, after):
                    flow.through(layer)
                continue
            before.through(layer)
            block = _Block(element, layer, calibration, self, chosen)
            yield from block.quantise()
            block.check_all_done()
            calibration.through(layer)
            after.through(layer)
            number += 1
            self.progress(f"block {number} of {blocks}: {block.say()}")


class _Block:
    """One block: its linear layers, what they see, and what becomes of them."""

    def __init__(
        self, element: PipeLayer, layer: nn.Layer, flow: Flow, job: Compression, chosen: Mapping[str, Any]
    ) -> None:
        self.element, self.layer, self.flow, self.job = element, layer, flow, job
        self.spec, self.recipe = job.spec, job.recipe
        named = dict(layer.named_sublayers())
        wanted = {path: module for path, module in named.items() if element.single(path) in chosen}
        self.linears = {path: module for path, module in wanted.items() if isinstance(module, nn.Linear)}
        if len(self.linears) != len(wanted):
            other = next(path for path in wanted if path not in self.linears)
            raise ConfigError(
                f"{element.single(other)} is a {type(wanted[other]).__name__}",
                "only linear layers are quantised",
                "leave it out with --skip",
            )
        self.norms = {path: module for path, module in named.items() if isinstance(module, LayerNorm | RMSNorm)}
        self._first_report = len(job.reports)

    def quantise(self) -> Iterator[tuple[str, QuantisedWeight]]:
        """Quantise the layers, in the order in which they run, and leave the block as it will be."""
        is_gptq = self.spec.method == "gptq"
        for paths in self._stages() if is_gptq and self.recipe.true_sequential else [list(self.linears)]:
            seen = self._watch(paths)
            for one in seen.inputs:
                yield from self._of_input(one)
            for path in paths:
                if seen.of(path) is None:
                    yield from self._unseen(path)

    def _watch(self, paths: list[str], passes: int | None = None) -> Observer:
        """Run the calibration text, or its first passes, and collect what layers see."""
        pairs = list(self.flow.pairs())[:passes]
        rows = max(1, _ROWS // len(pairs))
        linears = {path: self.linears[path] for path in paths}
        seen = Observer(linears, self.norms, self.spec.method == "gptq" and passes is None, rows)
        with seen.watching(), paddle.no_grad():
            for x, batch in pairs:
                self.layer(x, batch, None)
                seen.one_pass()
        return seen

    def _stages(self) -> list[list[str]]:
        """The layers that run together, in order: those with one input, and the same of every expert."""
        stages: dict[str, list[str]] = {}
        order: dict[str, str] = {}
        for one in self._watch(list(self.linears), passes=1).inputs:
            for path in one.layers:
                order.setdefault(_generic(path), _generic(one.layers[0]))
        for kind in order:
            stages.setdefault(order[kind], [])
        for path in self.linears:
            kind = _generic(path)
            stages.setdefault(order.get(kind, kind), []).append(path)
        return list(stages.values())

    def _of_input(self, one: Input) -> Iterator[tuple[str, QuantisedWeight]]:
        """Quantise the layers that read one input."""
        weights = {path: np.array(self.linears[path].weight.numpy(), np.float32) for path in one.layers}
        factor_I, where = self._smoothing(one, list(weights.values()))
        kept_RI = one.rows() / factor_I
        hessian_II = one.hessian_II
        for path, weight_IO in weights.items():
            span = self._span(path, float(np.max(one.absmax_I / factor_I, initial=0.0)))
            method = self.spec.method if one.tokens else "rtn"
            scaled_IO = weight_IO * factor_I[:, None]
            options = GptqOptions(
                self.spec.bits, self.spec.group_size, self.spec.symmetric, self.spec.act_order, self.recipe.percdamp
            )
            nearest = self._nearest(scaled_IO)
            found = gptq(scaled_IO, hessian_II, options) if method == "gptq" else nearest
            finished = QuantisedWeight(
                found.q_IO,
                found.scale_GO,
                found.group,
                found.zero_GO,
                None,
                self._input_factors(factor_I, where),
                span / 127 if self.spec.activations == "static" and self.spec.method == "w8a8" else None,
            )
            if method == "gptq":
                errors = [output_error(scaled_IO, other.dense(), hessian_II) for other in (found, nearest)]
            else:  # without smoothing the input spans more
                errors = [self._measured(kept_RI, scaled_IO, found.dense(), span)]
                plain = float(np.max(one.absmax_I, initial=0.0)) if where else span
                errors.append(
                    self._measured(one.rows(), weight_IO, self._nearest(weight_IO).dense(), plain)
                    if where
                    else errors[0]
                )
            self._put(path, finished, found.dense(), span, factor_I if where == "input" else None)
            self._report(path, scaled_IO, found, method, one.tokens, (errors[0], errors[1]), where)
            yield self.element.single(path), finished

    def _input_factors(self, factor_I: Floats, where: str) -> Floats | None:
        if not self.spec.smooth:
            return None
        return factor_I if where == "input" else np.ones_like(factor_I)

    def _nearest(self, weight_IO: Floats) -> QuantisedWeight:
        q_IO, scale_GO, zero_GO = quantise_rtn(weight_IO, self.spec.bits, self.spec.group_size, self.spec.symmetric)
        if self.recipe.per_channel:
            return QuantisedWeight(q_IO, scale_GO, self.spec.group_size, zero_GO)
        scale_GO = np.full_like(scale_GO, scale_GO.max())
        return QuantisedWeight(np.rint(weight_IO / scale_GO).astype(np.int8), scale_GO, self.spec.group_size)

    def _span(self, path: str, seen: float) -> float:
        """The largest magnitude of a layer's input: what training has found, else what was seen."""
        return self.recipe.spans.get(self.element.single(path), seen)

    def _unseen(self, path: str) -> Iterator[tuple[str, QuantisedWeight]]:
        """Round a layer that no calibration token reached to nearest: an expert that none chose."""
        weight_IO = np.array(self.linears[path].weight.numpy(), np.float32)
        found = self._nearest(weight_IO)
        ones_I = np.ones(len(weight_IO), np.float32)
        span = self._span(path, 0.0)
        static = self.spec.method == "w8a8" and self.spec.activations == "static"
        if static and not span:
            raise DataError(
                f"no calibration token reached {self.element.single(path)}",
                "a static scale of its input is found from tokens",
                "give more text, or --activations dynamic",
            )
        finished = QuantisedWeight(
            found.q_IO, found.scale_GO, found.group, found.zero_GO, None, ones_I if self.spec.smooth else None,
            span / 127 if static else None,
        )  # fmt: skip
        self._put(path, finished, found.dense(), span, None)
        self._report(path, weight_IO, found, "rtn, for no token of the text reached it", 0, (0.0, 0.0), "")
        yield self.element.single(path), finished

    def _smoothing(self, one: Input, weights: list[Floats]) -> tuple[Floats, str]:
        """The factors of an input, and where they go: into the norm before it, or to the input."""
        ones_I = np.ones(len(one.absmax_I), np.float32)
        if self.recipe.alpha is None or not one.tokens:
            return ones_I, ""
        factor_I = smoothing(one.absmax_I, weights, self.recipe.alpha)
        # powers of two, by which a norm is divided without rounding, whatever it is stored in
        whole_I = np.exp2(np.rint(np.log2(factor_I))).astype(np.float32)
        if one.norm and self._folds(one, whole_I):
            return whole_I, "norm"
        return (factor_I, "input") if self.spec.smooth else (ones_I, "")

    def _folds(self, one: Input, factor_I: Floats) -> bool:
        """Divide the norm by the factors, if the layers that read it can undo that, as a pass shows."""
        norm = self.norms[one.norm]
        x, batch = next(iter(self.flow.pairs()))
        own = {name: tensor for name, tensor in norm._parameters.items() if tensor is not None}
        kept = {name: tensor.numpy().copy() for name, tensor in own.items()}
        weights = {path: self.linears[path].weight.numpy().copy() for path in one.layers}
        if any(values.shape != factor_I.shape for values in kept.values()):
            return False
        with paddle.no_grad():
            plain = self.layer(x, batch, None).numpy()
            for name, tensor in own.items():
                tensor.set_value(kept[name] / factor_I)
            for path, weight_IO in weights.items():
                self.linears[path].weight.set_value(weight_IO * factor_I[:, None])
            difference = np.abs(self.layer(x, batch, None).numpy() - plain).max()
            if difference <= _SAME * max(float(np.abs(plain).max()), 1e-6):
                for name, tensor in own.items():
                    self.job.changed[self.element.single(f"{one.norm}.{name}")] = np.array(tensor.numpy(), np.float32)
                return True
            for name, tensor in own.items():  # something else reads the norm too: a residual, a router
                tensor.set_value(kept[name])
            for path, weight_IO in weights.items():
                self.linears[path].weight.set_value(weight_IO)
        return False

    def _measured(self, rows_RI: Floats, weight_IO: Floats, quantised_IO: Floats, span: float) -> float:
        """The relative error of what a layer gives for the kept rows."""
        if not len(rows_RI):
            return 0.0
        plain = rows_RI @ weight_IO
        if self.spec.method == "w8a8":
            rows_RI = _rounded(paddle.to_tensor(rows_RI), self._static_span(span)).numpy()
        whole = float(np.linalg.norm(plain))
        return float(np.linalg.norm(rows_RI @ quantised_IO - plain)) / whole if whole else 0.0

    def _static_span(self, span: float) -> float | None:
        return span if self.spec.activations == "static" else None

    def _put(self, path: str, found: QuantisedWeight, weight_IO: Floats, span: float, factor_I: Floats | None) -> None:
        """Let the layer run as it will once it is quantised."""
        linear = self.linears[path]
        linear.weight.set_value(weight_IO)
        if self.spec.method != "w8a8":
            return
        static = self._static_span(span)
        factors = None if factor_I is None else paddle.to_tensor(factor_I)

        def rounded(_: Any, inputs: Any) -> Any:
            x = inputs[0] if factors is None else inputs[0] / factors
            return (_rounded(x, static), *inputs[1:])

        linear.register_forward_pre_hook(rounded)

    def _report(
        self, path: str, weight_IO: Floats, found: QuantisedWeight, method: str, tokens: int,
        errors: tuple[float, float], where: str,
    ) -> None:  # fmt: skip
        name = self.element.single(f"{path}.weight")
        size = int(np.prod(weight_IO.shape))
        stored = {"float32": 4}.get(self.job.reader.dtype_of(name), 2)
        change = float(np.linalg.norm(found.dense() - weight_IO)) / max(float(np.linalg.norm(weight_IO)), 1e-30)
        spec = QuantSpec(self.spec.method, self.spec.bits, self.spec.group_size, self.spec.symmetric)
        after = sum(tensor.nbytes for tensor in found.stored(spec).values())
        self.job.reports.append(
            LayerReport(
                name,
                (weight_IO.shape[0], weight_IO.shape[1]),
                method,
                self.spec.bits,
                len(found.scale_GO),
                tokens,
                change,
                errors[0],
                errors[1],
                size * stored,
                after,
                where,
            )  # fmt: skip
        )

    def check_all_done(self) -> None:
        """Assert that no layer was left out."""
        done = {report.name for report in self.job.reports[self._first_report :]}
        missing = [path for path in self.linears if self.element.single(f"{path}.weight") not in done]
        if missing:
            raise AssertionError(f"{self.element.single(missing[0])} was left out")

    def say(self) -> str:
        """How it went, in words."""
        own = self.job.reports[self._first_report :]
        worst = max(own, key=lambda report: report.output_error, default=None)
        return "" if worst is None else f"output error at most {worst.output_error:.3%} ({worst.name})"


def _generic(path: str) -> str:
    """A path without its numbers: what all experts have in common."""
    return re.sub(r"\b\d+\b", "*", path)


def _rounded(x: Any, span: float | None) -> Any:
    """Activations rounded to 8 bits: by each token's own largest value, or by a fixed one."""
    step = (x.abs().max(axis=-1, keepdim=True) if span is None else paddle.full([1], span)) / 127
    step = paddle.where(step > 0, step, paddle.ones_like(step))
    return paddle.clip(paddle.round(x / step), -127, 127) * step
