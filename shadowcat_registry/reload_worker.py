"""The thread that does every reload: what it is asked for, and when it tries again what was refused.

It is told that something may have changed, never what; however many ask meanwhile, one reload answers them
all. Between reloads it looks, every second, after what nobody tells. Knows no manifest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from .announce import Cause
from .backoff import Backoff
from .errors import RuntimeClosedError
from .standing import Standing

_SWEEP_SECONDS: Final = 1.0
"""How often to look for handles that were dropped unclosed: the collector can tell nobody."""

_logger = logging.getLogger(__name__)


class ReloadWorker:
    """Of one runtime. `tend(left)` is called at least every second, with the retiring providers that have
    gone since; `reload(cause, explicit)` when one is due: `explicit`, if somebody waits for a verdict.

    The fields are guarded by `standing.changed`, and so are the methods that say "locked".
    """

    def __init__(
        self,
        standing: Standing,
        stopping: threading.Event,
        reload: Callable[[Cause, bool], object],
        tend: Callable[[tuple[str, ...]], object],
    ) -> None:
        self.asked = 0
        self.done = 0
        self.retry = Backoff()
        """Of what was refused for a reason that may pass by itself."""
        self.thread: threading.Thread | None = None
        """None: nobody has begun."""
        self._explicit = False
        self._left: list[str] = []
        self._standing = standing
        self._stopping = stopping
        self._reload = reload
        self._tend = tend

    # ------------------------------------------------------------------ life

    def begin(self) -> threading.Thread:
        """Locked: the thread, which the caller now has to start, or to give up by `begin_again`.

        Raises:
            RuntimeError: somebody has begun before.
        """
        if self.thread is not None:
            raise RuntimeError("this runtime was started already; make a new one")
        self.thread = threading.Thread(target=self._work, name="shadowcat-reload", daemon=True)
        return self.thread

    def begin_again(self) -> None:
        """Locked: as if nobody had begun."""
        self.thread = None

    @property
    def is_starting(self) -> bool:
        return self.thread is not None and self.thread.ident is None

    # ------------------------------------------------------------------ what it is asked for

    def ask(self, *, explicit: bool) -> int:
        """Locked: one reload from now on; it was done when `done` has come to what is returned."""
        self.asked += 1
        self._explicit |= explicit
        self._standing.changed.notify_all()
        return self.asked

    def note_left(self, name: str) -> None:
        """A retiring provider has gone; from whatever thread that happened in."""
        with self._standing.changed:
            self._left.append(name)
            self.retry.hurry()  # perhaps that was what a reload waited for
            self._standing.changed.notify_all()

    def note_returned(self) -> None:
        """A step that a reload had given up has come back: what was refused for it may succeed now."""
        with self._standing.changed:
            self.retry.hurry()
            self._standing.changed.notify_all()

    # ------------------------------------------------------------------ the thread

    def _work(self) -> None:
        changed = self._standing.changed
        while True:
            with changed:
                retry_in_seconds = self.retry.remaining_seconds()
                changed.wait_for(
                    lambda: (
                        self._stopping.is_set()
                        or self._left
                        or self.asked > self.done
                        or self.retry.remaining_seconds() == 0
                    ),
                    _SWEEP_SECONDS if retry_in_seconds is None else min(retry_in_seconds, _SWEEP_SECONDS),
                )
                left, self._left = self._left, []
                ticket, explicit = self.asked, self._explicit
                stopping = self._stopping.is_set()
                asked, retry = ticket > self.done, self.retry.remaining_seconds() == 0
                due = (asked or retry) and not stopping
                self._explicit = False
            try:
                self._tend(tuple(left))
                if due:
                    self._reload("request" if explicit else "file" if asked else "retry", explicit)
            except RuntimeClosedError:  # in the middle of it: nobody gets an outcome
                continue
            except BaseException:  # nothing that foreign code raises ends the worker
                _logger.exception("following the manifest failed, and goes on")
            if due:
                with changed:
                    self.done = ticket
                    changed.notify_all()
            if stopping:
                return
