"""Who may write which tape: one writer a tape, over all threads and processes that have the file open.

A lock is a byte of `<file>-lock`, at the number of the tape, held by `fcntl`: the system gives it free
when its process ends in whatever way, a child that is forked does not inherit it, and it says who holds
it. No row could do that: it would outlive its writer, and a process id that is written down may be
somebody else's by now. Within a process, which `fcntl` does not tell apart, a table does the same.

Closing *any* descriptor of a file drops all such locks of the process. So there is one descriptor a file,
shared by all who have it open here, and closed by the last of them. Where there is no `fcntl` (Windows),
only the writers of one process exclude each other.
"""

from __future__ import annotations

import importlib
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ... import forks
from ...errors import TapeBusyError

try:
    _fcntl: Any = importlib.import_module("fcntl")
except ImportError:
    _fcntl = None

# `struct flock` as Linux on 64 bits has it; elsewhere nobody is asked, and the error goes without a process.
_FLOCK: Final = struct.Struct("hhxxxxqqixxxx") if sys.platform == "linux" and sys.maxsize > 1 << 32 else None

_guard = threading.Lock()  # guards the table below and the sets in it; only system calls are made under it
_files: dict[tuple[int, int], WriterLocks] = {}


class WriterLocks:
    """The locks of one tapes file, for all who have it open in this process."""

    def __init__(self, path: Path, descriptor: int, identity: tuple[int, int]) -> None:
        self.path: Final = path
        self._descriptor: Final = descriptor
        self._identity: Final = identity
        self.users = 1
        self._held: dict[int, object] = {}

    def acquire(self, no: int, tape_id: str, holder: object) -> None:
        """Whoever is interrupted in this does not know what came of it, and releases.

        Raises:
            TapeBusyError, at once: nobody waits for a recorder to end.
        """
        with _guard:
            if no in self._held:
                raise TapeBusyError(tape_id, os.getpid())
            self._held[no] = holder
            if _fcntl is not None:
                try:
                    _fcntl.lockf(self._descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB, 1, no)
                except OSError as error:
                    del self._held[no]
                    if isinstance(error, BlockingIOError | PermissionError):
                        raise TapeBusyError(tape_id, self._holder(no)) from None
                    raise

    def release(self, no: int, holder: object) -> None:
        """If `holder` has it."""
        with _guard:
            if self._held.get(no) is holder:
                del self._held[no]
                if _fcntl is not None and self.users:
                    _fcntl.lockf(self._descriptor, _fcntl.LOCK_UN, 1, no)

    def _holder(self, no: int) -> int | None:
        """The process that holds it, or None where it has just let go."""
        if _FLOCK is None:
            return None
        answer = _fcntl.fcntl(
            self._descriptor, _fcntl.F_GETLK, _FLOCK.pack(_fcntl.F_WRLCK, os.SEEK_SET, no, 1, 0)
        )
        kind, *_, pid = _FLOCK.unpack(answer)
        return pid if kind != _fcntl.F_UNLCK and pid > 0 else None

    @contextmanager
    def making(self) -> Iterator[None]:
        """While somebody makes the file, in whatever process: its byte is the first, which no tape has."""
        if _fcntl is None:
            yield
            return
        _fcntl.lockf(self._descriptor, _fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            _fcntl.lockf(self._descriptor, _fcntl.LOCK_UN, 1, 0)

    def is_free(self, no: int) -> bool:
        """Whether nobody writes the tape, at this moment."""
        asking = object()
        try:
            self.acquire(no, "", asking)
        except TapeBusyError:
            return False
        finally:
            self.release(no, asking)
        return True

    def leave(self) -> None:
        """Whoever opened it does not need it any more."""
        with _guard:
            self.users -= 1
            if self.users == 0 and _files.get(self._identity) is self:
                del _files[self._identity]
                os.close(self._descriptor)


def is_open_here(path: Path) -> bool:
    """Whether this process has the tapes file open."""
    with _guard:
        return _known(_beside(path)) is not None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + "-lock")


def _known(beside: Path) -> WriterLocks | None:
    """Without opening the file: closing it again would drop every lock of this process on it."""
    for locks in _files.values():  # also where somebody has removed it
        if locks.path == beside:
            return locks
    try:
        status = beside.stat()
    except FileNotFoundError:
        return None
    return _files.get((status.st_dev, status.st_ino))


def locks_of(path: Path) -> WriterLocks:
    """Those of the tapes file `path`, in `<path>-lock`, which is made where it is missing.

    Raises:
        OSError: it cannot be made or opened.
    """
    beside = _beside(path)
    with _guard:
        known = _known(beside)
        if known is not None:
            known.users += 1
            return known
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(beside, flags, 0o600)
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino)
        made = _files[identity] = WriterLocks(beside, descriptor, identity)
        return made


def _start_anew() -> None:
    """A child has none of these locks; they are the parent's, whatever happens to its copies here."""
    global _guard
    _guard = threading.Lock()
    forks.keep(dict(_files))
    _files.clear()


forks.module_in_child(_start_anew)
