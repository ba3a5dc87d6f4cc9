"""What a reload is doing: in which phase it is, and for which foreign code it waits, never too long.

Python cannot cut off a call. So each step runs in a thread beside; one that takes too long is given up, and
goes on there: it is named as long as it does, and whoever began it has to be ready for a result that comes
late. A thread is used again for the next step, as long as it comes back.
"""

from __future__ import annotations

import logging
import sys
import sysconfig
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from types import FrameType
from typing import Any, Final, TypeVar

from . import forks
from .status import Phase, PhaseName, Step

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_OURS: Final = str(Path(__file__).parent)
_STANDARD: Final = sysconfig.get_path("stdlib")
_MOST_HANGING: Final = 8
"""How many threads may be lost to code that never comes back, before no more foreign code is called."""


class OverdueError(Exception):
    """A step was given up; it may still be running."""


class EscapedError(Exception):
    """A step ended by what is no `Exception`, such as `SystemExit`; that is the cause."""


@dataclass(slots=True, eq=False)
class _Job:
    what: str
    provider: str | None
    call: Callable[[], Any]
    context: Context
    on_late: Callable[[Any], object] | None
    began: float
    thread: threading.Thread | None = None
    is_over: bool = False
    is_given_up: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self.context.run(self.call)
        except BaseException as error:  # noqa: BLE001 - foreign code; raised again for whoever waits
            self.error = error

    def as_step(self) -> Step:
        return Step(self.what, self.provider, monotonic() - self.began, place_of(self.thread))


class Progress:
    """Of one runtime, or of one reconciliation. Readable from any thread.

    `on_return` is called whenever a step that was given up has ended after all.
    """

    def __init__(self, on_return: Callable[[], object] = lambda: None) -> None:
        # Guards the fields below and the two flags of a job; nothing is called under it.
        self._lock = threading.Lock()
        self._on_return = on_return
        self._phase: tuple[PhaseName, datetime, float] | None = None
        self._current: _Job | None = None
        self._given_up: dict[_Job, datetime] = {}
        self._spent: dict[PhaseName, float] = {}
        self._queue: SimpleQueue[_Job | None] | None = None
        forks.in_child(self, Progress._start_anew)

    def _start_anew(self) -> None:
        """In a forked child: the threads are the parent's."""
        self._lock = threading.Lock()
        self._phase, self._current, self._given_up, self._queue = None, None, {}, None
        self._spent = {}

    # ------------------------------------------------------------------ what is going on

    def enter(self, phase: PhaseName | None) -> None:
        """From now on it is in this phase; None: it has ended."""
        at = monotonic()
        with self._lock:
            if self._phase is not None:
                name, _, began = self._phase
                self._spent[name] = self._spent.get(name, 0.0) + at - began
            self._phase = None if phase is None else (phase, datetime.now(UTC), at)

    def take_spent(self) -> dict[PhaseName, float]:
        """The seconds in each phase since this was asked last."""
        with self._lock:
            spent, self._spent = self._spent, {}
        return spent

    def phase(self) -> Phase | None:
        with self._lock:
            phase, job = self._phase, self._current
        if phase is None:
            return None
        name, since, began = phase
        return Phase(name, since, monotonic() - began, None if job is None else job.as_step())

    def hanging(self) -> tuple[Step, ...]:
        """What was given up and still runs, the oldest first."""
        with self._lock:
            jobs = tuple(self._given_up)
        return tuple(job.as_step() for job in jobs)

    def hanging_since(self) -> datetime | None:
        """When the oldest of those was given up."""
        with self._lock:
            return min(self._given_up.values(), default=None)

    def runs_here(self) -> bool:
        """Whether this thread runs a step: to wait for the reload here would be to wait for itself."""
        current = threading.current_thread()
        with self._lock:
            return self._current is not None and self._current.thread is current

    # ------------------------------------------------------------------ steps

    def run(
        self,
        what: str,
        provider: str | None,
        call: Callable[[], _T],
        timeout_seconds: float,
        on_late: Callable[[_T], object] | None = None,
        *,
        has_to_be: bool = False,
    ) -> _T:
        """Call foreign code, with the context of the caller; one call at a time. Whatever it raises, is
        raised; what it returns when it has been given up is for `on_late`. One that `has_to_be` is made
        however many others hang.

        Raises:
            OverdueError: it has not come back in time; or too many others never have.
            EscapedError: it raised what is no `Exception`.
        """
        job = _Job(what, provider, call, copy_context(), on_late, monotonic())
        with self._lock:
            if len(self._given_up) >= _MOST_HANGING and not has_to_be:
                raise OverdueError(f"{len(self._given_up)} earlier calls still hang, the process needs help")
            self._current = job
        try:
            if not self._begin(job):
                job.run()
            elif not _wait_for(job, timeout_seconds) and self._give_up(job):
                raise OverdueError(f"it has not come back after {timeout_seconds:g} s")
        except BaseException:  # Ctrl-C, where a start waits in the main thread
            self._give_up(job)
            raise
        finally:
            with self._lock:
                self._current = None
        error, job.error = job.error, None  # whose traceback leads to this frame
        if error is None:
            value: _T = job.value
            return value
        try:
            if isinstance(error, Exception):
                raise error
            raise EscapedError(f"it raised {type(error).__name__}") from error
        finally:
            del error

    def close(self) -> None:
        """Let the idle thread end; the next step begins another."""
        with self._lock:
            queue, self._queue = self._queue, None
        if queue is not None:
            queue.put(None)

    def _begin(self, job: _Job) -> bool:
        """Hand it to a thread; False: there is none to be had, it has to be run here."""
        queue = self._queue
        if queue is None:
            queue = SimpleQueue()
            thread = threading.Thread(target=self._work, args=(queue,), name="shadowcat-step", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                job.thread = threading.current_thread()
                return False
            self._queue = queue
        queue.put(job)
        return True

    def _give_up(self, job: _Job) -> bool:
        """Unless it has just ended."""
        with self._lock:
            if job.is_over:
                return False
            if not job.is_given_up:
                job.is_given_up = True
                self._given_up[job] = datetime.now(UTC)
            queue, self._queue = self._queue, None
        if queue is not None:
            queue.put(None)
        return True

    def _work(self, queue: SimpleQueue[_Job | None]) -> None:
        while (job := queue.get()) is not None:
            job.thread = threading.current_thread()
            job.run()
            with self._lock:
                job.is_over = True
                self._given_up.pop(job, None)
            job.done.set()
            if job.is_given_up:
                _end_late(job)
                self._on_return()
            del job  # the next one may be long in coming


def _wait_for(job: _Job, timeout_seconds: float) -> bool:
    return job.done.wait(timeout_seconds)


def _end_late(job: _Job) -> None:
    if job.error is not None:
        _logger.warning("%s, given up before, ended with %s", job.what, type(job.error).__name__)
        return
    _logger.warning("%s, given up before, has come back after %.1f s", job.what, monotonic() - job.began)
    try:
        if job.on_late is not None:
            job.on_late(job.value)
    except Exception:
        _logger.exception("what came of %s could not be closed", job.what)


def place_of(thread: threading.Thread | None) -> str | None:
    """The innermost line that a thread is at, outside of this package and the standard library."""
    frame: FrameType | None = None
    if thread is not None and thread.ident is not None:
        frame = sys._current_frames().get(thread.ident)  # noqa: SLF001 - the one way to ask
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OURS, _STANDARD, "<")) or "site-packages" in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return None
