"""The mesh: fleet's groups for a plan, and what this rank is on each axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.distributed as dist
from paddle.distributed import fleet
from paddle.distributed.fleet.base import topology

from zoo_core.engine import cpu
from zoo_core.engine.channel import Channel
from zoo_core.plan import Coordinates, Plan
from zoo_ops import parallel

__all__ = ["Mesh", "make_mesh"]

_turns = itertools.count()
_channel: list[Channel] = []


@dataclass(frozen=True)
class Mesh:
    """The groups of a plan in this process. A process may make one after another; fleet knows the last.

    Args:
        plan: what was composed.
        rank: global rank.
        place: coordinates of the rank.
        hcg: fleet's hybrid communicate group; `None` in a single process.
        strategy: fleet's strategy; `None` in a single process.
        ends: the group of the first and the last pipeline stage, which share tied weights; `None` elsewhere.
        expert: the axis over which experts are spread.
        expert_copies: the group of the ranks that hold the same experts; `None` where there is one of each.
    """

    plan: Plan
    rank: int = 0
    place: Coordinates = Coordinates(0, 0, 0, 0)
    hcg: Any = None
    strategy: Any = None
    ends: Any = None
    expert: parallel.Axis = parallel.Axis()
    expert_copies: Any = None

    @property
    def cut(self) -> tuple[int, int]:
        """The degree and the place by which values are read for the engine; the semi-automatic one cuts whole ones."""
        return (1, 0) if self.plan.semi_auto and self.plan.world > 1 else (self.plan.tensor, self.place.tensor)

    @property
    def replica(self) -> int:
        """Which stream of samples this rank reads."""
        return self.plan.replica_of(self.rank)

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.place.pipe == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the head."""
        return self.place.pipe == self.plan.pipeline - 1

    def exchange(self, text: str) -> list[str]:
        """Give `text` to every process and return everybody's, in rank order; waits as long as it takes.

        It goes over sockets of its own, so that ranks may be minutes apart (gloo gives up after 30 s), and so that the
        first rank, whose process has the rendezvous store, may end right after it.

        Raises:
            MachineError: a process has ended.
        """
        if self.plan.world == 1:
            return [text]
        if not _channel:
            _channel.append(Channel(self.rank, self.plan.world, self._through_store))
        return _channel[0].exchange(text)

    def _through_store(self, text: str) -> list[str]:
        store = _store()
        turn = next(_turns)
        store.set(f"zoo/exchange/{turn}/{self.rank}", text or " ")
        return [_wait_for(store, f"zoo/exchange/{turn}/{rank}") for rank in range(self.plan.world)]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.exchange("here")


def _store() -> Any:
    return paddle.base.core.create_or_get_global_tcp_store()


def _wait_for(store: Any, key: str) -> str:
    store.wait(key)
    text = bytes(store.get(key)).decode()
    return "" if text == " " else text


def make_mesh(plan: Plan) -> Mesh:
    """Make fleet's groups for `plan` and tell `zoo_ops.parallel` where this rank stands.

    Every process of the job calls it, with an equal plan.
    """
    if plan.device == "cpu" or plan.world == 1:
        paddle.set_device(plan.device)
    if plan.world == 1:
        parallel.configure()
        return Mesh(plan)
    if plan.device == "cpu":
        cpu.activate()
    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {
        "dp_degree": plan.data,
        "mp_degree": plan.tensor,
        "pp_degree": plan.pipeline,
        "sharding_degree": plan.sharding,
    }
    strategy.pipeline_configs = {
        "accumulate_steps": plan.accumulate,
        "micro_batch_size": plan.micro_batch,
        # under sequence parallelism ranks of the tensor axis send different tensors
        "enable_partial_send_recv": not plan.sequence_parallel and plan.device != "cpu",
    }
    topology._HYBRID_PARALLEL_GROUP = None  # fleet would keep the groups of the last mesh, whatever its degrees
    fleet.init(is_collective=True, strategy=strategy)
    hcg = fleet.get_hybrid_communicate_group()
    rank = dist.get_rank()
    place = plan.coordinates(rank)
    tensor = parallel.Axis(plan.tensor, place.tensor, hcg.get_model_parallel_group() if plan.tensor > 1 else None)
    on_cpu = plan.device == "cpu"
    spread, copies = None, None
    if plan.expert > 1:
        spread = _own_group(rank, [plan.expert_group(r) for r in range(plan.world)])
        if plan.expert < plan.replicas:
            copies = _own_group(rank, [plan.expert_copies(r) for r in range(plan.world)])
    expert = parallel.Axis(plan.expert, plan.replica_of(rank) % plan.expert, spread)
    parallel.configure(
        tensor,
        plan.sequence_parallel,
        cpu.reduce_scatter if on_cpu else None,
        _copies_groups(plan, rank),
        expert,
        cpu.all_to_all if on_cpu else None,
        plan.sharding_stage == 3,
    )
    if plan.pipeline > 1 and on_cpu:
        cpu.connect_pipeline()
    return Mesh(plan, rank, place, hcg, strategy, _ends_group(plan, rank), expert, copies)


def _own_group(rank: int, every: Sequence[tuple[int, ...]]) -> Any:
    """Make the groups that the ranks of the world are in, in one order on all of them; return this rank's."""
    found = None
    for ranks in sorted(set(every)):
        group = dist.new_group(list(ranks))
        if rank in ranks:
            found = group
    return found


def _copies_groups(plan: Plan, rank: int) -> dict[int, Any]:
    """For every number of copies a key/value head may have, the group of the ranks that hold the same one."""
    # the tensor axis varies fastest, so copies are neighbours
    return {
        copies: _own_group(rank, [tuple(range(first, first + copies)) for first in range(0, plan.world, copies)])
        for copies in range(2, plan.tensor + 1)
        if plan.tensor % copies == 0
    }


def _ends_group(plan: Plan, rank: int) -> Any:
    if plan.pipeline == 1:
        return None
    stages = [plan.group("pipe", other) for other in range(plan.world)]
    return _own_group(rank, [(line[0], line[-1]) for line in stages])
