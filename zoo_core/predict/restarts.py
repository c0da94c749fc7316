"""Workers that answer, started again where one died: answers that are on the disk are kept. No paddle."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from zoo_core._counting import many
from zoo_core.arguments import Arguments
from zoo_core.engine.launch import Died, spawn
from zoo_core.errors import ConfigError
from zoo_core.plan import Plan
from zoo_core.predict.ready import Ready
from zoo_core.predict.record import standing

__all__ = ["keep_answering"]


def keep_answering(arguments: Arguments, plan: Plan, ready: Ready, words: Sequence[str]) -> int:
    """Run this command in the workers of a plan, again at most `max_restarts` times; returns the exit status.

    Raises:
        Died: a worker died, and no restart is left, or the one before it answered nothing.
        ZooError: what a worker ended with.
    """
    launch, output = arguments.launch, Path(arguments.generation.output_file).expanduser()
    left, answered = launch.max_restarts, -1
    changes: dict[str, bool] = {}
    while True:
        try:
            return spawn(launch, plan, words, changes)
        except Died as error:
            try:
                done = standing(output, ready.settings, len(ready.prompts)).done
                changes = {"overwrite_output": False}
            except ConfigError:  # what was to be overwritten is there as it was
                done = 0
            if not left or done <= answered:
                raise
            left, answered = left - 1, done
            going = f"going on after {many(done, 'question')}, {many(left, 'restart')} left"
            print(f"{error.what}; {going}", file=sys.stderr, flush=True)
