"""Calls on files and directories as this provider makes them: nothing is followed, everything is named.

Knows paths and bytes, no tapes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
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


def make_directories(directory: Path) -> None:
    """For the owner only, on every level that is created; what is there stays as it is."""
    try:
        directory.mkdir(mode=0o700)
    except FileNotFoundError:
        make_directories(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from None


def sync_directory(directory: Path) -> None:
    """Makes names durable. Where directories cannot be opened (Windows), the system sees to it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | SAFELY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
