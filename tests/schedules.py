"""A deterministic scheduler: real threads, of which one runs at a time, in an order that a number decides.

`explore(build, count, files)` builds a scenario anew for each schedule, and runs its actions in a thread
each. A switch may come at every bytecode instruction of the `files`, and at every use of a lock. What
fails is reported with the number of its schedule, and `replay` runs that one again.

How the order comes about (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of
Finding Bugs", ASPLOS 2010): of all threads that can go on, the one with the highest priority runs; at
a few change points the running one falls to the lowest. The first change point of successive numbers
covers the whole run evenly; every fourth schedule has many change points instead of a few.

While a scenario is built and run, the lock under `threading.Lock`, `RLock`, `Event`, `Condition` and all
that stands on them is one that the scheduler sees. So a blocked thread gives way, and when all are
blocked, that is a deadlock, reported with the stacks. A thread that is started becomes one more. Time is
not real: a wait with a timeout times out when nothing else can happen, and only then. Locks that exist
already are left alone: no thread may be switched away from while it holds one of those, so their users
must not be among the `files`. The garbage collector rests, since it would run at moments that no number
decides.
"""

from __future__ import annotations

import _thread
import gc
import linecache
import math
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final
from unittest import mock

from . import instructions
from .instructions import each_instruction, reporting

_STEP_LIMIT: Final = 200_000
_PATIENCE_SECONDS: Final = 30.0  # for a thread that blocks on something which is not a lock of ours
_GOLDEN_RATIO: Final = (math.sqrt(5) - 1) / 2
_DENSE: Final = 4  # every so many schedules, one with many change points
_real_lock: Final = _thread.allocate_lock
_NAMES: Final = (
    "Lock",
    "_allocate_lock",
    "_CRLock",
    "Thread",
)  # everything else in `threading` stands on these
_REAL: Final = {name: getattr(threading, name) for name in _NAMES}


@dataclass(frozen=True)
class Scenario:
    actions: Sequence[Callable[[], object]]
    """One thread each. What one of them raises is a failure."""
    at_end: Callable[[], object] = lambda: None
    """In the main thread, when all have ended."""
    at_each_step: Callable[[], object] = lambda: None
    """Between any two steps. It must take no lock, and has to be quick."""


class ScheduleFailedError(AssertionError):
    """The cause is the `__cause__`; `number` is what `replay` wants."""

    def __init__(self, number: int, switches: Sequence[str], cause: BaseException) -> None:
        self.number, self.switches = number, tuple(switches)
        super().__init__(number, self.switches, repr(cause))

    def __str__(self) -> str:
        switches = "".join(f"\n  {switch}" for switch in self.switches[-40:])
        return f"schedule {self.number} failed: {self.args[2]}; it switched{switches or ' nowhere'}"


class DeadlockError(Exception):
    """All threads are blocked; the text has their stacks."""


class _AbandonedError(BaseException):
    """Ends the threads of a schedule that has failed."""


@contextmanager
def each_step(files: Collection[str]) -> Iterator[None]:
    """Each instruction of these files is seen, and the collector has nothing old to look through."""
    with each_instruction(files):
        gc.collect()
        gc.freeze()
        yield
        gc.unfreeze()


def explore(build: Callable[[], Scenario], count: int, files: Collection[str]) -> None:
    """Run schedules number 0 (without any change point) to `count - 1`.

    Raises:
        ScheduleFailedError: the first that fails.
    """
    with each_instruction(files):
        length = _Schedule(0, 0, files).run(build)
        for number in range(1, count):
            _Schedule(number, length, files).run(build)


def replay(build: Callable[[], Scenario], number: int, files: Collection[str]) -> None:
    """Run one schedule of those that `explore` ran.

    Raises:
        ScheduleFailedError: it fails.
    """
    with each_instruction(files):
        length = _Schedule(0, 0, files).run(build) if number else 0
        _Schedule(number, length, files).run(build)


def _change_points(number: int, length: int, random: Random) -> list[int]:
    """At which steps the running thread gives way, ascending, for a run of about `length` steps."""
    if not number:
        return []
    if number % _DENSE == 0:
        points = [0]
        while points[-1] < 2 * length:  # gaps of all magnitudes
            points.append(points[-1] + 1 + int(math.exp(random.uniform(0, math.log(length + 1)))))
        return points
    first = int(length * (number * _GOLDEN_RATIO % 1)) + 1
    return sorted({first, *(random.randint(1, length + 1) for _ in range(number % _DENSE - 1))})


