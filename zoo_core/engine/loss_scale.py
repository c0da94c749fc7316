"""The scale of a float16 loss, without which small gradients vanish (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

__all__ = ["LossScale"]

_GROWS_AFTER = 2000
_LOWEST = 1.0


class LossScale:
    """Doubles after 2000 steps without overflow, halves after one with it; stays 1 when it does not adapt.

    The gradients are divided by it where they are clipped, after every reduction and on all ranks alike. fleet's
    scaler looks at them earlier: under pure data parallelism ranks then disagree on which steps they skip, and under
    sharding stage 3 it does not reach the slices.

    Args:
        first: the first scale; 0 does not scale.
    """

    def __init__(self, first: float = 0.0) -> None:
        self.adapts = first > 0
        self.value = first if self.adapts else 1.0
        self.steps = 0
        """Steps since the scale changed or a gradient overflowed."""

    def update(self, overflowed: bool) -> None:
        """Count a step."""
        if not self.adapts:
            return
        self.steps = 0 if overflowed else self.steps + 1
        if overflowed:
            self.value = max(self.value / 2, _LOWEST)
        elif self.steps == _GROWS_AFTER:
            self.value, self.steps = self.value * 2, 0

    def state(self) -> tuple[float, int]:
        """What `restore` takes."""
        return self.value, self.steps

    def restore(self, value: float, steps: int) -> None:
        """Go on from a state; one that does not adapt stays as it is."""
        if self.adapts:
            self.value, self.steps = float(value), int(steps)
