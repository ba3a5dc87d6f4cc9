"""Frames of threads that wait for the disk at once, written by one of them for all: one write, one sync.

Who comes when nobody writes does so at once, and alone. Meanwhile a batch gathers, which the first of its
threads writes then. Each that is answered wakes the next one, so that a crowd does not fight over the
interpreter. Whatever goes wrong with a batch is settled by each for itself, in its own thread. Knows neither
recorder nor storage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from .errors import SyncFailedError
from .tape import Direction, check_direction, check_message

_LONG_BYTES: Final = 64 * 1024
"""A message beyond this is written by its own thread: a batch is held in memory twice while it is joined."""
_ALL_LINES: Final = 1 << 62
"""More than any tape has: whatever there is when the sync begins."""


class Batch:
    """Frames for one write, whose messages have been checked."""

    __slots__ = ("drops", "frames", "seqs")

    def __init__(self, frames: Sequence[tuple[Direction, bytes]], *, drops: bool = True) -> None:
        self.frames = frames
        self.drops = drops
        """They may be left out where the storage is full, if that was asked for."""
        self.seqs: range | None = None
        """Once they are in the tape."""


WriteOne = Callable[[Direction, bytes], tuple[int, int]]
"""Checks and writes one frame; returns its `seq`, and how many lines the tape has then."""
Write = Callable[[Batch], int]
"""Writes a batch, all or, after an error, none of it; returns how many lines the tape has then."""
Cover = Callable[[int], None]
"""Returns when so many lines are durable."""


class _Waiter:
    """One frame, and the thread that waits for it."""

    __slots__ = ("frame", "is_gone", "is_woken", "position", "round", "turn")

    def __init__(self, frame: tuple[Direction, bytes], round_: _Round) -> None:
        self.frame = frame
        self.round = round_
        self.position = 0
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_woken = False
        self.is_gone = False


class _Round:
    """Those whose frames are written together."""

    __slots__ = ("batch", "failure", "is_durable", "waiters", "woken_count")

    def __init__(self) -> None:
        self.waiters: list[_Waiter] = []
        self.batch: Batch | None = None
        self.is_durable = False
        self.failure: Exception | None = None
        self.woken_count = 0

    def wake_next(self, leader: _Waiter) -> None:
        while self.woken_count < len(self.waiters):
            waiter = self.waiters[self.woken_count]
            self.woken_count += 1
            if waiter is not leader and not waiter.is_gone and not waiter.is_woken:
                waiter.is_woken = True
                waiter.turn.release()
                return


class Gathering:
    """Of one recorder."""

    def __init__(self) -> None:
        # Guards the fields below, and who is in a round and awake. Nothing is called under it. Between what
        # is noted there and the release of a turn no handler of a signal can run.
        self._lock = threading.Lock()
        self._open = _Round()
        self._leader: _Waiter | tuple[Direction, bytes] | None = None
        """Or the frame that is written alone, in a thread that needs no more than that."""

    def append(
        self, write_one: WriteOne, write: Write, cover: Cover, direction: Direction, message: bytes
    ) -> int:
        """The `seq` of this frame, once it is durable. An interrupt (the handler of a signal that raises)
        concerns only the thread that it meets: its frame is not in the tape, or it is there once.

        Raises:
            As `write` and `cover`, for this frame.
        """
        frame = direction, message
        try:
            if self._leader is None and self._goes_ahead(frame):
                seq = _alone(frame, write_one, cover)
                self._pass_on(frame)
                return seq
        except BaseException:  # an interrupt, of that last call too perhaps, which may be made twice
            self._pass_on(frame)
            raise
        check_direction(direction)
        check_message(message)  # here: what one caller does wrong is no other's error
        if len(message) > _LONG_BYTES:
            return _alone(frame, write_one, cover)
        mine = _Waiter(frame, self._open)
        try:
            self._join(mine)
            if self._leader is not mine:
                mine.turn.acquire()
            if self._leader is mine:
                self._lead(mine.round, write, cover)
            self._leave(mine)
        except BaseException:  # as above
            self._leave(mine)
            raise
        return self._settle(mine, write_one, cover)

    def _goes_ahead(self, frame: tuple[Direction, bytes]) -> bool:
        """Whether nobody writes: then it does, and who comes now waits for it."""
        with self._lock:
            if self._leader is not None:
                return False
            self._leader = frame
            return True

    def _pass_on(self, leader: object) -> None:
        """To the first who waits, if this one led."""
        with self._lock:
            if self._leader is leader:
                self._follow()

    def _follow(self) -> None:
        """Under the lock."""
        self._leader = heir = self._open.waiters[0] if self._open.waiters else None
        if heir is not None:
            heir.turn.release()

    def _join(self, mine: _Waiter) -> None:
        with self._lock:
            mine.round = self._open
            mine.round.waiters.append(mine)
            if self._leader is None:
                self._leader = mine

    def _lead(self, round_: _Round, write: Write, cover: Cover) -> None:
        with self._lock:
            self._open = _Round()  # from here on nobody comes or goes
        for position, waiter in enumerate(round_.waiters):
            waiter.position = position
        frames = [waiter.frame for waiter in round_.waiters]
        round_.batch = batch = Batch(frames, drops=len(frames) == 1)
        try:
            cover(write(batch))
        except Exception as error:  # noqa: BLE001 - each who is concerned raises it
            round_.failure = error
        else:
            round_.is_durable = True

    def _leave(self, mine: _Waiter) -> None:
        """Whatever happened: nobody waits for this thread any more."""
        with self._lock:
            round_, leads = mine.round, self._leader is mine
            if round_ is self._open:  # interrupted, before its frame was taken
                if mine in round_.waiters:
                    round_.waiters.remove(mine)
            elif leads or mine.is_woken:
                round_.wake_next(mine)
            else:  # interrupted in its sleep: it is not woken any more
                mine.is_gone = True
            if leads:
                self._follow()

    def _settle(self, mine: _Waiter, write_one: WriteOne, cover: Cover) -> int:
        """What came of it for this frame, the leader having been interrupted perhaps."""
        round_ = mine.round
        batch, failure = round_.batch, round_.failure
        if failure is not None:
            if isinstance(failure, SyncFailedError):
                again = SyncFailedError(*failure.args)  # each has a traceback of its own
                again.__cause__ = failure.__cause__
                raise again
            if len(round_.waiters) == 1:
                raise failure
        if batch is None or batch.seqs is None:  # nothing of it was written
            return _alone(mine.frame, write_one, cover)
        if not round_.is_durable:
            cover(_ALL_LINES)
        return batch.seqs[mine.position]


def _alone(frame: tuple[Direction, bytes], write_one: WriteOne, cover: Cover) -> int:
    seq, line_count = write_one(*frame)
    cover(line_count)
    return seq
