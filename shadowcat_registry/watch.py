"""Says when files have changed and settled. Knows paths, never manifests.

A *tick* carries no data: it means "what settled differs from what it was at the last tick"; the reader
reads for itself, with `read_settled`. Events are hints for when to look, content is the truth, and a
periodic check finds what no event told. One thread of its own does all the work; foreign code (`paths`,
`on_tick`) is called there, with no lock held. There is no lock at all: the thread owns its state, others
reach it through a queue, and read a status that is replaced as a whole.

No gap: every path that is new to the watch, so also every path at the start, gives a tick as soon as it
has settled. Load first, start then: the first tick closes the gap between the two. And what moved while
`on_tick` ran counts as unknown: it gives another tick when it has settled, also if it is as before.

New files that a pattern matches are found by the periodic check, which asks `paths` again.
"""

# ruff: noqa: PTH100  -- `abspath` must not follow links, `resolve` does
from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal

from .metadata import format_time
from .settle import LONGEST_WAIT_SECONDS, STIRRED_QUIET_SECONDS, Hint, Settling
from .sight import Way, look, probe, read_settled, trace

if TYPE_CHECKING:
    from .hints import Hints

__all__ = ["Watch", "WatchStatus", "read_settled"]

WatchMode = Literal["auto", "poll"]
"""`auto`: file events where they can be had, beside the periodic check. `poll`: only the check."""

_RETRY_EVENTS_SECONDS: Final = 30.0
"""After events could not be had; doubled with each failure, for with watchdog 6 each costs descriptors."""
_MOST_RETRY_SECONDS: Final = 3600.0
_REST_AFTER_FAULT_SECONDS: Final = 1.0

_HAS_CLOSE_EVENTS: Final = sys.platform == "linux"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """How the watch stands; counts are since `start()`."""

    is_running: bool = False
    mode: Literal["events", "poll"] = "poll"
    """`events` always includes the periodic check."""
    directories: tuple[str, ...] = ()
    """That are observed for events."""
    paths: tuple[str, ...] = ()
    last_event_at: datetime | None = None
    last_check_at: datetime | None = None
    last_tick_at: datetime | None = None
    degraded: str | None = None
    """Why it is less than it should be, in words; None: it is not."""
    events: int = 0
    """That concerned a path on the way to a file."""
    checks: int = 0
    ticks: int = 0
    rescues: int = 0
    """Changes that only the periodic check found."""
    rearms: int = 0

    def as_json(self) -> dict[str, Any]:
        times = (self.last_event_at, self.last_check_at, self.last_tick_at)
        event, check, tick = (None if at is None else format_time(at) for at in times)
        return {
            "is_running": self.is_running,
            "mode": self.mode,
            "directories": list(self.directories),
            "paths": list(self.paths),
            "last_event_at": event,
            "last_check_at": check,
            "last_tick_at": tick,
            "degraded": self.degraded,
            "events": self.events,
            "checks": self.checks,
            "ticks": self.ticks,
            "rescues": self.rescues,
            "rearms": self.rearms,
        }


