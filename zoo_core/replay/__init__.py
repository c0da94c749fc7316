"""Passes of one token by numpy on CPU: model code is traced once, and what it does is replayed."""

from __future__ import annotations

__all__: list[str] = []
