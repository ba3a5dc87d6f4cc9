"""Who waits for more of a tape: rung for by the recorders of this process, so that nobody has to look often;
and which lines of a look are new. Knows no storages.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from .tape import frame_seq


class Follower:
    """Waits for more of one tape, on behalf of `owner`."""

    __slots__ = ("is_stopped", "owner", "rung", "tape_id")

    def __init__(self, tape_id: str, owner: object) -> None:
        self.tape_id = tape_id
        self.owner = owner
        self.rung = threading.Event()
        self.is_stopped = False

    def stop(self) -> None:
        """Whoever waits gives up, from whatever thread this is said."""
        self.is_stopped = True
        self.rung.set()


class Followers:
    """All that follow tapes of one opened backend."""

    __slots__ = ("_lock", "all")

    def __init__(self) -> None:
        # Guards the change of `all`, which is replaced, never changed: recorders look at it without.
        self._lock = threading.Lock()
        self.all: tuple[Follower, ...] = ()

    def add(self, follower: Follower) -> None:
        with self._lock:
            self.all = (*self.all, follower)

    def remove(self, follower: Follower) -> None:
        with self._lock:
            self.all = tuple(other for other in self.all if other is not follower)

    def ring(self, tape_id: str) -> None:
        """There is more of this tape, or it has ended."""
        for follower in self.all:
            if follower.tape_id == tape_id:
                follower.rung.set()

    def ring_for(self, owner: object) -> None:
        """Whatever `owner` follows: it is being closed."""
        for follower in self.all:
            if follower.owner is owner:
                follower.rung.set()


class Behind(Iterator[bytes]):
    """As `lines_after`, on lines which go on after their end: so does this."""

    def __init__(self, lines: Iterator[bytes], after_seq: int) -> None:
        self._lines = lines
        self._after_seq = after_seq

    def __next__(self) -> bytes:
        line = next(self._lines)
        while self._after_seq >= 0:
            seq = frame_seq(line)
            if seq is not None and seq >= self._after_seq:
                is_wanted = seq > self._after_seq
                self._after_seq = -1
                if is_wanted:
                    break
            line = next(self._lines)
        return line


class Counted(Iterator[bytes]):
    """Lines, and how to find the place behind them again: so many behind the frame with the highest seq."""

    def __init__(self, lines: Iterator[bytes], seq: int, skip: int) -> None:
        self._lines = lines
        self.seq, self.skip = seq, skip

    def __next__(self) -> bytes:
        line = next(self._lines)
        seq = frame_seq(line)
        if seq is not None and seq > self.seq:
            self.seq, self.skip = seq, 0
        else:
            self.skip += 1
        return line
