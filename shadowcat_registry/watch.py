"""Says when files have changed and settled. Knows paths, never manifests.

A *tick* carries no data: it means "what settled differs from what it was at the last tick"; the reader
reads for itself, with `read_settled`, and `settled()` tells whether what it read is what had settled. Events
are hints for when to look, content is the truth, and a periodic check finds what no event told. One thread
of its own does all the work; foreign code (`paths`, `on_tick`) is called there, with no lock held. There is
no lock at all: the thread owns its state, others reach it through a queue, and read a status that is
replaced as a whole.

No gap: every path that is new to the watch, so also every path at the start, gives a tick as soon as it
has settled. Load first, start then: the first tick closes the gap between the two. And what moved while
`on_tick` ran counts as unknown: it gives another tick when it has settled, also if it is as before.

Which paths there are is asked again at each check, and when an event speaks of a name that a listing (a
directory, and what names in it matter) may add.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from .settled import Settled
from .supervise import WatchMode
from .watching import DEFAULT_POLL_SECONDS, Loop, Settings, WatchStatus

__all__ = ["DEFAULT_POLL_SECONDS", "Watch", "WatchMode", "WatchStatus"]


class Watch:
    """Watches the files that `paths()` names (absolute paths) and calls `on_tick()` when they have settled.

    `listings()` are the directories in which new paths may appear, each with the patterns of their names.
    `start()` and `stop()` may be called again and again, by one thread at a time; everything else by any.
    After a fork the child has an idle watch: `stop()` there touches nothing of the parent's, `start()`
    begins anew.
    """

    def __init__(
        self,
        paths: Callable[[], Collection[Path]],
        on_tick: Callable[[], None],
        *,
        listings: Callable[[], Mapping[Path, Collection[str]]] = dict,
        poll_interval_seconds: float = DEFAULT_POLL_SECONDS,
        mode: WatchMode = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths, self._on_tick, self._listings = paths, on_tick, listings
        self._settings, self._clock = Settings(mode, poll_interval_seconds), clock
        self._loop: Loop | None = None

    def configure(self, *, mode: WatchMode, poll_interval_seconds: float) -> None:
        """Go on in this way, at once and after the next start. Also from `on_tick`."""
        self._settings = Settings(mode, poll_interval_seconds)
        loop = self._living()
        if loop is not None:
            loop.inbox.put(self._settings)

    def start(self) -> None:
        """Begin; the first tick comes as soon as the files are settled.

        Raises:
            RuntimeError: it runs already, or no thread can be started.
        """
        if self._living() is not None:
            raise RuntimeError("the watch runs already")
        if self._settings.mode != "poll":
            with suppress(ImportError):  # the loop says so in its status, and polls
                # Here, not in the thread: a process that forks while a thread imports leaves the lock of the
                # import held in the child, for ever.
                import_module(f"{__package__}.hints")
        loop = Loop(self._paths, self._on_tick, self._listings, self._settings, self._clock)
        loop.thread.start()
        self._loop = loop

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """End it: no tick begins after this was called. Returns whether its thread has ended.

        False means that `on_tick` or `paths` still runs after `timeout_seconds`; the thread ends when they
        return. From inside `on_tick` it never waits, and the answer is False. Idempotent.
        """
        loop = self._living()
        if loop is None:
            return True
        loop.stopping.set()
        loop.inbox.put(None)
        if threading.current_thread() is loop.thread:
            return False
        loop.thread.join(timeout_seconds)
        return not loop.thread.is_alive()

    def poke(self, after_seconds: float = 0.0) -> None:
        """Ask for one tick whether or not anything changed, when `after_seconds` have passed and nothing is
        being written. Also from a signal handler, also from `on_tick`. Does nothing unless it runs.
        """
        loop = self._living()
        if loop is not None:
            loop.inbox.put(float(self._clock() + after_seconds))

    def settled(self) -> Settled | None:
        """What had settled at the last tick, to be asked for before reading; None unless it runs."""
        loop = self._living()
        return loop.settled if loop is not None else None

    def status(self) -> WatchStatus:
        """The state a moment ago; never waits."""
        loop = self._loop
        if loop is None:
            return WatchStatus()
        return replace(loop.status, is_running=self._living() is not None and not loop.stopping.is_set())

    def _living(self) -> Loop | None:
        # A forked child inherits the object but not the thread; what it observed with is the parent's.
        loop = self._loop
        return loop if loop is not None and loop.pid == os.getpid() and loop.thread.is_alive() else None
