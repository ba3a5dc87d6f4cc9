"""Frames that coroutines ask for, written in batches by one thread: a hop a batch, not a hop a frame.

Loaded on first use, as `aio` is. A caller is answered when its frame is written, and that is what holds back
whoever is faster than the disk: there are never more frames in here than callers who wait for one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from .aio import Lane
from .errors import RegistryError
from .tape import Direction, check_direction, check_message

_T = TypeVar("_T")
Write = Callable[[list[tuple[Direction, bytes]]], range]
"""Of frames that have been checked; returns their `seq`s."""

_LINGER_SECONDS: Final = 0.1
_BATCH_FRAMES: Final = 1000
_BATCH_BYTES: Final = 4 << 20
"""Of one batch at most, or one frame: what is not written yet is held twice while it is joined."""


class _Batch:
    """Frames that are written together, asked for in one loop."""

    __slots__ = ("frames", "loop", "room_bytes", "waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.frames: list[tuple[Direction, bytes]] = []
        self.waiters: list[asyncio.Future[int]] = []
        self.room_bytes = _BATCH_BYTES


class FrameQueue:
    """Of one recorder. Everything that is asked for is done in that order, whatever loop it comes from."""

    def __init__(self) -> None:
        self._lane = Lane(_LINGER_SECONDS)
        # Guards the batch that takes more, and the lists in it while it does. Nothing is called under it.
        self._lock = threading.Lock()
        self._open: _Batch | None = None

    def append(self, write: Write, direction: Direction, message: bytes) -> asyncio.Future[int]:
        """Of the `seq` of this frame, there once `write` has written it, with others.

        Raises:
            As `TapeRecorder.append`.
        """
        check_direction(direction)
        check_message(message)  # here: what one caller does wrong is no other's error
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[int] = loop.create_future()
        with self._lock:
            batch = self._open
            begins = batch is None or batch.loop is not loop
            if batch is None or begins:
                self._open = batch = _Batch(loop)
            batch.frames.append((direction, message))
            batch.waiters.append(waiter)
            batch.room_bytes -= len(message)
            if batch.room_bytes <= 0 or len(batch.frames) >= _BATCH_FRAMES:
                self._open = None
        if begins:
            try:
                self._lane.post(partial(self._write, batch, write))
            except BaseException as error:  # no thread is to be had
                self._answer(batch, self._close(batch), None, error)
                raise
        return waiter

    async def run(self, call: Callable[[], _T]) -> _T:
        """Something else, behind every frame that was asked for before."""
        with self._lock:
            self._open = None
        return await self._lane.run(call)

    async def end(self, call: Callable[[], _T]) -> _T:
        """The last that is asked for. It goes on also if it is cancelled, and nothing waits for more."""
        with self._lock:
            self._open = None
        try:
            return await self._lane.run(call, surely=True)
        finally:
            self._lane.linger(0.0)

    def _close(self, batch: _Batch) -> list[asyncio.Future[int]]:
        """No more comes into it; returns who still waits, and leaves only their frames."""
        with self._lock:
            if self._open is batch:
                self._open = None
        waiters = batch.waiters
        if any(map(asyncio.Future.cancelled, waiters)):
            waiting = [pair for pair in zip(batch.frames, waiters, strict=True) if not pair[1].cancelled()]
            batch.frames = [frame for frame, _ in waiting]
            waiters = [waiter for _, waiter in waiting]
        return waiters

    def _write(self, batch: _Batch, write: Write) -> None:
        waiters = self._close(batch)
        if not waiters:
            return
        try:
            seqs = write(batch.frames)
        except BaseException as error:  # noqa: BLE001 - it is the callers'
            self._answer(batch, waiters, None, error)
        else:
            self._answer(batch, waiters, seqs, None)

    @staticmethod
    def _answer(
        batch: _Batch,
        waiters: list[asyncio.Future[int]],
        seqs: range | None,
        error: BaseException | None,
    ) -> None:
        try:
            if seqs is not None:
                batch.loop.call_soon_threadsafe(_succeed, waiters, seqs)
            elif error is not None:
                batch.loop.call_soon_threadsafe(_fail, waiters, error)
        except RuntimeError:  # the loop has been closed, and with it whoever waited
            return


def _succeed(waiters: list[asyncio.Future[int]], seqs: range) -> None:
    for waiter, seq in zip(waiters, seqs, strict=True):
        if not waiter.done():
            waiter.set_result(seq)


def _fail(waiters: list[asyncio.Future[int]], error: BaseException) -> None:
    for waiter in waiters:
        if not waiter.done():
            own = error
            if isinstance(error, RegistryError):  # each has a traceback of its own
                own = type(error)(*error.args)
                own.__cause__ = error.__cause__
            waiter.set_exception(own)
