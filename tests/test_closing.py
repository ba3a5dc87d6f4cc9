"""Every close ends: what hangs or fails is named, and keeps nobody else from closing."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from shadowcat_registry.bounded import call_each
from shadowcat_registry.errors import ProviderInUseError
from shadowcat_registry.generations import Change
from shadowcat_registry.metadata import ProviderSpec
from shadowcat_registry.registry import StorageProviderRegistry

from .fakes import PATIENCE_SECONDS, Factory, Gate, Running, until

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def _opened(registry: StorageProviderRegistry, *factories: Factory) -> None:
    for factory in factories:
        registry.register(factory)
        registry.open_storage(factory.name).close()


class TestCallEach:
    def test_calls_in_order_each_after_the_one_before(self) -> None:
        order: list[int] = []
        assert (
            call_each([partial(order.append, number) for number in range(5)], PATIENCE_SECONDS) == [None] * 5
        )
        assert order == [0, 1, 2, 3, 4]

    def test_one_that_hangs_leaves_time_for_the_others(self, gate: Gate) -> None:
        done: list[int] = []
        late = call_each([gate, partial(done.append, 1), gate, partial(done.append, 2)], 0.05)
        assert done == [1, 2]
        assert [seconds is not None for seconds in late] == [True, False, True, False]

    def test_who_is_late_may_go_on_while_there_is_time(self, gate: Gate) -> None:
        late = call_each([gate, gate.open], 4.0)
        assert late == [None, None]

    def test_where_no_thread_is_to_be_had_it_calls_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: object) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        done: list[int] = []
        monkeypatch.setattr("threading.Thread.start", refuse)
        assert call_each([partial(done.append, 1)], 1.0) == [None]
        assert done == [1]


class TestClose:
    def test_says_that_all_is_well_by_saying_nothing(self) -> None:
        registry = StorageProviderRegistry()
        _opened(registry, Factory())
        assert registry.close() == ()

    def test_names_what_hangs_and_closes_the_rest_in_reverse_order(
        self, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry, order = StorageProviderRegistry(), []
        first = Factory("first", on_close=lambda: order.append("first"))
        last = Factory("last", on_close=lambda: order.append("last"))
        _opened(registry, first, Factory("stuck", on_close=gate), last)
        (left,) = registry.close(timeout_seconds=0.05)
        assert order == ["last", "first"]
        assert (left.provider, left.revision, left.reason) == ("stuck", 1, "still closing, and left alone")
        assert left.after_seconds > 0
        assert f"the storage of {left}" in caplog.text

    def test_names_what_fails_with_what_and_how_long_it_took(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail() -> None:
            raise OSError("password=hunter2")

        registry = StorageProviderRegistry()
        _opened(registry, Factory("a"), Factory("b", on_close=fail))
        (failed,) = registry.close()
        assert str(failed).startswith("provider 'b', revision 1: failed with OSError, after 0.")
        assert "closing the storage of provider 'b' failed, after 0." in caplog.text

    def test_what_hangs_counts_until_it_has_closed(self, gate: Gate) -> None:
        registry = StorageProviderRegistry()
        registry.register(Factory(on_close=gate))
        storage = registry.open_storage("fake")
        assert len(registry.close(timeout_seconds=0.01)) == 1
        registry.register(Factory())
        with pytest.raises(ProviderInUseError) as caught:
            registry.unregister("fake")
        assert caught.value.holders[0].acquired_at.startswith(__file__)
        gate.open()
        until(lambda: not registry.get_provider_info("fake").instance_count)
        registry.unregister("fake")
        storage.close()

    def test_names_who_still_holds_something_but_no_backend_that_stands_on_another(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = StorageProviderRegistry()
        above = Factory("above", on_create=lambda _, context: context.open("below"))
        _opened(registry, Factory("below"), above)
        with caplog.at_level(logging.WARNING):
            assert registry.close() == ()
            assert not caplog.messages
        _opened(registry, Factory("below"), above)
        held = registry.open_storage("above")
        registry.close()
        (message,) = caplog.messages
        assert f"provider 'above' is closed under its holder {__file__}:" in message
        held.close()

    def test_a_backend_may_use_the_registry_while_it_closes(self) -> None:
        registry = StorageProviderRegistry()
        _opened(registry, Factory(on_close=lambda: registry.close()))
        assert registry.close() == ()


class TestRetire:
    def test_a_reload_does_not_wait_for_ever_for_what_it_replaced(
        self, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = StorageProviderRegistry()
        other = Factory("other")
        _opened(registry, Factory(on_close=gate), other)
        changes = []
        for name in ("fake", "other"):
            new = registry.stage(ProviderSpec(name, name, {"n": 2}), Factory(name), origin="manifest")
            changes.append(Change(name, registry.snapshot()[name], new))
        registry.retire(registry.commit(changes), 0.05)
        assert other.open_count == 0
        assert "provider 'fake', revision 1: still closing, and left alone" in caplog.text
        gate.open()
        until(lambda: len(registry._openings.tally._revisions["fake"]) == 1)

    def test_a_sweep_says_once_who_has_been_closing_for_long(
        self, gate: Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shadowcat_registry.openings.CLOSE_PATIENCE_SECONDS", -1.0)
        registry = StorageProviderRegistry()
        registry.register(Factory(on_close=gate))
        storage = registry.create_storage("fake")
        closing = Running(storage.close)
        gate.reached()
        registry.sweep()
        registry.sweep()
        assert caplog.text.count("provider 'fake', revision 1: still closing") == 1
        gate.open()
        closing.result()


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import faulthandler; faulthandler.dump_traceback_later(25, exit=True)\n" + program,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TestTheExit:
    def test_closes_what_is_open_the_last_opened_first(self) -> None:
        done = _run(
            """
