"""Writes one tape: whole batches with one call each, and nothing behind a torn line."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from ...directories import sync_directory
from .files import sync_data
from .locks import WriteLock

_LOOK_SECONDS: Final = 0.1
"""How often, at most, an appender looks whether its file still has a name."""


class FileAppender:
    """Appends to the file whose lock it holds."""

    def __init__(self, lock: WriteLock, path: Path, size_bytes: int, *, named: bool = False) -> None:
        self._lock = lock
        self.fd = lock.fd
        self._path = path
        self.size_bytes = size_bytes
        """Where in the file the acknowledged part ends."""
        self._unsettled = False
        self._named = named  # durably
        self._look_at = monotonic() + _LOOK_SECONDS

    def append(self, lines: Sequence[bytes]) -> None:
        if self._unsettled:
            self.settle()
        if monotonic() >= self._look_at:
            self.look()
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        # Until the whole of it is in, whatever interrupts us leaves something to be cut off.
        self._unsettled = True
        try:
            written = os.write(self.fd, data)
            if written != len(data):
                self._write_rest(memoryview(data)[written:])
        except OSError as error:
            error.filename = str(self._path)
            # The next append tries again what fails here: nothing is written behind a torn line.
            with suppress(OSError):
                self.settle()
            raise
        self.size_bytes += len(data)
        self._unsettled = False

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            written = os.write(self.fd, rest)
            if not written:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rest = rest[written:]

    def settle(self) -> None:
        """Cut off what is behind the acknowledged part."""
        os.ftruncate(self.fd, self.size_bytes)
        self._unsettled = False

    def look(self) -> None:
        """What is written to a file without a name is lost with its descriptor, and no call says so."""
        if os.fstat(self.fd).st_nlink == 0:
            raise FileNotFoundError(
                errno.ENOENT, "the tape was removed while it is recorded", str(self._path)
            )
        self._look_at = monotonic() + _LOOK_SECONDS

    def sync(self) -> None:
        if monotonic() >= self._look_at:
            self.look()
        try:
            sync_data(self.fd)
        except OSError as error:
            error.filename = str(self._path)
            raise
        if not self._named:
            sync_directory(self._path.parent)
            self._named = True

    def close(self) -> None:
        try:
            if self._unsettled:
                with suppress(OSError):  # a torn tail is what `resume` and readers know how to meet
                    self.settle()
        finally:
            self._lock.release()
