"""What a tapes file looks like inside, how to tell ours from others', and how an older one comes up to date.

Layout 1. A tape is a row of `tape` with its metadata verbatim and what queries ask for beside it, and a
run of `segment`s: the lines of one `append`, joined. A segment's key is `tape number << 32 | number of its
first line`, so that the segments of a tape lie next to each other without an index, and a line is found by
its number. Measured with the real `memory-10k` tape (878 bytes a line, batches of 64, frames a second):
segments 243,000; a row a line 167,000; with a unique index 144,000; `WITHOUT ROWID`, which keeps only 1 KB
of a row in the tree, 107,000 and 1.7 times the size. Singly appended frames: 42,000, 45,000, 34,000, 31,000.

Tape numbers are never used twice (AUTOINCREMENT): a reader can tell that its tape was replaced, and the
range of the lock file that a number stands for never means another tape.

A row in `unsettled` says that the size of a tape may be behind its segments, one in `unindexed` that its
index may be; `doomed` holds deleted tapes whose segments have not been cleared away yet. A process that is
killed leaves such rows behind, and the next one works them off.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from ...errors import StorageUnavailableError

APPLICATION_ID: Final = 0x53434154  # "SCAT"
OLDEST_SQLITE: Final = (3, 37, 0)
"""The first with STRICT tables."""

LINE_BITS: Final = 32
LINES: Final = 1 << LINE_BITS
"""More lines than that no tape has."""

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100

_LAYOUT_1: Final = (
    """CREATE TABLE tape (
        no INTEGER PRIMARY KEY AUTOINCREMENT,
        tape_id TEXT NOT NULL UNIQUE,
        meta BLOB NOT NULL,
        session_id TEXT,
        status TEXT,
        created_us INTEGER,              -- since 1970, UTC; NULL: its metadata has no readable time
        size_bytes INTEGER NOT NULL,     -- of the lines, when it was last settled
        indexed INTEGER NOT NULL DEFAULT 0  -- lines before this one have been indexed
    ) STRICT""",
    "CREATE INDEX tape_by_session ON tape (session_id, tape_id)",
    "CREATE INDEX tape_by_status ON tape (status, tape_id)",
    "CREATE INDEX tape_by_time ON tape (created_us, tape_id)",
    """CREATE TABLE tag (
        tag TEXT NOT NULL,
        tape_id TEXT NOT NULL REFERENCES tape (tape_id) ON DELETE CASCADE,
        PRIMARY KEY (tag, tape_id)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX tag_by_tape ON tag (tape_id)",
    """CREATE TABLE segment (
        key INTEGER PRIMARY KEY,
        line_count INTEGER NOT NULL,
        high_seq INTEGER NOT NULL,       -- the highest of the tape up to here, -1: no frame yet
        crc32 INTEGER NOT NULL,          -- of the lines; SQLite itself does not notice a flipped bit
        lines BLOB NOT NULL
    ) STRICT""",
    "CREATE TABLE unsettled (no INTEGER PRIMARY KEY REFERENCES tape (no) ON DELETE CASCADE) STRICT",
    "CREATE TABLE unindexed (no INTEGER PRIMARY KEY REFERENCES tape (no) ON DELETE CASCADE) STRICT",
    "CREATE TABLE doomed (no INTEGER PRIMARY KEY, indexed INTEGER NOT NULL) STRICT",
)


def _run(statements: tuple[str, ...]) -> Callable[[sqlite3.Connection], None]:
    def migrate(db: sqlite3.Connection) -> None:
        for statement in statements:
            db.execute(statement)

    return migrate


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_run(_LAYOUT_1),)
"""The n-th brings a file from layout n to n + 1, inside a transaction; layout 0 is a file without a byte."""


def check_library() -> None:
    """Raises: StorageUnavailableError: this SQLite is too old for our tables."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StorageUnavailableError(
            f"this Python has SQLite {sqlite3.sqlite_version}, and {oldest} or newer is needed "
            "(STRICT tables); use a newer Python, or one that is linked to a newer SQLite"
        )


def check_header(path: Path) -> bool:
    """Whether there is a file to speak of; reads its first bytes and nothing else, so that a file which
    is not ours stays untouched. Must not be called while this process has the file open in SQLite: to
    close any descriptor of a file drops the locks that the process has on it (POSIX).

    Raises:
        StorageUnavailableError: it is no SQLite file, somebody else's, or of a newer version of us.
        OSError: it cannot be read.
    """
    try:
        # A FIFO must not block us; O_NONBLOCK means nothing to a regular file.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StorageUnavailableError(f"Not a regular file: {path}")
        header = os.read(descriptor, _HEADER_BYTES)
    finally:
        os.close(descriptor)
    if not header:
        return False
    if not header.startswith(_MAGIC) or len(header) < _HEADER_BYTES:
        raise StorageUnavailableError(
            f"{path} is no SQLite file, and was left alone; name another file, or one that does not exist yet"
        )
    application_id, version = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60))
    if application_id != APPLICATION_ID:
        raise StorageUnavailableError(
            f"{path} is the SQLite file of another application, and was left alone; "
            "name another file, or one that does not exist yet"
        )
    check_version(path, version)
    return True


def check_version(path: Path, version: int) -> None:
    """Raises: StorageUnavailableError: the file is of a layout that is newer than this code."""
    if version > len(MIGRATIONS):
        raise StorageUnavailableError(
            f"{path} was written by a newer shadowcat-registry (layout {version}, this one knows up to "
            f"{len(MIGRATIONS)}) and was left alone; upgrade this installation"
        )


def make(path: Path) -> None:
    """Make a new file: beside its place first, so that it is there whole or not at all. The caller sees to
    it that nobody else does so at the same time."""
    descriptor, name = tempfile.mkstemp(".new", f".{path.name}.", path.parent)  # for the owner only
    os.close(descriptor)
    new = Path(name)
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table; without effect later
            _migrate(db, 0)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute("PRAGMA journal_mode = WAL")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def bring_up_to_date(db: sqlite3.Connection, path: Path) -> None:
    """Migrate a file where it is older. Of several processes one does it, and the others wait for it.

    Raises:
        StorageUnavailableError: the file is newer than this code.
    """
    if _version(db) != len(MIGRATIONS):
        db.execute("BEGIN IMMEDIATE")
        try:
            version = _version(db)  # again: somebody else may have been faster
            check_version(path, version)
            _migrate(db, version)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    # A backup is one file without a log, and so are others that were copied by hand.
    if (mode := db.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
        raise StorageUnavailableError(f"SQLite keeps no log here (its mode stays {mode!r}): {path}")


def _migrate(db: sqlite3.Connection, version: int) -> None:
    for migrate in MIGRATIONS[version:]:
        migrate(db)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version
