"""One run for one output folder: a lock that ends with the process that holds it, however that ends.

It is `flock` on a file in the folder. The kernel drops it when the process dies, also by kill -9, so a dead run never
keeps it and the file itself may stay. Over NFS, Linux asks the server for the lock (NFSv4, or NFSv3 with its lock
daemon), so that it holds between machines; a mount with `nolock` or `local_lock=flock` sees runs of its own machine
only, and a file system without such locks gives a warning instead of protection.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from zoo_core.errors import CheckpointError

__all__ = ["LOCK", "FolderLock", "check_unlocked"]

LOCK = ".zoo-lock"
_log = logging.getLogger("zoo")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def _try_lock(handle: int, root: Path) -> bool:
    """Lock an open file; whether it is ours now. A file system without locks counts as free, with a warning."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s cannot be locked (%s): a second run there would not be noticed", root, error.strerror)
    return True


def _taken(root: Path) -> CheckpointError:
    try:
        told = json.loads((root / LOCK).read_text(encoding="utf-8"))
        why = f"process {told['pid']} on {told['host']} has trained there since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        why = "another process has trained there and is not at its end"
    return CheckpointError(
        f"{root} is in use by another run", why, "wait for its end or end it, or choose another --output_dir"
    )


def check_unlocked(root: str | Path) -> None:
    """Refuse a folder that a run works in; writes nothing.

    Raises:
        CheckpointError: names the process.
    """
    path = Path(root) / LOCK
    if not path.is_file():
        return
    handle = os.open(path, os.O_RDWR)
    try:
        if not _try_lock(handle, Path(root)):
            raise _taken(Path(root))
    finally:
        os.close(handle)


class FolderLock:
    """Holds the lock of an output folder until `release`, or until this process is gone.

    Raises:
        CheckpointError: another process holds it, named with its machine; or the folder cannot be written.
    """

    def __init__(self, root: str | Path) -> None:
        self._root, self._handle, self._made = Path(root), -1, not Path(root).exists()
        while self._handle < 0:
            self._handle = self._open()
        told = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": sys.argv,
        }
        with suppress(OSError):  # on a full disk the lock holds all the same; only who has it cannot be read
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, json.dumps(told).encode(), 0)

    def _open(self) -> int:
        """Open and lock the file; -1 where a run that came to its end has just removed it."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            # not inherited by programs that this process starts: they must not keep the lock
            handle = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            why = error.strerror or str(error)
            raise CheckpointError(f"cannot write to {self._root}", why, "choose another --output_dir") from error
        try:
            if not _try_lock(handle, self._root):
                raise _taken(self._root)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(self._root / LOCK)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return -1

    def release(self) -> None:
        """Let other runs have the folder, and remove it if it was made for the lock and is empty."""
        if self._handle < 0:
            return
        with suppress(OSError):
            os.unlink(self._root / LOCK)
            if self._made:
                self._root.rmdir()
        os.close(self._handle)
        self._handle = -1
