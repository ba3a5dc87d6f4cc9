"""What SQLite's errors mean to whoever keeps tapes: the one place where they are translated."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ...errors import StorageClosedError, StorageDamagedError, StorageFullError, StorageUnavailableError

# Primary result codes; their names exist in the module since Python 3.11.
_FULL: Final = sqlite3.SQLITE_FULL
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NO_SPACE: Final = "No space left on device"
_REASONS: Final = {
    sqlite3.SQLITE_READONLY: "it can only be read",
    sqlite3.SQLITE_PERM: "Permission denied",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened (does its directory exist, and may it be written to?)",
    sqlite3.SQLITE_IOERR: "Input/output error",
}


def failure(error: Exception, path: Path, tape_id: str | None = None) -> Exception:
    """What to raise for `error`, which came out of SQLite while `path` was used, for `tape_id`."""
    if isinstance(error, OverflowError):
        return StorageFullError(f"SQLite keeps no value that large: {path}")
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if primary == _FULL:
        return StorageFullError(f"{_NO_SPACE}: {path}")
    if primary == sqlite3.SQLITE_TOOBIG:
        return StorageFullError(f"SQLite keeps no value that large: {path}")
    if primary == sqlite3.SQLITE_NOMEM:
        return MemoryError()
    if primary in _BUSY:
        return StorageUnavailableError(
            f"another process has been writing all the while (`busy_timeout_ms`): {path}"
        )
    if primary in _DAMAGED:
        return StorageDamagedError(f"SQLite says {error}: {path}", tape_id)
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return StorageClosedError(f"the storage {path}")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StorageUnavailableError(f"{_REASONS.get(primary, 'SQLite failed')} ({name}): {path}")


@contextmanager
def translated(path: Path, tape_id: str | None = None) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OverflowError) as error:
        raise failure(error, path, tape_id) from error
