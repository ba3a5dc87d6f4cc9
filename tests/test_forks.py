"""A forked child: it works with backends of its own, refuses what is the parent's, and touches none of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

BEFORE = """
import faulthandler, os, signal, sys, threading, warnings
# Not `dump_traceback_later`: a child would wait for the watchdog of its parent.
faulthandler.register(signal.SIGALRM, chain=True)  # says where everybody is, then ends the process
signal.alarm(20)
warnings.filterwarnings("ignore", category=DeprecationWarning)  # newer Pythons warn of forks with threads
from pathlib import Path
import shadowcat_registry as sr
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.providers.filesystem import FilesystemProviderFactory
from tests.fakes import Factory, Gate, Running

directory = Path(sys.argv[1])

def in_child(call):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status

def raises(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")
"""


def run(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


class TestTheRegistry:
    def test_the_child_opens_storages_of_its_own_and_closes_only_those(self, tmp_path: Path) -> None:
        run(
            """
registry = StorageProviderRegistry()
factory = Factory()
registry.register(factory)
storage = registry.open_storage("fake")

def child():
    with registry.open_storage("fake") as own:
        assert own.use.source.backend is not storage.use.source.backend
        with own.record("s") as tape:
            tape.append("client_to_server", b"{}")
    assert registry.get_provider_info("fake").instance_count == 0, "the parent's lease is not ours"
    registry.register(Factory("another"))
    registry.close()
    assert [backend.close_count for backend in factory.backends] == [0, 1]

in_child(child)
assert [backend.close_count for backend in factory.backends] == [0]
storage.close()
registry.unregister("fake")
""",
            tmp_path,
        )

    def test_it_never_waits_for_a_lock_that_somebody_held(self, tmp_path: Path) -> None:
        run(
            """
registry = StorageProviderRegistry()
registry.register(Factory())
registry.register(Factory("other"))
storage = registry.open_storage("fake")
recorder = storage.record("s", tape_id="t-1")
catalog = sr.Catalog()
gate = Gate()

def hold():
    assert storage.use.lock is registry._generations.lock
    with registry._generations.lock, recorder.tape.lock, catalog._lock:
        gate()

holding = Running(hold)
gate.reached()

def child():
    registry.open_storage("fake").close()
    registry.set_default("fake")
    registry.unregister("other")
    catalog.factory("memory")
    catalog.add(Factory("mine"))
    raises(sr.RegistryForkedError, lambda: recorder.append("client_to_server", b"{}"))
    raises(sr.RegistryForkedError, storage.stats)
    recorder.abort()
    storage.close()

in_child(child)
gate.open()
holding.result()
recorder.finalize()
storage.close()
""",
            tmp_path,
        )

    def test_a_construction_in_the_parent_is_none_in_the_child(self, tmp_path: Path) -> None:
        run(
            """
gate = Gate()
registry = StorageProviderRegistry()
factory = Factory(on_create=gate)
registry.register(factory)
opening = Running(lambda: registry.open_storage("fake"))
gate.reached()

def child():
    factory.on_create = None
    registry.open_storage("fake").close()
    registry.unregister("fake")

in_child(child)
gate.open()
opening.result().close()
""",
            tmp_path,
        )

    def test_one_that_is_retiring_stays_behind_with_its_holders(self, tmp_path: Path) -> None:
        run(
            """
from shadowcat_registry.generations import Change
registry = StorageProviderRegistry()
registry.register(Factory())
registry.register(Factory("other"))
storage = registry.open_storage("fake")
registry.retire(registry.commit([Change("fake", registry.snapshot()["fake"], None)]))

def child():
    assert list(registry) == ["other"]
    registry.register(Factory())

in_child(child)
assert list(registry) == ["fake", "other"]
storage.close()
assert list(registry) == ["other"]
""",
            tmp_path,
        )

    def test_the_awaitable_names_work_in_the_child(self, tmp_path: Path) -> None:
        run(
            """
import asyncio
registry = StorageProviderRegistry()
registry.register(Factory())

class Async(Factory):
    async def acreate(self, config, context):
        return Factory.create(self, config, context)

registry.register(Async("async"))

async def use():
    async with await registry.aopen_storage("async") as storage:
        async with await storage.arecord("s") as tape:
            await tape.aappend("client_to_server", b"{}")

asyncio.run(use())  # the private loop runs now
in_child(lambda: asyncio.run(use()))
asyncio.run(use())
registry.close()
""",
            tmp_path,
        )


class TestTapes:
    def test_the_child_writes_nothing_to_what_the_parent_records(self, tmp_path: Path) -> None:
        run(
            """
registry = StorageProviderRegistry()
registry.register(FilesystemProviderFactory(), config={"directory": str(directory)})
storage = registry.open_storage("filesystem")
recorder = storage.record("s", tape_id="t-1")
recorder.append("client_to_server", b"{}")
meta = (directory / "t-1.meta.json").read_bytes()

def child():
    global storage, recorder
    text = raises(sr.RegistryForkedError, lambda: recorder.append("client_to_server", b"{}"))
    assert "reopen" in text
    raises(sr.RegistryForkedError, recorder.finalize)
    raises(sr.RegistryForkedError, lambda: storage.record("s"))
    raises(sr.RegistryForkedError, lambda: storage.read("t-1"))
    recorder.abort()
    recorder.detach()
    with registry.open_storage("filesystem") as own:
        raises(sr.TapeBusyError, lambda: own.resume("t-1"))  # the parent's lock holds
    storage.__exit__(None, None, None)
    storage.close()
    storage = recorder = None
    import gc
    gc.collect()
    registry.sweep()
    registry.close()

in_child(child)
assert (directory / "t-1.meta.json").read_bytes() == meta
recorder.append("client_to_server", b"{}")
with registry.open_storage("filesystem") as own:
    raises(sr.TapeBusyError, lambda: own.resume("t-1"))
recorder.finalize()
assert len(list(storage.read("t-1"))) == 3
storage.close()
registry.close()
""",
            tmp_path,
        )

    def test_a_reader_of_the_parent_refuses_in_the_child_and_goes_on_in_the_parent(
        self, tmp_path: Path
    ) -> None:
        run(
            """
registry = StorageProviderRegistry()
registry.register(FilesystemProviderFactory(), config={"directory": str(directory)})
storage = registry.open_storage("filesystem")
with storage.record("s", tape_id="t-1") as recorder:
    recorder.append_many([("client_to_server", b"{}")] * 5)
reader = storage.reader("t-1")
begun = reader.read()
next(begun)
passing, go_on = Gate(), reader._opened.reader
holding = Running(lambda: go_on._passing.acquire() and passing())  # in the middle of its pass
passing.reached()

def child():
    global reader, storage, begun
    text = raises(sr.RegistryForkedError, lambda: reader.frame(0))
    assert "reopen" in text and "t-1" in text
    raises(sr.RegistryForkedError, reader.read)
    raises(sr.RegistryForkedError, lambda: list(begun))
    raises(sr.RegistryForkedError, reader.__enter__)
    with registry.open_storage("filesystem") as own, own.reader("t-1") as again:
        assert b'"seq":4,' in again.frame(4)
    other = reader
    reader.close()
    reader = storage = begun = other = None
    import gc
    gc.collect()
    registry.close()

in_child(child)
passing.open()
holding.result()
go_on._passing.release()
assert b'"seq":4,' in reader.frame(4)
assert len(list(begun)) == 5
reader.close()
storage.close()
registry.close()
""",
            tmp_path,
        )

    def test_a_block_that_the_child_leaves_by_its_exit_is_the_parents(self, tmp_path: Path) -> None:
        run(
            """
registry = StorageProviderRegistry()
registry.register(FilesystemProviderFactory(), config={"directory": str(directory)})
with registry.open_storage("filesystem") as storage, storage.record("s", tape_id="t-1") as tape:
    pid = os.fork()
    if pid == 0:
        sys.exit(0)  # through the blocks, and through atexit
    assert os.waitpid(pid, 0)[1] == 0
    tape.append("client_to_server", b"{}")
with registry.open_storage("filesystem") as storage:
    assert storage.get_meta("t-1")[0]["status"] == "finalized"
""",
            tmp_path,
        )

    def test_a_fork_in_the_middle_of_a_change_keeps_no_lock_of_the_directory(self, tmp_path: Path) -> None:
        run(
            """
registry = StorageProviderRegistry()
registry.register(FilesystemProviderFactory(), config={"directory": str(directory)})
storage = registry.open_storage("filesystem")
backend = storage.use.source.backend
read_end, write_end = os.pipe()
with backend._directory_lock():
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)  # lives on, with a copy of the descriptor
        os._exit(0)
