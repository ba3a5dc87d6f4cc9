"""Frames of waiting threads in one batch: each is in the tape once, in order, and nobody is left waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count

import pytest

from shadowcat_registry import gathering
from shadowcat_registry.errors import StorageFullError, SyncFailedError
from shadowcat_registry.gathering import Batch, Gathering
from shadowcat_registry.tape import Direction

from .fakes import Gate, Running, until
from .instructions import reporting
from .schedules import Scenario, each_step, explore
from .strikes import Interrupt, Strike

C2S: Direction = "client_to_server"
HERE = frozenset({gathering.__file__})


class Tape:
    """What a recorder does, over a disk that does as it is told."""

    def __init__(self) -> None:
        self.gathering = Gathering()
        self.lock = threading.Lock()
        self.messages: list[bytes] = []
        self.durable = 0
        self.batches: list[int] = []
        self.before_write: Callable[[Batch], object] = lambda _: None
        self.before_sync: Callable[[], object] = lambda: None

    def write(self, batch: Batch) -> int:
        with self.lock:
            self.before_write(batch)
            first = len(self.messages)
            self.messages += [message for _, message in batch.frames]
            batch.seqs = range(first, len(self.messages))
            self.batches.append(len(batch.frames))
            return len(self.messages)

    def write_one(self, direction: Direction, message: bytes) -> tuple[int, int]:
        batch = Batch(((direction, message),))
        line_count = self.write(batch)
        assert batch.seqs is not None
        return batch.seqs[0], line_count

    def cover(self, _line_count: int) -> None:
        there = len(self.messages)
        self.before_sync()
        self.durable = max(self.durable, there)

    def append(self, message: bytes) -> int:
        seq = self.gathering.append(self.write_one, self.write, self.cover, C2S, message)
        assert self.messages[seq] == message
        assert self.durable > seq, "acknowledged too early"
        return seq

    def waiting(self, count: int) -> None:
        until(lambda: len(self.gathering._open.waiters) == count)

    def check_at_rest(self) -> None:
        assert self.gathering._leader is None
        assert not self.gathering._open.waiters
        assert not self.gathering._lock.locked()


class Crowd:
    """One thread leads and is held up; the others gather behind it, in their order."""

    def __init__(self, tape: Tape, messages: list[bytes]) -> None:
        self.gate = Gate()
        tape.before_sync = self.gate
        self.first = Running(lambda: tape.append(b"first"))
        self.gate.reached()
        tape.before_sync = lambda: None
        self.others = []
        for number, message in enumerate(messages):
            self.others.append(Running(lambda message=message: tape.append(message)))  # type: ignore[misc]
            tape.waiting(number + 1)


class TestABatch:
    def test_is_written_and_synced_once_in_the_order_of_those_who_came(self) -> None:
        tape = Tape()
        crowd = Crowd(tape, [b"1", b"2", b"3"])
        crowd.gate.open()
        assert [crowd.first.result(), *(each.result() for each in crowd.others)] == [0, 1, 2, 3]
        assert (tape.messages, tape.batches) == ([b"first", b"1", b"2", b"3"], [1, 3])
        tape.check_at_rest()

    def test_that_does_not_fit_is_written_one_by_one_so_that_an_error_meets_only_its_own(self) -> None:
        tape = Tape()
        crowd = Crowd(tape, [b"1", b"much too long", b"3"])

        def before_write(batch: Batch) -> None:
            assert batch.drops == (len(batch.frames) == 1), "only one that is alone is left out"
            if any(len(message) > 6 for _, message in batch.frames):
                raise StorageFullError("full")

        tape.before_write = before_write
        crowd.gate.open()
        small, large, other = crowd.others
        assert large.error() == StorageFullError("full")
        assert {small.result(), other.result()} == {1, 2}
        assert sorted(tape.messages) == [b"1", b"3", b"first"]
        tape.check_at_rest()

    def test_that_may_not_be_durable_is_an_error_of_all_who_are_in_it_and_is_not_written_again(self) -> None:
        tape = Tape()
        crowd = Crowd(tape, [b"1", b"2"])

        def fail() -> None:
            raise SyncFailedError("t", 0, "broken")

        tape.before_sync = fail
        crowd.gate.open()
        assert crowd.first.result() == 0
        errors = [each.error() for each in crowd.others]
        assert errors == [SyncFailedError("t", 0, "broken")] * 2
        assert errors[0] is not errors[1]
        assert tape.messages == [b"first", b"1", b"2"]

    def test_a_bad_message_is_the_error_of_nobody_else(self) -> None:
        tape = Tape()
        crowd = Crowd(tape, [b"1"])
        with pytest.raises(TypeError):
            tape.append("text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="direction"):
            tape.gathering.append(tape.write_one, tape.write, tape.cover, "up", b"1")  # type: ignore[arg-type]
        crowd.gate.open()
        assert crowd.others[0].result() == 1

    def test_a_long_message_does_not_wait_to_be_joined(self) -> None:
        tape = Tape()
        crowd = Crowd(tape, [])
        assert tape.append(b"x" * 100_000) == 1
        crowd.gate.open()
        crowd.first.result()


class TestAnInterruptedLeader:
    @pytest.mark.parametrize("where", ["before the write", "before the sync"])
    def test_takes_nobody_with_it(self, where: str) -> None:
        tape = Tape()
        crowd = Crowd(tape, [b"1", b"2", b"3"])

        def strike(_: object = None) -> None:
            tape.before_write = lambda _: None
            tape.before_sync = lambda: None
            raise Interrupt

        if where == "before the write":
            tape.before_write = strike
        else:
            tape.before_sync = strike
        crowd.gate.open()
        crowd.first.result()
        leader, *rest = crowd.others
        assert isinstance(leader.error(), Interrupt)
        assert sorted(each.result() for each in rest) == ([1, 2] if where == "before the write" else [2, 3])
        assert len(set(tape.messages)) == len(tape.messages)
        tape.check_at_rest()


@pytest.fixture
def each_step_is_seen() -> Iterator[None]:
    with each_step(HERE):
        yield


NAMES = (b"a", b"b", b"c")


def join(tape: Tape, crowd: Crowd | None, before: int, done: threading.Event) -> list[int]:
    """Those who come after the thread that is struck."""
    if crowd is None:
        until(lambda: tape.gathering._leader is not None or tape.messages or done.is_set())
    else:
        until(lambda: len(tape.gathering._open.waiters) > before or done.is_set())
    others = [Running(lambda name=name: tape.append(name)) for name in NAMES[before:]]  # type: ignore[misc]
    if crowd is not None:
        until(lambda: len(tape.gathering._open.waiters) >= len(NAMES))
        crowd.gate.open()
    return [other.result() for other in others]


@pytest.mark.usefixtures("each_step_is_seen")
@pytest.mark.parametrize(
    ("is_led", "before"),
    [
        pytest.param(True, 0, id="the first of those who wait, which writes for them"),
        pytest.param(True, 1, id="one in their middle"),
        pytest.param(False, 0, id="one whom others join while it writes"),
    ],
)
def test_an_interrupt_anywhere_loses_and_doubles_nothing(is_led: bool, before: int) -> None:
    number = 0
    for number in count():
        tape, strike, done = Tape(), Strike(number), threading.Event()
        crowd = Crowd(tape, list(NAMES[:before])) if is_led else None
        joining = Running(partial(join, tape, crowd, before, done))
        acknowledged = []
        with suppress(Interrupt), reporting(HERE, strike.step):
            acknowledged.append(tape.append(b"mine"))
        done.set()
        joining.result()
        if crowd is not None:
            for each in (crowd.first, *crowd.others):
                each.result()
        mine = tape.messages.count(b"mine")
        assert mine <= 1, strike.where
        assert mine or not acknowledged, strike.where
        rest = sorted(message for message in tape.messages if message not in (b"mine", b"first"))
        assert rest == list(NAMES), strike.where
        tape.check_at_rest()
        if strike.where is None:
            break
    assert number > 12, "it was seen"


class TestInEveryOrder:
    @staticmethod
    def scenario() -> Scenario:
        tape = Tape()
        told: list[int] = []

        def append(message: bytes) -> Callable[[], None]:
            def run() -> None:
                told.append(tape.append(message))
                told.append(tape.append(message + b"again"))

            return run

        def check() -> None:
            tape.check_at_rest()
            assert sorted(told) == list(range(6))
            for message in (b"1", b"2", b"3"):
                assert tape.messages.index(message) < tape.messages.index(message + b"again")

        return Scenario([append(b"1"), append(b"2"), append(b"3")], check)

    def test_nobody_is_acknowledged_too_early_and_nobody_is_left_waiting(self) -> None:
        explore(self.scenario, 150, HERE)

    @pytest.mark.long
    def test_in_a_great_many_orders(self) -> None:
        explore(self.scenario, 5000, HERE)
