"""One opened tapes file, with all that works on it: connections, locks of writers, index, sync."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

from ... import forks
from ...directories import make_directories, sync_directory
from . import layout
from .connections import Connections
from .durable import LogSync
from .failures import translated
from .index import Index, has_fts5
from .locks import is_open_here, locks_of
from .segments import Segments

_LOOK_SECONDS: Final = 0.1
"""How often, at most, a writer looks whether the file still has its name."""

# One file at a time is opened: its first bytes may be read only while nobody here has it open.
_opening = threading.Lock()


def _start_anew() -> None:
    global _opening
    _opening = threading.Lock()


forks.module_in_child(_start_anew)


class File:
    """Raises, when it is made:
    StorageUnavailableError: it is not ours, or too new; then it was not touched.
    StorageDamagedError: it cannot be opened any more.
    OSError: it, or its directory, cannot be made.
    """

    def __init__(self, path: Path, *, search: bool, busy_timeout_seconds: float, min_free_bytes: int) -> None:
        layout.check_library()
        self.path: Final = path
        self.segments: Final = Segments(path)
        self.index: Final = Index(self.segments)
        self.sync: Final = LogSync(path)
        self._look_at = 0.0
        self._closed = False
        with _opening:
            if not is_open_here(path):
                layout.check_header(path)
            make_directories(path.parent)
            self.locks: Final = locks_of(path)
            try:
                if self.locks.users == 1 and not layout.check_header(path):
                    self._make()
            except BaseException:
                self.locks.leave()
                raise
        self.connections: Final = Connections(
            path, busy_timeout_seconds=busy_timeout_seconds, min_free_bytes=min_free_bytes
        )
        try:
            self._identity = _identity(path)
            with self.connections.alone() as db:
                layout.bring_up_to_date(db, path)
                self.has_fts5: Final = has_fts5(db)
                self.is_indexed: Final = search and self.has_fts5
                if self.is_indexed:
                    self.index.prepare(db)
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        with self.locks.making(), translated(self.path):
            if not layout.check_header(self.path):  # perhaps another process was faster
                layout.make(self.path)
                sync_directory(self.path.parent)

    @contextmanager
    def locked(self, holder: object) -> Iterator[Callable[[int, str], None]]:
        """What the block takes of the locks for `holder`, it keeps, or, after an error, gives back."""
        wanted: list[int] = []

        def take(no: int, tape_id: str) -> None:
            wanted.append(no)
            self.locks.acquire(no, tape_id, holder)

        try:
            yield take
        except BaseException:
            for no in wanted:
                self.locks.release(no, holder)
            raise

    def look(self) -> None:
        """What is written to a file without a name is lost with its descriptors, and no call says so.

        Raises:
            FileNotFoundError: the file was removed, or another one is in its place.
        """
        if monotonic() >= self._look_at:
            if _identity(self.path) != self._identity:
                raise FileNotFoundError(
                    errno.ENOENT, "another file is in its place now; open the storage again", str(self.path)
                )
            self._look_at = monotonic() + _LOOK_SECONDS

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self.connections.close()
            self.locks.leave()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
