"""The lines of tapes as they lie in the file: runs of them, each under the key of its first line."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final
from zlib import crc32

from ...errors import StorageDamagedError, TapeNotFoundError
from ...tape import frame_seq
from .layout import LINE_BITS, LINES

_HIGHEST: Final = 2**63 - 1
"""Stands for every seq above it: SQLite has none."""
_SEGMENT_BYTES: Final = 256 * 1024
_CHUNK_BYTES: Final = 512 * 1024
"""A reader fetches so much at a time, and lets go of the file in between: a slow one holds up nobody."""


End = tuple[int, int]
"""Where a tape goes on: the next line, and the highest seq so far."""

Row = tuple[int, int, int, int, bytes]
"""Of the table: key, line count, highest seq of the tape so far, checksum, lines."""


def row_of(no: int, end: End, line: bytes) -> tuple[Row, End]:
    """`rows_of` for a frame that comes alone."""
    number, high_seq = end
    seq = frame_seq(line)
    if seq is not None and seq > high_seq:
        high_seq = min(seq, _HIGHEST)
    return (no << LINE_BITS | number, 1, high_seq, crc32(line), line), (number + 1, high_seq)


def rows_of(no: int, end: End, lines: Sequence[bytes]) -> tuple[list[Row], End]:
    """What to insert for `lines` behind `end`, and the end then."""
    line, high_seq = end
    rows: list[Row] = []
    first, size_bytes, last = 0, 0, len(lines) - 1
    for position, text in enumerate(lines):
        seq = frame_seq(text)
        if seq is not None and seq > high_seq:
            high_seq = min(seq, _HIGHEST)
        size_bytes += len(text)
        if size_bytes >= _SEGMENT_BYTES or position == last:
            blob = b"".join(lines[first : position + 1])
            rows.append((no << LINE_BITS | line, position + 1 - first, high_seq, crc32(blob), blob))
            line += position + 1 - first
            first, size_bytes = position + 1, 0
    return rows, (line, high_seq)


INSERT: Final = "INSERT INTO segment VALUES (?, ?, ?, ?, ?)"
"""A `Row`."""


def insert(db: sqlite3.Connection, rows: list[Row]) -> None:
    db.executemany(INSERT, rows)


def end_of(db: sqlite3.Connection, no: int) -> End:
    """Behind the last line of a tape."""
    row = db.execute(
        "SELECT key + line_count, high_seq FROM segment WHERE key >= ? AND key < ? ORDER BY key DESC LIMIT 1",
        _range(no),
    ).fetchone()
    return (row[0] % LINES, row[1]) if row is not None else (0, -1)


def size_of(db: sqlite3.Connection, no: int) -> int:
    """In bytes, of the lines of a tape."""
    size_bytes: int = db.execute(
        "SELECT coalesce(sum(length(lines)), 0) FROM segment WHERE key >= ? AND key < ?", _range(no)
    ).fetchone()[0]
    return size_bytes


def _range(no: int, first: int = 0) -> tuple[int, int]:
    return no << LINE_BITS | first, (no + 1) << LINE_BITS


def find(db: sqlite3.Connection, no: int, seq: int) -> int:
    """The first line of the segment in which the frame `seq`, or the first behind it, is; of the last one
    where there is none. By halving: `high_seq` never falls along a tape."""
    seq = min(seq, _HIGHEST)
    low, high = 0, end_of(db, no)[0]
    start = 0
    while low < high:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT key, line_count, high_seq FROM segment WHERE key <= ? AND key >= ? "
            "ORDER BY key DESC LIMIT 1",
            (no << LINE_BITS | middle, no << LINE_BITS),
        ).fetchone()
        if row is None:
            return low
        start = row[0] % LINES
        if row[2] >= seq:
            high = start
        else:
            low = start + row[1]
    return low if low < end_of(db, no)[0] else start


def is_whole(checksum: int, blob: bytes) -> bool:
    return crc32(blob) == checksum


class Segments:
    """Reads them, and says which are damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def blobs(self, db: sqlite3.Connection, no: int, first: int = 0) -> Iterator[tuple[int, bytes]]:
        """Key and lines of the segments from the one that begins with the line `first`.

        Raises:
            StorageDamagedError: a checksum is wrong; the error does not say of which tape.
        """
        for key, checksum, blob in db.execute(
            "SELECT key, crc32, lines FROM segment WHERE key >= ? AND key < ? ORDER BY key",
            _range(no, first),
        ):
            self._check(None, key, checksum, blob)
            yield key, blob

    def chunk(
        self, db: sqlite3.Connection, tape_id: str, no: int, first: int
    ) -> tuple[list[bytes], int, bool]:
        """The next segments from the line `first` on, the line behind them, and whether those were all that
        there are at this moment.

        Raises:
            StorageDamagedError: something of the tape is missing there, or is not what was written.
        """
        blobs: list[bytes] = []
        size_bytes, line = 0, first
        for key, count, checksum, blob in db.execute(
            "SELECT key, line_count, crc32, lines FROM segment WHERE key >= ? AND key < ? ORDER BY key",
            _range(no, first),
        ):
            if key % LINES != line:
                if not db.execute("SELECT 1 FROM tape WHERE no = ?", (no,)).fetchone():
                    raise TapeNotFoundError(tape_id)  # it is being cleared away
                raise self._damaged(tape_id, f"what should follow its line {line} is missing")
            self._check(tape_id, key, checksum, blob)
            blobs.append(blob)
            line += count
            size_bytes += len(blob)
            if size_bytes >= _CHUNK_BYTES:
                return blobs, line, False
        return blobs, line, True

    def blob(self, db: sqlite3.Connection, tape_id: str, no: int, first: int) -> bytes:
        """The lines of the segment that begins with the line `first`.

        Raises:
            TapeNotFoundError: the tape has been deleted.
            StorageDamagedError: that segment is missing, or is not what was written.
        """
        key = no << LINE_BITS | first
        row = db.execute("SELECT crc32, lines FROM segment WHERE key = ?", (key,)).fetchone()
        if row is None:
            if not db.execute("SELECT 1 FROM tape WHERE no = ?", (no,)).fetchone():
                raise TapeNotFoundError(tape_id)
            raise self._damaged(tape_id, f"a block from its line {first + 1} on is missing")
        self._check(tape_id, key, *row)
        blob: bytes = row[1]
        return blob

    def line(self, db: sqlite3.Connection, tape_id: str, key: int) -> bytes | None:
        """One line by its key, or None where there is none."""
        row = db.execute(
            "SELECT key, crc32, lines FROM segment WHERE key <= ? AND key >= ? ORDER BY key DESC LIMIT 1",
            (key, key >> LINE_BITS << LINE_BITS),
        ).fetchone()
        if row is None:
            return None
        self._check(tape_id, *row)
        return next(islice(io.BytesIO(row[2]), key - row[0], None), None)

    def _check(self, tape_id: str | None, key: int, checksum: int, blob: bytes) -> None:
        if not is_whole(checksum, blob):
            raise self._damaged(tape_id, f"a block from its line {key % LINES + 1} on has changed")

    def _damaged(self, tape_id: str | None, what: str) -> StorageDamagedError:
        return StorageDamagedError(f"{what}: {self._path}", tape_id)
