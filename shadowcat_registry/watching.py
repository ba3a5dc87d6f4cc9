"""The thread of a watch: takes hints and looks, and ticks when what changed has settled.

One thread does all the work, and owns all the state; others reach it through its inbox, and read a status
that is replaced as a whole. Foreign code (`paths`, `listings`, `on_tick`) is called there, with no lock
held: there is none. Knows paths, never manifests.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal

from .metadata import format_time
from .settle import LONGEST_WAIT_SECONDS, Hint, Settling
from .settled import Settled, is_fresh
from .sight import Way, look, probe, trace
from .supervise import EventSource, Message, WatchMode

DEFAULT_POLL_SECONDS: Final = 1.0
_REST_AFTER_FAULT_SECONDS: Final = 1.0
_STOPPED_SECONDS: Final = 1.0
"""A wait that ends so late was not ours: the whole process, or the machine, stood still."""
_OVERFLOW: Final = "overflow"  # as in `hints`, which is not loaded unless somebody watches

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
    unobserved: tuple[str, ...] = ()
    """Directories whose events cannot be believed or had, each with the reason; they are polled."""
    poll_interval_seconds: float = DEFAULT_POLL_SECONDS
    events: int = 0
    """That concerned a path on the way to a file."""
    overflows: int = 0
    """How often the system lost events, and said so."""
    checks: int = 0
    ticks: int = 0
    """How often something had changed and settled."""
    rescues: int = 0
    """Changes that only the periodic check found, although there should have been events."""
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
            "unobserved": list(self.unobserved),
            "poll_interval_seconds": self.poll_interval_seconds,
            "events": self.events,
            "overflows": self.overflows,
            "checks": self.checks,
            "ticks": self.ticks,
            "rescues": self.rescues,
            "rearms": self.rearms,
        }


@dataclass(frozen=True, slots=True)
class Settings:
    mode: WatchMode
    poll_interval_seconds: float


Item = Message | float | Settings | None


@dataclass(slots=True, eq=False)
class _Watched:
    """One path, with the way that it takes at present."""

    path: str
    settling: Settling
    way: Way


@dataclass(slots=True, eq=False)
class _Listing:
    """One directory in which paths may appear, with the way to it."""

    path: str
    names: re.Pattern[str]
    way: Way


@dataclass(eq=False)
class Loop:
    """One run from start to stop. Only its thread touches it, but for `inbox`, `stopping`, `status` and
    `settled`."""

    paths: Callable[[], Collection[Path]]
    on_tick: Callable[[], None]
    listings: Callable[[], Mapping[Path, Collection[str]]]
    settings: Settings
    clock: Callable[[], float]
    # `SimpleQueue.put` is reentrant, so that a signal handler may call it. Holds an event `(kind, path)`,
    # the time of a poke, new settings, or None: wake up.
    inbox: SimpleQueue[Item] = field(default_factory=SimpleQueue)
    stopping: threading.Event = field(default_factory=threading.Event)
    status: WatchStatus = field(default_factory=WatchStatus)
    settled: Settled = field(default_factory=Settled)
    """At the last tick; replaced as a whole."""

    def __post_init__(self) -> None:
        self.pid = os.getpid()
        self.thread = threading.Thread(target=self._run, name="shadowcat-watch", daemon=True)
        self.source = EventSource(self.inbox.put, self.settings.mode, self.clock)
        self._watched: dict[str, _Watched] = {}
        self._listed: list[_Listing] = []
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
                    self.source.close()
                    self._next_check = self.clock()
                    self._say_how_it_stands()
                    self.stopping.wait(_REST_AFTER_FAULT_SECONDS)
        finally:
            self.source.close()

    def _receive(self) -> list[Item]:
        """Everything in the inbox; waits for the first of it, at most until something is to be done."""
        times = [self._next_check, *self._pokes]
        times += [w.settling.due for w in self._watched.values() if w.settling.due is not None]
        if self._wanted_since is not None:
            times.append(self._wanted_since + LONGEST_WAIT_SECONDS)
        received: list[Item] = []
        began = self.clock()
        until = max(began, min(times))
        try:
            received.append(self.inbox.get(timeout=until - began))
            while True:
                received.append(self.inbox.get_nowait())
        except Empty:
            pass
        late_seconds = self.clock() - until
        if late_seconds > _STOPPED_SECONDS:
            self._rest(late_seconds)
        return received

    def _rest(self, seconds: float) -> None:
        """That time went by unseen: nothing was quiet in it, and nobody has been waited for."""
        for watched in self._watched.values():
            watched.settling.rest(seconds)
        if self._wanted_since is not None:
            self._wanted_since += seconds

    def step(self, received: Collection[Item]) -> None:
        """All that is to be done at this moment."""
        now = self.clock()
        events = [item for item in received if isinstance(item, tuple)]
        self._pokes += [item for item in received if isinstance(item, float)]
        for item in received:
            if isinstance(item, Settings):
                self.settings, self.source.mode = item, item.mode
                self._next_check = now
        if any(kind == _OVERFLOW for kind, _ in events):
            self._take_overflow(now)
            events = [event for event in events if event[0] != _OVERFLOW]
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

    def _take_hints(self, events: list[Message], now: float) -> None:
        # In the order of their last occurrence: of one path, the latest counts.
        latest = list(dict.fromkeys(reversed(events)))[::-1]
        if any(self._may_add(path) for _, path in latest):
            self._refresh_paths(now, after_tick=False)
        concerned = [(kind, path, self._concerned_by(path)) for kind, path in latest]
        if any(kind in ("moved", "created", "deleted") for kind, _ in latest):
            # The way may be another one now. Armed before looking: what comes after the look gives an event.
            for _, path in latest:
                self.source.forget(path)
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

    def _take_overflow(self, now: float) -> None:
        """Events were lost, also of a writer's end: from here on, it is as if nobody had told of any."""
        self._count(overflows=1)
        for watched in self._watched.values():
            if watched.settling.due is not None:
                watched.settling.hint(Hint.STIRRED, now)
        self._next_check = now

    def _may_add(self, path: str) -> bool:
        """Whether an event of this path may be of one that is not watched yet."""
        directory, _, _ = path.rpartition(os.sep)
        return any(
            path in listing.way.entries or directory == listing.way.file for listing in self._listed
        ) and not any(path == watched.way.file for watched in self._watched.values())

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
        self._next_check = now + self.settings.poll_interval_seconds
        self._count(checks=1)
        self._faults.pop("watch", None)
        self.status = replace(self.status, last_check_at=datetime.now(UTC))
        self._say_how_it_stands()

    def _refresh_paths(self, now: float, *, after_tick: bool) -> None:
        try:
            paths = {os.fspath(path) for path in self.paths()}
            listings = {os.fspath(path): _names_of(names) for path, names in self.listings().items()}
        except Exception as error:
            if "paths" not in self._faults:
                _logger.exception("cannot ask which files to watch; going on with those before")
            self._faults["paths"] = f"cannot ask which files to watch ({type(error).__name__})"
            return
        self._faults.pop("paths", None)
        self._listed = [_Listing(path, names, trace(path)) for path, names in listings.items()]
        for path in self._watched.keys() - paths:
            del self._watched[path]
            self._must_tick = self._must_tick or not after_tick  # after a tick, the reader dropped it
        for path in paths - self._watched.keys():
            settling = Settling(has_close_events=_HAS_CLOSE_EVENTS)
            self._watched[path] = _Watched(path, settling, trace(path))
            settling.hint(Hint.STIRRED if is_fresh(path) else Hint.REPLACED, now)

    def _arm(self, now: float) -> None:
        """Observe what decides at present."""
        traced: list[_Watched | _Listing] = [*self._watched.values(), *self._listed]
        for each in traced:
            each.way = trace(each.path)
        ways = [each.way for each in traced]
        changed, is_again = self.source.arm(
            {directory for way in ways for directory in way.directories}
            | {listing.way.file for listing in self._listed},
            {entry for way in ways for entry in way.entries},
            {listing.way.file: listing.names for listing in self._listed},
        )
        if changed:
            self._count(rearms=int(is_again))
            self._next_check = now  # nobody told what happened in between

    # -- content

    def _look(self) -> None:
        is_rescue = False
        for watched in self._watched.values():
            settling = watched.settling
            if settling.due is None or settling.due > self.clock():
                continue
            # The time is taken after the look: quiet that began before it has not been seen to begin.
            signature = probe(watched.path)
            if not settling.is_quiet(signature, self.clock()):
                continue
            is_known, was_told = settling.taken is not None, settling.was_told
            if settling.settle(look(watched.path), self.clock()):
                is_mute = not watched.way.directories <= set(self.source.directories)
                is_rescue |= settling.is_news and is_known and not was_told and not is_mute
        if is_rescue:
            # Some ways to write give no events at all (mmap, a hard link elsewhere). But it may be deaf.
            self._count(rescues=1)
            self.source.close()
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
        # Whatever the reader sees of a file that still moves, it may not be what will settle.
        sights = {
            it.path: it.settling.sight if it.settling.due is None else None for it in self._watched.values()
        }
        for watched in self._watched.values():
            sight = sights[watched.path]
            watched.settling.taken = sight.content if sight is not None else None
        self.settled = Settled(sights)
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
        interval = self.settings.poll_interval_seconds
        faults = list(self._faults.values())
        if self.source.fault is not None:
            faults.append(f"{self.source.fault}; looking every {interval:g} s")
        self.status = replace(
            self.status,
            mode="events" if self.source.is_on else "poll",
            directories=self.source.directories,
            paths=tuple(sorted(self._watched)),
            degraded="; ".join(faults) or None,
            unobserved=tuple(f"{path}: {why}" for path, why in sorted(self.source.unobserved.items())),
            poll_interval_seconds=interval,
        )


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)))


def _names_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return _compiled(tuple(sorted(patterns)))


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
