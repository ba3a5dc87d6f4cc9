"""The awaitable twins of reading and keeping: the same answers, off the loop, and nothing left open."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shadowcat_registry import awaited
from shadowcat_registry.aio import Lane, off_loop
from shadowcat_registry.backend import TapeQuery
from shadowcat_registry.errors import (
    InvalidTapeIdError,
    MetadataConflictError,
    StorageClosedError,
    TapeNotFoundError,
    UnsupportedCapabilityError,
)
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage

from .fakes import PATIENCE_SECONDS, Factory, Gate
from .storages import FACTORIES, handle, open_backend

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_SECONDS))


@pytest.fixture(params=FACTORIES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TapeStorage]:
    backend = open_backend(request.param, tmp_path)
    storage = handle(backend, release=backend.close)
    for number in range(3):
        with storage.record("s", tape_id=f"t{number}") as recorder:
            for _ in range(10):
                recorder.append("client_to_server", b'{"jsonrpc":"2.0"}')
    yield storage
    storage.close()


class TestTheTwins:
    def test_say_what_the_plain_ones_say(self, storage: TapeStorage) -> None:
        async def main() -> None:
            assert [line async for line in storage.aread("t1")] == list(storage.read("t1"))
            assert [line async for line in storage.aread("t1", after_seq=7)] == list(storage.read("t1", 7))
            assert [line async for line in storage.aread("t1", limit=2)] == list(storage.read("t1", limit=2))
            assert await storage.alist(TapeQuery(), None, 2) == storage.list(TapeQuery(), None, 2)
            assert await storage.astats() == storage.stats()
            meta, etag = await storage.aget_meta("t1")
            assert (meta, etag) == storage.get_meta("t1")
            assert await storage.aset_meta("t1", {**meta, "name": "mine"}, etag) != etag
            with pytest.raises(MetadataConflictError):
                await storage.aset_meta("t1", meta, etag)
            await storage.adelete("t0")
            assert [item["tape_id"] async for item in storage.alist_all()] == ["t1", "t2"]

        run(main())

    def test_raise_what_the_plain_ones_raise(self, storage: TapeStorage) -> None:
        async def main() -> None:
            with pytest.raises(InvalidTapeIdError):
                storage.aread("../etc/passwd")
            with pytest.raises(TapeNotFoundError):
                await anext(storage.aread("nobodys"))
            with pytest.raises(TapeNotFoundError):
                await storage.aget_meta("nobodys")
            if ProviderCapability.SEARCH not in storage.capabilities:
                with pytest.raises(UnsupportedCapabilityError):
                    await storage.asearch("words")
            with pytest.raises(ValueError, match="limit"):
                await storage.alist(limit=0)
            storage.close()
            with pytest.raises(StorageClosedError):
                storage.aread("t1")
            with pytest.raises(StorageClosedError):
                await storage.astats()

        run(main())

    def test_every_plain_name_that_may_wait_has_one(self) -> None:
        plain = [name for name in vars(TapeStorage) if not name.startswith("_")]
        callables = {name for name in plain if callable(getattr(TapeStorage, name))}
        have_one = {name for name in callables if hasattr(TapeStorage, f"a{name}")}
        assert callables - have_one - {f"a{name}" for name in callables} == {"adopt", "resume", "transaction"}

    def test_follow_a_tape_line_by_line_as_it_comes(self, storage: TapeStorage) -> None:
        async def main() -> None:
            tape = await storage.arecord("s", tape_id="live")
            lines = storage.afollow("live")
            seen = [await anext(lines)]
            for number in range(3):
                waiting = asyncio.ensure_future(anext(lines))
                await tape.aappend("client_to_server", b"%d" % number)
                seen.append(await waiting)
            rest = asyncio.ensure_future(_listed(lines))
            await tape.afinalize()
            assert seen + await rest == list(storage.read("live"))
            with pytest.raises(TapeNotFoundError):
                await anext(storage.afollow("nobodys"))

        run(main())

    def test_whoever_gives_up_following_leaves_nobody_waiting(self, storage: TapeStorage) -> None:
        async def main() -> None:
            tape = await storage.arecord("s", tape_id="live")
            lines = storage.afollow("live")
            await anext(lines)
            waiting = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert storage.use.source.followers.all == ()
            await tape.afinalize()

        run(main())

    def test_fetch_a_tape_in_batches(self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(awaited, "_BATCH_LINES", 4)
        sizes: list[int] = []
        take = awaited.take
        monkeypatch.setattr(awaited, "take", lambda lines: _noted(sizes, take(lines)))

        async def main() -> None:
            assert [line async for line in storage.aread("t1")] == list(storage.read("t1"))

        run(main())
        assert sizes == [4, 4, 3, 0]

    def test_a_batch_is_no_larger_than_its_bound_and_a_line(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(awaited, "_BATCH_BYTES", 1)

        async def main() -> None:
            assert [line async for line in storage.aread("t1")] == list(storage.read("t1"))

        run(main())


async def _listed(lines: AsyncGenerator[bytes, None]) -> list[bytes]:
    return [line async for line in lines]


def _noted(sizes: list[int], batch: list[bytes]) -> list[bytes]:
    sizes.append(len(batch))
    return batch


class Lines:
    """What a backend reads from: a test can stop it at a line, and sees that it is closed."""

    def __init__(self, stop_at: int, gate: Callable[[], object]) -> None:
        self.closed_by: list[str] = []
        self.threads: set[threading.Thread] = set()
        self._stop_at, self._gate = stop_at, gate

    def __call__(self, *_: object) -> Iterator[bytes]:
        try:
            for number in range(5000):
                self.threads.add(threading.current_thread())
                if number == self._stop_at:
                    self._gate()
                yield b"%d\n" % number
        finally:
            self.closed_by.append(threading.current_thread().name)


@pytest.fixture
def held() -> Iterator[tuple[TapeStorage, Lines, Gate]]:
    registry = StorageProviderRegistry()
    factory, gate = Factory(), Gate()
    registry.register(factory)
    with registry.open_storage("fake") as storage:
        lines = Lines(1500, gate)
        factory.backends[0].read = lines  # type: ignore[method-assign,assignment]
        yield storage, lines, gate
    registry.close()


class TestReading:
    def test_does_not_hold_the_loop_up(self, held: tuple[TapeStorage, Lines, Gate]) -> None:
        storage, lines, gate = held

        async def main() -> None:
            reading = asyncio.create_task(_all(storage.aread("t")))
            await asyncio.to_thread(gate.reached)
            await asyncio.sleep(0)  # this loop goes on
            assert not reading.done()
            gate.open()
            assert len(await reading) == 5000

        run(main())
        assert threading.main_thread() not in lines.threads
        assert len(lines.closed_by) == 1

    def test_one_that_is_cancelled_closes_what_it_read_from(
        self, held: tuple[TapeStorage, Lines, Gate]
    ) -> None:
        storage, lines, gate = held

        async def main() -> None:
            reading = asyncio.create_task(_all(storage.aread("t")))
            await asyncio.to_thread(gate.reached)
            reading.cancel()
            await asyncio.sleep(0)
            reading.cancel()  # once more, while it waits for the thread that reads
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await reading

        run(main())
        _joined()
        assert len(lines.closed_by) == 1

    def test_one_that_is_left_early_closes_it_too(self, held: tuple[TapeStorage, Lines, Gate]) -> None:
        storage, lines, _ = held

        async def main() -> None:
            async with aclosing(storage.aread("t")) as tape:
                async for line in tape:
                    assert line == b"0\n"
                    break
            assert len(lines.closed_by) == 1
            async for _line in storage.aread("t"):
                break

        run(main())  # closes what was left open, as with every asynchronous generator
        _joined()
        assert len(lines.closed_by) == 2

    def test_a_handle_that_is_closed_meanwhile_ends_it(self, storage: TapeStorage) -> None:
        async def main() -> None:
            tape = storage.aread("t1")
            await anext(tape)
            storage.close()
            with pytest.raises(StorageClosedError):
                await _all(tape)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(awaited, "_BATCH_LINES", 1)
            run(main())


async def _all(lines: AsyncGenerator[bytes, None]) -> list[bytes]:
    return [line async for line in lines]


def _joined() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("shadowcat"):
            thread.join(PATIENCE_SECONDS)


class TestSurely:
    """What has to be done is done, also if whoever awaits it is cancelled before its thread has begun."""

    @pytest.mark.parametrize("cancellations", [1, 2])
    def test_a_call_is_made_although_it_is_cancelled_at_once(self, cancellations: int) -> None:
        made = threading.Event()

        async def main() -> None:
            gate, lane = Gate(), Lane()
            before = asyncio.create_task(lane.run(gate))
            await asyncio.to_thread(gate.reached)
            task = asyncio.create_task(lane.run(made.set, surely=True))
            await asyncio.sleep(0)
            for _ in range(cancellations):
                task.cancel()
                await asyncio.sleep(0)
            assert task.cancelled()
            gate.open()
            await before

        run(main())
        assert made.wait(PATIENCE_SECONDS)

    def test_leaving_a_block_gives_the_lease_back_although_it_is_cancelled_there(self) -> None:
        registry = StorageProviderRegistry()
        registry.register(Factory())
        started: list[Callable[[], object]] = []

        class Late:
            """A thread that begins when the test says so."""

            def __init__(self, *, target: Callable[[], object], **_: object) -> None:
                self._target = target

            def start(self) -> None:
                started.append(self._target)

        async def main() -> None:
            storage = registry.open_storage("fake")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(threading, "Thread", Late)

                async def use() -> None:
                    async with storage:
                        pass

                task = asyncio.create_task(use())
                await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            assert [work() for work in started] == [None]
            assert storage.closed

        run(main())
        assert not registry.holders("fake")
        registry.close()


class TestALoopThatIsClosed:
    def test_a_lease_that_was_on_its_way_is_given_back(self) -> None:
        """Its thread handed it over, and then nobody ran the loop any more."""
        registry = StorageProviderRegistry()
        registry.register(Factory())
        loop = asyncio.new_event_loop()
        task = loop.create_task(registry.acreate_storage("fake"))
        loop.call_soon(loop.stop)
        loop.run_forever()  # the first step of the task: it waits for the thread
        _joined()  # which has put its answer into the loop's queue
        assert registry.holders("fake")
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # as it is meant here
        loop.close()
        del task
        gc.collect()  # a task and what it waits for know each other
        with pytest.warns(ResourceWarning, match="dropped without close"):
            registry.sweep()
        assert not registry.holders("fake")
        registry.close()

    def test_what_nobody_has_any_more_is_disposed_of_once(self) -> None:
        disposed: list[object] = []

        async def main() -> None:
            for _ in range(200):
                task = asyncio.create_task(off_loop(object, disposed.append))
                await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    disposed.append(await task)  # it was faster
                    disposed.pop()

        run(main())
        _joined()
        assert len(disposed) == len(set(map(id, disposed)))
