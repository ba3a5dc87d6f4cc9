"""How far a tape is durable, and who waits for the disk: done once, here, for every backend.

Whoever needs a sync while another one runs waits for the next, which one of the waiters makes for all of
them. Where frames become durable by and by, one thread for all tapes of a backend sees to it. Knows
appenders, and no kind of storage.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

from . import forks
from .backend import Appender, Durability
from .errors import StorageClosedError, StorageUnavailableError, SyncFailedError
from .tape import TapeCounters
from .translation import translate
from .turns import Turns, Waiter

_logger = logging.getLogger(__name__)
_THREAD_NAME: Final = "shadowcat-sync"


class TapeSync:
    """Which part of one open tape is durable.

    A sync that fails is the last one: the system may have dropped what it could not write, and say of the
    next sync that all is well. From then on `durable_seq` stands still, and whoever relies on more is told.
    """

    __slots__ = (
        "_appender",
        "_counters",
        "_durability",
        "_durable_lines",
        "_finished",
        "_lock",
        "_syncer",
        "_tape_id",
        "_told",
        "_turns",
        "durable_seq",
        "failure",
        "is_noted",
    )

    def __init__(
        self,
        tape_id: str,
        appender: Appender,
        counters: TapeCounters,
        durability: Durability,
        syncer: Syncer | None,
    ) -> None:
        self._tape_id = tape_id
        self._appender = appender
        self._counters = counters
        self._durability = durability
        self._syncer = syncer if durability.mode == "interval" else None
        self._turns = Turns()
        # Guards everything below too; the appender is never called under it.
        self._lock = self._turns.lock
        self._finished = False
        self._durable_lines = 0
        self._told = False
        self.durable_seq = -1
        """Of the last frame that was appended before a sync that went well began."""
        self.failure: SyncFailedError | None = None
        self.is_noted = durability.mode == "none"
        """`appended` need not be called: nothing has to be done, or it has been said already."""
        if self._syncer is not None:
            self._syncer.add(self)

    def check(self) -> None:
        """Before something is appended, where there is a `failure`.

        Raises:
            SyncFailedError: in mode `frame`; otherwise once, as the frames outlive the process all the same.
        """
        with self._lock:
            failure, told = self.failure, self._told
            self._told = True
        if failure is not None and (not told or self._durability.mode == "frame"):
            raise _again(failure)

    def appended(self, line_count: int) -> None:
        """The tape has `line_count` lines now: do what its mode says.

        Raises:
            SyncFailedError: the lines are in the tape, and may not be durable.
        """
        if self._durability.mode == "frame":
            self.cover(line_count)
        elif self._syncer is not None:
            self.is_noted = True
            self._syncer.note()

    def cover(self, line_count: int) -> None:
        """Until the first `line_count` lines are durable.

        Raises:
            SyncFailedError: a sync has failed, and nobody can tell.
            StorageClosedError: the tape was left as it is meanwhile.
        """
        covered: list[Waiter] = []
        try:
            with self._lock:
                if self._durable_lines >= line_count:
                    return
                if self.failure is not None:
                    self._told = True
                    raise _again(self.failure)
                if self._finished:
                    raise StorageClosedError(f"the recorder of tape {self._tape_id!r}")
                waiter = self._turns.take(covered)
            if waiter is None or self._wait(waiter, line_count):
                self._lead(covered, tells=True)
        except BaseException:  # an interrupt perhaps, and nobody may be left waiting for us
            self._turns.leave(covered)
            raise

    def _wait(self, waiter: Waiter, line_count: int) -> bool:
        """Whether the next sync is ours to make; otherwise the lines are durable.

        Raises:
            SyncFailedError: they are not, and will not be.
        """
        waiter.wait()
        with self._lock:
            leads = self._turns.owner is waiter.mine
            failure = self.failure if self._durable_lines < line_count else None
            if failure is not None:
                self._told = True
            elif leads:
                self._turns.share(waiter.mine)
        if failure is not None:
            raise _again(failure)
        return leads

    def sync_noted(self) -> None:
        """For the syncer, in its thread: cover what is there, if anything was noted; a failure is logged."""
        with self._lock:
            if not self.is_noted or self._finished or self.failure is not None:
                return
            covered: list[Waiter] = []
            is_mine = self._turns.owner is None
            if is_mine:
                self._turns.take(covered)
                self.is_noted = False  # before the lines are counted: whatever comes later is noted again
        if not is_mine:  # a sync that may have begun too early for what was noted
            if self._syncer is not None:
                self._syncer.note()
            return
        try:
            self._lead(covered, tells=False)
        except SyncFailedError as error:
            _logger.warning("%s", error)

    def finish(self, *, covering: bool) -> None:
        """No sync runs from here on; with `covering`, everything is durable. Nothing is appended any more.

        Raises:
            SyncFailedError: it is not.
        """
        try:
            if covering:
                self.cover(self._counters.line_count)
        finally:
            if self._syncer is not None:
                self._syncer.remove(self)
            self._finish()

    def start_anew(self) -> None:
        """In a forked child, where nobody who had the lock lives."""
        self._turns = Turns()
        self._lock = self._turns.lock

    def _finish(self) -> None:
        """Wait for the sync that runs, if there is one, and let no other begin."""
        mine: list[Waiter] = []
        try:
            with self._lock:
                self._finished = True
                waiter = self._turns.take(mine)
            if waiter is not None:
                waiter.wait()
            self._turns.leave(mine)
        except BaseException:  # an interrupt, of that last call too perhaps, which may be made twice
            self._turns.leave(mine)
            raise

    def _lead(self, covered: list[Waiter], *, tells: bool) -> None:
        """Make one sync, for ourselves and for `covered`. `tells`: an error comes to somebody who records."""
        # In this order: a frame that is counted as a line has its seq in already, see `add_frame`.
        lines, seq = self._counters.line_count, self._counters.last_seq
        try:
            self._appender.sync()
        except Exception as error:
            failure = SyncFailedError(self._tape_id, self.durable_seq, str(translate(error)))
            failure.__cause__ = error
            with self._lock:
                self.failure = failure
                self._told = tells
                self._turns.pass_on(covered)
            raise _again(failure) from error
        with self._lock:
            self._durable_lines = lines
            if not self._durability.volatile:
                self.durable_seq = seq
            self._turns.pass_on(covered)


class Syncer:
    """Syncs the tapes of one backend, `interval_seconds` after they were first written to. Its one thread
    lives while there is a tape that may need it."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        # Guards the fields below; the thread waits on it, and leaves it before it syncs.
        self._condition = threading.Condition()
        self._tapes: tuple[TapeSync, ...] = ()
        self._thread: threading.Thread | None = None
        self._noted = False
        forks.in_child(self, Syncer._start_anew)

    def add(self, tape: TapeSync) -> None:
        """Raises: StorageUnavailableError: there is no thread to be had."""
        with self._condition:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    reason = "no thread can be started to make frames durable"
                    raise StorageUnavailableError(reason) from error
                self._thread = thread
            self._tapes = (*self._tapes, tape)

    def remove(self, tape: TapeSync) -> None:
        with self._condition:
            self._tapes = tuple(other for other in self._tapes if other is not tape)
            self._condition.notify()

    def note(self) -> None:
        """Something has to be synced."""
        with self._condition:
            self._noted = True
            self._condition.notify()

    def _start_anew(self) -> None:
        self._condition = threading.Condition()
        self._tapes, self._thread, self._noted = (), None, False

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._tapes and not self._noted:
                    self._condition.wait()
                self._condition.wait_for(lambda: not self._tapes, self._interval_seconds)
                if not self._tapes:
                    self._thread = None
                    return
                self._noted = False
                tapes = self._tapes
            for tape in tapes:
                tape.sync_noted()


def _again(failure: SyncFailedError) -> SyncFailedError:
    """The same for another thread: each raises its own."""
    again = SyncFailedError(*failure.args)
    again.__cause__ = failure.__cause__
    return again
