"""Tapes in one SQLite file: what the contract of a backend says, done with rows."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from ...backend import (
    Appender,
    Durability,
    Page,
    RepairReport,
    SearchPage,
    StorageStats,
    TapeQuery,
    created_moment,
)
from ...errors import (
    InvalidMetadataError,
    MetadataConflictError,
    StorageError,
    TapeExistsError,
    TapeNotFoundError,
)
from ...metadata import ProviderCapability
from ...retention import Retention
from ...tape import Metadata, dump_metadata, lines_after, load_metadata, make_metadata, parse_init_line
from . import segments, upkeep
from .appender import SqliteAppender
from .files import File
from .frame_reader import SqliteFrameReader

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MATCHES: Final = "session_id = ?", "status = ?", "created_us >= ?", "created_us < ?"
_TAGGED: Final = "tape_id IN (SELECT tape_id FROM tag WHERE tag = ?)"


class SqliteBackend:
    storage_type = "sqlite"

    def __init__(
        self,
        file: File,
        durability: Durability,
        logger: logging.Logger,
        retention: Retention | None = None,
    ) -> None:
        self.durability: Final = durability
        self.retention: Final = retention
        self._file = file
        self._logger = logger

    @property
    def capabilities(self) -> frozenset[ProviderCapability]:
        """Without SEARCH where it is turned off, or this SQLite has no FTS5."""
        found = {ProviderCapability.LOCAL_STORAGE, ProviderCapability.TRANSACTIONS}
        return frozenset(found | {ProviderCapability.SEARCH} if self._file.is_indexed else found)

    # -- writing --------------------------------------------------------------------------------

    def create(self, tape_id: str, init_line: bytes, meta: Metadata) -> Appender:
        text = dump_metadata(tape_id, meta)
        file, holder = self._file, object()
        with file.locked(holder) as taken:
            with file.connections.writing(tape_id, grows=len(init_line) + len(text)) as db:
                if db.execute("SELECT 1 FROM tape WHERE tape_id = ?", (tape_id,)).fetchone():
                    raise TapeExistsError(tape_id)
                no = self._insert(db, tape_id, text, meta)
                taken(no, tape_id)
                rows, end = segments.rows_of(no, (0, -1), (init_line,))
                segments.insert(db, rows)
            appender = SqliteAppender(file, self._logger, tape_id, no, holder, end, len(init_line))
            self._settle()
        return appender

    def resume(self, tape_id: str) -> tuple[Appender, RepairReport]:
        file, holder = self._file, object()
        with file.locked(holder) as taken:
            with file.connections.writing(tape_id) as db:
                no = self._no(db, tape_id)
                taken(no, tape_id)
                for table in ("unsettled", "unindexed"):
                    db.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", (no,))  # noqa: S608 - our names
                line_count, last_seq = end = segments.end_of(db, no)
                size_bytes = segments.size_of(db, no)
            appender = SqliteAppender(file, self._logger, tape_id, no, holder, end, size_bytes)
        return appender, RepairReport(tape_id, last_seq, line_count)

    def delete(self, tape_id: str) -> None:
        file, holder = self._file, object()
        with file.connections.writing(tape_id) as db:
            no = self._no(db, tape_id)
            try:
                file.locks.acquire(no, tape_id, holder)
                db.execute("INSERT INTO doomed SELECT no, indexed FROM tape WHERE no = ?", (no,))
                db.execute("DELETE FROM tape WHERE no = ?", (no,))
            finally:  # whoever waits for it, waits for our transaction first
                file.locks.release(no, holder)
        self._settle()
        if file.connections.transaction_here() is None:
            upkeep.clear_away(file, self._logger)

    # -- reading --------------------------------------------------------------------------------

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        with self._file.connections.reading(tape_id) as db:
            no = self._no(db, tape_id)
            first = segments.find(db, no, after_seq) if after_seq >= 0 else 0
        return lines_after(self._read(tape_id, no, first), after_seq)

    def reader(self, tape_id: str) -> SqliteFrameReader:
        with self._file.connections.reading(tape_id) as db:
            no = self._no(db, tape_id)
        return SqliteFrameReader(self._file, tape_id, no, partial(self._read, tape_id, no))

    def _read(self, tape_id: str, no: int, line: int) -> Iterator[bytes]:
        """Chunk by chunk: nothing is held while the caller has the lines."""
        was_all = False
        while True:
            with self._file.connections.reading(tape_id) as db:
                blobs, line, is_all = self._file.segments.chunk(db, tape_id, no, line)
                if not blobs:
                    if not was_all and not db.execute("SELECT 1 FROM tape WHERE no = ?", (no,)).fetchone():
                        raise TapeNotFoundError(tape_id)  # deleted in the middle: this is not its end
                    return
            was_all = is_all
            for blob in blobs:
                yield from BytesIO(blob)

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        wanted = (
            query.session_id,
            query.status,
            _microseconds(query.created_after),
            _microseconds(query.created_before),
        )
        tests = [(test, value) for test, value in zip(_MATCHES, wanted, strict=True) if value is not None]
        if query.tag is not None:
            tests.append((_TAGGED, query.tag))
        if cursor is not None:
            tests.append(("tape_id > ?", cursor))
        where = "WHERE " + " AND ".join(test for test, _ in tests) if tests else ""
        # The text is made of the constants above; values are bound.
        sql = f"SELECT tape_id, no, meta FROM tape {where} ORDER BY tape_id"  # noqa: S608
        items: list[dict[str, Any]] = []
        with self._file.connections.reading() as db:
            for tape_id, no, text in db.execute(sql, [_column(value) for _, value in tests]):
                meta = self._listed(db, tape_id, no, text)
                # SQL has found them; what it says of odd values is the query's to decide.
                if query.matches(meta):
                    if len(items) == limit:
                        return Page(tuple(items), items[-1]["tape_id"])
                    items.append(meta)
        return Page(tuple(items))

    def _listed(self, db: sqlite3.Connection, tape_id: str, no: int, text: bytes) -> dict[str, Any]:
        """Metadata for a listing, which one bad row must not break."""
        try:
            return {**load_metadata(tape_id, text), "tape_id": tape_id}
        except InvalidMetadataError as error:
            self._logger.warning("listing tape %s by its init line: %s", tape_id, error)
        try:
            blobs, *_ = self._file.segments.chunk(db, tape_id, no, 0)
            init = parse_init_line(next(BytesIO(blobs[0]), b"") if blobs else b"", tape_id)
        except StorageError:
            init = {}
        return make_metadata({**init, "tape_id": tape_id}, "aborted", stats={})

    def stats(self) -> StorageStats:
        with self._file.connections.reading() as db:
            count, size_bytes = db.execute(
                "SELECT count(*), coalesce(sum(size_bytes + length(meta)), 0) FROM tape"
            ).fetchone()
            for no, settled in db.execute("SELECT no, size_bytes FROM tape JOIN unsettled USING (no)"):
                size_bytes += segments.size_of(db, no) - settled
        return StorageStats(count, size_bytes)

    # -- metadata -------------------------------------------------------------------------------

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        with self._file.connections.reading(tape_id) as db:
            text = self._text(db, tape_id)
        return load_metadata(tape_id, text), _etag(text)

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None) -> str:
        text = dump_metadata(tape_id, meta)
        with self._file.connections.writing(tape_id) as db:
            stored = self._text(db, tape_id)
            if if_match is not None and if_match != _etag(stored):
                raise MetadataConflictError(tape_id)
            db.execute(
                "UPDATE tape SET meta = ?, session_id = ?, status = ?, created_us = ? WHERE tape_id = ?",
                (text, *_columns(meta), tape_id),
            )
            db.execute("DELETE FROM tag WHERE tape_id = ?", (tape_id,))
            _insert_tags(db, tape_id, meta)
        self._settle()
        return _etag(text)

    @staticmethod
    def _insert(db: sqlite3.Connection, tape_id: str, text: bytes, meta: Metadata) -> int:
        no = db.execute(
            "INSERT INTO tape (tape_id, meta, session_id, status, created_us, size_bytes) "
            "VALUES (?, ?, ?, ?, ?, 0)",
            (tape_id, text, *_columns(meta)),
        ).lastrowid
        assert no is not None  # noqa: S101 - an INSERT has one
        _insert_tags(db, tape_id, meta)
        db.execute("INSERT INTO unsettled VALUES (?)", (no,))
        db.execute("INSERT INTO unindexed VALUES (?)", (no,))
        return no

    @staticmethod
    def _no(db: sqlite3.Connection, tape_id: str) -> int:
        """Raises: TapeNotFoundError."""
        row = db.execute("SELECT no FROM tape WHERE tape_id = ?", (tape_id,)).fetchone()
        if row is None:
            raise TapeNotFoundError(tape_id)
        no: int = row[0]
        return no

    @staticmethod
    def _text(db: sqlite3.Connection, tape_id: str) -> bytes:
        row = db.execute("SELECT meta FROM tape WHERE tape_id = ?", (tape_id,)).fetchone()
        if row is None:
            raise TapeNotFoundError(tape_id)
        text: bytes = row[0]
        return text

    def _settle(self) -> None:
        """A change of what tapes there are, or of their metadata, is on the disk when we say that it is
        done: they are few, and unlike frames nothing would sync them later."""
        transaction = self._file.connections.transaction_here()
        if transaction is not None:
            transaction.wants_sync = True
        elif self.durability.mode != "none":
            self._file.sync()

    # -- with a capability ----------------------------------------------------------------------

    def search(self, text: str, cursor: str | None, limit: int) -> SearchPage:
        """Of the newest 50,000 matches the best first. What was appended before is found.

        Raises:
            ValueError: `cursor` is not one of ours.
        """
        offset = 0
        if cursor is not None:
            if not (cursor.isascii() and cursor.isdigit()):
                raise ValueError("a cursor is what the page before said")
            offset = int(cursor)
        upkeep.catch_up(self._file, self._logger)
        with self._file.connections.reading() as db:
            return self._file.index.search(db, text, offset, limit)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything that this thread does with this storage in the block is there at its end, or, after an
        error, none of it. Other threads do not see it until then, and their writes wait for it.

        Raises:
            TransactionError: there is one in this thread already, or a part of it failed so that SQLite
                gave it up, and the block went on all the same.
        """
        with self._file.connections.transaction() as transaction:
            yield
        if transaction.wants_sync and self.durability.mode != "none":
            self._file.sync()
        upkeep.clear_away(self._file, self._logger)

    # -- as a whole -----------------------------------------------------------------------------

    def backup(
        self,
        destination: Path,
        replace: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """A copy of everything as it is at this moment, while others go on. See `upkeep.backup`."""
        upkeep.backup(self._file, destination, replace=replace, progress=progress)

    def damages(self) -> Iterator[str]:
        """What is wrong with the file, in a line each. Reads all of it."""
        return upkeep.damages(self._file)

    def close(self) -> None:
        self._file.close()


def _columns(meta: Metadata) -> tuple[str | None, str | None, int | None]:
    session_id, status = (meta.get(key) for key in ("session_id", "status"))
    return (
        _column(session_id) if isinstance(session_id, str) else None,
        _column(status) if isinstance(status, str) else None,
        _microseconds(created_moment(meta)),
    )


def _insert_tags(db: sqlite3.Connection, tape_id: str, meta: Metadata) -> None:
    tags = meta.get("tags")
    if isinstance(tags, list):
        texts = {_column(tag) for tag in tags if isinstance(tag, str)}
        db.executemany("INSERT OR IGNORE INTO tag VALUES (?, ?)", [(tag, tape_id) for tag in texts])


def _column(value: Any) -> Any:
    """A lone surrogate is no text to SQLite; the metadata itself keeps it."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def _etag(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