storage.record("s", tape_id="t-1").finalize()
os.close(write_end)
os.waitpid(pid, 0)
storage.close()
""",
            tmp_path,
        )


class TestTheRuntime:
    def test_does_not_follow_in_the_child_and_can_be_opened_anew(self, tmp_path: Path) -> None:
        run(
            """
manifest = directory / "registry.yaml"
manifest.write_text("version: 1\\ndefaults: {provider: memory}\\nproviders: {memory: {type: memory}}\\n")
runtime = sr.initialize_storage(manifest)
storage = runtime.registry.get_default_storage()

def child():
    assert runtime.status().state == "stopped"
    assert not runtime.status().watch.is_running
    assert "reopen" in raises(sr.RegistryForkedError, runtime.reload)
    runtime.close()
    assert threading.active_count() == 1
    with sr.initialize_storage(manifest) as again:  # as in a worker of a preloaded server
        assert again.status().state == "ok"
        with again.registry.get_default_storage() as own:
            own.record("s").finalize()
        assert again.reload().result == "unchanged"

in_child(child)
assert runtime.status().state == "ok"
assert runtime.reload().result == "unchanged"
storage.record("s").finalize()
storage.close()
runtime.close()
""",
            tmp_path,
        )

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_multiprocessing_works_either_way(self, tmp_path: Path, method: str) -> None:
        (tmp_path / "program.py").write_text(
            f"""
import multiprocessing, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)
import shadowcat_registry as sr
def work(directory):
    sr.register_builtin_providers()
    with sr.STORAGE_REGISTRY.create_storage("filesystem", {{"directory": directory}}) as storage:
        storage.record("s", tape_id="t-1").finalize()
if __name__ == "__main__":
    sr.register_builtin_providers()
    held = sr.STORAGE_REGISTRY.open_storage("memory")
    context = multiprocessing.get_context({method!r})
    process = context.Process(target=work, args=({str(tmp_path / "tapes")!r},))
    process.start()
    process.join(20)
    assert process.exitcode == 0, process.exitcode
    held.close()
"""
        )
        done = subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "tapes" / "t-1.jsonl").exists()
