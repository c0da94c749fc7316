"""The plan: every degree decided, every rank placed, every layer given to a stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from zoo_core.plan.request import Recompute
from zoo_core.plan.text import describe

__all__ = ["AXES", "Axis", "Coordinates", "Plan"]

Axis = Literal["data", "pipe", "sharding", "tensor"]

# fleet's default hybrid_parallel_order (base/distributed_strategy.py): dp, pp, sharding, sep, cp, mp; sep and cp are 1.
AXES: tuple[Axis, ...] = ("data", "pipe", "sharding", "tensor")


@lru_cache(maxsize=1024)
def _chunks(bounds: tuple[int, ...], stages: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The runs of layers of each stage; a search asks for the same ones thousands of times."""
    runs = tuple(zip(bounds[:-1], bounds[1:], strict=True))
    return tuple(runs[stage::stages] for stage in range(stages))


@dataclass(frozen=True)
class Coordinates:
    """Where a rank stands on each axis."""

    data: int
    pipe: int
    sharding: int
    tensor: int


@dataclass(frozen=True)
class Plan:
    """How a model runs on a mesh; what the engine obeys.

    Args:
        world: processes, over all machines.
        data, sharding, tensor, pipeline: degrees of the axes; their product is `world`.
        sharding_stage: 0 (off), 1, 2 or 3.
        virtual_stages: chunks that each stage holds.
        sequence_parallel: whether the sequence is split over the tensor axis.
        expert: expert-parallel degree, inside sharding x data.
        micro_batch: samples of one replica in one forward pass.
        accumulate: micro batches of one optimizer step.
        recompute, recompute_interval: what is recomputed, and every how many blocks of a stage.
        offload: sharded optimizer states live in host memory.
        stage_bounds: cut points into the list of pipeline layers; chunk c is [bounds[c], bounds[c + 1]) and belongs to
            stage c % pipeline; there are pipeline x virtual_stages chunks.
        layers: single-card prefix of each pipeline layer.
        labels: a short name for each of `layers`, for people.
        blocks: which of `layers` are decoder blocks.
        remarks: padding, replication, and what was switched off; to be printed, logged and stored.
        nodes: machines.
        device: "cpu", "gpu" or "xpu".
        to_static: the traced graph is trained.
        model: the model's name.
        sequence: tokens of a sample, if known.
        semi_auto: the semi-automatic engine runs it.
    """

    world: int = 1
    data: int = 1
    sharding: int = 1
    sharding_stage: int = 0
    tensor: int = 1
    pipeline: int = 1
    virtual_stages: int = 1
    sequence_parallel: bool = False
    expert: int = 1
    micro_batch: int = 1
    accumulate: int = 1
    recompute: Recompute = "none"
    recompute_interval: int = 1
    offload: bool = False
    stage_bounds: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    blocks: tuple[bool, ...] = ()
    remarks: tuple[str, ...] = ()
    nodes: int = 1
    device: str = "cpu"
    to_static: bool = False
    model: str = ""
    sequence: int | None = None
    semi_auto: bool = False

    @property
    def replicas(self) -> int:
        """Ranks that read different samples: data x sharding."""
        return self.data * self.sharding

    @property
    def global_batch(self) -> int:
        """Samples of one optimizer step."""
        return self.micro_batch * self.accumulate * self.replicas

    @property
    def local_world(self) -> int:
        """Processes on each machine."""
        return self.world // self.nodes

    def degree(self, axis: Axis) -> int:
        """The degree of one axis."""
        return {"data": self.data, "pipe": self.pipeline, "sharding": self.sharding, "tensor": self.tensor}[axis]

    def rank_of(self, *, data: int = 0, pipe: int = 0, sharding: int = 0, tensor: int = 0) -> int:
        """The global rank at these coordinates, in fleet's order: tensor varies fastest."""
        return ((data * self.pipeline + pipe) * self.sharding + sharding) * self.tensor + tensor

    def coordinates(self, rank: int) -> Coordinates:
        """Where `rank` stands.

        Raises:
            IndexError: there is no such rank.
        """
        if not 0 <= rank < self.world:
            raise IndexError(f"rank {rank} of a world of {self.world}")
        rest, tensor = divmod(rank, self.tensor)
        rest, sharding = divmod(rest, self.sharding)
        data, pipe = divmod(rest, self.pipeline)
        return Coordinates(data, pipe, sharding, tensor)

    def replica_of(self, rank: int) -> int:
        """Which of `replicas` streams of samples `rank` reads."""
        place = self.coordinates(rank)
        return place.data * self.sharding + place.sharding

    def expert_group(self, rank: int) -> tuple[int, ...]:
        """The ranks over which the experts of a layer are spread, in order, `rank` included."""
        first = self.replica_of(rank) // self.expert * self.expert
        return self._replicas(rank, range(first, first + self.expert))

    def expert_copies(self, rank: int) -> tuple[int, ...]:
        """The ranks that hold the same experts as `rank`, in order, `rank` included."""
        return self._replicas(rank, range(self.replica_of(rank) % self.expert, self.replicas, self.expert))

    def _replicas(self, rank: int, numbers: range) -> tuple[int, ...]:
        place = self.coordinates(rank)
        at = [divmod(number, self.sharding) for number in numbers]
        return tuple(self.rank_of(data=d, pipe=place.pipe, sharding=s, tensor=place.tensor) for d, s in at)

    def group(self, axis: Axis, rank: int) -> tuple[int, ...]:
        """The ranks that differ from `rank` on `axis` only, in order, `rank` included."""
        place = asdict(self.coordinates(rank))
        return tuple(self.rank_of(**{**place, axis: index}) for index in range(self.degree(axis)))

    def chunks(self, pipe: int) -> tuple[tuple[int, int], ...]:
        """The runs [start, stop) of pipeline layers that stage `pipe` holds, in the order they run."""
        return _chunks(self.stage_bounds, self.pipeline)[pipe]

    def stage_of(self, layer: int) -> int:
        """The stage that holds pipeline layer number `layer`."""
        chunk = next(c for c in range(len(self.stage_bounds) - 1) if layer < self.stage_bounds[c + 1])
        return chunk % self.pipeline

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: every field, and the derived batch sizes."""
        return {**asdict(self), "replicas": self.replicas, "global_batch": self.global_batch}

    def describe(self, stages: bool = True, task: str = "pretrain") -> str:
        """The plan in lines, for the terminal and the log; `stages` lists which layers each holds.

        Args:
            task: says what a sample is, and whether all have the same length.
        """
        return describe(self, stages, task)
