"""The recent events of a runtime, and streams of those that come: for readers of any speed.

Whoever publishes never waits: a stream has a bounded queue, and one that is full has ended. Knows events,
and nothing of how they get to a reader.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, Full, Queue
from typing import Final

from . import forks
from .events import Event

RECENT_EVENTS: Final = 100
MOST_STREAMS: Final = 16
_QUEUED_EVENTS: Final = 1_000
"""Who is this far behind is left."""


class Stream:
    """One reader's events, without a gap; made by `EventFeed.follow`."""

    def __init__(self, recent: list[Event]) -> None:
        self.recent = recent
        """Those before the first that `next` gives."""
        self._queue: Queue[Event | None] = Queue(_QUEUED_EVENTS)
        self._has_missed = False

    def next(self, timeout_seconds: float) -> Event | None:
        """The next event; None: it is over, since the feed is, or this reader was too slow.

        Raises:
            TimeoutError: there is none yet.
        """
        if self._has_missed and self._queue.empty():
            return None
        try:
            return self._queue.get(timeout=timeout_seconds)
        except Empty:
            raise TimeoutError from None

    def put(self, event: Event | None) -> None:
        """Of the feed, under its lock: never waits."""
        if not self._has_missed:
            try:
                self._queue.put_nowait(event)
            except Full:
                self._has_missed = True


class EventFeed:
    """`note` is its subscriber."""

    def __init__(self) -> None:
        # Guards the fields below, and who puts what into which stream; nobody waits under it.
        self._lock = threading.Lock()
        self._recent: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._streams: set[Stream] = set()
        self._is_over = False
        forks.in_child(self, EventFeed._start_anew)

    def note(self, event: Event) -> None:
        with self._lock:
            self._recent.append(event)
            for stream in self._streams:
                stream.put(event)

    def follow(self) -> Stream | None:
        """A stream, which misses nothing after its recent ones, until `leave`; None: too many have one."""
        with self._lock:
            if len(self._streams) >= MOST_STREAMS:
                return None
            stream = Stream(list(self._recent))
            if self._is_over:
                stream.put(None)
            self._streams.add(stream)
        return stream

    def leave(self, stream: Stream) -> None:
        with self._lock:
            self._streams.discard(stream)

    def end(self) -> None:
        """Every stream ends with what is in its queue."""
        with self._lock:
            self._is_over = True
            for stream in self._streams:
                stream.put(None)

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def _start_anew(self) -> None:
        """In a forked child: the readers are the parent's."""
        self._lock = threading.Lock()
        self._streams, self._is_over = set(), True
