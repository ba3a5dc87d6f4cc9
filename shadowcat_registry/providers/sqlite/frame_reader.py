"""Any frame of one tape in a tapes file, again and again.

The places in its index are the numbers of lines, found by one pass over the tape, as far as anybody asked.
The segments that were read last are kept. What a transaction of the user has written may be taken back: in
its thread everything is looked up anew, and nothing is remembered.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Final, TypeVar

from ...errors import StorageClosedError, StorageDamagedError, TapeNotFoundError
from ...frame_index import FrameIndex
from ...tape import frame_seq, lines_after
from . import segments
from .files import File

_T = TypeVar("_T")

_KEPT_BYTES: Final = 4 << 20


class _Places:
    """Of the lines that the pass has come by."""

    __slots__ = ("frames", "starts")

    def __init__(self) -> None:
        self.frames = FrameIndex()
        self.starts = array("q")
        """The first line of each segment."""

    def start_of(self, line: int) -> int:
        """The first line of its segment."""
        return self.starts[bisect_right(self.starts, line) - 1]


class SqliteFrameReader:
    """Thread-safe."""

    def __init__(
        self, file: File, tape_id: str, no: int, lines_from: Callable[[int], Iterator[bytes]]
    ) -> None:
        """`lines_from(line)` reads the tape on from the first line of a segment."""
        self._file: Final = file
        self._tape_id: Final = tape_id
        self._no: Final = no
        self._lines_from: Final = lines_from
        self._closed = False
        self._places = _Places()
        # Held by the one who makes the pass; only the file is read under it.
        self._passing = threading.Lock()
        # Guards what is kept, by the first line of each; nothing is called under it.
        self._keeping = threading.Lock()
        self._kept: dict[int, tuple[int, list[bytes]]] = {}  # the one that was read last comes last
        self._kept_bytes = 0

    def frame(self, seq: int) -> bytes | None:
        self._check_open()
        if self._file.connections.transaction_here() is not None:
            lines = self._lines_from(self._start_before(seq - 1))
            return next((line for line in lines if frame_seq(line) == seq), None)
        places = self._places
        span = places.frames.span(seq)
        if span is None:
            places, span = self._find(lambda frames: frames.span(seq))
            if span is None:
                return None
        start = places.start_of(span[0])
        line = self._segment(start)[span[0] - start]
        if frame_seq(line) != seq:
            raise StorageDamagedError(f"its line {span[0] + 1} is another one than before", self._tape_id)
        return line

    def read(self, after_seq: int) -> Iterator[bytes]:
        self._check_open()
        if after_seq < 0:
            start = 0
        elif self._file.connections.transaction_here() is not None:
            start = self._start_before(after_seq)
        else:
            places = self._places
            found = places.frames.first_from(after_seq)
            if found is None:
                places, found = self._find(lambda frames: frames.first_from(after_seq))
            start = places.frames.end if found is None else places.start_of(found[1])
        return lines_after(self._lines_from(start), after_seq)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StorageClosedError(f"the reader of tape {self._tape_id!r}")

    def _start_before(self, after_seq: int) -> int:
        with self._file.connections.reading(self._tape_id) as db:
            self._check_there(db.execute("SELECT 1 FROM tape WHERE no = ?", (self._no,)).fetchone())
            return segments.find(db, self._no, after_seq) if after_seq >= 0 else 0

    def _check_there(self, row: object) -> None:
        """Raises: TapeNotFoundError."""
        if row is None:
            raise TapeNotFoundError(self._tape_id)

    def _segment(self, start: int) -> list[bytes]:
        with self._keeping:
            if (kept := self._kept.pop(start, None)) is not None:
                self._kept[start] = kept
                return kept[1]
        with self._file.connections.reading(self._tape_id) as db:
            blob = self._file.segments.blob(db, self._tape_id, self._no, start)
        lines = list(BytesIO(blob))
        with self._keeping:
            if start not in self._kept:
                self._kept[start] = len(blob), lines
                self._kept_bytes += len(blob)
                while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
                    self._kept_bytes -= self._kept.pop(next(iter(self._kept)))[0]
        return lines

    def _find(self, look: Callable[[FrameIndex], _T | None]) -> tuple[_Places, _T | None]:
        """What `look` finds when the index goes as far as it has to, or as far as the tape."""
        with self._passing:
            places = self._places
            found = look(places.frames)  # somebody else may have made the pass meanwhile
            try:
                is_all = False
                while found is None and not is_all:
                    is_all = self._pass_on(places)
                    found = look(places.frames)
            except BaseException:
                self._places = _Places()  # wherever it was interrupted
                raise
            return places, found

    def _pass_on(self, places: _Places) -> bool:
        """Adds the next segments; whether those were all that there are at this moment."""
        frames = places.frames
        line = frames.end
        with self._file.connections.reading(self._tape_id) as db:
            self._check_there(db.execute("SELECT 1 FROM tape WHERE no = ?", (self._no,)).fetchone())
            blobs, _, is_all = self._file.segments.chunk(db, self._tape_id, self._no, line)
        for blob in blobs:
            places.starts.append(line)
            for text in BytesIO(blob):
                seq = frame_seq(text)
                if seq is not None:
                    frames.add(seq, line)
                line += 1
        frames.end = line
        return is_all
