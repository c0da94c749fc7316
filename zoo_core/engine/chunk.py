"""A run of pipeline layers on one rank, called by fleet's schedules or by the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from paddle import nn
from paddle.distributed.fleet.utils import recompute

from zoo_core.engine.traced import TracedPass
from zoo_core.pipeline import PipeLayer
from zoo_core.plan import Plan
from zoo_ops import Batch, dropout_context, keep_dropout_context

__all__ = ["Chunk", "Feed"]


class Feed:
    """The micro batches of one step, as every stage has them.

    Each chunk sees the micro batches in order, under every schedule, so a counter for each chunk is enough.
    """

    def __init__(self) -> None:
        self._batches: Sequence[Batch] = ()
        self._taken: dict[int, int] = {}

    def fill(self, batches: Sequence[Batch]) -> None:
        """Start a step with these micro batches."""
        self._batches, self._taken = batches, {}

    def take(self, chunk: int) -> tuple[int, Batch]:
        """The next micro batch of `chunk`, and its number in the step."""
        turn = self._taken.get(chunk, 0)
        self._taken[chunk] = turn + 1
        return turn, self._batches[turn]


class Chunk(nn.Layer):  # type: ignore[misc]
    """Consecutive pipeline layers; `chunk(x)` runs the next micro batch of its feed.

    Args:
        layers: the elements and the layers built from them.
        number: of the chunk, in the order of the model.
        feed: where the micro batches are.
        plan: says what is recomputed, and how many replicas share a step.
        replica: which of them this is.
        frozen: the embedding is not trained, so what it gives would have no gradient.
    """

    def __init__(
        self,
        layers: Sequence[tuple[PipeLayer, nn.Layer]],
        number: int,
        feed: Feed,
        plan: Plan,
        replica: int = 0,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self._frozen = frozen
        self._replicas, self._replica = plan.replicas, replica
        self.number = number
        self.instead_of_head: Callable[[Any, Any], Any] | None = None
        """Is called with the head and its input [B, S, H] in place of the head, where that is the last layer."""
        self._feed = feed
        self._elements = [element for element, _ in layers]
        self._recomputed = _recomputed(self._elements, plan)
        self.run = nn.LayerList([layer for _, layer in layers])
        if plan.recompute == "full_attn":
            for element, layer, wanted in zip(self._elements, self.run, self._recomputed, strict=True):
                if wanted and element.attention:
                    _recompute_inside(layer, element.attention)
        self._whole = plan.recompute == "full"
        self._arriving: Callable[[Any], Any] = _as_it_is
        self._departing: Callable[[Any], Any] = _as_it_is
        self._traced: TracedPass | None = None
        if plan.to_static:
            self._traced = TracedPass(self, lambda batch: self.through(None, batch))

    def lies_over_mesh(self, arriving: Callable[[Any], Any], departing: Callable[[Any], Any] | None) -> None:
        """Say that hidden states here lie over a mesh of processes, with the rows of all replicas.

        Args:
            arriving: makes such a one of what the stage before has sent to this rank.
            departing: gives what this rank sends of one; `None` in the last chunk, which sends none.
        """
        self._replicas, self._replica, self._traced = 1, 0, None
        self._arriving, self._departing = arriving, departing or _as_it_is

    @property
    def blocks(self) -> int:
        """How many of the layers have a cache."""
        return sum(element.is_block for element in self._elements)

    def forward(self, x: Any) -> Any:
        """Run the next micro batch of the feed; `x` is ignored by the first chunk."""
        turn, batch = self._feed.take(self.number)
        first_sample = (turn * self._replicas + self._replica) * batch.input_ids.shape[0]
        if self._traced is not None and self.training:
            return self._traced(batch, first_sample)
        with dropout_context(first_sample):
            return self._departing(self.through(None if self.number == 0 else self._arriving(x), batch))

    def through(
        self, x: Any, batch: Batch, cache: Any = None, first_block: int = 0, last_position: bool = False
    ) -> Any:
        """Run `batch` through the layers.

        Args:
            x: hidden states [B, S, H]; `None` into the first chunk.
            cache: a `zoo_ops.Cache` over the blocks of this chunk, or `None`.
            first_block: number in `cache` of the first block of this chunk.
            last_position: let the head see the last position alone; of a prompt's no other is asked for, and logits of
                all would be the largest tensor of the pass.
        """
        block, head = first_block, self._elements[-1]
        for element, layer, wanted in zip(self._elements, self.run, self._recomputed, strict=True):
            if last_position and element is head and not head.is_block:
                x = x[:, -1:]
            own = cache[block] if cache is not None and element.is_block else None
            block += element.is_block
            if self._frozen and self.training and x is not None and x.stop_gradient:
                # recomputed blocks, and stages, pass gradients on only where their input has one
                x.stop_gradient = False
            if self.instead_of_head is not None and element is head and not head.is_block:
                x = self.instead_of_head(layer, x)
            elif self._whole and wanted and self.training and cache is None:
                x = recompute(keep_dropout_context(layer), x, batch, preserve_rng_state=False)
            else:
                x = layer(x, batch, own)
        return x


def _as_it_is(x: Any) -> Any:
    return x


def _recomputed(elements: Sequence[PipeLayer], plan: Plan) -> list[bool]:
    """Which of the layers are recomputed: every `recompute_interval`-th block of the chunk."""
    chosen, block = [], 0
    for element in elements:
        interval = max(1, plan.recompute_interval)
        chosen.append(element.is_block and plan.recompute != "none" and block % interval == 0)
        block += element.is_block
    return chosen


def _recompute_inside(layer: nn.Layer, path: str) -> None:
    """Recompute the sublayer at `path` in the backward pass."""
    inner = layer
    for name in path.split("."):
        inner = getattr(inner, name)
    plain = inner.forward

    def forward(x: Any, batch: Batch, cache: Any = None) -> Any:
        if cache is not None or not inner.training:
            return plain(x, batch, cache)
        return recompute(keep_dropout_context(plain), x, batch, preserve_rng_state=False)

    inner.forward = forward
