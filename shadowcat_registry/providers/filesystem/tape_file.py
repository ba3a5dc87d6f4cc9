"""A tape as the one file that it would be without compression, whatever of it stands in blocks, and while
more and more of it does.

A reader stays with the file that it has opened. When it has come to its end, and another file has taken its
name, it goes on in that one, at the same place of the tape: no line is read twice, and none is missed.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from ...errors import InvalidTapeError, StorageDamagedError, TapeNotFoundError
from ...marks import Mark
from .blocks import Blocks
from .files import READ_BYTES, SAFELY, naming
from .tails import Sealed, is_at, read_sealed, tape_number

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def open_tape(fd: int, path: Path, tape_id: str, *, close: bool = True) -> tuple[BinaryIO, TapeFile]:
    """The tape at `path`, which is open already, with a buffer, and what is under it.

    Raises:
        As `TapeFile`; `fd` is closed then, if it is to be.
    """
    tape = TapeFile(fd, path, tape_id, close=close)
    return io.BufferedReader(tape, READ_BYTES), tape


def look_at_head(fd: int, path: Path) -> tuple[Sealed | None, int]:
    """As `read_sealed`.

    Raises:
        InvalidTapeError: the first line makes no sense.
    """
    try:
        return read_sealed(fd)
    except ValueError as error:
        raise InvalidTapeError(Mark(str(path), 1, 1, 1, 1), f"not a tape: {error}") from None


def open_blocks(fd: int, path: Path, sealed: Sealed, tape_id: str, cache_bytes: int = 0) -> Blocks:
    """Those of which the open file of that name speaks.

    Raises:
        TapeNotFoundError: the tape has been deleted.
        StorageDamagedError: they are not there.
        StorageUnavailableError: they cannot be read here, see `compression`.
    """
    try:
        return Blocks(path, sealed, tape_id, cache_bytes)
    except FileNotFoundError:
        if not is_at(fd, path):
            raise TapeNotFoundError(tape_id) from None
        reason = f"its beginning is missing: {sealed.blocks_of(path)}"
        raise StorageDamagedError(reason, tape_id) from None


def open_successor(fd: int, path: Path) -> int | None:
    """The file that has taken the name of an open one, if the tape goes on in it; None: it was deleted."""
    try:
        other = os.open(path, os.O_RDONLY | SAFELY)
    except OSError:  # whatever has its name now is no tape
        return None
    try:
        is_same = read_sealed(other)[0] is not None and tape_number(other) == tape_number(fd)
    except (ValueError, OSError):
        is_same = False
    if is_same:
        return other
    os.close(other)  # another one
    return None


class TapeFile(io.RawIOBase):
    """Its places are those in the tape. Not thread-safe: each reader has its own."""

    def __init__(self, fd: int, path: Path, tape_id: str, *, close: bool = True) -> None:
        """`close`: with this file, its descriptor is closed.

        Raises:
            TapeNotFoundError: it has been deleted.
            StorageDamagedError: its blocks are not there.
            InvalidTapeError: its first line makes no sense.
            StorageUnavailableError: its blocks cannot be read here, see `compression`.
        """
        self._path: Final = path
        self._tape_id: Final = tape_id
        self._position = 0
        self._blocks: Blocks | None = None
        self._tail = io.FileIO(fd, closefd=close)
        try:
            self._look_at_tail()
        except BaseException:
            self._tail.close()
            raise

    def _look_at_tail(self) -> None:
        fd = self._tail.fileno()
        self.sealed, self.head_bytes = look_at_head(fd, self._path)
        self._sealed_bytes = 0 if self.sealed is None else self.sealed.raw_bytes
        self._shift = self.head_bytes - self._sealed_bytes
        self._blocks = (
            None if self.sealed is None else open_blocks(fd, self._path, self.sealed, self._tape_id)
        )

    def place_before(self, after_seq: int) -> int | None:
        """As `Blocks.place_before`; None: nothing of the tape is in blocks."""
        return None if self._blocks is None else self._blocks.place_before(after_seq)

    def file_offset(self, position: int) -> int:
        """Where in the file of the name that place of the tape is; for one that is not in blocks."""
        return position + self._shift

    # -- what a buffer asks for -----------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._tail.fileno()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += os.fstat(self._tail.fileno()).st_size - self._shift
        self._position = offset
        return offset

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        with naming(self._path):
            while True:
                if self._blocks is not None and self._position < self._sealed_bytes:
                    part = self._blocks.read(self._position, len(view))
                    count = len(part)
                    view[:count] = part
                else:
                    self._tail.seek(self._position + self._shift)
                    count = self._tail.readinto(view) or 0
                if count or not len(view) or not self._goes_on():
                    self._position += count
                    return count

    def _goes_on(self) -> bool:
        """At the end of the file: whether there may be more, here or where the tape goes on."""
        fd = self._tail.fileno()
        if is_at(fd, self._path):
            return False
        if os.fstat(fd).st_size > self._position + self._shift:
            return True  # written between our look and the rename; nothing is behind it
        other = open_successor(fd, self._path)
        if other is None:
            return False
        before, self._tail = self._tail, io.FileIO(other)
        before.close()
        self._look_at_tail()
        return True

    def close(self) -> None:
        if not self.closed:
            try:
                self._blocks = None
                self._tail.close()
            finally:
                super().close()
