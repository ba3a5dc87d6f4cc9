"""Writes one tape: whole batches with one call each, and nothing behind a torn line."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from .files import naming, sync_data, sync_directory
from .locks import WriteLock

_LOOK_SECONDS: Final = 0.1
"""How often, at most, an appender looks whether its file still has a name."""


class FileAppender:
    """Appends to the file whose lock it holds; `_size_bytes` is where the acknowledged part ends."""

    def __init__(self, lock: WriteLock, path: Path, size_bytes: int, *, named: bool = False) -> None:
        self._lock = lock
        self._fd = lock.fd
        self._path = path
        self._size_bytes = size_bytes
        self._unsettled = False
        self._named = named  # durably
        self._look_at = monotonic() + _LOOK_SECONDS

    def append(self, lines: Sequence[bytes]) -> None:
        if self._unsettled:
            self._settle()
        if monotonic() >= self._look_at:
            self._look()
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        # Until the whole of it is in, whatever interrupts us leaves something to be cut off.
        self._unsettled = True
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                self._write_rest(memoryview(data)[written:])
        except OSError as error:
            error.filename = str(self._path)
            # The next append tries again what fails here: nothing is written behind a torn line.
            with suppress(OSError):
                self._settle()
            raise
        self._size_bytes += len(data)
        self._unsettled = False

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            written = os.write(self._fd, rest)
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rest = rest[written:]

    def _settle(self) -> None:
        os.ftruncate(self._fd, self._size_bytes)
        self._unsettled = False

    def _look(self) -> None:
        """What is written to a file without a name is lost with its descriptor, and no call says so."""
        if os.fstat(self._fd).st_nlink == 0:
            raise FileNotFoundError(
                errno.ENOENT, "the tape was removed while it is recorded", str(self._path)
            )
        self._look_at = monotonic() + _LOOK_SECONDS

    def sync(self) -> None:
        self._look()
        with naming(self._path):
            sync_data(self._fd)
        if not self._named:
            sync_directory(self._path.parent)
            self._named = True

    def close(self) -> None:
        try:
            if self._unsettled:
                with suppress(OSError):  # a torn tail is what `resume` and readers know how to meet
                    self._settle()
        finally:
            self._lock.release()
