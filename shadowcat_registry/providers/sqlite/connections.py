"""The connections to one tapes file: a few, each used by one thread at a time and for moments only.

Readers take any that is idle. Writers take turns within the process, since SQLite lets one write at a time
and makes the others sleep; between processes its busy timeout does that. One connection goes with the turn.
A transaction of the user's keeps both until it ends, and belongs to the thread that began it.

Before a fork all connections are closed, and opened again when they are needed: SQLite keeps its locks in
tables by file, so that a child which inherits a connection would believe to hold the locks of its parent.
Where one is in use for longer (a transaction around the fork), the child refuses that file instead.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import quote

from ... import forks
from ...errors import (
    RegistryForkedError,
    StorageClosedError,
    StorageFullError,
    StorageUnavailableError,
    TransactionError,
)
from .failures import failure, translated

_IDLE: Final = 4
"""How many connections are kept for the next user."""
_FORK_PATIENCE_SECONDS: Final = 2.0
_SPACE_SECONDS: Final = 0.01
_SPACE_BYTES: Final = 1 << 20
"""So long, and for so much, what was seen of the free space counts."""
_LOG_BYTES: Final = 64 * 1024 * 1024
"""What the write-ahead log keeps of its size when it starts over."""

_haunted: set[Path] = set()
"""Files that the parent of this process had in use when it was forked; see above."""


class Connections:
    def __init__(self, path: Path, *, busy_timeout_seconds: float, min_free_bytes: int) -> None:
        self.path: Final = path
        self._patience_seconds = busy_timeout_seconds
        self._min_free_bytes = min_free_bytes
        self._directory = str(path.parent)
        self._space_from, self._space_grown = -1.0, 0  # since when, and how much, nobody looked at the space
        self._renew_locks()
        self._idle: list[sqlite3.Connection] = []
        self._out: dict[int, tuple[sqlite3.Connection, int]] = {}  # by id: the connection, and its thread
        self._writer: sqlite3.Connection | None = None
        self._closed = False
        self._forked = False
        self._paused = False
        self._has_turn = False
        """To keep writers out while this process is forked."""
        self.open_transaction: Transaction | None = None
        """Of the user's, in whatever thread."""
        forks.around(self, Connections._before_fork, Connections._after_fork)
        forks.in_child(self, Connections._start_anew)

    def _renew_locks(self) -> None:
        # Guards all of the state; nothing but opening and closing a connection of ours is done under it.
        self._guard = threading.Lock()
        self._change = threading.Condition(self._guard)
        # Guards `_writer`, and is held for as long as something is written with it; never asked for under
        # `_guard`. One that knows its owner: a signal's handler may raise when it was taken and nothing
        # says so yet, and who was interrupted has to know whether there is something to give back.
        self._turn = threading.RLock()

    # -- one connection -------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        if self.path in _haunted:
            raise RegistryForkedError(
                f"{self.path} was in use by a transaction when this process was forked; it"
            )
        db = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=rw",  # one that was removed must not come back empty
            uri=True,
            timeout=self._patience_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.execute("PRAGMA foreign_keys = ON")
            # See `Durability` in the package: what waits for the disk does so outside of SQLite's lock.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            db.execute("PRAGMA secure_delete = FAST")
        except BaseException:
            db.close()
            raise
        return db

    def _take(self) -> sqlite3.Connection:
        with self._guard:
            while self._paused:
                self._change.wait()
            self._check_open()
            db = self._idle.pop() if self._idle else None
            if db is None:
                db = self._connect()
            self._out[id(db)] = (db, threading.get_ident())
            return db

    def _give(self, db: sqlite3.Connection) -> None:
        with self._guard:
            del self._out[id(db)]
            keep = not (self._closed or self._forked) and len(self._idle) < _IDLE
            if keep:
                self._idle.append(db)
            if self._paused:
                self._change.notify_all()
        if not keep and not self._forked:
            db.close()

    def _check_open(self) -> None:
        if self._forked:
            raise RegistryForkedError(f"the storage {self.path}")
        if self._closed:
            raise StorageClosedError(f"the storage {self.path}")

    @contextmanager
    def reading(self, tape_id: str | None = None) -> Iterator[sqlite3.Connection]:
        """A connection for a moment. In the thread of a transaction it is that one's."""
        try:
            if (transaction := self.transaction_here()) is not None:
                transaction.check_alive()
                yield transaction.db
                return
            db = self._take()
            try:
                yield db
            finally:
                self._give(db)
        except (sqlite3.Error, OverflowError) as error:
            raise failure(error, self.path, tape_id) from error

    @contextmanager
    def writing(self, tape_id: str | None = None, *, grows: int = 0) -> Iterator[sqlite3.Connection]:
        """A connection within a write transaction that is committed at the end of the block, or rolled back
        after an error; in the thread of a transaction of the user's, a part of that one. `grows` is what is
        going to be added, in bytes: refused where the floor of free space would be broken.

        Raises:
            StorageFullError, StorageUnavailableError, StorageDamagedError, StorageClosedError.
        """
        if grows:
            self._check_space(grows)
        try:
            if (transaction := self.transaction_here()) is not None:
                with transaction.part() as db:
                    yield db
                return
            with self._writing() as db, committed(db):
                yield db
        except (sqlite3.Error, OverflowError) as error:
            raise failure(error, self.path, tape_id) from error

    def insert(self, statement: str, values: Sequence[object], tape_id: str, grows: int) -> None:
        """One statement that is a whole `writing` block, in a thread without a transaction of the user's:
        without the two others that such a block takes, and without the block, since this is what every
        frame goes through."""
        self._check_space(grows)
        turn = self._turn
        try:
            try:
                if not turn.acquire(False):
                    self._take_turn()
                db = self._writer
                if db is None or db.in_transaction:
                    db = self._open_writer()
                db.execute(statement, values)
            finally:
                try:  # noqa: SIM105 - where `suppress` is called, a signal's handler may raise
                    turn.release()
                except RuntimeError:  # it did not become ours
                    pass
            if self._closed:
                self._close_writer()
        except (sqlite3.Error, OverflowError) as error:
            raise failure(error, self.path, tape_id) from error

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """The turn to write, and its connection, which is in no transaction: for what SQLite does outside of
        one. Not in the thread of a transaction."""
        try:
            with self._writing() as db:
                yield db
        except sqlite3.Error as error:
            raise failure(error, self.path) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        turn = self._turn
        try:
            self._take_turn()
            db = self._writer
            if db is None or db.in_transaction:
                db = self._open_writer()
            try:
                yield db
            finally:
                if db.in_transaction:  # it could not be ended: with the connection it is
                    self._writer = None
                    db.close()
        finally:
            try:  # noqa: SIM105 - as above
                turn.release()
            except RuntimeError:
                pass
            if self._closed:
                self._close_writer()

    def _take_turn(self) -> None:
        if not self._turn.acquire(timeout=self._patience_seconds):
            raise StorageUnavailableError(
                f"another thread has been writing all the while (`busy_timeout_ms`): {self.path}"
            )

    def _open_writer(self) -> sqlite3.Connection:
        """The turn is ours."""
        with self._guard:
            self._check_open()
            if self._writer is not None:
                raise StorageUnavailableError(f"this thread is in the middle of another write: {self.path}")
            self._writer = db = self._connect()
            return db

    def _close_writer(self) -> None:
        """Unless it is in use: who uses it comes here too."""
        if self._turn.acquire(False):
            try:
                db = self._writer
                if db is not None and not db.in_transaction:
                    self._writer = None
                    db.close()
            finally:
                self._turn.release()

    def _check_space(self, grows: int) -> None:
        """SQLite maps its index of the log into memory; where no block can be had for that, the system
        kills the process (SIGBUS). So we never let it come to that."""
        now = monotonic()
        self._space_grown += grows
        if now < self._space_from + _SPACE_SECONDS and self._space_grown < _SPACE_BYTES:
            return
        self._space_from, self._space_grown = -1.0, 0
        if not hasattr(os, "statvfs"):
            return
        status = os.statvfs(self._directory)
        if status.f_bavail * status.f_frsize - grows < self._min_free_bytes:
            raise StorageFullError(
                f"less than {self._min_free_bytes:,} bytes would stay free (`min_free_bytes`): {self.path}"
            )
        self._space_from = now

    # -- a transaction of the user's ------------------------------------------------------------

    def transaction_here(self) -> Transaction | None:
        """That of this thread, if it is in one."""
        transaction = self.open_transaction
        if transaction is not None and transaction.thread == threading.get_ident():
            return transaction
        return None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Raises: TransactionError: this thread is in one already."""
        if self.transaction_here() is not None:
            raise TransactionError("a transaction cannot be begun within another one")
        with self._writing() as db:
            transaction = Transaction(db)
            try:
                with translated(self.path):  # around our statements: what the block raises is its own affair
                    db.execute("BEGIN IMMEDIATE")
                self.open_transaction = transaction
                try:
                    yield transaction
                finally:
                    self.open_transaction = None
                transaction.check_alive()
                with translated(self.path):
                    db.execute("COMMIT")
                transaction.state = "committed"
            finally:
                if transaction.state != "committed":
                    with translated(self.path):
                        transaction.roll_back()

    # -- the end, and forks ---------------------------------------------------------------------

    def close(self) -> None:
        """What is in use is closed by its user. Idempotent."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()
        self._close_writer()

    def _before_fork(self) -> None:
        me = threading.get_ident()
        until = monotonic() + _FORK_PATIENCE_SECONDS
        # Kept until after the fork: nobody can be in the middle of taking a connection then.
        if self._turn.acquire(timeout=_FORK_PATIENCE_SECONDS):
            self._has_turn = True
            self._close_writer()
        self._guard.acquire()
        self._paused = True
        while any(thread != me for _, thread in self._out.values()) and monotonic() < until:
            self._change.wait(until - monotonic())
        while self._idle:
            with suppress(sqlite3.Error):
                self._idle.pop().close()

    def _after_fork(self) -> None:
        self._paused = False
        self._change.notify_all()
        self._guard.release()
        if self._has_turn:
            self._has_turn = False
            self._turn.release()

    def _start_anew(self) -> None:
        """In the child: all of this is the parent's."""
        left = [db for db, _ in self._out.values()]
        if self._writer is not None:
            left.append(self._writer)
        if left:
            _haunted.add(self.path)
            forks.keep(left)
        self._renew_locks()
        self._writer = None
        self._paused = self._has_turn = False
        self._forked = True


