"""One model on one mesh: steps, evaluation, logits, and what a checkpoint needs of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.distributed.fleet.meta_parallel import LayerDesc, PipelineLayer

from zoo_core.config import ModelConfig
from zoo_core.engine.accuracy import count_correct
from zoo_core.engine.batches import EvalSums, MicroBatch, StepResult, to_batch
from zoo_core.engine.build import Held, Source, Stage, build_layer
from zoo_core.engine.chunk import Chunk, Feed
from zoo_core.engine.fake_quant import Rounding
from zoo_core.engine.integers import say_how
from zoo_core.engine.mesh import Mesh
from zoo_core.engine.optimizer import OptimizerSettings, Updater
from zoo_core.engine.parts import tied_across_stages
from zoo_core.engine.qat import QatSpec
from zoo_core.layout import Rule, Vocab, local_shape
from zoo_core.peft import LoraSpec, PrefixSpec, is_adapter, with_adapters, with_prefix
from zoo_core.quantization import QuantSpec
from zoo_core.quantized import quantised_layers
from zoo_core.registry import Architecture
from zoo_ops import Batch, Cache, Router, after_prefix, cross_entropy, parallel, set_loss_weight
from zoo_ops.cpu.rows import plain_pass
from zoo_ops.cpu.threads import one_blas_thread
from zoo_ops.kernels import Kernels, set_kernels
from zoo_ops.loss import IGNORE

__all__ = ["Engine"]


class _ChunkDesc(LayerDesc):  # type: ignore[misc]
    """Tells fleet of a chunk that is built on the rank that holds it."""

    def __init__(self, build: Any) -> None:
        super().__init__(Chunk)
        self._build = build

    def build_layer(self, **ignored: Any) -> Chunk:
        return self._build()  # type: ignore[no-any-return]


class Engine:
    """A model, built and filled on this rank's part of the mesh.

    Args:
        mesh: the groups.
        architecture: the plugin's hooks.
        config: of the model.
        source: where parameter values come from.
        dtype: of the parameters.
        settings: of the optimizer; `None` for a model that is only run.
        kernels: which fused kernels model code may use.
        gather_logits: keep whole logits on every rank of the tensor axis.
        amp: what `paddle.amp.auto_cast` is given.
        lora: adapters beside the model, which are all that is trained; `source` gives their values too.
        prefix: of every block, the same; not with pipeline stages, nor with `lora`.
        qat: the linear layers of the blocks compute with rounded weights and inputs; not with sharding stage 3.
    """

    attaches = True
    """Whether losses that layers attach themselves (`zoo_ops.attach_loss`) are trained on, too."""

    averages = True
    """Whether gradients come to the mean over the replicas; else to their sum."""

    places = False
    """Whether tensors lie over a mesh of processes."""

    def __init__(
        self,
        mesh: Mesh,
        architecture: Architecture,
        config: ModelConfig,
        source: Source,
        dtype: str = "float32",
        settings: OptimizerSettings | None = None,
        kernels: Kernels | None = None,
        gather_logits: bool = False,
        amp: Mapping[str, Any] | None = None,
        lora: LoraSpec | None = None,
        prefix: PrefixSpec | None = None,
        qat: QatSpec | None = None,
    ) -> None:
        self.mesh, self.config, self.dtype, self.lora, self.prefix = mesh, config, dtype, lora, prefix
        self.table: dict[str, Rule] = architecture.table(config)
        self._elements = architecture.pipe_layers(config)
        if lora is not None:
            self.table = with_adapters(self.table, lora)
        if prefix is not None:
            self.table = with_prefix(self.table, self._elements, config, prefix)
        self._amp = dict(amp or {"enable": False})
        plain = dtype == "float32" and not self._amp["enable"] and not self.places
        self.is_plain = plain and paddle.device.get_device() == "cpu"
        set_kernels(kernels or Kernels(recompute_core_attention=mesh.plan.recompute == "core_attn"))
        plan = mesh.plan
        experts = (plan.expert, mesh.expert.rank)
        more: dict[str, Any] = {
            "prefix": prefix, "shared": self._elements[0].prefix, "cached": config.cached_sizes[1:],
            "integers": config.quantization_config,
        }  # fmt: skip
        self.table = self._laid_out(self.table)
        self._stage = self._staged(
            source, degree=plan.tensor, rank=mesh.place.tensor, dtype=dtype, gather_logits=gather_logits,
            experts=experts, lora=lora, **more,
        )  # fmt: skip
        rounded = tuple(quantised_layers(self.table, QuantSpec())) if qat is not None else ()
        if qat is not None:
            self._stage.rounded = dict.fromkeys(rounded, ((qat.weight_bits, qat.activation_bits), qat.per_channel))
        self._feed = Feed()
        self._denominator = 1.0
        self._correct: Any = None
        self._shape: list[int] = []
        self._training = True
        self.pipeline: Any = None
        self._chunks: list[Chunk] = []
        bounds = plan.stage_bounds or (0, len(self._elements))
        if plan.pipeline > 1:
            descs = [_ChunkDesc(self._chunk_builder(c, bounds[c], bounds[c + 1])) for c in range(len(bounds) - 1)]
            layers: nn.Layer = PipelineLayer(
                descs,
                topology=mesh.hcg.topology(),
                loss_fn=self._loss,
                seg_method="layer:Chunk",
                num_virtual_pipeline_stages=plan.virtual_stages,
            )
            self.pipeline = self._schedule(layers)
        else:
            layers = self._chunk_builder(0, 0, len(self._elements))()
        self.layers = layers
        self._routers = [layer for layer in layers.sublayers() if isinstance(layer, Router)]
        for router in self._routers if self._stage.freezes else ():
            router.balance_rate = 0.0  # the base model stays as it is
        self.held = self._stage.held
        if config.quantization_config is not None:
            say_how(config.quantization_config, sum(name.endswith(".quant_weight") for name in self.held))
        self.tied = tied_across_stages(plan, self.table)
        self.rounding = Rounding(qat, self._stage.faked, rounded, mesh) if qat is not None else None
        self.updater = self._updating(layers, self.held, settings) if settings is not None else None

    def _laid_out(self, table: Mapping[str, Rule]) -> dict[str, Rule]:
        """The rows as this engine lays parameters out."""
        return dict(table)

    def _staged(self, source: Source, **settings: Any) -> Stage:
        return Stage(self.table, source, **settings)

    def _updating(self, layers: Any, held: Mapping[str, Held], settings: OptimizerSettings) -> Any:
        return Updater(layers, held, self.mesh, settings, self.tied)

    @property
    def adapted(self) -> dict[str, Any]:
        """The layers with adapters that this rank holds, by single-card name."""
        return self._stage.adapted

    def part(self, name: str, values: Any) -> Any:
        """Return this rank's part of values of a parameter that were read for `Mesh.cut`."""
        return values

    def is_trained(self, name: str) -> bool:
        """Whether a parameter, of whatever stage, has optimizer states."""
        if self._stage.freezes:
            return is_adapter(name)
        held = self.held.get(self.table[name].single)
        return held is None or not held.tensor.stop_gradient

    def _chunk_builder(self, number: int, start: int, stop: int) -> Any:
        def build() -> Chunk:
            layers = [(element, build_layer(element, self._stage)) for element in self._elements[start:stop]]
            chunk = Chunk(layers, number, self._feed, self.mesh.plan, self.mesh.replica, self._stage.freezes)
            self._chunks.append(chunk)
            return chunk

        return build

    def _schedule(self, layers: Any) -> Any:
        from paddle.distributed.fleet.meta_parallel import PipelineParallel
        from paddle.distributed.fleet.meta_parallel.pipeline_parallel import PipelineParallelWithInterleave

        kind = PipelineParallelWithInterleave if self.mesh.plan.virtual_stages > 1 else PipelineParallel
        return kind(layers, self.mesh.hcg, self.mesh.strategy)

    def _vocab(self) -> dict[str, int]:
        """How the head's logits are split, for the loss."""
        plan = self.mesh.plan
        if plan.tensor == 1 or self._stage.gather_logits:
            return {}
        head = self._head()
        return {"start": self.mesh.place.tensor * local_shape(head, plan.tensor)[0], "vocab_size": head.shape[0]}

    def _head(self) -> Rule:
        """The row of the head."""
        return next(rule for rule in reversed(self.table.values()) if isinstance(rule, Vocab))

    @property
    def _averaged(self) -> int:
        """Over how many replicas gradients are averaged once they are there."""
        return self.mesh.plan.replicas if self.averages else 1

    def _loss(self, logits: Any, labels: Any) -> Any:
        """The loss of a micro batch such that fleet's mean over micro batches and replicas is the global mean."""
        if self._correct is not None:
            self._correct += count_correct(logits, labels, **self._vocab())
        total = cross_entropy(logits, labels, **self._vocab()).sum()
        return total * self._denominator

    def train_step(self, batches: Sequence[MicroBatch], learning_rate: float, stop: bool = False) -> StepResult:
        """Take one optimizer step over `accumulate` micro batches of this replica.

        Args:
            batches: as many as the plan accumulates.
            learning_rate: of this step.
            stop: this rank was asked to stop; all ranks learn of it with the gradient norm.

        Raises:
            ValueError: the number of micro batches is not the plan's.
        """
        plan = self.mesh.plan
        if len(batches) != plan.accumulate:
            raise ValueError(f"{len(batches)} micro batches for a plan that accumulates {plan.accumulate}")
        if self.updater is None:
            raise ValueError("this engine was built without an optimizer")
        tokens = self._all_replicas(float(sum(int((b["labels"] != IGNORE).sum()) for b in batches)))
        scale = self.updater.loss_scale.value
        self._denominator = scale * plan.accumulate * self._averaged / max(tokens, 1.0)
        set_loss_weight(self._denominator / plan.accumulate if self.attaches else 0.0)
        ready = [self._to_batch(b) for b in batches]
        self._mode(training=True)
        self._feed.fill(ready)
        if self.pipeline is not None:
            loss = self._run_pipeline(ready)
        else:
            loss = self._accumulate(ready)
        norm = self.updater.step(learning_rate, stop)
        self._balance_experts()
        if self.rounding is not None:
            self.rounding.after_step()
        mean = self._all_replicas(float(loss)) / self._averaged / scale
        return StepResult(mean, float(norm), int(tokens), self.updater.clip.stopping)

    def _balance_experts(self) -> None:
        """Let each router of this rank see the load of the whole step."""
        routers = [router for router in self._routers if router.load_E is not None]
        if not routers:
            return
        load_RE = paddle.stack([router.load_E for router in routers])
        for group in self._replica_groups():
            dist.all_reduce(load_RE, group=group)
        for router, load_E in zip(routers, load_RE, strict=True):
            router.balance(load_E)

    def _accumulate(self, batches: Sequence[Batch]) -> Any:
        total = paddle.zeros([])
        for batch in batches:
            with paddle.amp.auto_cast(**self._amp):
                logits = self.updater.model(_nothing()) if self.updater else None
                loss = self._loss(logits, batch.labels) / len(batches)
            loss.backward()
            self._take_gradients()
            total = total + loss.detach()
            del loss, logits  # or they stay, a vocabulary wide, beside the next micro batch's
        return total

    def _take_gradients(self) -> None:
        """Do what is to be done with the gradients of one micro batch."""

    def _run_pipeline(self, batches: Sequence[Batch]) -> Any:
        pipeline = self.pipeline
        pipeline.set_virtual_pipeline_rank(0)
        pipeline.processed_steps = max(pipeline.processed_steps, 1)
        if self._shape != batches[0].input_ids.shape:  # stages remember what they send each other
            pipeline._p2p_helper.clear_meta_cache()
            self._shape = batches[0].input_ids.shape
        with paddle.amp.auto_cast(**self._amp):
            return pipeline.forward_backward_pipeline(_micro_batches(batches), None)

    def _all_replicas(self, value: float) -> float:
        """Sum over the replicas (data x sharding); the other axes hold the same value."""
        if self.mesh.plan.replicas == 1:
            return value
        total = paddle.to_tensor([value], dtype="float64")
        for group in self._replica_groups():
            dist.all_reduce(total, group=group)
        return float(total)

    def _replica_groups(self) -> list[Any]:
        """The groups over which a sum, one after the other, is one over all replicas."""
        plan, hcg, groups = self.mesh.plan, self.mesh.hcg, []
        if plan.data > 1:
            groups.append(hcg.get_data_parallel_group())
        if plan.sharding > 1:
            groups.append(hcg.get_sharding_parallel_group())
        return groups

    def _to_batch(self, fields: MicroBatch, past: int = 0) -> Batch:
        """Put a micro batch on the device; behind a prefix, positions begin after it."""
        batch = to_batch(fields)
        return batch if self.prefix is None else after_prefix(batch, self.prefix.tokens, past)

    def _mode(self, training: bool) -> None:
        if self._training != training or training != self.layers.training:
            self._training = training
            model = self.updater.model if self.updater is not None else self.layers
            (model.train if training else model.eval)()
            if self.pipeline is not None:
                (self.pipeline.train if training else self.pipeline.eval)()

    def evaluate(self, batches: Sequence[MicroBatch], accuracy: bool = False) -> EvalSums:
        """Return sums over all replicas' tokens that bear a loss.

        Every replica passes the same number of micro batches, of one shape.

        Args:
            accuracy: also count the tokens that were the most probable.
        """
        tokens = self._all_replicas(float(sum(int((b["labels"] != IGNORE).sum()) for b in batches)))
        self._denominator = 1.0
        self._correct = paddle.zeros([]) if accuracy else None
        total = self._sweep(batches)
        correct, self._correct = self._correct, None
        hits = self._all_replicas(float(self._over_stages(correct))) if correct is not None else 0.0
        return EvalSums(self._all_replicas(total), int(tokens), int(hits))

    def _over_stages(self, values: Any) -> Any:
        """Sum over the pipeline's stages what the last has found and the others have as 0."""
        if self.mesh.plan.pipeline > 1:
            dist.all_reduce(values, group=self.mesh.hcg.get_pipe_parallel_group())
        return values

    def _sweep(self, batches: Sequence[MicroBatch]) -> float:
        """Run micro batches forward only, the loss included; return its sum over them."""
        plan, total = self.mesh.plan, 0.0
        self._mode(training=False)
        with paddle.no_grad(), paddle.amp.auto_cast(**self._amp):
            if self.pipeline is None:
                model = self.updater.model if self.updater is not None else self.layers
                for batch in map(self._to_batch, batches):
                    self._feed.fill([batch])
                    total += float(self._loss(model(_nothing()), batch.labels))
            else:
                # the schedules run `accumulate` micro batches at a time: the last round is filled with unlabelled ones
                self.pipeline._p2p_helper.clear_meta_cache()
                for start in range(0, len(batches), plan.accumulate):
                    part = list(batches[start : start + plan.accumulate])
                    empty = {**part[-1], "labels": np.full_like(part[-1]["labels"], IGNORE)}
                    ready = [self._to_batch(b) for b in part + [empty] * (plan.accumulate - len(part))]
                    self._feed.fill(ready)
                    loss = self.pipeline.eval_batch(_micro_batches(ready), compute_loss=True)
                    total += float(loss) * plan.accumulate
                self.pipeline._p2p_helper.clear_meta_cache()
        return total

    def logits(self, fields: MicroBatch, cache: Any = None) -> Any:
        """Return logits [B, S, V] of one micro batch on the ranks of the last stage, elsewhere `None`.

        They are whole when the engine was built with `gather_logits`.
        """
        self._mode(training=False)
        batch = self._to_batch(fields, cache.length if cache is not None else 0)
        with paddle.no_grad(), one_blas_thread():
            if self.pipeline is None:
                return self.layers.through(None, batch, cache)
            self.pipeline._p2p_helper.clear_meta_cache()
            self._feed.fill([batch] * self.mesh.plan.accumulate)
            found = self.pipeline.eval_batch(_micro_batches([batch] * self.mesh.plan.accumulate), compute_loss=False)
            self.pipeline._p2p_helper.clear_meta_cache()
        return found[0] if self.mesh.is_last_stage and found is not None else None

    def new_cache(self, rows: int, room: int) -> Cache:
        """Return an empty cache of this rank's blocks, for so many rows of so many tokens."""
        blocks = sum(chunk.blocks for chunk in self._chunks)
        return Cache(blocks, rows, room)

    def next_logits(self, fields: MicroBatch, cache: Cache) -> np.ndarray[Any, Any]:
        """Return the logits after each row's last token, float32 [B, V], whole and the same on all ranks of the tensor
        and the pipeline axis, which call it together; replicas do so only where `moves_together` says it.

        Args:
            fields: of the tokens that follow those in `cache`; rows are filled up on the left.
        """
        self._mode(training=False)
        batch = self._to_batch(fields, cache.length)
        types = plain_pass() if self.is_plain else paddle.amp.auto_cast(**self._amp)
        with paddle.no_grad(), types, parallel.whole_sequences(), one_blas_thread():
            logits_B1v = self._through_stages(batch, cache)
            logits_B1V = parallel.gather_features(logits_B1v) if self._vocab() else logits_B1v
        return np.asarray(logits_B1V[:, 0].astype("float32").numpy())[:, : self.config.vocab_size]

    def _through_stages(self, batch: Batch, cache: Cache) -> Any:
        """Run `batch` through the stages, one after the other, and return what the head makes of the last position.

        A pass of decoding has too little work to be cut into micro batches, so no schedule is needed: each stage waits
        for the one before, and all hear what comes out of the last.
        """
        plan = self.mesh.plan
        if plan.pipeline == 1:
            return self._chunks[0].through(None, batch, cache, last_position=True)[:, -1:]
        rows, length = batch.input_ids.shape
        group = self.mesh.hcg.get_pipe_parallel_group()
        x_BSH = None
        for chunk in range(plan.pipeline * plan.virtual_stages):
            stage, own = chunk % plan.pipeline, chunk // plan.pipeline
            last = chunk == plan.pipeline * plan.virtual_stages - 1
            width = self._head_width() if last else self.config.hidden_size
            if stage == self.mesh.place.pipe:
                before = sum(earlier.blocks for earlier in self._chunks[:own])
                out = self._chunks[own].through(x_BSH, batch, cache, before, last_position=last)
                out = (out[:, -1:] if last else out).astype(self.dtype).contiguous()
            else:
                out = paddle.empty([rows, 1 if last else length, width], dtype=self.dtype)
            dist.broadcast(out, src=group.ranks[stage], group=group)
            x_BSH = out
        return x_BSH

    def _head_width(self) -> int:
        """How many logits of a token this rank's head gives."""
        head = self._head()
        return int(local_shape(head, self.mesh.plan.tensor)[0]) if self._vocab() else self.config.vocab_size

    def at_head(self, fields: MicroBatch, see: Callable[[Callable[[Any], Any], Any], None]) -> None:
        """Run a micro batch and call `see(head, x)` where the head would be, on the ranks of the last stage.

        So `see` may take the logits of parts of the sequence: those of all are by far the largest tensor of a pass.
        All ranks of the tensor and pipeline axes call it together.

        Args:
            see: is given the head, which takes hidden states [B, S, H] and returns their logits, float32 [B, S, V],
                whole and the same on all ranks of the tensor axis; and the hidden states of the whole sequence.
        """
        self._mode(training=False)
        batch, seen = self._to_batch(fields), False

        def instead(layer: Any, x_BSH: Any) -> Any:
            nonlocal seen

            def head(part_BSH: Any) -> Any:
                logits_BSv = layer(part_BSH, batch, None)
                logits_BSV = parallel.gather_features(logits_BSv) if self._vocab() else logits_BSv
                return logits_BSV[..., : self.config.vocab_size].astype("float32")

            if not seen:  # the schedules run `accumulate` micro batches, here all the same
                see(head, x_BSH)
            seen = True
            return x_BSH[:, :1]

        chunks = [layer for layer in self.layers.sublayers(include_self=True) if isinstance(layer, Chunk)]
        for chunk in chunks:
            chunk.instead_of_head = instead
        try:
            with paddle.no_grad(), paddle.amp.auto_cast(**self._amp), parallel.whole_sequences():
                if self.pipeline is None:
                    self.layers.through(None, batch)
                    return
                self.pipeline._p2p_helper.clear_meta_cache()
                self._feed.fill([batch] * self.mesh.plan.accumulate)
                self.pipeline.eval_batch(_micro_batches([batch] * self.mesh.plan.accumulate), compute_loss=False)
                self.pipeline._p2p_helper.clear_meta_cache()
        finally:
            for chunk in chunks:
                chunk.instead_of_head = None

    def from_last_stage(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return on all stages what the last has found and the others have as zeros."""
        return values if self.pipeline is None else np.asarray(self._over_stages(paddle.to_tensor(values)).numpy())

    @property
    def moves_together(self) -> bool:
        """Whether replicas have to make the same passes, as they hold parts of each other's weights."""
        plan = self.mesh.plan
        return plan.replicas > 1 and (plan.sharding_stage == 3 or plan.expert > 1)

    def any_replica(self, flag: bool) -> bool:
        """Whether `flag` is set on some replica, where replicas move together; else this one's."""
        return self._all_replicas(float(flag)) > 0 if self.moves_together else flag


def _nothing() -> Any:
    """Stands for the input of the first chunk, which takes its micro batch from the feed."""
    return paddle.zeros([1])


def _micro_batches(batches: Sequence[Batch]) -> Iterator[tuple[Any, Any]]:
    """What fleet's schedules draw from: an input for the first stage, labels for the last.

    A stage draws once a micro batch if it is one of both, so each draw is the next micro batch.
    """
    for batch in batches:
        yield _nothing(), batch.labels
