"""The right to write one tape, and the way in which its lines get into the file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from ...errors import StorageClosedError, StorageError, TransactionError
from . import segments, upkeep
from .files import File
from .index import BATCH_BYTES, BATCH_LINES
from .segments import End


class SqliteAppender:
    def __init__(
        self,
        file: File,
        logger: logging.Logger,
        tape_id: str,
        no: int,
        holder: object,
        end: End,
        size_bytes: int,
    ) -> None:
        """`holder` has the lock of the tape `no`."""
        self._file: Final = file
        self._logger: Final = logger
        self._tape_id: Final = tape_id
        self._no: Final = no
        self._holder: Final = holder
        self._end = end
        self._size_bytes = size_bytes
        # Where an append that was interrupted would have led to: nobody knows whether it is in.
        self._unsettled: End | None = None
        self._pending_lines = self._pending_bytes = 0
        self._closed = False
        # The transaction of the user's that it was opened in, until that one has ended.
        self._transaction = transaction = file.connections.transaction_here()
        if transaction is not None:
            transaction.when_rolled_back(self._release)

    def append(self, lines: Sequence[bytes]) -> None:
        file = self._file
        connections = file.connections
        if self._closed or self._transaction is not None or connections.open_transaction is not None:
            self._check()
        file.look()
        if self._unsettled is not None:
            self._look_again(self._unsettled)
        if len(lines) == 1:
            size_bytes = len(lines[0])
            row, self._unsettled = segments.row_of(self._no, self._end, lines[0])
            rows = [row]
        else:
            size_bytes = sum(map(len, lines))
            rows, self._unsettled = segments.rows_of(self._no, self._end, lines)
        if len(rows) == 1 and self._transaction is None:
            connections.insert(segments.INSERT, rows[0], self._tape_id, size_bytes)
        else:
            with connections.writing(self._tape_id, grows=size_bytes) as db:
                segments.insert(db, rows)
        self._end = self._unsettled
        self._unsettled = None
        self._size_bytes += size_bytes
        self._pending_lines += len(lines)
        self._pending_bytes += size_bytes
        if self._pending_lines >= BATCH_LINES or self._pending_bytes >= BATCH_BYTES:
            self._index()

    def _look_again(self, end: End) -> None:
        with self._file.connections.reading(self._tape_id) as db:
            if segments.end_of(db, self._no) == end:
                self._end, self._size_bytes = end, segments.size_of(db, self._no)
        self._unsettled = None

    def _index(self) -> None:
        """What is acknowledged is in the tape; that it cannot be indexed now is no reason to fail."""
        self._pending_lines = self._pending_bytes = 0
        if not self._file.is_indexed:
            return
        try:
            upkeep.index_tape(self._file, self._no)
        except (StorageError, OSError) as error:
            self._logger.warning("tape %s will be indexed by the next search: %s", self._tape_id, error)

    def _check(self) -> None:
        """Raises: StorageClosedError, TransactionError: a transaction goes on of which it is no part."""
        if self._closed:
            raise StorageClosedError(f"the appender of tape {self._tape_id!r}")
        mine = self._transaction
        here = self._file.connections.transaction_here()
        if mine is not None and mine.state != "open":
            if mine.state == "rolled back":
                raise TransactionError(
                    f"the transaction that opened the recorder of tape {self._tape_id!r} was rolled back"
                )
            self._transaction = mine = None
        if here is not mine:
            raise TransactionError(
                f"the recorder of tape {self._tape_id!r} was opened outside of the transaction of this thread"
                if here is not None
                else f"tape {self._tape_id!r} is part of the transaction of another thread"
            )

    def sync(self) -> None:
        self._file.look()
        transaction = self._transaction
        if transaction is not None and transaction.state == "open":
            transaction.wants_sync = True
        else:
            self._file.sync()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._transaction is None or self._transaction.state != "rolled back":
                if self._unsettled is not None:
                    self._look_again(self._unsettled)
                self._index()
                upkeep.settle(self._file, self._no, self._size_bytes)
        except (StorageError, OSError) as error:  # only what can be derived again is behind now
            self._logger.warning("tape %s will be settled later: %s", self._tape_id, error)
        finally:
            self._release()

    def _release(self) -> None:
        self._file.locks.release(self._no, self._holder)
