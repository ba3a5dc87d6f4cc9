"""Several processes on one tapes file: who waits, who is refused, who dies, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import (
    RegistryForkedError,
    StorageFullError,
    StorageUnavailableError,
    TapeBusyError,
    TransactionError,
)
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction

from ..children import run_python
from ..storages import handle, open_backend

C2S: Direction = "client_to_server"
posix = pytest.mark.skipif(os.name == "nt", reason="signals and forks of POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to mount")
linux = pytest.mark.skipif(sys.platform != "linux", reason="as Linux has it")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[TapeStorage]:
    backend = open_backend("sqlite", tmp_path)
    with handle(backend) as opened:
        yield opened
    backend.close()


def frames(storage: TapeStorage, tape_id: str) -> list[Any]:
    return [json.loads(line)["env"]["message"] for line in list(storage.read(tape_id))[1:]]


class TestOneWriter:
    def test_another_process_is_excluded_until_it_dies(self, storage: TapeStorage, tmp_path: Path) -> None:
        child = run_python(
            """
            tape = open_storage("sqlite", sys.argv[1]).record("s", tape_id="t")
            tape.append("client_to_server", b"1")
            print("recording", flush=True)
            sys.stdin.read()
            """,
            str(tmp_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == b"recording"
            for use in (storage.resume, storage.delete):
                with pytest.raises(TapeBusyError) as caught:
                    use("t")
                if sys.platform == "linux":
                    assert caught.value.pid == child.pid
                    assert f"process {child.pid}" in str(caught.value)
            assert frames(storage, "t") == [1]
            assert storage.stats().size_bytes > len(next(storage.read("t")))
            child.kill()
            child.wait()
        recorder, report = storage.resume("t")
        with recorder:
            recorder.append(C2S, b"2")
        assert report.last_seq == 0
        assert frames(storage, "t") == [1, 2]

    def test_two_storages_of_one_process_exclude_each_other(
        self, storage: TapeStorage, tmp_path: Path
    ) -> None:
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as other:
            with storage.record("s", tape_id="t"):
                with pytest.raises(TapeBusyError) as caught:
                    other.resume("t")
                assert caught.value.pid == os.getpid()
            other.resume("t")[0].abort()
        backend.close()
        with storage.record("s", tape_id="u"), pytest.raises(TapeBusyError):  # its lock outlived the other
            storage.resume("u")

    def test_a_write_waits_for_that_of_another_process_and_no_longer_than_it_may(
        self, tmp_path: Path
    ) -> None:
        backend = open_backend("sqlite", tmp_path, {"busy_timeout_ms": 50})
        child = run_python(
            """
            storage = open_storage("sqlite", sys.argv[1])
            with storage.transaction():
                storage.record("s", tape_id="mine").finalize()
                print("writing", flush=True)
                sys.stdin.readline()
            print("done", flush=True)
            """,
            str(tmp_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with handle(backend) as storage, child:
            assert child.stdout is not None
            assert child.stdin is not None
            assert child.stdout.readline() == b"writing\n"
            assert storage.list().items == ()  # readers do not wait
            with pytest.raises(StorageUnavailableError, match="busy_timeout_ms") as caught:
                storage.record("s", tape_id="t")
            assert caught.value.retryable
            child.stdin.write(b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"done\n"
            storage.record("s", tape_id="t").finalize()
            assert [item["tape_id"] for item in storage.list_all()] == ["mine", "t"]
        backend.close()

    @pytest.mark.parametrize("number", range(3))
    def test_of_two_processes_that_make_the_file_both_have_it(self, tmp_path: Path, number: int) -> None:
        code = """
            print("ready", flush=True)
            sys.stdin.readline()
            storage = open_storage("sqlite", sys.argv[1])
            with storage.record("s", tape_id=sys.argv[2]) as tape:
                for n in range(50):
                    tape.append("client_to_server", b"%d" % n)
            storage.close()
            """
        children = [
            run_python(code, str(tmp_path), f"t{n}", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for n in range(2)
        ]
        with contextlib.ExitStack() as stack:
            for child in children:
                stack.enter_context(child)
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
            for child in children:
                assert child.stdin is not None
                child.stdin.write(b"\n")
                child.stdin.flush()
            assert [child.wait(30) for child in children] == [0, 0]
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            for n in range(2):
                assert frames(storage, f"t{n}") == list(range(50))
        backend.close()


@posix
class TestKill:
    RECORD = """
        storage = open_storage("sqlite", sys.argv[1])
        tape = storage.record("s", tape_id=sys.argv[2])
        n = 0
        while True:
            if n % 5:
                seq = tape.append("client_to_server", b'"%d %s"' % (n, b"x" * (n * 7919 % 60_000)))
            else:
                seq = tape.append_many(
                    ("client_to_server", b'"%d b"' % m) for m in range(n, n + 300)
                )[-1]
            os.write(1, b"%d\\n" % seq)
            n = seq + 1
        """

    def kill_and_look(self, tmp_path: Path, count: int) -> None:
        chance = random.Random(7)
        for number in range(count):
            tape_id = f"t{number}"
            child = run_python(self.RECORD, str(tmp_path), tape_id, stdout=subprocess.PIPE)
            with child:
                assert child.stdout is not None
                for _ in range(chance.randrange(1, 120)):
                    assert child.stdout.readline()
                child.send_signal(signal.SIGKILL)
                acknowledged = -1
                for line in child.stdout:
                    if line.endswith(b"\n"):
                        acknowledged = int(line)
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as storage:
                found = frames(storage, tape_id)
                assert len(found) > acknowledged
                assert [int(message.split()[0]) for message in found] == list(range(len(found)))
                assert len(storage.search(f'"{len(found) - 1}').items) >= 1
                assert storage.stats().size_bytes > sum(len(line) for line in storage.read(tape_id))
                recorder, report = storage.resume(tape_id)
                with recorder:
                    assert recorder.append(C2S, b'"on"') == len(found) == report.last_seq + 1
                assert frames(storage, tape_id) == [*found, "on"]
                if number % 2:
                    storage.delete(tape_id)
            backend.close()

    @pytest.mark.ci
    def test_no_acknowledged_frame_is_lost_nor_what_is_found_by_search(self, tmp_path: Path) -> None:
        self.kill_and_look(tmp_path, 10)

    @pytest.mark.long
    def test_not_in_sixty_runs_either(self, tmp_path: Path) -> None:
        self.kill_and_look(tmp_path, 60)

    def churn_and_look(self, tmp_path: Path, count: int) -> None:
        """Creating, deleting, indexing and moving pages, killed anywhere: the file stays whole."""
        chance = random.Random(11)
        for _ in range(count):
            child = run_python(
                """
                storage = open_storage("sqlite", sys.argv[1])
                n = 0
                while True:
                    with storage.record("s", tags=["x"]) as tape:
                        tape.append_many(("client_to_server", b'"word%d"' % i * 50) for i in range(1200))
                    if n % 2:
                        storage.delete(storage.list(limit=1).items[0]["tape_id"])
                    os.write(1, b".")
                    n += 1
                """,
                str(tmp_path),
                stdout=subprocess.PIPE,
            )
            with child:
                assert child.stdout is not None
                child.stdout.read(chance.randrange(1, 4))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(chance.random() / 10)
                child.kill()
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as storage:
                assert list(backend.damages()) == []  # type: ignore[attr-defined]
                tapes = [item["tape_id"] for item in storage.list_all()]
                hits = storage.search("word7", limit=1000).items
                assert {hit.tape_id for hit in hits} == {
                    tape_id for tape_id in tapes if len(list(storage.read(tape_id))) > 1
                }
                size_bytes = sum(len(line) for tape_id in tapes for line in storage.read(tape_id))
                assert storage.stats().size_bytes > size_bytes
            backend.close()

    def test_a_file_that_is_changed_in_every_way_stays_whole(self, tmp_path: Path) -> None:
        self.churn_and_look(tmp_path, 1)

    @pytest.mark.ci
    def test_it_does_so_five_times(self, tmp_path: Path) -> None:
        self.churn_and_look(tmp_path, 5)

    @pytest.mark.long
    def test_it_does_so_fifty_times(self, tmp_path: Path) -> None:
        self.churn_and_look(tmp_path, 50)


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    disk = directory / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@as_root
@linux
class TestDisk:
    def test_one_that_fills_up_keeps_what_was_acknowledged_and_goes_on_later(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "12m") as disk:
            (disk / "ballast").write_bytes(b"x" * 3_000_000)
            backend = open_backend("sqlite", disk, {"min_free_bytes": 1 << 20})
            with handle(backend) as storage:
                tape = storage.record("s", tape_id="t")
                count = 0
                with contextlib.suppress(StorageFullError):
                    while True:
                        tape.append(C2S, b'"%s"' % (b"1" * 3000))
                        count += 1
                assert count > 300
                assert len(list(storage.read("t"))) == count + 1
                storage.list()
                (disk / "ballast").unlink()
                assert tape.append(C2S, b"2") == count
                tape.finalize()
                assert frames(storage, "t")[-1] == 2
                assert storage.get_meta("t")[0]["stats"]["frame_count"] == count + 1
                assert list(backend.damages()) == []  # type: ignore[attr-defined]
                storage.delete("t")
            backend.close()

    @pytest.mark.parametrize("ballast", range(9_000_000, 9_400_000, 50_000))
    def test_one_that_is_full_to_the_last_block_does_not_end_the_process(
        self, tmp_path: Path, ballast: int
    ) -> None:
        with small_disk(tmp_path, "12m") as disk:
            child = run_python(
                """
                from shadowcat_registry.errors import StorageError
                from shadowcat_registry.providers.sqlite import connections
                connections.Connections._check_space = lambda *_: None  # as if others filled it in between
                disk = Path(sys.argv[1])
                backend = open_backend("sqlite", disk)
                storage = handle(backend)
                tape = storage.record("s", tape_id="t")
                (disk / "ballast").write_bytes(b"x" * int(sys.argv[2]))
                count = 0
                try:
                    while True:
                        tape.append("client_to_server", b'"%s"' % (b"1" * 3000)); count += 1
                except StorageError as error:
                    print(type(error).__name__)
                assert len(list(storage.read("t"))) == count + 1
                (disk / "ballast").unlink()
                tape.append("client_to_server", b"2")
                tape.finalize()
                assert len(list(storage.read("t"))) == count + 2
                assert not list(backend.damages())
                storage.close(); backend.close()
                """,
                str(disk),
                str(ballast),
                stdout=subprocess.PIPE,
            )
            out, _ = child.communicate(timeout=50)
            assert (child.returncode, out) == (0, b"StorageFullError\n")

    def test_one_that_can_only_be_read_says_so(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "12m") as disk:
            backend = open_backend("sqlite", disk, {"min_free_bytes": 1 << 20})
            with handle(backend) as storage:
                storage.record("s", tape_id="t").finalize()
            backend.close()
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            with pytest.raises(OSError, match=r"Read-only file system|can only be read"):
                open_backend("sqlite", disk)
            with pytest.raises(OSError, match=r"Read-only file system|can only be read"):
                open_backend("sqlite", disk, {"path": "new.db"})


@posix
class TestFork:
    @staticmethod
    def in_child(call: Any) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(30)
                call()
                code = 0
            except BaseException:  # noqa: BLE001 - of a child that must not go on with the tests
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

    def test_the_child_has_a_file_of_its_own_and_the_parent_goes_on(
        self, storage: TapeStorage, tmp_path: Path
    ) -> None:
        tape = storage.record("s", tape_id="parents")
        tape.append(C2S, b"1")

        def child() -> None:
            with pytest.raises(RegistryForkedError):
                storage.use.source.backend.stats()
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as own:
                with pytest.raises(TapeBusyError) as caught:
                    own.resume("parents")
                assert caught.value.pid in {None, os.getppid()}
                with own.record("s", tape_id="childs") as mine:
                    mine.append(C2S, b"2")
                assert frames(own, "parents") == [1]
            backend.close()

        self.in_child(child)
        tape.append(C2S, b"3")
        tape.finalize()
        assert frames(storage, "parents") == [1, 3]
        assert frames(storage, "childs") == [2]
        assert list(storage.use.source.backend.damages()) == []  # type: ignore[attr-defined]

    def test_the_locks_of_the_parent_end_with_the_parent(self, tmp_path: Path) -> None:
        child = run_python(
            """
            tape = open_storage("sqlite", sys.argv[1]).record("s", tape_id="t")
            if os.fork() == 0:
                os.write(1, b"forked\\n")
                sys.stdin.read()
                os._exit(0)
            import signal
            os.wait()
            """,
            str(tmp_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage, child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"forked\n"
            with pytest.raises(TapeBusyError):
                storage.resume("t")
            child.kill()
            child.wait()
            storage.resume("t")[0].abort()  # while the grandchild lives, with all that it inherited
        backend.close()

    def test_with_other_threads_in_the_middle_of_it(self, storage: TapeStorage, tmp_path: Path) -> None:
        done = threading.Event()
        counts = [0, 0]

        def work(number: int) -> None:
            with storage.record("s", tape_id=f"t{number}") as tape:
                while not done.is_set():
                    tape.append(C2S, b"%d" % counts[number])
                    list(storage.read(f"t{number}", counts[number] - 1))
                    counts[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()

        def child() -> None:
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as own:
                own.record("s").finalize()
            backend.close()

        try:
            for _ in range(5):
                self.in_child(child)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        for number in range(2):
            assert frames(storage, f"t{number}") == list(range(counts[number]))
        assert storage.stats().tape_count == 7

    def test_in_a_transaction_the_child_is_told_and_the_parent_goes_on(
        self, storage: TapeStorage, tmp_path: Path
    ) -> None:
        def child() -> None:
            with pytest.raises(RegistryForkedError, match="transaction"):
                open_backend("sqlite", tmp_path)
            backend = open_backend("sqlite", tmp_path, {"path": "another.db"})
            with handle(backend) as own:
                own.record("s").finalize()
            backend.close()

        with storage.transaction():
            storage.record("s", tape_id="t").finalize()
            self.in_child(child)
            with pytest.raises(TransactionError), storage.transaction():
                pass
        assert [item["tape_id"] for item in storage.list_all()] == ["t"]
