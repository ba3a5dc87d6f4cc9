"""Making what was committed outlive a loss of power, once for all who wait for that.

In WAL mode with `synchronous = NORMAL` a commit is in the log, and the log is not on the disk yet: that is
`durability: none`. What was committed is at any time either in the log as it is now, or in the file itself,
which SQLite syncs before it lets the log start over. So it is enough to sync the log. SQLite's own FULL does
the same in every commit, but while it holds the lock on the file: all others would wait for each disk write
instead of sharing one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ... import forks
from ...directories import sync_directory
from ...turns import Turns, Waiter

_sync_file: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


class LogSync:
    """Syncs the log of one tapes file; whoever waits while it does so shares the next one."""

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(path.name + "-wal")
        self._turns = Turns()
        self._named = False
        forks.in_child(self, LogSync._start_anew)

    def _start_anew(self) -> None:
        self._turns = Turns()

    def __call__(self) -> None:
        """On return, everything that was committed before the call outlives a loss of power.

        Raises:
            OSError: nobody can tell whether it does.
        """
        turns = self._turns
        covered: list[Waiter] = []
        try:
            with turns.lock:
                waiter = turns.take(covered)  # a sync that runs already may have begun too early
            if waiter is not None:
                waiter.wait()
                if waiter.failure is not None:
                    raise _again(waiter.failure)
                with turns.lock:
                    if turns.owner is not covered:
                        return
                    turns.share(covered)
            self._lead(covered)
        except BaseException:  # an interrupt perhaps, and nobody may be left waiting for us
            turns.leave(covered)
            raise

    def _lead(self, covered: list[Waiter]) -> None:
        failure: OSError | None = None
        try:
            self._sync()
        except OSError as error:
            failure = error
        with self._turns.lock:
            if failure is not None:
                # The system reports a lost write once: all who wait for this sync have to hear of it.
                for waiter in covered:
                    waiter.failure = failure
            self._turns.pass_on(covered)
        if failure is not None:
            raise failure

    def _sync(self) -> None:
        try:
            descriptor = os.open(self._log, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError:
            return  # the last connection was closed: it has put everything into the file, and synced that
        try:
            _sync_file(descriptor)
        except OSError as error:
            error.filename = str(self._log)
            raise
        finally:
            os.close(descriptor)
        if not self._named:
            sync_directory(self._log.parent)
            self._named = True


def _again(failure: OSError) -> OSError:
    """The same for another thread: each raises its own."""
    return OSError(failure.errno, failure.strerror, failure.filename)