class Transaction:
    """One of the user's; what works within it and has to know how it ended, keeps it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db: Final = db
        self.thread: Final = threading.get_ident()
        self.state = "open"
        self.wants_sync = False
        self._undo: list[Callable[[], None]] = []

    def when_rolled_back(self, undo: Callable[[], None]) -> None:
        """Call `undo` if it ends without being committed."""
        self._undo.append(undo)

    def roll_back(self) -> None:
        self.state = "rolled back"
        try:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        finally:
            for undo in self._undo:
                undo()

    def check_alive(self) -> None:
        """Raises: TransactionError: SQLite has rolled it back already, after a full disk for example."""
        if self.state == "open" and not self.db.in_transaction:
            raise TransactionError("the transaction was rolled back, since a part of it failed before")

    @contextmanager
    def part(self) -> Iterator[sqlite3.Connection]:
        """One operation: all of it is in the transaction, or, after an error, nothing."""
        self.check_alive()
        self.db.execute("SAVEPOINT part")
        try:
            yield self.db
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK TO part")
                self.db.execute("RELEASE part")
            raise
        self.db.execute("RELEASE part")


@contextmanager
def committed(db: sqlite3.Connection) -> Iterator[None]:
    """A write transaction around the block. IMMEDIATE: one that begins as a reader cannot wait its turn."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        if db.in_transaction:
            db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
