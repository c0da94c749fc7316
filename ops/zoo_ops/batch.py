"""What goes into a model and what comes out.

Shape legend: B batch, S sequence, K keys (past and present), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from paddle import Tensor

__all__ = ["Batch", "Output"]

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """One micro batch, whole on every rank of the tensor and pipeline axes.

    Args:
        input_ids: int64 [B, S].
        position_ids: int64 [B, S]; `None` means that the model counts: from 0, or on from its cache, and real tokens
            only where its family does so under padding. In a pass with a cache they are given, because the first
            layer of a pipeline has no cache to count on from.
        segment_ids: int64 [B, S]: packed samples; a token attends only to its own segment. `None` means one.
        attention_mask: int64 [B, K], 1 for a real token and 0 for padding; `None` means no padding.
        labels: int64 [B, S], already shifted; -100 is ignored. The model does not read them.
    """

    input_ids: Tensor
    position_ids: Tensor | None = None
    segment_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return `make()`, computed for this micro batch once and shared by its layers (rotary angles, masks)."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Output:
    """What a model returns.

    Args:
        logits: [B, S, V].
    """

    logits: Tensor
