"""What keeps a tapes file in order: index and sizes that catch up, what is deleted cleared away, the space
given back, copies made, damage found."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from ...directories import sync_directory
from ...errors import StorageDamagedError, StorageError, StorageUnavailableError
from . import segments
from .failures import failure, translated
from .files import File
from .index import BATCH_BYTES
from .layout import LINE_BITS, LINES

_CLEARED_BYTES: Final = 1024 * 1024
_CLEARED_SEGMENTS: Final = 1000
_VACUUMED_PAGES: Final = 2000
_COPIED_PAGES: Final = 1000


def index_tape(file: File, no: int) -> None:
    """Index what a tape has, batch by batch; others get in between."""
    done = False
    while not done:
        with file.connections.writing(grows=BATCH_BYTES) as db:
            done = file.index.catch_up(db, no)


def settle(file: File, no: int, size_bytes: int) -> None:
    """Note the size of a tape that its writer is about to give free, and whether its index is complete."""
    with file.connections.writing() as db:
        _settle(file, db, no, size_bytes)


def _settle(file: File, db: sqlite3.Connection, no: int, size_bytes: int) -> None:
    db.execute("UPDATE tape SET size_bytes = ? WHERE no = ?", (size_bytes, no))
    db.execute("DELETE FROM unsettled WHERE no = ?", (no,))
    if file.is_indexed and file.index.is_complete(db, no):
        db.execute("DELETE FROM unindexed WHERE no = ?", (no,))


def catch_up(file: File, logger: logging.Logger) -> None:
    """Index everything that was appended before the call; what is damaged is left out."""
    with file.connections.reading() as db:
        behind = [(no, file.index.is_complete(db, no)) for no in file.index.behind(db)]
    for no, is_complete in behind:
        try:
            if not is_complete:
                index_tape(file, no)
            if file.locks.is_free(no):
                _settle_abandoned(file, no)
        except StorageDamagedError as error:
            logger.warning("a damaged tape cannot be searched: %s", error)


def _settle_abandoned(file: File, no: int) -> None:
    """A tape whose writer was killed, or which was recorded without an index. Whoever begins to write it does
    so in a transaction, so that within ours it stays free."""
    with file.connections.writing() as db:
        if file.locks.is_free(no):
            _settle(file, db, no, segments.size_of(db, no))


def clear_away(file: File, logger: logging.Logger) -> None:
    """The segments of deleted tapes, batch by batch, and their words; then give the space back to the system.
    What is left undone, the next deletion does."""
    try:
        cleared = False
        while _clear_some(file):
            cleared = True
        if cleared:
            _tidy(file)
            _shrink(file)
    except (StorageError, OSError) as error:
        logger.warning("deleted tapes will be cleared away later: %s", error)


def _clear_some(file: File) -> bool:
    with file.connections.writing() as db:
        doomed = db.execute("SELECT no, indexed FROM doomed LIMIT 1").fetchone()
        if doomed is None:
            return False
        no, indexed = doomed
        unindex = file.has_fts5 and _has_index(db)
        last, size_bytes = None, 0
        for key, checksum, blob in db.execute(
            "SELECT key, crc32, lines FROM segment WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
            (no << LINE_BITS, (no + 1) << LINE_BITS, _CLEARED_SEGMENTS),
        ):
            if unindex and key % LINES < indexed and segments.is_whole(checksum, blob):
                file.index.remove(db, key, blob, indexed)
            last = key
            size_bytes += len(blob)
            if size_bytes >= _CLEARED_BYTES:
                break
        if last is None:
            db.execute("DELETE FROM doomed WHERE no = ?", (no,))
        else:
            db.execute("DELETE FROM segment WHERE key >= ? AND key <= ?", (no << LINE_BITS, last))
        return True


def _has_index(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'words'").fetchone() is not None


def _tidy(file: File) -> None:
    with file.connections.writing() as db:
        if file.has_fts5 and _has_index(db):
            file.index.tidy(db)


def _shrink(file: File) -> None:
    while True:
        with file.connections.alone() as db:
            if not db.execute("PRAGMA freelist_count").fetchone()[0]:
                break
            # Through `execute` it would free one page only: it has to be stepped to its end.
            db.executescript(f"PRAGMA incremental_vacuum({_VACUUMED_PAGES})")
    with file.connections.alone() as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # the file itself gets shorter by this


def backup(
    file: File, destination: Path, *, replace: bool, progress: Callable[[int, int], object] | None
) -> None:
    """Copy everything as it is now, consistently, while others go on, into a new file that is there whole
    or not at all, checked and on the disk. `progress(done, total)` is told in pages.

    Raises:
        StorageUnavailableError: there is a file of that name, and `replace` is not set; or it cannot be made.
        StorageFullError: no space for it.
        StorageDamagedError: the copy does not pass its check: what was copied is damaged.
    """
    destination = destination.absolute()
    if not replace and os.path.lexists(destination):
        raise StorageUnavailableError(f"File exists: {destination}")
    if destination.exists() and file.path.samefile(destination):
        raise StorageUnavailableError(f"it cannot be copied onto itself: {destination}")
    descriptor, name = tempfile.mkstemp(".partial", f".{destination.name}.", destination.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        _copy(file, partial, progress)
        with partial.open("rb+") as copied:
            os.fsync(copied.fileno())
        if replace:
            partial.replace(destination)
        else:
            _link(partial, destination)
        sync_directory(destination.parent)
    finally:
        partial.unlink(missing_ok=True)


def _copy(file: File, partial: Path, progress: Callable[[int, int], object] | None) -> None:
    def tell(_: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    with translated(partial), closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        with file.connections.reading() as db:
            db.execute("BEGIN")  # one moment for all of it: without, each write of others starts it anew
            try:
                db.execute("SELECT 1 FROM tape LIMIT 1").fetchone()
                db.backup(copy, pages=_COPIED_PAGES, progress=tell, sleep=0)
            finally:
                db.execute("ROLLBACK")
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StorageDamagedError(f"the copy was dropped, since SQLite says {found}: {file.path}")


def _link(partial: Path, destination: Path) -> None:
    """Under its name in one step, unless there is something of that name."""
    try:
        os.link(partial, destination)
    except FileExistsError:
        raise StorageUnavailableError(f"File exists: {destination}") from None
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        partial.replace(destination)  # a file system without links: the check before has to do


def damages(file: File) -> Iterator[str]:
    """What is wrong with the file, in a line each: with its structure, then tape by tape."""
    with file.connections.reading() as db:
        try:
            found = [row[0] for row in db.execute("PRAGMA integrity_check(100)")]
        except sqlite3.DatabaseError as error:
            found = [str(failure(error, file.path))]
        yield from (text for text in found if text != "ok")
        for table, row, parent, _ in db.execute("PRAGMA foreign_key_check"):
            yield f"row {row} of {table} belongs to no row of {parent}"
        tapes = db.execute("SELECT no, tape_id FROM tape ORDER BY tape_id").fetchall()
    for no, tape_id in tapes:
        line = 0
        with suppress(StopIteration):
            while True:
                try:
                    with file.connections.reading(tape_id) as db:
                        blobs, line, _ = file.segments.chunk(db, tape_id, no, line)
                except StorageDamagedError as error:
                    yield str(error)
                    break
                if not blobs:
                    break
