"""Making what was committed outlive a loss of power, once for all who wait for that.

In WAL mode with `synchronous = NORMAL` a commit is in the log, and the log is not on the disk yet: that is
`durability: none`. What was committed is at any time either in the log as it is now, or in the file itself,
which SQLite syncs before it lets the log start over. So it is enough to sync the log. SQLite's own FULL does
the same in every commit, but while it holds the lock on the file: all others would wait for each disk write
instead of sharing one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ... import forks
from ...directories import sync_directory

_sync_file: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


class LogSync:
    """Syncs the log of one tapes file; whoever waits while it does so shares the next one."""

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(path.name + "-wal")
        # Guards the rounds; the disk is waited for outside of it.
        self._guard = threading.Condition(threading.Lock())
        self._begun = 0
        self._ended = 0
        self._failures: dict[int, OSError] = {}
        self._running = False
        self._named = False
        forks.in_child(self, LogSync._start_anew)

    def _start_anew(self) -> None:
        self._guard = threading.Condition(threading.Lock())
        self._running = False

    def __call__(self) -> None:
        """On return, everything that was committed before the call outlives a loss of power.

        Raises:
            OSError: nobody can tell whether it does.
        """
        with self._guard:
            mine = self._begun + 1  # one that runs already may have begun too early
            while self._running:
                self._guard.wait()
                if self._ended >= mine:
                    self._check(mine)
                    return
            self._running = True
            self._begun = this = self._begun + 1
        failure: OSError | None = None
        try:
            self._sync()
        except OSError as error:
            failure = error
        finally:
            with self._guard:
                self._running = False
                self._ended = this
                if failure is not None:
                    # The system reports a lost write once: all who wait for this round have to hear of it.
                    self._failures = {this: failure}
                self._guard.notify_all()
        if failure is not None:
            raise failure

    def _check(self, round_: int) -> None:
        for failed, failure in self._failures.items():
            if failed >= round_:
                raise OSError(failure.errno, failure.strerror, failure.filename)

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
