"""Who may write a tape, and who may change which tapes there are: by `flock`, over all processes.

Where there is no `fcntl` (Windows) both hold within this process only. A file system that refuses `flock`
is refused: better no recording than two of them in one file.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ...errors import TapeBusyError
from .files import SAFELY, naming

try:
    _fcntl: Any = importlib.import_module("fcntl")
except ImportError:
    _fcntl = None

LOCK_NAME: Final = ".lock"
_KERNELS_LIST: Final = Path("/proc/locks")

# Stands in for `flock` on the directory where there is no fcntl: one at a time in this process.
_process_lock = threading.Lock()
# Guards `_held_here`, which stands in for `flock` on tapes; nothing is called under it.
_held_lock = threading.Lock()
_held_here: set[str] = set()


class WriteLock:
    """The right to write one tape, held together with the descriptor that it writes through."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self._key = str(path)
        self._held = False
        self._closed = False

    def acquire(self, tape_id: str) -> None:
        """Raises: TapeBusyError, at once: nobody waits for a recorder to end."""
        if _fcntl is None:
            with _held_lock:
                if self._key in _held_here:
                    raise TapeBusyError(tape_id, os.getpid())
                _held_here.add(self._key)
        else:
            try:
                with naming(self._key):
                    _fcntl.flock(self.fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            except BlockingIOError:
                raise TapeBusyError(tape_id, _holder(self.fd)) from None
        self._held = True

    def release(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._held and _fcntl is None:
                with _held_lock:
                    _held_here.discard(self._key)
            elif self._held:
                # Closing alone would leave the lock with a child that was forked meanwhile.
                _fcntl.flock(self.fd, _fcntl.LOCK_UN)
        finally:
            os.close(self.fd)


def _holder(fd: int) -> int | None:
    """The process that has the `flock` on this file, where the system tells: `flock` itself does not."""
    if sys.platform != "linux":
        return None
    status = os.fstat(fd)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = _KERNELS_LIST.read_text().splitlines()
    except OSError:
        return None
    for line in lines:  # `1: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF`
        fields = line.split()
        if len(fields) == 8 and fields[1] == "FLOCK" and fields[5] == file and fields[4].isdecimal():
            return int(fields[4]) or None  # 0: in another namespace
    return None


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Makes create, resume, delete and changes of metadata exclude each other, over threads and processes:
    each use has a descriptor of its own, and `flock` tells those apart. Held for a few system calls; nothing
    outside of this provider is called under it."""
    fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | SAFELY, 0o600)
    try:
        if _fcntl is None:
            with _process_lock:
                yield
            return
        with naming(directory):
            _fcntl.flock(fd, _fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing alone would leave the lock with a child that was forked meanwhile.
            _fcntl.flock(fd, _fcntl.LOCK_UN)
    finally:
        os.close(fd)
