"""How far a tape is durable, over a disk that does as it is told."""

from __future__ import annotations

import errno
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from shadowcat_registry import durability, turns
from shadowcat_registry.backend import Appender, Durability, DurabilityMode
from shadowcat_registry.durability import TapeSync
from shadowcat_registry.errors import StorageClosedError, StorageFullError, SyncFailedError
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.providers.memory import MemoryBackend
from shadowcat_registry.recorder import TapeRecorder
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, TapeCounters

from .fakes import PATIENCE_SECONDS, Gate, Running, until
from .schedules import Scenario, explore
from .storages import handle

C2S: Direction = "client_to_server"
HERE = frozenset({durability.__file__, turns.__file__})


class Disk:
    """What is durable of one tape: as many lines as there were when the last sync began."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.durable = 0
        self.sync_count = self.write_count = 0
        self.before_sync: Callable[[], object] = lambda: None
        self.full = False
        self.running = 0

    def append(self, lines: Sequence[bytes]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "full")
        self.write_count += 1
        self.lines.extend(lines)

    def sync(self) -> None:
        self.running += 1
        assert self.running == 1, "two syncs at once"
        try:
            there = len(self.lines)
            self.sync_count += 1
            self.before_sync()
            self.durable = there
        finally:
            self.running -= 1

    def close(self) -> None:
        assert not self.running, "closed under a sync"


class Backend(MemoryBackend):
    """The memory provider, with the appends of every tape going over a `Disk`."""

    def __init__(self, mode: DurabilityMode, seconds: float = 0.001) -> None:
        super().__init__(logging.getLogger("tests"), max_bytes=1 << 24, max_tapes=100)
        self.disk = Disk()
        self.durability = Durability(mode, seconds)

    def create(self, tape_id: str, init_line: bytes, meta: Any) -> Appender:
        return _Over(self.disk, super().create(tape_id, init_line, meta))


class _Over:
    def __init__(self, disk: Disk, appender: Appender) -> None:
        self.disk, self.appender = disk, appender

    def append(self, lines: Sequence[bytes]) -> None:
        self.disk.append(lines)
        self.appender.append(lines)

    def sync(self) -> None:
        self.disk.sync()

    def close(self) -> None:
        self.disk.close()
        self.appender.close()


@pytest.fixture(params=["none", "interval", "frame"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(request.param)


@pytest.fixture
def storage(backend: Backend) -> Iterator[TapeStorage]:
    with handle(backend) as opened:
        yield opened


def waiting_in(tape: TapeRecorder) -> int:
    """How many threads wait to write what comes next."""
    gathering = tape.tape.gathering
    assert gathering is not None
    return len(gathering._open.waiters)


def broken() -> None:
    raise OSError(errno.EIO, "broken")


def interrupted() -> None:
    raise KeyboardInterrupt


class TestEveryMode:
    def test_a_durable_flush_covers_every_acknowledged_frame(
        self, backend: Backend, storage: TapeStorage
    ) -> None:
        with storage.record("s") as tape:
            for number in range(3):
                tape.append(C2S, b"%d" % number)
                tape.flush(durable=True)
                assert tape.durable_seq == tape.accepted_seq == number
                assert backend.disk.durable == number + 1

    def test_what_is_finalized_is_durable(self, backend: Backend, storage: TapeStorage) -> None:
        tape = storage.record("s")
        tape.append_many([(C2S, b"1"), (C2S, b"2")])
        tape.finalize()
        assert (tape.durable_seq, backend.disk.durable) == (1, 2)

    def test_a_sync_that_failed_is_the_last_one(self, backend: Backend, storage: TapeStorage) -> None:
        tape = storage.record("s", tape_id="t")
        tape.append(C2S, b"1")
        tape.flush(durable=True)
        if backend.durability.mode == "frame":
            backend.disk.before_sync = broken
            with pytest.raises(SyncFailedError):
                tape.append(C2S, b"2")
        else:
            tape.append(C2S, b"2")
            backend.disk.before_sync = broken
            with pytest.raises(SyncFailedError) as caught:
                tape.flush(durable=True)
            assert caught.value == SyncFailedError("t", 0, "the storage failed: broken")
        backend.disk.before_sync = lambda: None  # as a system does that has dropped what it could not write
        count = backend.disk.sync_count
        uses: list[Callable[[], object]] = [lambda: tape.flush(durable=True), tape.finalize]
        for use in uses:
            with pytest.raises(SyncFailedError):
                use()
        assert (tape.durable_seq, backend.disk.sync_count) == (0, count)
        assert storage.get_meta("t")[0]["status"] == "recording"

    def test_a_memory_that_syncs_promises_nothing(self, backend: Backend) -> None:
        backend.durability = Durability(backend.durability.mode, 0.001, volatile=True)
        with handle(backend) as storage, storage.record("s") as tape:
            tape.append(C2S, b"1")
            tape.flush(durable=True)
            assert tape.durable_seq == -1


class TestNone:
    def test_nothing_is_synced_before_somebody_asks(self) -> None:
        backend = Backend("none")
        with handle(backend) as storage, storage.record("s") as tape:
            tape.append(C2S, b"1")
            tape.append_many([(C2S, b"2")])
            tape.flush()
            assert (backend.disk.sync_count, tape.durable_seq) == (0, -1)


class TestInterval:
    def test_frames_become_durable_by_and_by_and_an_idle_tape_costs_nothing(self) -> None:
        backend = Backend("interval")
        with handle(backend) as storage, storage.record("s") as tape:
            for number in range(3):
                tape.append(C2S, b"1")
                until(lambda number=number: tape.durable_seq == number)  # type: ignore[misc]
            assert backend.disk.sync_count == 3

    def test_many_tapes_have_one_thread_which_ends_with_the_last(self) -> None:
        with handle(Backend("interval")) as storage:
            before = threading.active_count()
            tapes = [storage.record("s") for _ in range(20)]
            assert threading.active_count() == before + 1
            for tape in tapes:
                tape.append(C2S, b"1")
            for tape in tapes[1:]:
                tape.finalize()
            tapes[0].append(C2S, b"2")
            until(lambda: tapes[0].durable_seq == 1)
            tapes[0].finalize()
            until(lambda: threading.active_count() == before)
            with storage.record("s") as tape:  # and begins anew
                tape.append(C2S, b"1")
                until(lambda: tape.durable_seq == 0)

    def test_a_failure_is_logged_and_told_to_the_next_caller_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = Backend("interval")
        storage = handle(backend)
        tape = storage.record("s", tape_id="t")
        backend.disk.before_sync = broken
        tape.append(C2S, b"1")
        until(lambda: "may not outlive a loss of power" in caplog.text)
        with pytest.raises(SyncFailedError):
            tape.append(C2S, b"2")
        assert tape.append(C2S, b"2") == 1  # what was refused is not in the tape, and recording goes on
        assert (tape.accepted_seq, tape.durable_seq) == (1, -1)
        tape.flush()
        with pytest.raises(SyncFailedError):
            tape.finalize()
        storage.close()
        assert caplog.text.count("may not outlive") == 1

    def test_a_flush_is_told_too(self) -> None:
        backend = Backend("interval")
        storage = handle(backend)
        tape = storage.record("s", tape_id="t")
        backend.disk.before_sync = broken
        tape.append(C2S, b"1")
        until(lambda: tape.tape.sync.failure)
        with pytest.raises(SyncFailedError):
            tape.flush()
        tape.flush()
        tape.detach()
        storage.close()

    def test_an_end_waits_for_the_sync_that_runs(self) -> None:
        backend = Backend("interval")
        gate = Gate()
        backend.disk.before_sync = gate
        storage = handle(backend)
        tape = storage.record("s")
        tape.append(C2S, b"1")
        gate.reached()
        ending = Running(tape.detach)
        assert ending.is_running
        gate.open()
        ending.result()  # the disk would say so if it had been closed meanwhile
        storage.close()

    def test_what_comes_during_a_flush_is_not_forgotten(self) -> None:
        backend = Backend("interval", 0.001)
        gate = Gate()
        with handle(backend) as storage, storage.record("s") as tape:
            backend.disk.before_sync = gate
            tape.append(C2S, b"1")
            flushing = Running(lambda: tape.flush(durable=True))
            gate.reached()
            tape.append(C2S, b"2")
            gate.open()
            flushing.result()
            until(lambda: tape.durable_seq == 1)


class TestFrame:
    def test_an_append_returns_when_its_frame_is_durable(self) -> None:
        backend = Backend("frame")
        with handle(backend) as storage, storage.record("s") as tape:
            assert tape.append(C2S, b"1") == tape.durable_seq == 0
            tape.append_many([(C2S, b"2"), (C2S, b"3")])
            assert (tape.durable_seq, backend.disk.sync_count) == (2, 2)
            tape.append_lines([b"4\n"])
            assert backend.disk.durable == 4

    def test_those_who_wait_share_a_sync(self) -> None:
        backend = Backend("frame")
        gate = Gate()
        with handle(backend) as storage, storage.record("s") as tape:
            backend.disk.before_sync = gate
            first = Running(lambda: tape.append(C2S, b"0"))
            gate.reached()
            others = [Running(lambda: tape.append(C2S, b"1")) for _ in range(100)]
            until(lambda: waiting_in(tape) == 100)
            gate.open()
            assert {first.result(), *(other.result() for other in others)} == set(range(101))
            assert (tape.durable_seq, backend.disk.sync_count) == (100, 2)
            assert backend.disk.write_count == 2

    def test_a_failure_is_told_to_all_of_them_and_to_whoever_comes(self) -> None:
        backend = Backend("frame")
        gate = Gate()

        def fail() -> None:
            gate()
            broken()

        storage = handle(backend)
        tape = storage.record("s", tape_id="t")
        backend.disk.before_sync = fail
        waiting = [Running(lambda: tape.append_many([(C2S, b"1")])) for _ in range(5)]
        until(lambda: len(tape.tape.sync._turns.waiting) == 4)
        gate.open()
        errors = [each.error() for each in waiting]
        assert errors == [SyncFailedError("t", -1, "the storage failed: broken")] * 5
        assert len({id(error) for error in errors}) == 5
        for _ in range(2):
            with pytest.raises(SyncFailedError):
                tape.append(C2S, b"2")
        assert tape.accepted_seq == 4  # they are in the tape; what came later is not
        with pytest.raises(SyncFailedError):
            tape.finalize()
        storage.close()

    def test_a_failure_is_told_to_those_who_gather_and_nothing_of_theirs_is_written(self) -> None:
        backend = Backend("frame")
        gate = Gate()

        def fail() -> None:
            gate()
            broken()

        storage = handle(backend)
        tape = storage.record("s", tape_id="t")
        backend.disk.before_sync = fail
        first = Running(lambda: tape.append(C2S, b"1"))
        gate.reached()
        others = [Running(lambda: tape.append(C2S, b"2")) for _ in range(3)]
        until(lambda: waiting_in(tape) == 3)
        gate.open()
        errors = [each.error() for each in (first, *others)]
        assert errors == [SyncFailedError("t", -1, "the storage failed: broken")] * 4
        assert (tape.accepted_seq, len(backend.disk.lines)) == (0, 1)
        with pytest.raises(SyncFailedError):
            tape.detach()
        storage.close()

    def test_what_gathers_when_the_tape_ends_is_refused_and_not_in_it(self) -> None:
        backend = Backend("frame")
        gate = Gate()
        with handle(backend) as storage:
            tape = storage.record("s")
            backend.disk.before_sync = gate
            first = Running(lambda: tape.append(C2S, b"1"))
            gate.reached()
            others = [Running(lambda: tape.append(C2S, b"2")) for _ in range(2)]
            until(lambda: waiting_in(tape) == 2)
            ending = Running(tape.finalize)
            until(lambda: not tape.tape.is_open)
            gate.open()
            ending.result()
            assert first.result() == 0
            assert [type(each.error()) for each in others] == [StorageClosedError] * 2
            assert len(backend.disk.lines) == 1

    def test_gathered_frames_that_do_not_fit_are_dropped_one_by_one(self) -> None:
        backend = Backend("frame")
        gate = Gate()
        with handle(backend) as storage, storage.record("s", on_full="drop") as tape:
            backend.disk.before_sync = gate
            first = Running(lambda: tape.append(C2S, b"1"))
            gate.reached()
            others = [Running(lambda: tape.append(C2S, b"2")) for _ in range(3)]
            until(lambda: waiting_in(tape) == 3)
            backend.disk.full = True
            backend.disk.before_sync = lambda: None
            gate.open()
            assert {first.result(), *(each.result() for each in others)} == set(range(4))
            assert (tape.dropped, tape.accepted_seq) == (3, 0)
            backend.disk.full = False

    def test_nobody_writes_for_another_thread_where_there_are_transactions(self) -> None:
        with handle(Backend("frame"), capabilities=frozenset({ProviderCapability.TRANSACTIONS})) as storage:
            tape = storage.record("s")
            assert tape.tape.gathering is None
            assert tape.append(C2S, b"1") == tape.durable_seq == 0
            tape.finalize()

    def test_an_interrupted_sync_has_not_failed(self) -> None:
        backend = Backend("frame")
        with handle(backend) as storage, storage.record("s") as tape:
            gate = Gate()

            def interrupt() -> None:
                gate()
                backend.disk.before_sync = lambda: None
                interrupted()

            backend.disk.before_sync = interrupt
            first = Running(lambda: tape.append(C2S, b"1"))
            gate.reached()
            others = [Running(lambda: tape.append(C2S, b"2")) for _ in range(3)]
            until(lambda: waiting_in(tape) == 3)
            gate.open()
            assert isinstance(first.error(), KeyboardInterrupt)
            assert sorted(other.result() for other in others) == [1, 2, 3]
            assert tape.durable_seq == 3

    def test_a_tape_that_is_left_as_it_is_covers_who_waits(self) -> None:
        backend = Backend("frame")
        gate = Gate()
        with handle(backend) as storage:
            tape = storage.record("s")
            backend.disk.before_sync = gate
            appending = [Running(lambda: tape.append_many([(C2S, b"1")])) for _ in range(2)]
            until(lambda: len(tape.tape.sync._turns.waiting) == 1)
            detaching = Running(tape.detach)
            gate.open()
            detaching.result()
            assert sorted(each.result()[0] for each in appending) == [0, 1]
        sync = tape.tape.sync
        with pytest.raises(StorageClosedError):
            sync.cover(100)


class TestInEveryOrder:
    """Three that append and wait, and one that ends the tape."""

    @staticmethod
    def scenario(fail_at: int | None, mode: DurabilityMode = "frame") -> Scenario:
        disk = Disk()
        counters = TapeCounters()
        sync = TapeSync("t", disk, counters, Durability(mode), None)
        lock = threading.Lock()
        appended: list[int] = []
        told: list[int] = []
        ended: list[bool] = []

        def before_sync() -> None:
            if disk.sync_count == fail_at:
                broken()

        disk.before_sync = before_sync

        def append() -> None:
            with lock:
                if ended:
                    return
                disk.append([b"1\n"])
                counters.add_frame(C2S, counters.last_seq + 1, 0, 2)
                lines, seq = counters.line_count, counters.last_seq
                appended.append(seq)
            try:
                sync.cover(lines)
            except SyncFailedError:
                assert fail_at is not None
                return
            assert disk.durable > seq, "acknowledged too early"
            assert sync.durable_seq >= seq
            told.append(seq)

        def end() -> None:
            with lock:
                ended.append(True)
            try:
                sync.finish(covering=True)
            except SyncFailedError:
                assert fail_at is not None
            disk.close()

        def check() -> None:
            assert not sync._turns.waiting
            assert sync._turns.owner is None
            assert fail_at is not None or sorted(told) == appended
            assert sync.durable_seq < disk.durable

        return Scenario([append, append, append, end], check)

    @pytest.mark.parametrize("fail_at", [None, 1, 2])
    def test_nobody_is_acknowledged_too_early_and_nobody_is_left_waiting(self, fail_at: int | None) -> None:
        explore(lambda: self.scenario(fail_at), 150, HERE)

    @pytest.mark.long
    @pytest.mark.parametrize("fail_at", [None, 1, 2])
    def test_in_a_great_many_orders(self, fail_at: int | None) -> None:
        explore(lambda: self.scenario(fail_at), 5000, HERE)


class TestAFullStorage:
    def test_a_frame_without_space_is_an_error_and_the_recorder_goes_on(
        self, backend: Backend, storage: TapeStorage
    ) -> None:
        with storage.record("s") as tape:
            backend.disk.full = True
            with pytest.raises(StorageFullError):
                tape.append(C2S, b"1")
            with pytest.raises(StorageFullError):
                tape.append_many([(C2S, b"1"), (C2S, b"2")])
            backend.disk.full = False
            assert tape.append(C2S, b"1") == 0
            assert tape.dropped == 0

    def test_or_it_is_dropped_where_that_was_asked_for_and_leaves_a_gap(
        self, backend: Backend, storage: TapeStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        with storage.record("s", tape_id="t", on_full="drop") as tape:
            tape.append(C2S, b"0")
            backend.disk.full = True
            assert tape.append(C2S, b"1") == 1
            assert tape.append_many([(C2S, b"2"), (C2S, b"3")]) == range(2, 4)
            assert (tape.dropped, tape.accepted_seq) == (3, 0)
            with pytest.raises(StorageFullError):
                tape.append_lines([b"4\n"])
            backend.disk.full = False
            assert tape.append(C2S, b"5") == 4
            backend.disk.full = True
            tape.append(C2S, b"6")
            backend.disk.full = False
            assert tape.append_many([(C2S, b"7")]) == range(6, 7)
            assert tape.accepted_seq == 6
        assert [json.loads(line).get("seq") for line in storage.read("t")] == [None, 0, 4, 6]
        assert [record.message for record in caplog.records] == [
            "tape t drops frames: the storage is full: full",
            "tape t goes on; 3 frames were dropped so far",
            "tape t drops frames: the storage is full: full",
            "tape t goes on; 4 frames were dropped so far",
        ]

    def test_what_else_fails_is_never_dropped(self, backend: Backend, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t", on_full="drop") as tape:
            with pytest.raises(TypeError):
                tape.append(C2S, "text")  # type: ignore[arg-type]
            assert tape.dropped == 0

    def test_a_handler_of_the_log_may_use_the_recorder(self, caplog: pytest.LogCaptureFixture) -> None:
        backend = Backend("none")
        done = threading.Event()
        with handle(backend) as storage, storage.record("s", on_full="drop") as tape:

            class Handler(logging.Handler):
                def emit(self, record: logging.LogRecord) -> None:
                    tape.append(C2S, b"again")
                    done.set()

            handler = Handler()
            logger = logging.getLogger("shadowcat_registry.recorder")
            logger.addHandler(handler)
            try:
                backend.disk.full = True
                Running(lambda: tape.append(C2S, b"1")).result()
            finally:
                logger.removeHandler(handler)
        assert done.wait(PATIENCE_SECONDS)