class _Worker:
    def __init__(self, schedule: _Schedule, index: int, action: Callable[[], object]) -> None:
        self.name = f"thread {index}"
        self.priority = 0
        self.waits_for: _Lock | None = None
        self.timeout_seconds: float | None = None
        self.timed_out = False
        self.ended = False
        self.baton = _real_lock()  # free: this worker may run. Whoever runs passes it on.
        self.baton.acquire()
        self.until_ended = _Lock(schedule)
        self.until_ended.owner = self
        self.thread = threading.Thread(target=schedule.work, args=(self, action), name=self.name, daemon=True)

    @property
    def can_go_on(self) -> bool:
        return not self.ended and (self.waits_for is None or self.waits_for.owner is None)


class _Schedule:
    """One run. Only the thread that holds the baton touches it, and between runs the main thread."""

    def __init__(self, number: int, length: int, files: Collection[str]) -> None:
        self._number = number
        self._files = frozenset(files)
        random = Random(number)
        self._random = random
        self._points = iter(_change_points(number, length, random))
        self._next_point = next(self._points, 0)
        self._steps = 0
        self._lowest = 0
        self._workers: list[_Worker] = []
        self._switches: list[str] = []
        self._failure: BaseException | None = None
        self._at_each_step: Callable[[], object] = lambda: None
        self.running: _Worker | None = None

    def run(self, build: Callable[[], Scenario]) -> int:
        """Returns the number of steps."""
        with _resting_collector():
            with self._visible_locks():
                scenario = build()
            self._at_each_step = scenario.at_each_step
            for action in scenario.actions:
                self._add(action)
            priorities = list(range(len(self._workers), 0, -1))
            if self._number:
                self._random.shuffle(priorities)
            for worker, priority in zip(self._workers, priorities, strict=True):
                worker.priority = priority
            with self._visible_locks():
                self._pass_to(self._choose())
                try:
                    for worker in self._workers:  # their number may grow
                        worker.thread.join(_PATIENCE_SECONDS)
                        if worker.thread.is_alive():
                            self._fail(TimeoutError(f"stuck out of the scheduler's sight{self._stacks()}"))
                finally:
                    self.running = None
            if self._failure is None:
                try:
                    scenario.at_end()
                except Exception as error:  # noqa: BLE001 - reported with the number
                    self._failure = error
        if self._failure is not None:
            raise ScheduleFailedError(self._number, self._switches, self._failure) from self._failure
        return self._steps

    def _add(self, action: Callable[[], object]) -> _Worker:
        worker = _Worker(self, len(self._workers), action)
        self._workers.append(worker)
        worker.thread.start()
        return worker

    # ------------------------------------------------------------------ in the threads

    def spawn(self, action: Callable[[], object]) -> _Worker:
        """One of the threads starts another."""
        with mock.patch.multiple(threading, **_REAL):  # for its own bookkeeping; all others stand still
            worker = self._add(action)
        self._lowest -= 1
        worker.priority = self._random.choice((self._lowest, -self._lowest + len(self._workers)))
        return worker

    def work(self, worker: _Worker, action: Callable[[], object]) -> None:
        try:
            self._take(worker)
            with reporting(self._files, partial(self.step, worker)):
                action()
        except _AbandonedError:
            pass
        except BaseException as error:  # noqa: BLE001 - reported by `run`
            self._fail(error)
        worker.ended = True
        worker.until_ended.owner = None
        if self._failure is None and not all(one.ended for one in self._workers):
            with suppress(_AbandonedError):  # a deadlock of those that are left
                chosen = self._choose()
                self._switches.append(f"{worker.name} → {chosen.name} at its end")
                self._pass_to(chosen)

    def step(self, worker: _Worker) -> None:
        """Before an instruction or the use of a lock."""
        self._steps += 1
        if self._steps > _STEP_LIMIT:
            self._fail(TimeoutError(f"no end after {_STEP_LIMIT} steps{self._stacks()}"))
        if self._failure is not None:
            raise _AbandonedError
        try:
            self._at_each_step()
        except Exception as error:  # noqa: BLE001 - reported by `run`
            self._fail(error)
            raise _AbandonedError from None
        if self._steps == self._next_point:
            self._next_point = next(self._points, 0)
            self._lowest -= 1
            worker.priority = self._lowest
            self._give_way(worker)

    @property
    def failed(self) -> bool:
        return self._failure is not None

    # ------------------------------------------------------------------ who runs

    def _give_way(self, worker: _Worker) -> None:
        """Let another one run if that comes first; back when it is this one's turn again."""
        chosen = self._choose()
        if chosen is not worker:
            self._switches.append(f"{worker.name} → {chosen.name} at {_place()}")
            self._pass_to(chosen)
            self._take(worker)

    def _choose(self) -> _Worker:
        able = [worker for worker in self._workers if worker.can_go_on]
        if able:
            return max(able, key=lambda worker: worker.priority)
        # Nothing else can happen any more: time passes until the first timeout.
        timed = [w for w in self._workers if not w.ended and w.timeout_seconds is not None]
        if not timed:
            self._fail(DeadlockError(f"each waits for another{self._stacks()}"))
            raise _AbandonedError
        first = min(timed, key=lambda worker: worker.timeout_seconds or 0.0)
        first.timed_out = True
        return first

    def _pass_to(self, chosen: _Worker) -> None:
        self.running = chosen
        chosen.baton.release()

    def _take(self, worker: _Worker) -> None:
        worker.baton.acquire()
        if self._failure is not None:
            raise _AbandonedError

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        for worker in self._workers:  # each wakes up, sees the failure, and unwinds
            if worker is not self.running and not worker.ended:
                worker.baton.release()

    def _stacks(self) -> str:
        frames = sys._current_frames()
        parts: list[str] = []
        for worker in self._workers:
            frame = frames.get(worker.thread.ident or 0)
            if frame is not None and not worker.ended:
                waits = worker.waits_for
                owner = waits.owner if waits is not None else None
                whom = f" for {owner.name}" if isinstance(owner, _Worker) and owner is not worker else ""
                stack = "".join(traceback.format_stack(_outside(frame)))
                parts.append(f"\n{worker.name} waits{whom}:\n{stack}")
        return "".join(parts)

    # ------------------------------------------------------------------ locks

    def _visible_locks(self) -> AbstractContextManager[object]:
        lock, thread = partial(_Lock, self), partial(_Thread, self)
        visible: dict[str, Any] = {"Lock": lock, "_allocate_lock": lock, "_CRLock": None, "Thread": thread}
        patch: AbstractContextManager[object] = mock.patch.multiple(threading, **visible)
        return patch

    def acquire(self, worker: _Worker, lock: _Lock, blocking: bool, timeout_seconds: float) -> bool:
        self.step(worker)
        while lock.owner is not None:
            if not blocking or timeout_seconds == 0:
                return False
            worker.waits_for = lock
            worker.timeout_seconds = timeout_seconds if timeout_seconds > 0 else None
            try:
                self._give_way(worker)
                if worker.timed_out:
                    return False
            finally:
                worker.waits_for, worker.timeout_seconds, worker.timed_out = None, None, False
        lock.owner = worker
        return True

    def released(self, worker: _Worker) -> None:
        if self._failure is None:
            self._give_way(worker)


