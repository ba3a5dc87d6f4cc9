"""The reader that an embedder holds: who it belongs to, how it ends, and what stands in for a backend's own.

What every storage has to do with it is in `shadowcat_registry.testing.readers`.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.backend import CreateContext, TapeStorageBackend
from shadowcat_registry.errors import (
    FrameNotFoundError,
    StorageClosedError,
    StorageUnavailableError,
    TapeNotFoundError,
)
from shadowcat_registry.metadata import Config
from shadowcat_registry.providers.memory import MemoryProviderFactory
from shadowcat_registry.reader import TapeReader
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction
from shadowcat_registry.testing.places import Place
from shadowcat_registry.testing.readers import ReaderConformance

from .fakes import PATIENCE_SECONDS, Factory, Gate, Running, until
from .storages import FACTORIES, handle, open_backend

C2S: Direction = "client_to_server"


class Plain:
    """A backend without a reader of its own."""

    def __init__(self, backend: TapeStorageBackend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        if name == "reader":
            raise AttributeError(name)
        return getattr(self._backend, name)


class PlainFactory(MemoryProviderFactory):
    def create(self, config: Config, context: CreateContext) -> Any:
        return Plain(super().create(config, context))


class TestABackendWithoutOne(ReaderConformance):
    factory = PlainFactory


class TestReadThrough:
    def test_a_gap_is_looked_at_once_and_not_each_time(self, tmp_path: Path) -> None:
        place = Place(PlainFactory, {}, tmp_path)
        with closing(place.registry), place.open() as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append_many((C2S, b"%d" % n) for n in range(50))
                tape.append_lines([b'{"type":"frame","seq":%d}\n' % (100 + 2 * n) for n in range(50)])
            backend: Any = storage.use.source.backend
            counts: list[int] = []
            read = backend._backend.read

            def counting(tape_id: str, after_seq: int) -> Iterator[bytes]:
                counts.append(0)
                for line in read(tape_id, after_seq):
                    counts[-1] += 1
                    yield line

            backend._backend.read = counting
            with storage.reader("t") as reader:
                for seq in range(101, 199, 2):
                    with pytest.raises(FrameNotFoundError):
                        reader.frame(seq)
                inner: Any = reader._opened.reader
                assert inner._late == set()
            assert max(counts) == 101
            assert sum(counts) < 600


@pytest.fixture(params=FACTORIES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TapeStorage]:
    backend = open_backend(request.param, tmp_path)
    storage = handle(backend, release=backend.close)
    with storage.record("s", tape_id="t") as tape:
        tape.append_many((C2S, b"%d" % n) for n in range(10))
    yield storage
    storage.close()


def open_and_forget(storage: TapeStorage) -> None:
    storage.reader("t").frame(3)


class TestADroppedReader:
    def test_lets_go_and_the_next_who_comes_by_warns_of_it(self, storage: TapeStorage) -> None:
        readers = storage.use.source.readers
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            open_and_forget(storage)
            gc.collect()
            assert "t" not in readers
            assert caught == [], "not in the collector"
            storage.reader("t").close()
        (warning,) = caught
        line = open_and_forget.__code__.co_firstlineno + 1
        assert (warning.category, warning.filename, warning.lineno) == (ResourceWarning, __file__, line)
        assert "reader of tape 't'" in str(warning.message)
        assert f"{__file__}:{line} in thread MainThread" in str(warning.message)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_where_warnings_are_errors_no_bystander_fails(self, storage: TapeStorage) -> None:
        open_and_forget(storage)
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with storage.reader("t") as reader:
                assert reader.frame(0)

    def test_one_that_was_closed_or_whose_handle_was_is_none(self, storage: TapeStorage) -> None:
        reader = storage.reader("t")
        reader.close()
        reader = storage.reader("t")
        storage.close()
        del reader
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            storage.close()

    def test_keeps_its_handle_until_then(self, tmp_path: Path) -> None:
        registry = StorageProviderRegistry(base_directory=tmp_path)
        registry.register(MemoryProviderFactory())
        storage = registry.open_storage("memory")
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
        reader = storage.reader("t")
        del storage, tape
        gc.collect()
        registry.sweep()
        assert reader.frame(0)
        assert registry.get_provider_info("memory").instance_count == 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del reader
            gc.collect()
            registry.sweep()
            registry.close()
        assert {warning.category for warning in caught} == {ResourceWarning}
        assert registry.get_provider_info("memory").instance_count == 0 if "memory" in registry else True

    def test_the_finalizer_takes_no_lock_and_calls_nobody(self, storage: TapeStorage) -> None:
        """What it does is done in the middle of anything."""
        reader = storage.reader("t")
        closed: list[int] = []

        class Foreign:
            def close(self) -> None:
                closed.append(1)

        foreign: Any = Foreign()
        reader._opened.reader = foreign
        with storage.use.lock:
            del reader
            gc.collect()
        assert not closed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage.reader("t").close()


class TestRetention:
    @pytest.mark.parametrize("type_name", FACTORIES)
    def test_a_tape_with_an_open_reader_is_kept(self, tmp_path: Path, type_name: str) -> None:
        backend = open_backend(type_name, tmp_path, {"retention": {"max_tapes": 1}})
        with closing(backend), handle(backend) as storage:
            storage.record("s", tape_id="a").finalize()
            with storage.reader("a"):
                storage.record("s", tape_id="b").finalize()
                assert [meta["tape_id"] for meta in storage.list_all()] == ["a", "b"]
            storage.record("s", tape_id="c").finalize()
            assert [meta["tape_id"] for meta in storage.list_all()] == ["c"]


class TestClosing:
    def test_a_handle_that_is_closed_while_one_is_opened_gets_none(self) -> None:
        gate = Gate()
        ended: list[str] = []

        class Slow:
            def frame(self, seq: int) -> bytes | None:
                return None

            def read(self, after_seq: int) -> Iterator[bytes]:
                return iter(())

            def close(self) -> None:
                ended.append("closed")

        class Backend:
            storage_type = "slow"

            def reader(self, tape_id: str) -> Slow:
                gate()
                return Slow()

        backend: Any = Backend()
        storage = handle(backend)
        opening = Running(lambda: storage.reader("t"))
        gate.reached()
        storage.close()
        gate.open()
        assert isinstance(opening.error(), StorageClosedError)
        assert ended == ["closed"]
        assert "t" not in storage.use.source.readers

    def test_what_fails_at_its_end_keeps_no_handle_open(self, caplog: pytest.LogCaptureFixture) -> None:
        class Failing:
            def close(self) -> None:
                raise OSError(5, "Input/output error")

        class Backend:
            storage_type = "failing"

            def reader(self, tape_id: str) -> Failing:
                return Failing()

        released: list[int] = []
        backend: Any = Backend()
        storage = handle(backend, release=lambda: released.append(1))
        reader = storage.reader("t")
        storage.close()
        assert released == [1]
        assert "the reader of tape t could not be closed" in caplog.text
        assert reader.closed
        with handle(backend) as storage:
            reader = storage.reader("t")
            with pytest.raises(StorageUnavailableError):
                reader.close()
            reader.close()

    def test_says_what_it_is(self, storage: TapeStorage) -> None:
        with storage.reader("t") as reader:
            assert repr(reader) == "<TapeReader tape_id='t' open>"
        assert repr(reader) == "<TapeReader tape_id='t' closed>"


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_SECONDS))


class TestAwaited:
    def test_the_twins_give_the_same(self, storage: TapeStorage) -> None:
        async def look() -> None:
            async with await storage.areader("t") as reader:
                lines = [line async for line in reader.aread()]
                assert lines == list(storage.read("t"))
                assert list(await asyncio.gather(*(reader.aframe(seq) for seq in range(10)))) == lines[1:]
                assert [line async for line in reader.aread(3, 2)] == lines[5:7]
                with pytest.raises(FrameNotFoundError):
                    await reader.aframe(99)
            assert reader.closed
            with pytest.raises(StorageClosedError):
                await reader.aframe(0)
            with pytest.raises(StorageClosedError):
                reader.aread()
            await reader.aclose()
            with pytest.raises(TapeNotFoundError):
                await storage.areader("u")

        run(look())

    def test_one_that_nobody_waits_for_any_more_is_closed(self) -> None:
        gate = Gate()
        closed = Gate()

        class Slow:
            def close(self) -> None:
                closed()

        class Backend:
            storage_type = "slow"

            def reader(self, tape_id: str) -> Slow:
                gate()
                return Slow()

        backend: Any = Backend()
        storage = handle(backend)

        async def look() -> None:
            opening = asyncio.ensure_future(storage.areader("t"))
            await asyncio.to_thread(gate.reached)
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            gate.open()
            await asyncio.to_thread(closed.reached)
            closed.open()

        run(look())
        storage.close()

    def test_a_dropped_one_is_named_by_the_line_that_awaited_it(self, storage: TapeStorage) -> None:
        async def forget() -> None:
            reader: TapeReader = await storage.areader("t")
            assert await reader.aframe(0)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(forget())
            gc.collect()
            until(lambda: "t" not in storage.use.source.readers)  # the thread that read has it for a moment
            storage.reader("t").close()
        assert [(warning.category, warning.filename) for warning in caught] == [(ResourceWarning, __file__)]


def test_a_provider_of_a_registry_gives_readers_too(tmp_path: Path) -> None:
    registry = StorageProviderRegistry(base_directory=tmp_path)
    registry.register(Factory())
    with closing(registry), registry.open_storage("fake") as storage:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
        with storage.reader("t") as reader:
            assert b'"message":1,' in reader.frame(0)
