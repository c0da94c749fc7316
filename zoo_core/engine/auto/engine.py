"""A model over a mesh of processes: the first engine's loop, loss and checkpoints around placed tensors.

Shape legend: B rows, S sequence, V vocabulary, v this rank's part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
import paddle
import paddle.distributed as dist

from zoo_core.engine.auto.dressing import LOCAL, Dresser
from zoo_core.engine.auto.moving import REPLICA, TENSOR, as_global, as_local, move
from zoo_core.engine.auto.placing import auto_table, cut_source
from zoo_core.engine.auto.static import StaticPass
from zoo_core.engine.auto.updating import AutoUpdater, shard_dim
from zoo_core.engine.batches import MicroBatch
from zoo_core.engine.build import Held, Source, Stage
from zoo_core.engine.engine import Engine
from zoo_core.engine.optimizer import OptimizerSettings
from zoo_core.layout import Rule, split
from zoo_core.plan import Plan
from zoo_ops import Batch

__all__ = ["engine_for"]


class _Placed(Engine):
    """What placing changes of an engine.

    `source` gives whole parameters, by the rows that the plugin has.
    """

    averages = False
    places = True
    _static: StaticPass | None = None

    def _laid_out(self, table: Mapping[str, Rule]) -> dict[str, Rule]:
        self._plain_table = dict(table)
        return auto_table(table, self.mesh.plan.tensor)

    def _chunk_builder(self, number: int, start: int, stop: int) -> Any:
        build = super()._chunk_builder(number, start, stop)

        def built() -> Any:
            chunk = build()
            sends = stop < len(self._elements)
            chunk.lies_over_mesh(self._dresser.arriving, self._dresser.departing if sends else None)
            return chunk

        return built

    def _staged(self, source: Source, **settings: Any) -> Stage:
        plan = self.mesh.plan
        stage = [rank for rank in range(plan.world) if plan.coordinates(rank).pipe == self.mesh.place.pipe]
        ranks = np.asarray(stage).reshape(plan.replicas, plan.tensor).T
        self.over = dist.ProcessMesh(ranks.tolist(), dim_names=["tensor", "replica"])
        cuts = shard_dim if plan.sharding_stage == 3 else None
        self._dresser = Dresser(self.over, self.mesh, self._plain_table, cuts)
        own = cut_source(source, self._plain_table, plan.tensor, self.mesh.place.tensor)
        return Stage(self.table, own, **{**settings, "degree": 1, "rank": 0}, dresser=self._dresser)

    def _updating(self, layers: Any, held: Mapping[str, Held], settings: OptimizerSettings) -> Any:
        return AutoUpdater(layers, held, self.mesh, settings, self.tied)

    def part(self, name: str, values: Any) -> Any:
        """Cut whole values as the parameter is placed, the replicas aside."""
        return split(values, self.table[name], self.mesh.plan.tensor, self.mesh.place.tensor)

    def _accumulate(self, batches: Sequence[Batch]) -> Any:
        if not self.mesh.plan.to_static:
            return super()._accumulate(batches)
        if self._static is None:
            chunk = self._chunks[0]
            self._static = StaticPass(
                chunk, lambda batch: chunk.through(None, batch), self.over, self.mesh.plan.replicas, self._amp
            )
        total = paddle.zeros([])
        for turn, batch in enumerate(batches):
            total += self._static(batch, turn * batch.input_ids.shape[0], self._denominator / len(batches))
            self._take_gradients()
        return total

    def _take_gradients(self) -> None:
        if self.updater is not None:
            self.updater.collect()

    def _vocab(self) -> dict[str, int]:
        head = self._head()
        return {} if head.dim is None else super()._vocab()

    def _to_batch(self, fields: MicroBatch, past: int = 0) -> Batch:
        batch = super()._to_batch(fields, past)
        names = ("input_ids", "position_ids", "segment_ids", "attention_mask", "labels")
        held = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
        at = self._dresser.batch_placements()
        found = replace(batch, **{name: as_global(tensor, self.over, at) for name, tensor in held.items()})
        found.once(LOCAL, lambda: replace(batch, _memo={}))
        return found

    def _local(self, logits: Any) -> Any:
        """This rank's logits, [B, S, V] or [B, S, v]."""
        logits = move(logits, REPLICA, 0 if self.mesh.plan.replicas > 1 else None)
        return as_local(move(logits, TENSOR, 2 if self._vocab() else None), self.over)

    def _loss(self, logits: Any, labels: Any) -> Any:
        return super()._loss(self._local(logits), labels._local_value())

    def logits(self, fields: MicroBatch, cache: Any = None) -> Any:
        """Return logits [B, S, V] of one micro batch; there is no cache under this engine."""
        found = super().logits(fields, cache)
        return None if found is None else self._local(found)


@cache
def _placed(kind: type[Engine]) -> type[Engine]:
    return type(f"Placed{kind.__name__}", (_Placed, kind), {"__doc__": f"{kind.__name__} over placed tensors."})


E = TypeVar("E", bound=Engine)


def engine_for(plan: Plan, kind: type[E]) -> type[E]:
    """Return the engine that runs a plan: `kind` itself, or its counterpart over placed tensors.

    One process has nothing to place. The counterpart's `source` gives whole parameters, see `Mesh.cut`.
    """
    return cast("type[E]", _placed(cast("Any", kind))) if plan.semi_auto and plan.world > 1 else kind
