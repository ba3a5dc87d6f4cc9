"""Handles that nobody closes: what the collector finds is given back later, and said once."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import ProviderInUseError
from shadowcat_registry.generations import Change
from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.runtime import Runtime

from .fakes import Factory, Gate, Running, until

ROOT = Path(__file__).parents[1]


@pytest.fixture
def registry() -> Iterator[StorageProviderRegistry]:
    registry = StorageProviderRegistry()
    yield registry
    registry.close()


@contextmanager
def one_warning(*parts: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [warning.category for warning in caught] == [ResourceWarning]
    for part in parts:
        assert part in str(caught[0].message)


def drop(registry: StorageProviderRegistry, name: str = "fake", *, own: bool = False) -> None:
    """Acquire, and forget."""
    (registry.create_storage if own else registry.open_storage)(name)
    gc.collect()


class TestADroppedHandle:
    def test_is_given_back_by_the_next_operation_with_one_warning_that_names_the_line(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())
        drop(registry)
        assert registry.get_provider_info("fake").instance_count == 1, "not in the collector"
        line = drop.__code__.co_firstlineno + 2
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            registry.unregister("fake")
        (warning,) = caught
        assert (warning.category, warning.filename, warning.lineno) == (ResourceWarning, __file__, line)
        assert f"{__file__}:{line} in thread MainThread" in str(warning.message)
        assert "'fake'" in str(warning.message)

    @pytest.mark.parametrize(
        "operation",
        [
            lambda r: r.open_storage("other").close(),
            lambda r: r.get_default_storage().close(),
            lambda r: r.create_storage("other").close(),
            lambda r: r.register(Factory("third")),
            lambda r: r.unregister("other"),
            lambda r: r.commit([]),
            lambda r: r.sweep(),
        ],
        ids=["open", "default", "create", "register", "unregister", "commit", "sweep"],
    )
    def test_every_ordinary_operation_finds_it(
        self, registry: StorageProviderRegistry, operation: Callable[[StorageProviderRegistry], object]
    ) -> None:
        factory = Factory()
        registry.register(factory)
        registry.register(Factory("other"))
        registry.set_default("other")
        drop(registry, own=True)
        with one_warning("'fake'"):
            operation(registry)
        assert (registry.get_provider_info("fake").instance_count, factory.open_count) == (0, 0)

    def test_one_that_was_closed_is_none(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        for acquire in (registry.open_storage, registry.create_storage):
            acquire("fake").close()
            with acquire("fake"):
                pass
        assert not registry._openings.dropped
        registry.sweep()  # a warning would be an error here

    def test_after_the_registry_was_closed_there_is_nothing_to_say(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())
        storage = registry.open_storage("fake")
        registry.close()
        del storage
        gc.collect()
        registry.sweep()

    def test_lets_a_retiring_provider_leave(self, registry: StorageProviderRegistry) -> None:
        left: list[str] = []
        registry.on_retired(left.append)
        registry.register(Factory())
        storage = registry.open_storage("fake")
        registry.retire(registry.commit([Change("fake", registry.snapshot()["fake"], None)]))
        del storage
        gc.collect()
        with one_warning():
            registry.sweep()
        assert (left, "fake" in registry) == (["fake"], False)

    def test_in_a_cycle_it_is_found_by_the_collector(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        ring: list[Any] = [registry.open_storage("fake")]
        ring.append(ring)
        del ring
        gc.collect()
        with one_warning():
            registry.unregister("fake")

    def test_where_warnings_are_errors_no_bystander_fails(
        self, registry: StorageProviderRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported: list[BaseException | None] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda it: reported.append(it.exc_value))
        registry.register(Factory())
        drop(registry)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            registry.unregister("fake")
        assert [type(error) for error in reported] == [ResourceWarning]

    def test_the_finalizer_takes_no_lock_and_calls_nobody(self, registry: StorageProviderRegistry) -> None:
        factory = Factory()
        registry.register(factory)
        storage = registry.create_storage("fake")
        # As if the collector ran in the middle of an operation.
        with registry._generations.lock:
            del storage
            gc.collect()
        assert factory.open_count == 1
        with one_warning():
            registry.sweep()
        assert factory.open_count == 0

    def test_one_whose_backend_hangs_keeps_nobody_from_other_providers(
        self, registry: StorageProviderRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.openings.CLOSE_PATIENCE_SECONDS", 0.01)
        gate = Gate()
        registry.register(Factory(on_close=gate))
        registry.register(Factory("other"))
        drop(registry, own=True)
        with one_warning():
            registry._openings.drain(0.01)
        registry.open_storage("other").close()
        with pytest.raises(ProviderInUseError):  # it counts until it is closed
            registry.unregister("fake")
        gate.open()
        until(lambda: not registry.get_provider_info("fake").instance_count)
        registry.unregister("fake")


class TestADroppedRecorder:
    def test_keeps_its_storage(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        recorder = registry.open_storage("fake").record("s-1", tape_id="t-1")
        gc.collect()
        registry.sweep()
        recorder.append("client_to_server", b"{}")
        assert registry.get_provider_info("fake").instance_count == 1
        recorder.finalize()
        del recorder
        with one_warning():
            registry.unregister("fake")

    @pytest.mark.parametrize("kept", [False, True], ids=["both dropped", "only the recorder was kept"])
    def test_leaves_a_whole_tape_that_is_aborted_and_free(
        self, registry: StorageProviderRegistry, tmp_path: Path, kept: bool
    ) -> None:
        registry.register(FilesystemProviderFactory(), config={"directory": str(tmp_path)})
        storage = registry.open_storage("filesystem")
        recorder = storage.record("s-1", tape_id="t-1")
        recorder.append("client_to_server", b"{}")
        if kept:
            del storage
            gc.collect()
            recorder.append("client_to_server", b"{}")
            del recorder
        else:
            del storage, recorder
        gc.collect()
        with one_warning():
            registry.sweep()
        with registry.open_storage("filesystem") as again:
            assert again.get_meta("t-1")[0]["status"] == "aborted"
            assert len(list(again.read("t-1"))) == 2 + kept
            again.resume("t-1")[0].finalize()

    def test_a_storage_that_is_kept_keeps_it_open(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        storage = registry.open_storage("fake")
        storage.record("s-1", tape_id="t-1")
        gc.collect()
        assert [tape.tape_id for tape in storage.use.tapes] == ["t-1"]
        with pytest.raises(Exception, match="still recording on t-1"):
            storage.close()
        storage.__exit__(ValueError, ValueError(), None)


class Slotted:
    __slots__ = ("closes",)
    storage_type = "slotted"

    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        self.closes += 1


class Equal(Slotted):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 1


class Unhashable(Slotted):
    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


class Connection(sqlite3.Connection):
    closes = 0

    def __init__(self) -> None:
        super().__init__(":memory:", check_same_thread=False)

    def close(self) -> None:
        self.closes += 1
        super().close()


class TestBackendsOfAnyKind:
    @pytest.mark.parametrize("kind", [Slotted, Equal, Unhashable, Connection])
    def test_are_counted_and_closed_each_on_its_own(
        self, registry: StorageProviderRegistry, kind: type[Any]
    ) -> None:
        made: list[Any] = []

        class Maker(Factory):
            def create(self, *_: object) -> Any:
                made.append(kind())
                return made[-1]

        registry.register(Maker())
        first, second = registry.create_storage("fake"), registry.create_storage("fake")
        first.close()
        assert [backend.closes for backend in made] == [1, 0]
        del second
        gc.collect()
        with one_warning():
            registry.sweep()
        assert [backend.closes for backend in made] == [1, 1]

    def test_a_tuple_is_one_too(self, registry: StorageProviderRegistry) -> None:
        class Pair(tuple[int, int]):
            __slots__ = ()

            def close(self) -> None: ...

        class Maker(Factory):
            def create(self, *_: object) -> Any:
                return Pair((1, 2))

        registry.register(Maker())
        with registry.open_storage("fake") as one, registry.create_storage("fake") as other:
            assert (one.storage_type, other.storage_type) == ("Pair", "Pair")
            assert registry.get_provider_info("fake").instance_count == 2


class TestTheRuntime:
    def test_sweeps_when_nobody_does_anything(self, tmp_path: Path) -> None:
        swept = threading.Event()
        runtime = Runtime(None)
        sweep = runtime.registry.sweep

        def look() -> None:
            sweep()
            if "fake" in runtime.registry and not runtime.registry.get_provider_info("fake").instance_count:
                swept.set()

        runtime.registry.register(Factory())
        drop(runtime.registry)
        runtime.registry.sweep = look  # type: ignore[method-assign]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with runtime:
                runtime.start()
                assert swept.wait(10)


class TestCapturing:
    def test_can_be_switched_off(self) -> None:
        registry = StorageProviderRegistry(capture_acquisition=False)
        registry.register(Factory())
        with Running(lambda: registry.open_storage("fake"), name="somebody").result():
            (holder,) = registry.holders("fake")
        assert (holder.acquired_at, holder.thread) == ("unknown", "somebody")
        registry.close()


class TestInAnotherProcess:
    def test_a_stress_of_cycles_and_threads_never_hangs(self) -> None:
        program = """
import faulthandler, gc, threading, warnings
faulthandler.dump_traceback_later(25, exit=True)
warnings.simplefilter("ignore")
gc.set_threshold(5)
from shadowcat_registry.registry import StorageProviderRegistry
from tests.fakes import Factory
registry = StorageProviderRegistry()
registry.register(Factory())
def work():
    for _ in range(300):
        ring = [registry.open_storage("fake")]
        ring.append(ring)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.collect()
registry.unregister("fake")
print(len(registry))
"""
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.stdout.strip(), done.stderr) == ("0", "")
