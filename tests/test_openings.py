"""The engine on its own: constructed once, counted, closed once. test_registry drives it as users do."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import pytest

from shadowcat_registry.callers import caller
from shadowcat_registry.errors import (
    ConstructionTimeoutError,
    CreationFailedError,
    DependencyCycleError,
    InstanceExistsError,
    InvalidConfigError,
    StorageClosedError,
)
from shadowcat_registry.leases import Lease, Opening, Revision
from shadowcat_registry.openings import Openings
from shadowcat_registry.providers.memory import MemoryBackend
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.use import Source

from .fakes import Gate, Running, until
from .storages import handle


def _backend() -> MemoryBackend:
    return MemoryBackend(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=10)


class _Engine:
    def __init__(self, construction_timeout_seconds: float = 10.0) -> None:
        self.lock = threading.Lock()
        self.left: list[str] = []
        self.handles: list[TapeStorage] = []
        self.openings = Openings(self.lock, construction_timeout_seconds, self.settle, self.left.append)

    def settle(self, name: str) -> bool:
        assert self.lock.locked()
        return self.openings.tally.is_done(name)

    def begin(self, revision: Revision, *, shared: bool = True) -> tuple[Opening, Lease]:
        with self.lock:
            opening = self.openings.begin(revision, shared=shared)
            return opening, self._lease(opening, "test.py:1")

    def lease(self, opening: Opening, instance_id: str | None = None) -> Lease:
        with self.lock:
            return self._lease(opening, "test.py:2", instance_id)

    def _lease(self, opening: Opening, place: str, instance_id: str | None = None) -> Lease:
        storage = self.openings.lease(opening, caller(place), instance_id)
        self.handles.append(storage)  # a handle that is dropped is another matter
        return cast(Lease, storage.use)

    def open(self, revision: Revision, *, shared: bool = True) -> tuple[Opening, Lease]:
        opening, lease = self.begin(revision, shared=shared)
        self.openings.construct(opening, _backend)
        return opening, lease


class TestConstruct:
    def test_a_lease_counts_from_before_the_construction(self) -> None:
        engine, revision = _Engine(), Revision("a", 1)
        opening, _ = engine.begin(revision)

        def create() -> MemoryBackend:
            assert not engine.lock.locked(), "foreign code runs under the lock"
            assert engine.openings.tally.lease_count("a") == 1
            return _backend()

        engine.openings.construct(opening, create)
        assert opening.source is not None

    def test_a_factory_that_returns_nothing_has_failed(self) -> None:
        engine, revision = _Engine(), Revision("a", 1)
        opening, _ = engine.begin(revision)

        def create() -> MemoryBackend:
            return None  # type: ignore[return-value]

        with pytest.raises(CreationFailedError) as caught:
            engine.openings.construct(opening, create)
        assert caught.value == CreationFailedError("a", "its factory returned no backend")
        assert (revision.shared, revision.openings, engine.openings.tally.lease_count("a")) == (None, {}, 0)

    def test_a_failure_leaves_nothing_behind(self) -> None:
        engine, revision = _Engine(), Revision("a", 1)
        opening, _ = engine.begin(revision)

        def create() -> MemoryBackend:
            raise OSError(28, "No space left on device")

        with pytest.raises(CreationFailedError, match="No space left") as caught:
            engine.openings.construct(opening, create)
        assert isinstance(caught.value.__cause__, OSError)
        assert (revision.shared, revision.openings, engine.openings.tally.lease_count("a")) == (None, {}, 0)

    @pytest.mark.parametrize(
        "error",
        [
            InvalidConfigError("a", ["path: is missing"]),
            DependencyCycleError(["a", "b", "a"]),
            ConstructionTimeoutError("b", 1.0),
            CreationFailedError("a", "said best by the provider itself"),
            KeyboardInterrupt(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_an_error_that_says_more_passes_through(self, error: BaseException) -> None:
        def create() -> MemoryBackend:
            raise error

        engine = _Engine()
        opening, _ = engine.begin(Revision("a", 1))
        with pytest.raises(type(error)) as caught:
            engine.openings.construct(opening, create)
        assert caught.value is error
        assert engine.openings.tally.lease_count("a") == 0

    def test_the_text_of_a_foreign_error_is_not_told(self) -> None:
        def create() -> MemoryBackend:
            raise ValueError("password=hunter2")

        engine = _Engine()
        opening, _ = engine.begin(Revision("a", 1))
        with pytest.raises(CreationFailedError) as caught:
            engine.openings.construct(opening, create)
        assert "hunter2" not in str(caught.value)
        assert "ValueError" in str(caught.value)

    def test_a_failure_gives_dependencies_back_in_reverse(self) -> None:
        engine, order = _Engine(), []
        opening, _ = engine.begin(Revision("a", 1))

        def create() -> MemoryBackend:
            for name in ("first", "second"):
                storage = handle(_backend(), release=lambda name=name: order.append(name))  # type: ignore[misc]
                engine.openings.add_dependency(opening, storage)
            raise OSError("no")

        with pytest.raises(CreationFailedError):
            engine.openings.construct(opening, create)
        assert order == ["second", "first"]

    def test_an_interrupt_while_it_cleans_up_leaves_nobody_waiting(self) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        engine = _Engine()
        opening, _ = engine.begin(Revision("a", 1))
        engine.openings.add_dependency(opening, handle(_backend(), release=interrupted))
        with pytest.raises(KeyboardInterrupt):
            engine.openings.construct(opening, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        assert opening.constructed.is_set()
        assert engine.openings.tally.lease_count("a") == 0


class TestWait:
    def test_a_failure_is_told_to_each_who_waits_as_an_error_of_its_own(self) -> None:
        engine, gate = _Engine(), Gate()
        opening, _ = engine.begin(Revision("a", 1))

        def create() -> MemoryBackend:
            gate()
            raise OSError("no")

        constructing = Running(lambda: engine.openings.construct(opening, create))
        gate.reached()
        leases = [engine.lease(opening) for _ in range(3)]
        waiting = [Running(lambda lease=lease: engine.openings.wait(lease)) for lease in leases]  # type: ignore[misc]
        gate.open()
        errors = [call.error() for call in [constructing, *waiting]]
        assert all(isinstance(error, CreationFailedError) for error in errors)
        assert len({id(error) for error in errors}) == 4, "a shared exception object mixes up tracebacks"
        assert engine.openings.tally.lease_count("a") == 0

    def test_an_interrupted_construction_is_a_failed_one_for_who_waits(self) -> None:
        engine, gate = _Engine(), Gate()
        opening, _ = engine.begin(Revision("a", 1))

        def create() -> MemoryBackend:
            gate()
            raise SystemExit(3)

        constructing = Running(lambda: engine.openings.construct(opening, create))
        gate.reached()
        lease = engine.lease(opening)
        waiting = Running(lambda: engine.openings.wait(lease))
        gate.open()
        assert isinstance(constructing.error(), SystemExit)
        assert isinstance(waiting.error(), CreationFailedError)

    def test_takes_no_longer_than_it_may_and_gives_the_lease_back(self) -> None:
        engine, gate = _Engine(construction_timeout_seconds=0.01), Gate()
        opening, _ = engine.begin(Revision("a", 1))

        def create() -> MemoryBackend:
            gate()
            return _backend()

        constructing = Running(lambda: engine.openings.construct(opening, create))
        gate.reached()
        lease = engine.lease(opening)
        with pytest.raises(ConstructionTimeoutError) as caught:
            engine.openings.wait(lease)
        assert caught.value == ConstructionTimeoutError("a", 0.01)
        assert engine.openings.tally.lease_count("a") == 1
        gate.open()
        constructing.result()
        assert opening.source is not None, "the construction itself went on"

    def test_two_threads_that_wait_for_each_other_find_it_out(self) -> None:
        engine = _Engine()
        both = threading.Barrier(2)
        (a, _), (b, _) = engine.begin(Revision("a", 1)), engine.begin(Revision("b", 1))

        def construct(mine: Opening, other: Opening) -> Any:
            def create() -> MemoryBackend:
                both.wait(10)
                engine.openings.wait(engine.lease(other))
                return _backend()

            return Running(lambda: engine.openings.construct(mine, create))

        errors = [call.error() for call in (construct(a, b), construct(b, a))]
        assert all(isinstance(error, DependencyCycleError) for error in errors)
        assert {name for error in errors for name in error.names} == {"a", "b"}
        assert engine.openings.tally.lease_count("a") == engine.openings.tally.lease_count("b") == 0


class TestRelease:
    def test_the_last_lease_of_an_own_storage_closes_it(self) -> None:
        engine = _Engine()
        revision = Revision("a", 1)
        opening, lease = engine.open(revision, shared=False)
        engine.openings.release(lease)
        assert opening.closing
        assert not revision.openings

    def test_a_shared_one_stays_open_between_leases(self) -> None:
        engine, revision = _Engine(), Revision("a", 1)
        opening, lease = engine.open(revision)
        engine.openings.release(lease)
        assert revision.shared is opening
        assert not opening.closing

    def test_twice_is_once(self) -> None:
        engine, revision = _Engine(), Revision("a", 1)
        opening, lease = engine.open(revision)
        other = engine.lease(opening)
        engine.openings.release(lease)
        engine.openings.release(lease)
        assert list(opening.leases) == [other]

    def test_twice_does_not_close_it_under_another_lease(self) -> None:
        engine = _Engine()
        opening, lease = engine.open(Revision("a", 1), shared=False)
        engine.lease(opening)
        engine.openings.release(lease)
        engine.openings.release(lease)
        assert not opening.closing

    def test_counts_until_the_backend_is_closed(self) -> None:
        engine, revision, counts = _Engine(), Revision("a", 1), []
        opening, lease = engine.open(revision, shared=False)

        class Slow(MemoryBackend):
            def close(self) -> None:
                assert not engine.lock.locked(), "foreign code runs under the lock"
                counts.append(engine.openings.tally.lease_count("a"))
                super().close()

        opening.source = Source(
            Slow(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=1), "a", "memory"
        )
        engine.openings.release(lease)
        assert counts == [1]
        assert engine.openings.tally.lease_count("a") == 0

    def test_that_nobody_ever_had_is_not_said_to_be_dropped_while_another_closes_it(self) -> None:
        engine, revision, gate = _Engine(), Revision("a", 1), Gate()

        class Slow(MemoryBackend):
            def close(self) -> None:
                gate()

        opening, lease = engine.open(revision, shared=False)
        opening.source = Source(
            Slow(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=1), "a", "memory"
        )
        with engine.lock:
            rest = lease.leave(unused=True)
        assert rest is not None
        closing = Running(lambda: engine.openings.close(opening))
        gate.reached()
        rest()  # the other one is at it
        engine.handles.clear()
        engine.openings.sweep()  # a warning would be an error here
        gate.open()
        closing.result()
        assert engine.openings.tally.lease_count("a") == 0

    def test_of_many_at_once_exactly_one_closes(self) -> None:
        engine, revision = _Engine(), Revision("a", 1)
        opening, first = engine.open(revision)
        closes: list[int] = []

        class Counting(MemoryBackend):
            def close(self) -> None:
                closes.append(1)

        opening.source = Source(
            Counting(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=1), "a", "memory"
        )
        leases = [first, *(engine.lease(opening) for _ in range(15))]
        revision.superseded = True
        together = threading.Barrier(len(leases))

        def release(lease: Lease) -> None:
            together.wait(10)
            engine.openings.release(lease)

        for call in [Running(lambda lease=lease: release(lease)) for lease in leases]:  # type: ignore[misc]
            call.result()
        assert closes == [1]
        assert engine.left == ["a"]


class TestClose:
    @pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1)], ids=["an error", "an exit"])
    def test_a_backend_that_raises_is_logged_and_gone(
        self, error: BaseException, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(MemoryBackend):
            def close(self) -> None:
                raise error

        engine, revision = _Engine(), Revision("a", 1)
        opening, lease = engine.open(revision, shared=False)
        opening.source = Source(
            Broken(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=1), "a", "memory"
        )
        engine.openings.release(lease)
        assert "closing the storage of provider 'a' failed" in caplog.text
        assert not revision.openings

    def test_dependencies_are_given_back_also_while_something_records_there(self) -> None:
        engine, released = _Engine(), []
        opening, lease = engine.open(Revision("a", 1), shared=False)
        below = _backend()
        storage = handle(below, release=lambda: released.append(True))
        recorder = storage.record("s-1", tape_id="t-1")
        recorder.append("client_to_server", b"{}")
        engine.openings.add_dependency(opening, storage)
        engine.openings.release(lease)
        assert released == [True]
        assert len(list(below.read("t-1"))) == 2, "every frame is kept"
        below.close()

    def test_a_dependency_that_comes_too_late_is_given_back_at_once(self) -> None:
        engine, released = _Engine(), []
        opening, lease = engine.open(Revision("a", 1), shared=False)
        engine.openings.release(lease)
        with pytest.raises(StorageClosedError):
            engine.openings.add_dependency(opening, handle(_backend(), release=lambda: released.append(True)))
        assert released == [True]


class TestInstances:
    def test_an_id_is_live_once(self) -> None:
        engine = _Engine()
        opening, _ = engine.open(Revision("a", 1))
        engine.lease(opening, "mine")
        with pytest.raises(InstanceExistsError) as caught:
            engine.lease(opening, "mine")
        assert caught.value == InstanceExistsError("mine", "a")

    def test_an_id_lives_as_long_as_its_storage(self) -> None:
        engine = _Engine()
        opening, _ = engine.open(Revision("a", 1), shared=False)
        first, second = engine.lease(opening, "mine"), engine.lease(opening)
        engine.openings.release(first)
        with engine.lock:
            assert engine.openings.find_instance("mine") is opening
        engine.openings.release(second)
        engine.openings.release(next(iter(opening.leases)))
        with engine.lock:
            assert engine.openings.find_instance("mine") is None

    def test_what_is_being_closed_is_not_found_and_its_id_is_not_free_yet(self) -> None:
        engine, gate = _Engine(), Gate()
        opening, lease = engine.open(Revision("a", 1), shared=False)
        engine.openings.release(lease)  # make room: only the named lease below counts
        opening, lease = engine.begin(Revision("a", 2), shared=False)
        with engine.lock:
            del opening.leases[lease]
        named = engine.lease(opening, "mine")

        class Held(MemoryBackend):
            def close(self) -> None:
                gate()

        engine.openings.construct(
            opening, lambda: Held(logging.getLogger("tests"), max_bytes=1 << 20, max_tapes=1)
        )
        closing = Running(lambda: engine.openings.release(named))
        gate.reached()
        with engine.lock:
            assert engine.openings.find_instance("mine") is None
            with pytest.raises(InstanceExistsError):
                engine.openings.check_instance("mine")
        gate.open()
        closing.result()
        with engine.lock:
            engine.openings.check_instance("mine")


class TestTakeAll:
    def test_takes_what_is_open_in_order_and_forgets_the_rest(self) -> None:
        engine = _Engine()
        first, _ = engine.open(Revision("a", 1))
        second, _ = engine.open(Revision("b", 1))
        with engine.lock:
            engine.openings.tally.adopt(Revision("idle", 1))
            assert engine.openings.take_all() == [first, second]
            assert set(engine.openings.tally._revisions) == {"a", "b"}
        backend = cast(Source, first.source).backend
        with pytest.MonkeyPatch.context() as patch:
            closed: list[str] = []
            patch.setattr(backend, "close", lambda: closed.append("a"))
            for _ in range(2):  # as if two closed the registry at once
                engine.openings.close(first)
        assert closed == ["a"], "nothing is closed twice"
        with engine.lock:
            assert engine.openings.take_all() == [second]

    def test_what_is_just_being_constructed_ends_with_its_last_lease(self) -> None:
        engine, gate = _Engine(), Gate()
        revision = Revision("a", 1)
        opening, lease = engine.begin(revision)

        def create() -> MemoryBackend:
            gate()
            return _backend()

        constructing = Running(lambda: engine.openings.construct(opening, create))
        gate.reached()
        with engine.lock:
            assert engine.openings.take_all() == []
        gate.open()
        constructing.result()
        engine.openings.release(lease)
        assert opening.closing
        until(lambda: engine.left == ["a"])
