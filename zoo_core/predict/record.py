"""The file of answers while it is being written: a kill at any moment loses a few answers, never a line. No paddle.

Answers come in the order of the questions, some lines at a time, into `FILE.part`; what is on the disk for good stands
in `FILE.state`, with all that decides what answers say. When all are there `FILE.part` becomes `FILE`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_core._atomic import written_beside
from zoo_core.errors import ConfigError, ZooError

__all__ = ["DIGEST", "Record", "State", "part_of", "standing"]

DIGEST = "digest of "
"""Begins the names of settings whose values say nothing to people."""

_FORMAT = 1
_ANEW = "--overwrite_output answers anew; or name another --output_file"


def part_of(output: Path) -> Path:
    """Where answers are while not all are there."""
    return output.with_name(output.name + ".part")


def _state_of(output: Path) -> Path:
    return output.with_name(output.name + ".state")


@dataclass(frozen=True)
class State:
    """How far the answers are.

    Args:
        settings: all that decides what they say, by name.
        total: questions.
        done: questions whose answers are written.
        size: bytes that they take.
    """

    settings: Mapping[str, Any]
    total: int
    done: int = 0
    size: int = 0

    @property
    def complete(self) -> bool:
        """Whether every question is answered."""
        return self.done == self.total


def standing(output: Path, settings: Mapping[str, Any], total: int, overwrite: bool = False) -> State:
    """Return where a prediction goes on; `done` is 0 where it begins. Changes nothing.

    Args:
        output: the file of answers.
        settings: all that decides what answers say, as JSON has it.
        total: questions.
        overwrite: begin, whatever is there.

    Raises:
        ConfigError: the file holds something else, or answers of other settings; names them.
    """
    fresh, part = State(settings, total), part_of(output)
    if output.is_dir():
        raise ConfigError(f"{output} is a folder", "answers are written to a file", "--output_file FILE")
    if overwrite:
        return fresh
    there = _read(output)
    if there is None:
        if output.exists():
            raise ConfigError(f"{output} exists", "it is not known to hold answers to these questions", _ANEW)
        return fresh
    held = part.stat().st_size if part.is_file() else -1
    in_place = there.complete and held < there.size and output.is_file()
    if not in_place and (held < there.size or not (there.done or output.exists())):
        return fresh  # the answers were removed, or there are none yet
    names = dict.fromkeys((*settings, *there.settings))
    differ = [
        _difference(name, there.settings.get(name), settings.get(name))
        for name in names
        if there.settings.get(name) != settings.get(name)
    ]
    if differ or there.total != total:
        begun = "holds the answers" if there.complete else "was begun"
        raise ConfigError(f"{output} {begun} of another prediction", "; ".join(differ), _ANEW)
    return there


def _difference(name: str, there: Any, here: Any) -> str:
    if name.startswith(DIGEST):
        return f"what is in {name.removeprefix(DIGEST)} has changed"
    return f"{name} is {_shown(there)} there, {_shown(here)} here"


def _shown(value: Any) -> str:
    return "not set" if value is None or value == "" else str(value)


def _read(output: Path) -> State | None:
    path = _state_of(output)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError("another format number")
        return State(content["settings"], int(content["total"]), int(content["done"]), int(content["size"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path}", f"{type(error).__name__}: {error}", _ANEW) from None


class Record:
    """Writes answers; one process has it.

    Args:
        output: the file of answers.
        settings, total, overwrite: see `standing`.

    Raises:
        ConfigError: see `standing`; or another process writes these answers.
        ZooError: the folder cannot be written.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], total: int, overwrite: bool = False) -> None:
        self.output, self.part, self._handle = output, part_of(output), -1
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            while self._handle < 0:
                self._handle = self._lock()
            # asked again now that nobody else writes; what was asked before the run may have changed
            self.state = standing(output, settings, total, overwrite)
            if not self.state.done:
                os.ftruncate(self._handle, 0)
                self._keep(self.state)
            elif os.fstat(self._handle).st_size > self.state.size:  # what a kill left of lines that were not done
                os.ftruncate(self._handle, self.state.size)
        except OSError as error:
            self.close()
            raise self._full(error) from error
        except BaseException:
            self.close()
            raise

    def _lock(self) -> int:
        """Open the answers so far, which nobody else may have open; -1 where they have just been put in their place."""
        handle = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(self.part)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise ConfigError(
                f"another process writes {self.output}", f"it has {self.part} open", "wait for its end, or end it"
            ) from None
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks
            return handle
        os.close(handle)
        return -1

    @property
    def done(self) -> int:
        """Questions whose answers are on the disk."""
        return self.state.done

    def add(self, lines: Sequence[str], done: int) -> None:
        """Append lines, and bring them to the disk.

        Args:
            lines: without line breaks.
            done: questions answered with these.

        Raises:
            ZooError: the disk is full; the lines before are kept.
        """
        content = memoryview("".join(f"{line}\n" for line in lines).encode())
        size = self.state.size + len(content)
        try:
            while content:
                content = content[os.write(self._handle, content) :]
            os.fsync(self._handle)
            self._keep(replace(self.state, done=done, size=size))
        except OSError as error:
            raise self._full(error) from error

    def lines(self) -> list[dict[str, Any]]:
        """Return what is written so far."""
        with self.part.open("rb") as stream:
            return [json.loads(line) for line in stream]

    def finish(self) -> None:
        """Put the answers in their place, if all are there.

        Raises:
            ZooError: that cannot be done; they are in `part`.
        """
        if not self.state.complete:
            return
        try:
            if os.fstat(self._handle).st_size == self.state.size:
                os.replace(self.part, self.output)
            else:  # they are in their place; the file was made to be locked
                self.part.unlink()
        except OSError as error:
            raise self._full(error) from error

    def close(self) -> None:
        """Let others have the files."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _keep(self, state: State) -> None:
        content = {"format": _FORMAT, **vars(state), "settings": dict(state.settings)}
        with written_beside(_state_of(self.output)) as stream:
            stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
        self.state = state

    def _full(self, error: OSError) -> ZooError:
        why = error.strerror or str(error)
        return ZooError(f"cannot write {self.output}", why, "free space and run this again, or change --output_file")
