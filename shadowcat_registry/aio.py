"""Plain calls for asyncio callers, and coroutines for plain callers. Knows no storage and no registry.

Loaded on first use: `asyncio` is slow to import. A call runs in a daemon thread which ends when there is
nothing more to do: there is no pool that calls which wait for each other could fill, and nothing to be
shut down, shared between loops, or inherited by a forked child.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Final, Generic, TypeVar

from .errors import RunningLoopError

_T = TypeVar("_T")
_THREAD_NAME: Final = "shadowcat-off-loop"


async def off_loop(
    call: Callable[[], _T], discard: Callable[[_T], object] | None = None, *, surely: bool = False
) -> _T:
    """The result of `call()`, made in another thread, in a copy of this context.

    Whoever awaits this may be cancelled. A call that has not begun by then is not made, unless `surely`; one
    that has goes on all the same, and `discard(result)` is called with what nobody has any more, in that
    thread or another.
    """
    return await Lane().run(call, discard, surely=surely)


class Lane:
    """Calls in the order in which they were asked for, one at a time, off the loop. From any loop.

    Its thread waits `linger_seconds` for more, for those who ask often and would start one each time."""

    def __init__(self, linger_seconds: float = 0.0) -> None:
        self._linger_seconds = linger_seconds
        # Guards the two below; nothing is called under it, so that a loop never waits for it noticeably.
        self._condition = threading.Condition(threading.Lock())
        self._waiting: deque[_Job[Any] | _Call] = deque()
        self._busy = False

    async def run(
        self,
        call: Callable[[], _T],
        discard: Callable[[_T], object] | None = None,
        *,
        surely: bool = False,
    ) -> _T:
        """As `off_loop`, when all that was asked for before has been done."""
        job = _Job(call, discard, surely)
        self._add(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            job.give_up()
            raise
        except GeneratorExit:  # the loop was closed, and this is perhaps the collector
            job.is_given_up = True
            raise

    def linger(self, seconds: float) -> None:
        """From now on, wait so long for more."""
        with self._condition:
            self._linger_seconds = seconds
            self._condition.notify()

    def post(self, call: Callable[[], object]) -> None:
        """The same for a call that nobody awaits; it must not raise."""
        self._add(_Call(call))

    def _add(self, job: _Job[Any] | _Call) -> None:
        with self._condition:
            self._waiting.append(job)
            starts, self._busy = not self._busy, True
            if not starts:
                self._condition.notify()
        if starts:
            try:
                threading.Thread(target=self._work, name=_THREAD_NAME, daemon=True).start()
            except BaseException:
                with self._condition:
                    self._waiting.remove(job)
                    self._busy = False
                raise

    def _work(self) -> None:
        while True:
            with self._condition:
                if not self._waiting and self._linger_seconds:
                    self._condition.wait(self._linger_seconds)
                if not self._waiting:
                    self._busy = False
                    return
                job = self._waiting.popleft()
            job.run()
            del job  # or its result would live until the next one comes


class _Call:
    """One that nobody awaits."""

    __slots__ = ("run",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.run = call


class _Job(Generic[_T]):
    def __init__(self, call: Callable[[], _T], discard: Callable[[_T], object] | None, surely: bool) -> None:
        self._call = call
        self._discard = discard
        self._surely = surely
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[_T] = self._loop.create_future()
        # No lock: each writes its own first, then looks at the other's, so that of a result and a
        # cancellation, whichever comes second sees the first. Who pops the result disposes of it.
        self.is_given_up = False
        self._results: list[_T] = []

    def run(self) -> None:
        if self.is_given_up and not self._surely:
            return
        try:
            result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self._tell(self._fail, error)
            return
        self._results.append(result)
        if self.is_given_up or not self._tell(self._succeed, result):
            self._dispose()

    def give_up(self) -> None:
        """On the loop: nobody waits any more."""
        self.is_given_up = True
        if self._results and self._discard is not None:  # the cancellation was faster than its delivery
            threading.Thread(target=self._dispose, name=_THREAD_NAME, daemon=True).start()

    def _dispose(self) -> None:
        try:
            result = self._results.pop()
        except IndexError:  # the other one was faster
            return
        if self._discard is not None:
            self._context.copy().run(self._discard, result)

    def _tell(self, how: Callable[[Any], None], what: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(how, what)
        except RuntimeError:  # the loop has been closed meanwhile, and with it whoever waited
            return False
        return True

    def _succeed(self, result: _T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            if isinstance(error, StopIteration):  # means something else to whoever awaits
                error = RuntimeError("the call raised StopIteration")
            self.future.set_exception(error)


class LoopThread:
    """An event loop in a daemon thread, for coroutines of callers that have none. It begins with the first
    coroutine, and lives until it is stopped: what a coroutine has bound to it, goes on working."""

    def __init__(self) -> None:
        # Guards the fields below. Under it a thread is started and said to be ready, nothing else.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def run(
        self, awaitable: Awaitable[_T], what: str, instead: str, discard: Callable[[_T], object] | None = None
    ) -> _T:
        """The result of a coroutine, run there in a copy of this context. If the wait is interrupted, the
        coroutine is cancelled; what it returns all the same goes to `discard`.

        Raises:
            RunningLoopError: this thread runs a loop, which would be blocked.
        """
        if has_running_loop():
            if iscoroutine(awaitable):
                awaitable.close()
            raise RunningLoopError(what, instead)
        outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()
        context = copy_context()
        tasks: list[asyncio.Task[None]] = []

        async def settle() -> None:
            try:
                result = await awaitable
            except asyncio.CancelledError:
                outcome.cancel()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                with suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
                    outcome.set_exception(error)
                return
            try:
                outcome.set_result(result)
            except concurrent.futures.InvalidStateError:  # nobody waits any more
                if discard is not None:
                    await off_loop(lambda: discard(result))

        loop = self._started()
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(settle(), context=context)))
        try:
            return outcome.result()
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            if outcome.cancel():  # interrupted: it was not the coroutine that raised
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise

    def stop(self, timeout_seconds: float) -> None:
        """Cancel what runs there, and end the thread; what does not end in this time is left."""
        with self._lock:
            thread, loop, stopping = self._thread, self._loop, self._stopping
            self._thread = self._loop = self._stopping = None
        if thread is None or loop is None or stopping is None:
            return
        loop.call_soon_threadsafe(stopping.set)
        if thread is not threading.current_thread():
            thread.join(timeout_seconds)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                ready: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
                ready = concurrent.futures.Future()

                async def live() -> None:
                    stopping = asyncio.Event()
                    ready.set_result((asyncio.get_running_loop(), stopping))
                    await stopping.wait()

                self._thread = threading.Thread(
                    target=lambda: asyncio.run(live()), name="shadowcat-loop", daemon=True
                )
                self._thread.start()
                self._loop, self._stopping = ready.result()
            return self._loop


def has_running_loop() -> bool:
    """In this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def call_here(function: Callable[[str], object], argument: str) -> None:
    """Call a function that may be a coroutine function or a plain one: a plain one runs off the loop."""
    is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    result = function(argument) if is_async else await off_loop(lambda: function(argument))
    if isawaitable(result):
        await result
