"""What some ranks do for all of them, so that all go on or all fail."""

from __future__ import annotations

import json
from collections.abc import Callable

from zoo_core.engine.mesh import Mesh
from zoo_core.errors import DataError, ZooError

__all__ = ["shared"]


def shared(mesh: Mesh, make: Callable[[], str]) -> list[str]:
    """Return what `make` gave on every rank, in rank order.

    Raises:
        DataError: on all ranks, what the first rank failed of that did.
    """
    made, failed = "", ""
    try:
        made = make()
    except ZooError as error:
        failed = json.dumps([error.what, error.why, error.todo])
    found = mesh.exchange(json.dumps([made, failed]))
    parts = [json.loads(text) for text in found]
    wrong = next((part[1] for part in parts if part[1]), "")
    if wrong:
        raise DataError(*json.loads(wrong))
    return [part[0] for part in parts]
