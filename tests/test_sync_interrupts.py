"""A signal's handler that raises anywhere while a thread waits for the disk, see `test_interrupts.py`: who
waits with it is answered, what is said to be durable is, and the tape can be ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from shadowcat_registry import durability, turns
from shadowcat_registry.backend import Durability
from shadowcat_registry.durability import TapeSync
from shadowcat_registry.errors import SyncFailedError
from shadowcat_registry.providers.sqlite import durable
from shadowcat_registry.providers.sqlite.durable import LogSync
from shadowcat_registry.tape import TapeCounters

from .fakes import Gate, Running, until
from .instructions import reporting
from .schedules import each_step
from .strikes import Interrupt, Strike
from .test_durability import Disk, broken

HERE: Final = frozenset({str(durability.__file__), str(turns.__file__), str(durable.__file__)})


class Tape:
    """As a recorder would use its sync, over a disk that does as it is told."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.counters = TapeCounters(line_count=0)
        self.lock = threading.Lock()
        self.sync = TapeSync("t", _Over(self.disk), self.counters, Durability("frame"), None)
        self.turns = self.sync._turns

    def append(self) -> None:
        with self.lock:
            self.disk.lines.append(b"x")
            self.counters.line_count = line_count = len(self.disk.lines)
        self.wait(line_count)
        assert self.disk.durable >= line_count, "acknowledged too early"

    def wait(self, line_count: int) -> None:
        self.sync.appended(line_count)

    def end(self) -> None:
        self.sync.finish(covering=True)

    def waiting(self, number: int) -> None:
        until(lambda: len(self.turns.waiting) >= number)


class LogTape(Tape):
    """The same with the log of a tapes file."""

    def __init__(self) -> None:
        super().__init__()
        self.log = _Log(self.disk)
        self.turns = self.log._turns

    def wait(self, line_count: int) -> None:
        self.log()

    def end(self) -> None:
        pass


class _Log(LogSync):
    def __init__(self, disk: Disk) -> None:
        super().__init__(Path("tapes.db"))
        self._disk = disk

    def _sync(self) -> None:
        self._disk.sync()


class _Over:
    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def append(self, _: object) -> None:
        raise NotImplementedError

    def sync(self) -> None:
        self.disk.sync()

    def close(self) -> None:
        raise NotImplementedError


@pytest.fixture
def each_step_is_seen() -> Iterator[None]:
    with each_step(HERE):
        yield


def go_on(tape: Tape, gate: Gate | None, before: int, done: threading.Event) -> list[Running[None]]:
    """Once the thread that is struck waits, or waits no more, others come, and the sync that runs ends."""
    if gate is None:
        return []
    until(lambda: len(tape.turns.waiting) > before or done.is_set())
    others = [Running(tape.append) for _ in range(2 - before)]
    tape.waiting(2)
    gate.open()
    return others


@pytest.mark.usefixtures("each_step_is_seen")
@pytest.mark.parametrize("make", [Tape, LogTape], ids=["of a tape", "of a log"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "and the next sync fails"])
@pytest.mark.parametrize(
    ("is_alone", "before"),
    [
        pytest.param(True, 0, id="alone"),
        pytest.param(True, 2, id="the one that syncs while others come"),
        pytest.param(False, 0, id="the first of those who wait"),
        pytest.param(False, 1, id="one in their middle"),
    ],
)
def test_an_interrupt_anywhere_leaves_nobody_waiting(
    make: type[Tape], is_alone: bool, before: int, fails: bool
) -> None:
    number = 0
    for number in count():
        tape, strike, done, gate = make(), Strike(number), threading.Event(), None
        everybody: list[Running[None]] = []

        def next_sync(tape: Tape = tape, everybody: list[Running[None]] = everybody) -> None:
            tape.disk.before_sync = broken if fails else lambda: None
            if is_alone and before:
                everybody += [Running(tape.append) for _ in range(before)]
                tape.waiting(before)
            tape.disk.before_sync()

        if not is_alone:
            gate = tape.disk.before_sync = Gate()
            everybody.append(Running(tape.append))
            gate.reached()
            everybody += [Running(tape.append) for _ in range(before)]
            tape.waiting(before)
        tape.disk.before_sync = next_sync
        joining = Running(partial(go_on, tape, gate, before, done))
        with suppress(Interrupt, SyncFailedError, OSError), reporting(HERE, strike.step):
            tape.append()
        done.set()
        if tape.disk.before_sync is next_sync:  # it was struck before its sync
            tape.disk.before_sync = broken if fails else lambda: None
        for each in (*joining.result(), *everybody):
            with suppress(SyncFailedError, OSError):
                each.result()
        where = f"{number}: {strike.where}"
        assert not tape.turns.waiting, where
        assert tape.turns.owner is None, where
        assert not tape.turns.lock.locked(), where
        with suppress(SyncFailedError, OSError):
            Running(tape.append).result()
        with suppress(SyncFailedError, OSError):
            Running(tape.end).result()
        assert fails or tape.disk.durable == len(tape.disk.lines), where
        if strike.where is None:
            break
    assert number > 5, "it was seen"
