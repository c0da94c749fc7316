"""What a plan needs and how fast it is: memory by stage and speed, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo_core.plan.counts import Counted
from zoo_core.plan.hardware import Hardware
from zoo_core.plan.memory import StageMemory, predict_memory
from zoo_core.plan.plan import Plan
from zoo_core.plan.precision import Keeping, Numbers
from zoo_core.plan.throughput import Speed, predict_speed

__all__ = ["PARTS", "Prediction", "predict"]

MB = 2**20
"""Bytes of what the published runs call a MB (`max_memory_allocated` / 1024 / 1024)."""

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
"""What a stage's memory is made of, in the order it is shown."""


@dataclass(frozen=True)
class Prediction:
    """Memory and speed of a plan on a device.

    Args:
        hardware: the device.
        limit: bytes that a rank may hold.
        numbers: element types.
        stages: memory of the fullest rank of each stage.
        speed: of the whole.
    """

    hardware: Hardware
    limit: int
    numbers: Numbers
    stages: tuple[StageMemory, ...]
    speed: Speed

    @property
    def fullest(self) -> StageMemory:
        """The stage whose ranks hold most."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def fits(self) -> bool:
        """Whether every rank stays within the limit."""
        return self.fullest.total <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; memory in MB of 2**20 bytes, times in seconds."""
        speed = self.speed
        return {
            "hardware": self.hardware.name,
            "precision": str(self.numbers),
            "memory_mb": round(self.fullest.total / MB, 1),
            "memory_limit_mb": round(self.limit / MB, 1),
            "fits": self.fits,
            "tokens_per_second_per_card": round(speed.tokens, 2),
            "mfu": round(speed.mfu, 4),
            "pipeline_bubble": round(speed.bubble, 4),
            "step_seconds": round(speed.step, 4),
            "step_parts": {
                name: round(getattr(speed, name), 4) for name in ("compute", "memory", "tensor", "sharding", "update")
            },
            "stages": [
                {
                    "stage": stage.stage,
                    "memory_mb": round(stage.total / MB, 1),
                    **{f"{part}_mb": round(getattr(stage, part) / MB, 1) for part in PARTS},
                    **({"process_mb": round(stage.process / MB, 1)} if stage.process else {}),
                    **({"gradients_later_mb": round(stage.later / MB, 1)} if stage.later else {}),
                    "weights_bytes": stage.weights,
                    "gradients_bytes": stage.gradients,
                    "optimizer_bytes": stage.optimizer,
                    "elements_per_rank": stage.elements,
                    "micro_batches_in_flight": stage.in_flight,
                }
                for stage in self.stages
            ],
        }


def predict(
    plan: Plan,
    counts: Counted,
    numbers: Numbers,
    keeping: Keeping,
    device: Hardware,
    limit: int | None = None,
    owned: Sequence[int] | None = None,
    stages: Sequence[int] | None = None,
) -> Prediction:
    """Return the prediction of a plan.

    Args:
        limit: bytes that a rank may hold; `None` is the device's memory but its reserve.
        owned, stages: see `predict_memory`.

    Raises:
        ConfigError: the device does not compute in the run's element type.
    """
    memory = predict_memory(plan, counts, numbers, keeping, device.process, owned, stages)
    speed = predict_speed(plan, counts, numbers, keeping, device)
    return Prediction(device, device.memory - device.reserve if limit is None else limit, numbers, memory, speed)
