"""The training loop: schedule, steps, evaluation, log, checkpoints; and logits, the parity tool."""

from __future__ import annotations

__all__: list[str] = []
