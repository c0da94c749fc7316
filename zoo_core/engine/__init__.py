"""Launch, mesh, local stage, sharding and step: with `zoo_ops.parallel` the only importers of paddle.distributed."""

from __future__ import annotations

__all__: list[str] = []
