"""The plan of a run that goes on with fewer processes."""

from __future__ import annotations

from dataclasses import replace
from math import log2

from zoo_core.plan.nearest import candidates, distance
from zoo_core.plan.request import Request
from zoo_core.plan.rules import Case, ModelFacts, verdicts

__all__ = ["shrunk"]


def shrunk(request: Request, model: ModelFacts, most: int) -> Request | None:
    """Return the legal request nearest to `request` on at most `most` processes, of the same global batch.

    The global batch stays because schedule, loss and the place in the data are counted in it; so a process that would
    leave no whole accumulation is left out too. A process that is left idle counts as far as it costs: half of them,
    as much as a doubled axis. The micro batch stays where it divides what a replica gets, else it is the largest
    smaller one that does.

    Args:
        request: the request of the run so far, legal.
        model: the model.
        most: processes that are left, on one machine.

    Returns:
        The request; `None` if not even one process can run the model.
    """
    degrees = request.resolved()
    total = request.micro_batch * request.accumulate * degrees.data * degrees.sharding
    asked, found = replace(degrees.request, data=None, nodes=1), {}
    for world in range(1, most + 1):
        for candidate in candidates(replace(asked, world=world)):
            replicas = (candidate.data or 1) * (candidate.sharding or 1)
            if total % replicas == 0:
                micro, accumulate = _batches(total // replicas, candidate)
                fitted = replace(candidate, micro_batch=micro, accumulate=accumulate, data=None)
                # how many micro batches there are follows from the replicas and is no difference
                found[fitted] = distance(asked, replace(fitted, accumulate=asked.accumulate)) + log2(most / world)
    for candidate in sorted(found, key=lambda c: (found[c], -c.world, -c.tensor, -(c.sharding or 1))):
        if all(verdict.legal for verdict in verdicts(Case(candidate.resolved(), model))):
            return candidate
    return None


def _batches(samples: int, request: Request) -> tuple[int, int]:
    """The micro batch and their number for a replica that gets `samples` of a step."""
    least = 2 * request.pipeline if request.virtual_stages > 1 else 1
    sizes = [size for size in range(min(request.micro_batch, samples), 0, -1) if samples % size == 0]
    micro = next((size for size in sizes if samples // size >= least), sizes[0])
    return micro, samples // micro
