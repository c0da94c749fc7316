"""The plan against fleet itself: where ranks stand, and what the interleaved schedule accepts."""

from __future__ import annotations

import subprocess
import sys

from zoo_core.plan import Request, compose
from zoo_core.registry import Registry

# In a process of its own, so that the tests of paddle-free rooms stay so.
FLEET = """
from paddle.distributed import fleet
order = fleet.DistributedStrategy().hybrid_parallel_order
from paddle.distributed.fleet.base.topology import CommunicateTopology
degrees = {"dp": 2, "pp": 2, "sharding": 2, "mp": 2}
topology = CommunicateTopology(order, [degrees.get(name, 1) for name in order])
for rank in range(16):
    place = topology.get_coord(rank)
    print(place.dp, place.pp, place.sharding, place.mp)
"""


def test_ranks_stand_where_fleet_puts_them(fake_family):
    done = subprocess.run([sys.executable, "-c", FLEET], capture_output=True, text=True, check=True)
    theirs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()[-16:]]
    architecture = Registry({"fake": fake_family.plugin()}).family("fake")
    request = Request(world=16, tensor=2, pipeline=2, sharding=2, sharding_stage=1, accumulate=2)
    plan = compose(request, architecture, fake_family.config())
    ours = [plan.coordinates(rank) for rank in range(16)]
    assert [(c.data, c.pipe, c.sharding, c.tensor) for c in ours] == theirs