class _Lock:
    """What `threading.Lock()` makes under a schedule. Before and after it, there is one thread only."""

    def __init__(self, schedule: _Schedule) -> None:
        self._schedule = schedule
        self.owner: _Worker | str | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        worker = self._schedule.running
        if worker is not None:
            return self._schedule.acquire(worker, self, blocking, timeout)
        if self.owner is not None and not self._schedule.failed:
            if blocking and timeout < 0:
                raise DeadlockError("the only thread waits for a lock that nobody will release")
            return False
        self.owner = "main"
        return True

    def release(self) -> None:
        worker = self._schedule.running
        if self.owner is None:
            raise RuntimeError("release unlocked lock")
        self.owner = None
        if worker is not None:
            self._schedule.released(worker)

    def locked(self) -> bool:
        return self.owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class _Thread:
    """What `threading.Thread()` makes in a schedule."""

    def __init__(
        self,
        schedule: _Schedule,
        *,
        target: Callable[..., object],
        name: str = "",
        args: Sequence[object] = (),
        daemon: bool | None = None,
    ) -> None:
        self._schedule, self._action, self.name, self.daemon = schedule, partial(target, *args), name, daemon
        self._worker: _Worker | None = None

    def start(self) -> None:
        self._worker = self._schedule.spawn(self._action)

    def join(self, timeout: float | None = None) -> None:
        assert self._worker is not None
        if self._worker.until_ended.acquire(timeout=-1 if timeout is None else timeout):
            self._worker.until_ended.release()

    def is_alive(self) -> bool:
        return self._worker is not None and not self._worker.ended


@contextmanager
def _resting_collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _outside(frame: FrameType) -> FrameType:
    """The nearest frame that is neither of the scheduler nor of `threading`."""
    ours = (__file__, instructions.__file__, threading.__file__)
    while frame.f_code.co_filename in ours and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _place() -> str:
    frame = _outside(sys._getframe())
    file, line = frame.f_code.co_filename, frame.f_lineno or 0  # some instructions stand on no line
    return f"{Path(file).name}:{line}  {linecache.getline(file, line).strip()}"
