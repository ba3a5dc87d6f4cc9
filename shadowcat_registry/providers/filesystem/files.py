"""Calls on files and directories as this provider makes them: nothing is followed, everything is named.

Knows paths and bytes, no tapes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

# A FIFO must not block us: O_NONBLOCK means nothing to a regular file. Each may be missing somewhere.
SAFELY: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)
COPY_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 16

sync_data = getattr(os, "fdatasync", os.fsync)

_seeking: Final = threading.Lock()  # guards the one place of a descriptor; nothing else is called under it


def _seek_and_read(fd: int, size: int, offset: int) -> bytes:
    with _seeking:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)


read_at: Final[Callable[[int, int, int], bytes]] = getattr(os, "pread", _seek_and_read)
"""Descriptor, size and offset. From any thread; on Windows, which has no `pread`, one after the other."""


class Descriptor:
    """A file that is closed as soon as nobody has this any more. Whoever reads from it has it, so that nobody
    can close it underneath him, and no other file gets its number meanwhile."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd

    def __del__(self) -> None:
        os.close(self.fd)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Calls on a descriptor do not say which file it is, and the operator has to know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def reader(fd: int, *, close: bool = True) -> BinaryIO:
    return os.fdopen(fd, "rb", buffering=READ_BYTES, closefd=close)


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    for line in file:
        if not line.endswith(b"\n"):  # being written, or torn: not data yet
            return
        yield line


class GrowingLines(Iterator[bytes]):
    """The whole lines of a file; once at its end, it can be asked again for what has come since."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = file.tell()

    def __next__(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            self._file.seek(self._end)
            raise StopIteration
        self._end += len(line)
        return line

    def close(self) -> None:
        self._file.close()