from shadowcat_registry.registry import StorageProviderRegistry
from tests.fakes import Factory
registry = StorageProviderRegistry()
for name in ("a", "b"):
    registry.register(Factory(name, on_close=lambda name=name: print("closed", name, flush=True)))
    registry.open_storage(name).close()
print("end", flush=True)
"""
        )
        assert (done.stdout.split("\n"), done.returncode) == (["end", "closed b", "closed a", ""], 0)

    def test_is_not_held_up_for_ever(self) -> None:
        done = _run(
            """
import threading, sys
import shadowcat_registry.exits as exits
from shadowcat_registry.registry import StorageProviderRegistry
from tests.fakes import Factory
exits._EXIT_SECONDS = 0.3
registry = StorageProviderRegistry()
hang = threading.Event().wait if sys.version_info[:3] not in ((3, 12, 0), (3, 12, 1)) else lambda: None
registry.register(Factory("a", on_close=lambda: print("closed a", flush=True)))
registry.register(Factory("b", on_close=hang))
for name in ("a", "b"):
    registry.open_storage(name).close()
"""
        )
        assert (done.stdout, done.returncode) == ("closed a\n", 0)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows knows but one of the three")
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_closes_in_a_child_of_multiprocessing_what_that_opened(self, tmp_path: Path, method: str) -> None:
        (tmp_path / "program.py").write_text(
            f"""
import multiprocessing, os
from shadowcat_registry.registry import StorageProviderRegistry
from tests.fakes import Factory

def register(who):
    registry = StorageProviderRegistry()
    registry.register(Factory(who, on_close=lambda: print(who, "closed", os.getpid() == main, flush=True)))
    return registry

main = os.getpid()
mine = register("parent")

def work(parent):
    global main
    main = parent
    own = register("child")
    own.open_storage("child").close()

if __name__ == "__main__":
    mine.open_storage("parent").close()
    process = multiprocessing.get_context({method!r}).Process(target=work, args=(main,))
    process.start()
    process.join()
    print("child ended", process.exitcode, flush=True)
"""
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "program.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        said = ["child closed False", "child ended 0", "parent closed True"]
        assert (done.stdout.splitlines(), done.stderr, done.returncode) == (said, "", 0)

    def test_does_not_keep_a_registry_alive(self) -> None:
        registry = StorageProviderRegistry()
        _opened(registry, Factory())
        reference = weakref.ref(registry)
        del registry
        gc.collect()
        assert reference() is None
