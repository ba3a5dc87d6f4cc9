"""Any frame of one tape, again and again, out of files that stay open.

Where the frames are is found out by one pass over the tape, as far as anybody asked. That is derived, and
never believed: a frame is what its line says, where a line begins. Where something else stands (a file that
was cut off, or written over by hand), the pass begins anew.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ...errors import StorageClosedError, StorageUnavailableError, TapeNotFoundError
from ...frame_index import FrameIndex
from ...tape import frame_seq, lines_after
from .blocks import Blocks
from .files import READ_BYTES, Descriptor, naming, read_at, whole_lines
from .tails import is_at
from .tape_file import look_at_head, open_blocks, open_successor

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_T = TypeVar("_T")

_PASS_BYTES: Final = 256 * 1024
"""Of the pass, at a time."""
_LINE_BYTES: Final = 4096
"""Of a line whose length is not known, at first."""
_MOST_BYTES: Final = 64 * 1024
"""Of a frame and what stands before the next one, at first."""
_KEPT_BYTES: Final = 4 << 20
"""Of blocks, decompressed."""
_ATTEMPTS: Final = 3

_newline: Final = ord("\n")
_frame_start: Final = re.compile(rb'\{"type":"frame","seq":(\d{1,18}),')
_other_start: Final = re.compile(rb'\{"type":"(?:init|correlation|checkpoint)"')


@dataclass(frozen=True, slots=True, eq=False)
class _Files:
    """In which files the tape is at one moment, and which part in which."""

    tail: Descriptor
    shift: int
    """What has to be added to a place of the tape, to have it in the tail."""
    sealed_bytes: int
    """The part that is in blocks; the rest is in the tail."""
    blocks: Blocks | None
    unpacking: threading.Lock
    """Guards the blocks; nothing else is called under it."""

    @classmethod
    def of(cls, fd: int, path: Path, tape_id: str) -> _Files:
        """Raises: as `TapeFile`."""
        tail = Descriptor(fd)
        sealed, head_bytes = look_at_head(fd, path)
        if sealed is None:
            return cls(tail, 0, 0, None, threading.Lock())
        blocks = open_blocks(fd, path, sealed, tape_id, _KEPT_BYTES)
        return cls(tail, head_bytes - sealed.raw_bytes, sealed.raw_bytes, blocks, threading.Lock())

    def read(self, place: int, size: int) -> bytes:
        if self.blocks is not None and place < self.sealed_bytes:
            with self.unpacking:
                return self.blocks.read(place, size)
        return read_at(self.tail.fd, size, place + self.shift)


class FileFrameReader:
    """Thread-safe. Frames whose place is known are read without a lock, but for those that are in blocks."""

    def __init__(self, fd: int, path: Path, tape_id: str) -> None:
        """Of the open tape at `path`, whose descriptor is closed with this.

        Raises:
            As `TapeFile`.
        """
        self._path: Final = path
        self._tape_id: Final = tape_id
        self._files: _Files | None = _Files.of(fd, path, tape_id)  # None: closed
        self._switching = threading.Lock()  # guards the change of these; nothing is called under it
        self._index = FrameIndex()
        # Held by the one who adds to the index or begins another; only the files are read under it.
        self._passing = threading.Lock()

    def frame(self, seq: int) -> bytes | None:
        attempts = 0
        while attempts < _ATTEMPTS:
            index = self._index
            span = index.span(seq) or self._find(lambda known: known.span(seq))
            if span is not None:
                line = self._line_of(seq, *span)
                if line is not None:
                    return line
                self._forget(index)
                attempts += 1
            elif is_at((files := self._opened()).tail.fd, self._path):
                return None
            elif not self._goes_on(files, self._index.end):  # else it has become blocks since we looked
                raise TapeNotFoundError(self._tape_id)
        raise self._changing()

    def read(self, after_seq: int) -> Iterator[bytes]:
        place = 0 if after_seq < 0 else self._place_before(after_seq)
        with io.BufferedReader(_Stream(self, place), READ_BYTES) as file:
            lines = whole_lines(file)
            yield from lines if after_seq < 0 else lines_after(lines, after_seq)

    def close(self) -> None:
        with self._switching:
            self._files = None  # whoever reads from them at this moment comes to the end of that

    # -- one line -------------------------------------------------------------------------------

    def _line_of(self, seq: int, place: int, end: int) -> bytes | None:
        """The line of that frame at that place; None: that is not what stands there."""
        files = self._opened()
        size = min(end - place, _MOST_BYTES) if end > place else _LINE_BYTES
        if place > files.sealed_bytes:
            data = read_at(files.tail.fd, size + 1, place + files.shift - 1)
        else:  # the beginning of the tail, or a block: a line begins here, or nobody could have found one
            data = b"\n" + files.read(place, size)
        newline = data.find(b"\n", 1)
        if newline < 0:
            data = self._whole_line(files, place, data)
            newline = len(data) - 1
        if data.startswith(b'\n{"type":"frame","seq":%d,' % seq) and data[newline] == _newline:
            return data[1 : newline + 1]
        line = data[1 : newline + 1]
        is_line = data.startswith(b"\n") and line.endswith(b"\n")
        return line if is_line and frame_seq(line) == seq else None

    def _whole_line(self, files: _Files, place: int, data: bytes) -> bytes:
        """`data`, which ends in the middle of a line that begins at that place, up to the end of that."""
        parts, size = [data], len(data) - 1
        while not parts[-1].endswith(b"\n") and (part := files.read(place + size, max(size, _LINE_BYTES))):
            parts.append(part[: part.find(b"\n") + 1] or part)
            size += len(part)
        return b"".join(parts)

    # -- where it is ----------------------------------------------------------------------------

    def _place_before(self, after_seq: int) -> int:
        """A place where a line begins, and before which no frame has this seq or more."""
        for _ in range(_ATTEMPTS):
            index = self._index
            found = index.first_from(after_seq) or self._find(lambda known: known.first_from(after_seq))
            if found is None:
                return self._index.end
            if self._line_of(*found, 0) is not None:
                return found[1]
            self._forget(index)
        raise self._changing()

    def _find(self, look: Callable[[FrameIndex], _T | None]) -> _T | None:
        """What `look` finds when the index goes as far as it has to, or as far as the tape."""
        with self._passing:
            found = look(self._index)  # somebody else may have made the pass meanwhile
            if found is not None:
                return found
            if not self._fits(self._index):
                self._index = FrameIndex()
            try:
                return self._pass(self._index, look)
            except BaseException:
                self._index = FrameIndex()  # wherever it was interrupted
                raise

    def _fits(self, index: FrameIndex) -> bool:
        """Whether the tape is what it was when the index was made, as far as its end tells."""
        if not index.end:
            return True
        span = index.span(index.highest)
        if self._read(index.end - 1, 1) != b"\n":
            return False
        return span is None or self._line_of(index.highest, *span) is not None

    def _forget(self, index: FrameIndex) -> None:
        with self._passing:
            if self._index is index:
                self._index = FrameIndex()

    def _pass(self, index: FrameIndex, look: Callable[[FrameIndex], _T | None]) -> _T | None:
        rest = b""
        # A long line is fetched in ever larger parts, so that it is not copied over and over.
        while part := self._read(index.end + len(rest), max(_PASS_BYTES, len(rest))):
            newline = part.rfind(b"\n")
            rest += part
            if newline < 0:
                continue
            size = len(rest) - len(part) + newline + 1
            _add_frames(index, rest, size)
            rest = rest[size:]
            index.end += size
            found = look(index)
            if found is not None:
                return found
        return None

    # -- the files ------------------------------------------------------------------------------

    def _opened(self) -> _Files:
        files = self._files
        if files is None:
            raise StorageClosedError(f"the reader of tape {self._tape_id!r}")
        return files

    def _read(self, place: int, size: int) -> bytes:
        """At most so many bytes of the tape from there on; none: it ends there, for now."""
        with naming(self._path):
            while True:
                files = self._opened()
                part = files.read(place, size)
                if part or not self._goes_on(files, place):
                    return part

    def read_into(self, place: int, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        part = self._read(place, len(view))
        view[: len(part)] = part
        return len(part)

    def _goes_on(self, files: _Files, place: int) -> bool:
        """At the end of the tail: whether there may be more, here or where the tape goes on."""
        fd = files.tail.fd
        if is_at(fd, self._path):
            return False
        if os.fstat(fd).st_size > place + files.shift:
            return True  # written between our look and the rename; nothing is behind it
        other = open_successor(fd, self._path)
        if other is None:
            return False
        successor = _Files.of(other, self._path, self._tape_id)
        with self._switching:
            if self._files is files:  # else somebody was quicker, or has closed this
                self._files = successor
        return True

    def _changing(self) -> StorageUnavailableError:
        return StorageUnavailableError(f"somebody writes over it while it is read: {self._path}")


class _Stream(io.RawIOBase):
    """The tape from a place on, for a buffer."""

    def __init__(self, reader: FileFrameReader, place: int) -> None:
        self._reader = reader
        self._place = place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = self._reader.read_into(self._place, buffer)
        self._place += count
        return count


def _add_frames(index: FrameIndex, data: bytes, size: int) -> None:
    """Those on the lines that are the first `size` bytes of `data`, which stands at the end of the index."""
    first, start = index.end, 0
    find, add = data.find, index.add
    while start < size:
        end = find(b"\n", start) + 1
        if found := _frame_start.match(data, start):  # how every known recorder writes it
            add(int(found[1]), first + start)
        elif (
            not _other_start.match(data, start)
            or find(b"frame", start, end) >= 0
            or find(b"\\", start, end) >= 0
        ):
            seq = frame_seq(data[start:end])
            if seq is not None:
                add(seq, first + start)
        start = end
