"""A model as the thread that owns it sees it."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_core.generate.model import TextModel
from zoo_core.generate.pool import Pool
from zoo_core.generate.scoring import score_rows
from zoo_core.serve.jobs import Score

__all__ = ["ModelWorker"]


class ModelWorker:
    """A `Worker` over a model.

    Args:
        model: with its adapters.
        slots: most rows of an adapter at a time.
        room: most tokens of a row.
        chunk: about as many tokens of prompts are read between two passes.
    """

    def __init__(self, model: TextModel, slots: int, room: int, chunk: int) -> None:
        self.model = model
        self._slots, self._room, self._chunk = slots, room, chunk

    def use(self, adapter: str) -> None:
        """Run with this adapter from now on."""
        if self.model.adapters.name != adapter:
            self.model.use(adapter)

    def pool(self) -> Pool:
        """Make the rows of one adapter."""
        return self.model.pool(self._slots, self._room, self._chunk)

    def scores(self, prompts: Sequence[Sequence[int]], top: int) -> list[list[Score]]:
        """Score the tokens of prompts."""
        found = []
        for ids, scores in zip(prompts, score_rows(self.model.engine, prompts, top=top), strict=True):
            own = [Score(None)]
            for at in range(1, len(ids)):
                best = tuple(zip(scores.top_ids[at].tolist(), scores.top_logprobs[at].tolist(), strict=True))
                # One number for one token: clients compare the two to see whether it was the likeliest.
                own.append(Score(dict(best).get(ids[at], float(scores.logprobs[at])), best))
            found.append(own)
        return found
