"""The second engine: one model over a mesh of processes, its tensors placed by the parameter table (DistTensor).

Nothing here knows an architecture, and no plugin knows of it: what the first engine reads of a table to swap layers,
this one reads to place their weights, and Paddle's rules for each operation follow from that.
"""

from __future__ import annotations

from zoo_core.engine.auto.engine import engine_for

__all__ = ["engine_for"]