class Watch:
    """Watches the files that `paths()` names (absolute paths) and calls `on_tick()` when they have settled.

    `start()` and `stop()` may be called again and again, by one thread at a time; everything else by any.
    After a fork the child has an idle watch: `stop()` there touches nothing of the parent's, `start()`
    begins anew.
    """

    def __init__(
        self,
        paths: Callable[[], Collection[Path]],
        on_tick: Callable[[], None],
        *,
        poll_interval_seconds: float = 1.0,
        mode: WatchMode = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths, self._on_tick = paths, on_tick
        self._poll_interval_seconds, self._mode, self._clock = poll_interval_seconds, mode, clock
        self._loop: _Loop | None = None

    def start(self) -> None:
        """Begin; the first tick comes as soon as the files are settled.

        Raises:
            RuntimeError: it runs already, or no thread can be started.
        """
        if self._living() is not None:
            raise RuntimeError("the watch runs already")
        if self._mode != "poll":
            with suppress(ImportError):  # the loop says so in its status, and polls
                # Here, not in the thread: a process that forks while a thread imports leaves the lock of the
                # import held in the child, for ever.
                import_module(f"{__package__}.hints")
        loop = _Loop(self._paths, self._on_tick, self._poll_interval_seconds, self._mode, self._clock)
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

    def status(self) -> WatchStatus:
        """The state a moment ago; never waits."""
        loop = self._loop
        if loop is None:
            return WatchStatus()
        return replace(loop.status, is_running=self._living() is not None and not loop.stopping.is_set())

    def _living(self) -> _Loop | None:
        # A forked child inherits the object but not the thread; what it observed with is the parent's.
        loop = self._loop
        return loop if loop is not None and loop.pid == os.getpid() and loop.thread.is_alive() else None


_Message = tuple[str, str] | float | None


@dataclass(slots=True, eq=False)
class _Watched:
    """One path, with the way that it takes at present."""

    path: str
    settling: Settling
    way: Way


@dataclass(eq=False)
class _Loop:
    """One run from start to stop. Only its thread touches it, but for `inbox`, `stopping` and `status`."""

    paths: Callable[[], Collection[Path]]
    on_tick: Callable[[], None]
    poll_interval_seconds: float
    mode: WatchMode
    clock: Callable[[], float]
    # `SimpleQueue.put` is reentrant, so that a signal handler may call it. Holds an event `(kind, path)`,
    # the time of a poke, or None: wake up.
    inbox: SimpleQueue[_Message] = field(default_factory=SimpleQueue)
    stopping: threading.Event = field(default_factory=threading.Event)
    status: WatchStatus = field(default_factory=WatchStatus)

    def __post_init__(self) -> None:
        self.pid = os.getpid()
        self.thread = threading.Thread(target=self._run, name="shadowcat-watch", daemon=True)
        self._watched: dict[str, _Watched] = {}
        self._hints: Hints | None = None
        self._has_armed = False
        self._retry_events_at = self.clock()
        self._retry_events_seconds = _RETRY_EVENTS_SECONDS
        self._next_check = self.clock()
        self._wanted_since: float | None = None  # a tick is due since then, if everything were settled
        self._pokes: list[float] = []
        self._must_tick = False
        self._faults: dict[str, str] = {}  # what goes wrong now, by where

    # -- the thread

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    self.step(self._receive())
                except Exception:
                    # Nothing may end this thread; what it missed, the next check finds.
                    _logger.exception("the watch failed and goes on")
                    self._faults["watch"] = "the watch itself failed, see the log"
                    self._hints_off()
                    self._next_check = self.clock()
                    self._say_how_it_stands()
                    self.stopping.wait(_REST_AFTER_FAULT_SECONDS)
        finally:
            self._hints_off()

    def _receive(self) -> list[_Message]:
        """Everything in the inbox; waits for the first of it, at most until something is to be done."""
        times = [self._next_check, *self._pokes]
        times += [w.settling.due for w in self._watched.values() if w.settling.due is not None]
        if self._wanted_since is not None:
            times.append(self._wanted_since + LONGEST_WAIT_SECONDS)
        received: list[_Message] = []
        try:
            received.append(self.inbox.get(timeout=max(0.0, min(times) - self.clock())))
            while True:
                received.append(self.inbox.get_nowait())
        except Empty:
            return received

    def step(self, received: Collection[_Message]) -> None:
        """All that is to be done at this moment."""
        now = self.clock()
        events = [item for item in received if isinstance(item, tuple)]
        self._pokes += [item for item in received if isinstance(item, float)]
        if events:
            self._count(events=len(events))
            self.status = replace(self.status, last_event_at=datetime.now(UTC))
            self._take_hints(events, now)
        if any(at <= now for at in self._pokes):
            self._pokes = [at for at in self._pokes if at > now]
            self._must_tick = True
            self._next_check = now
        if now >= self._next_check:
            self._check(now)
        self._look()
        self._tick_if_settled()

    # -- events

    def _take_hints(self, events: list[tuple[str, str]], now: float) -> None:
        # In the order of their last occurrence: of one path, the latest counts.
        latest = list(dict.fromkeys(reversed(events)))[::-1]
        concerned = [(kind, path, self._concerned_by(path)) for kind, path in latest]
        if any(kind in ("moved", "created", "deleted") for kind, _ in latest):
            # The way may be another one now. Armed before looking: what comes after the look gives an event.
            if self._hints is not None:
                for _, path in latest:
                    self._hints.forget(path)  # what stands there is new, even if it got the old number
            self._arm(now)
        for kind, path, those in concerned:
            hint = _hint_of(kind, path)
            for watched in those:
                if hint is not Hint.REPLACED and path not in watched.way.entries:
                    continue  # of an old release that nobody looks at any more
                if path == watched.way.file or hint in (Hint.REPLACED, Hint.GONE):
                    watched.settling.hint(hint, now)
                elif kind == "created":  # a directory on the way: who knows what is being put there
                    watched.settling.hint(Hint.STIRRED, now)

    def _concerned_by(self, path: str) -> list[_Watched]:
        return [watched for watched in self._watched.values() if path in watched.way.entries]

    # -- the periodic check

    def _check(self, now: float) -> None:
        self._refresh_paths(now, after_tick=False)
        self._arm(now)
        for watched in self._watched.values():
            settling = watched.settling
            if settling.due is not None or not settling.is_doubtful(probe(watched.path)):
                continue
            seen = look(watched.path)
            if settling.sight is not None and seen.content == settling.sight.content:
                settling.sight = seen  # touched, or written with the same bytes: no change
            else:
                settling.hint(Hint.STIRRED, now)
        self._next_check = now + self.poll_interval_seconds
        self._count(checks=1)
        self._faults.pop("watch", None)
        self.status = replace(self.status, last_check_at=datetime.now(UTC))
        self._say_how_it_stands()

    def _refresh_paths(self, now: float, *, after_tick: bool) -> None:
        try:
            paths = {os.path.abspath(path) for path in self.paths()}
        except Exception as error:
            if "paths" not in self._faults:
                _logger.exception("cannot ask which files to watch; going on with those before")
            self._faults["paths"] = f"cannot ask which files to watch ({type(error).__name__})"
            return
        self._faults.pop("paths", None)
        for path in self._watched.keys() - paths:
            del self._watched[path]
            self._must_tick = self._must_tick or not after_tick  # after a tick, the reader dropped it
        for path in paths - self._watched.keys():
            settling = Settling(has_close_events=_HAS_CLOSE_EVENTS)
            self._watched[path] = _Watched(path, settling, trace(path))
            settling.hint(Hint.STIRRED if _is_fresh(path) else Hint.REPLACED, now)

    def _arm(self, now: float) -> None:
        """Observe what decides at present; where the system refuses, say so and try again later."""
        for watched in self._watched.values():
            watched.way = trace(watched.path)
        if self.mode == "poll" or (self._hints is None and now < self._retry_events_at):
            return
        try:
            if self._hints is not None and not self._hints.is_alive:
                _logger.warning("the observer of file events died; starting another one")
                self._hints_off()
            if self._hints is None:
                from .hints import Hints  # here: watchdog is not loaded unless somebody watches

                self._hints = Hints(self.inbox.put)
            ways = [watched.way for watched in self._watched.values()]
            directories = {d: probe(d)[:2] for way in ways for d in way.directories}
            existing = {d: identity for d, identity in directories.items() if identity}
            if self._hints.arm(existing, frozenset(entry for way in ways for entry in way.entries)):
                self._count(rearms=1 if self._has_armed else 0)
                self._has_armed = True
                self._next_check = now  # nobody told what happened in between
        except (OSError, RuntimeError, ImportError) as error:
            self._hints_off()
            if "events" not in self._faults:
                _logger.warning("no file events, only a look now and then: %s", error)
            self._faults["events"] = (
                f"no file events ({error}); looking every {self.poll_interval_seconds:g} s"
            )
            self._retry_events_at = now + self._retry_events_seconds
            self._retry_events_seconds = min(2 * self._retry_events_seconds, _MOST_RETRY_SECONDS)
        else:
            self._retry_events_seconds = _RETRY_EVENTS_SECONDS
            if self._faults.pop("events", None) is not None:
                _logger.info("file events are back")

    def _hints_off(self) -> None:
        hints, self._hints = self._hints, None
        if hints is not None:
            try:
                hints.close()
            except Exception:
                _logger.exception("the observer of file events did not end cleanly")

    # -- content

    def _look(self) -> None:
        is_rescue = False
        for watched in self._watched.values():
            settling = watched.settling
            now = self.clock()
            if settling.due is None or settling.due > now or not settling.is_quiet(probe(watched.path), now):
                continue
            is_known, was_told = settling.taken is not None, settling.was_told
            if settling.settle(look(watched.path), self.clock()):
                is_rescue |= settling.is_news and is_known and not was_told
        if is_rescue and self._hints is not None:
            # Some ways to write give no events at all (mmap, a hard link elsewhere). But it may be deaf.
            self._count(rescues=1)
            self._hints_off()
            self._arm(self.clock())

    def _tick_if_settled(self) -> None:
        now = self.clock()
        if not self._must_tick and not any(w.settling.is_news for w in self._watched.values()):
            self._wanted_since = None
            return
        if self._wanted_since is None:
            self._wanted_since = now
        if now < self._wanted_since + LONGEST_WAIT_SECONDS:
            if not self.inbox.empty():
                return
            self._doubt_what_moved(now)
            if any(watched.settling.due is not None for watched in self._watched.values()):
                return
        if not self.stopping.is_set():
            self._tick()

    def _tick(self) -> None:
        self._must_tick, self._wanted_since = False, None
        for watched in self._watched.values():
            settling = watched.settling
            # Whatever the reader sees of a file that still moves, it may not be what will settle.
            is_settled = settling.due is None and settling.sight is not None
            settling.taken = settling.sight.content if is_settled and settling.sight else None
        self._count(ticks=1)
        self.status = replace(self.status, last_tick_at=datetime.now(UTC))
        try:
            self.on_tick()
        except BaseException as error:
            _logger.exception("what the watch called on a change failed")
            self._faults["tick"] = f"the last reaction to a change failed ({type(error).__name__})"
        else:
            self._faults.pop("tick", None)
        if self.stopping.is_set():
            return
        now = self.clock()
        self._refresh_paths(now, after_tick=True)
        self._arm(now)
        for watched in self._doubt_what_moved(now):
            watched.settling.taken = None  # the reader may have seen the one content or the other
        self._say_how_it_stands()

    def _doubt_what_moved(self, now: float) -> list[_Watched]:
        moved = []
        for watched in self._watched.values():
            settling = watched.settling
            if settling.due is None and settling.sight and settling.sight.signature != probe(watched.path):
                settling.hint(Hint.STIRRED, now)
                moved.append(watched)
        return moved

    # -- status

    def _count(self, **more: int) -> None:
        self.status = replace(
            self.status, **{name: getattr(self.status, name) + n for name, n in more.items()}
        )

    def _say_how_it_stands(self) -> None:
        self.status = replace(
            self.status,
            mode="poll" if self._hints is None else "events",
            directories=() if self._hints is None else self._hints.directories,
            paths=tuple(sorted(self._watched)),
            degraded="; ".join(self._faults.values()) or None,
        )


def _hint_of(kind: str, path: str) -> Hint:
    if kind == "moved" or (kind == "created" and _is_link(path)):
        return Hint.REPLACED  # a link has no content that could be unfinished
    if kind == "deleted":
        return Hint.GONE
    return Hint.CLOSED if kind == "closed" else Hint.OPENED


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_fresh(path: str) -> bool:
    """Whether somebody may still be writing it, for all that its modification time tells."""
    signature = probe(path)
    return bool(signature) and time.time_ns() - signature[3] < STIRRED_QUIET_SECONDS * 1e9
