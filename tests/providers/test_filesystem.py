from __future__ import annotations

import contextlib
import errno
import json
import logging
import multiprocessing
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import (
    InvalidMetadataError,
    InvalidTapeError,
    StorageFullError,
    StorageUnavailableError,
    SyncFailedError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
)
from shadowcat_registry.providers import filesystem
from shadowcat_registry.providers.filesystem import FilesystemProviderFactory, locks
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, make_init_line

from ..fakes import Running
from ..storages import DATA, Context, handle, open_backend

C2S: Direction = "client_to_server"
START = datetime(2026, 11, 22, tzinfo=UTC)
posix = pytest.mark.skipif(os.name == "nt", reason="modes, links and signals of POSIX")
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to mount")


@pytest.fixture
def tapes(tmp_path: Path) -> Path:
    return tmp_path / "tapes"


@pytest.fixture
def storage(tmp_path: Path, tapes: Path) -> Iterator[TapeStorage]:
    with handle(open_backend("filesystem", tmp_path)) as opened:
        yield opened


def frames(storage: TapeStorage, tape_id: str) -> list[Any]:
    return [
        record["env"]["message"]
        for record in map(json.loads, storage.read(tape_id))
        if record["type"] == "frame"
    ]


def run_python(code: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """A process of its own, on the package as the tests see it."""
    root = Path(filesystem.__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], env=environment, **options
    )


OPEN = """
import logging, os, sys
from pathlib import Path
from shadowcat_registry.providers.filesystem.backend import FilesystemBackend
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.use import Source, Use
def open_storage(directory):
    backend = FilesystemBackend(Path(directory), logging.getLogger("child"))
    return TapeStorage(Use(Source.of(backend, "p")))
"""


class TestFiles:
    def test_a_tape_is_two_files_in_a_flat_directory(self, storage: TapeStorage, tapes: Path) -> None:
        storage.record("s", tape_id="t").finalize()
        assert sorted(path.name for path in tapes.iterdir()) == [".lock", "t.jsonl", "t.meta.json"]

    @posix
    def test_they_are_the_owners_alone_and_so_is_what_was_created_of_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir(mode=0o755)
        backend = open_backend("filesystem", tmp_path, {"directory": "there/a/b"})
        with handle(backend) as storage:
            storage.record("s", tape_id="t").finalize()
        modes = {
            path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
            for path in tmp_path.rglob("*")
        }
        assert modes == {
            "there": 0o755, "there/a": 0o700, "there/a/b": 0o700,
            "there/a/b/.lock": 0o600, "there/a/b/t.jsonl": 0o600, "there/a/b/t.meta.json": 0o600,
        }  # fmt: skip

    def test_the_directory_may_be_absolute(self, tmp_path: Path) -> None:
        open_backend("filesystem", tmp_path / "base", {"directory": str(tmp_path / "other")})
        assert [path.name for path in tmp_path.iterdir()] == ["other"]

    def test_a_failed_creation_leaves_nothing(
        self, storage: TapeStorage, tapes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for name in ("write", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fail)
                with pytest.raises(StorageFullError):
                    storage.record("s", tape_id="t")
            assert [path.name for path in tapes.iterdir()] == [".lock"]
        storage.record("s", tape_id="t").finalize()

    def test_what_a_killed_creator_left_is_replaced(self, storage: TapeStorage, tapes: Path) -> None:
        (tapes / "t.jsonl").touch()
        (tapes / "t.meta.json").write_text("{}")
        assert storage.list().items == ()
        storage.record("s", tape_id="t").finalize()
        assert storage.get_meta("t")[0]["status"] == "finalized"


class TestForeignFiles:
    def test_what_is_no_tape_is_not_listed(self, storage: TapeStorage, tapes: Path) -> None:
        init = make_init_line("x", "s", START)
        (tapes / "dir.jsonl").mkdir()
        (tapes / "empty.jsonl").touch()
        (tapes / "text.jsonl").write_text("hello\n")
        (tapes / "cut.jsonl").write_bytes(init[:-1])
        (tapes / "bad id.jsonl").write_bytes(init)
        (tapes / "nul.jsonl").write_bytes(init)
        (tapes / "other.json").write_bytes(init)
        (tapes / "good.jsonl").write_bytes(init)
        assert [item["tape_id"] for item in storage.list().items] == ["good"]
        assert storage.stats().tape_count == 1

    @posix
    def test_a_link_or_a_pipe_is_never_followed(
        self, storage: TapeStorage, tapes: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "secret.jsonl"
        target.write_bytes(make_init_line("x", "s", START))
        (tapes / "link.jsonl").symlink_to(target)
        os.mkfifo(tapes / "pipe.jsonl")
        (tapes / "dir.jsonl").mkdir()
        assert storage.list().items == ()
        for tape_id in ("link", "pipe", "dir"):
            uses: list[Callable[[str], object]] = [
                storage.get_meta, storage.read, storage.resume, storage.delete,
            ]  # fmt: skip
            for use in uses:
                with pytest.raises(TapeNotFoundError):
                    use(tape_id)
            with pytest.raises(TapeExistsError):
                storage.record("s", tape_id=tape_id)
        assert target.exists()

    def test_a_tape_without_metadata_has_what_its_init_line_says(
        self, storage: TapeStorage, tapes: Path
    ) -> None:
        init = make_init_line("inside", "s-9", START)
        (tapes / "copied.jsonl").write_bytes(init)
        meta, etag = storage.get_meta("copied")
        assert (meta["tape_id"], meta["session_id"], meta["status"]) == ("copied", "s-9", "aborted")
        assert meta["stats"] == {"file_size_bytes": len(init)}
        assert storage.list().items == (meta,)
        storage.set_meta("copied", {**meta, "name": "kept"}, etag)
        assert storage.get_meta("copied")[0]["name"] == "kept"
        recorder, _ = storage.resume("copied")
        recorder.finalize()
        assert storage.get_meta("copied")[0]["status"] == "finalized"

    def test_broken_metadata_breaks_no_listing(
        self, storage: TapeStorage, tapes: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for tape_id in ("a", "b"):
            storage.record("s", tape_id=tape_id).finalize()
        (tapes / "a.meta.json").write_text("{")
        with caplog.at_level(logging.WARNING):
            assert [(i["tape_id"], i["status"]) for i in storage.list().items] == [
                ("a", "aborted"), ("b", "finalized"),
            ]  # fmt: skip
        assert "tape a" in caplog.text
        with pytest.raises(InvalidMetadataError):
            storage.get_meta("a")
        storage.set_meta("a", {"status": "finalized"})
        assert storage.get_meta("a")[0] == {"status": "finalized"}

    def test_what_is_no_tape_is_not_resumed_and_not_changed(self, storage: TapeStorage, tapes: Path) -> None:
        for content in (b"hello\nworld", b"torn init line"):
            (tapes / "x.jsonl").write_bytes(content)
            with pytest.raises(InvalidTapeError):
                storage.resume("x")
            assert (tapes / "x.jsonl").read_bytes() == content


class TestTornTail:
    @pytest.mark.parametrize("size", [1, 70_000, (1 << 20) + 5])
    def test_who_asks_for_it_gets_it_last(self, storage: TapeStorage, tapes: Path, size: int) -> None:
        storage.record("s", tape_id="t").finalize()
        whole = list(storage.read("t"))
        assert list(storage.read("t", raw=True)) == whole
        with (tapes / "t.jsonl").open("ab") as file:
            file.write(b"x" * size)
        assert list(storage.read("t")) == whole
        assert list(storage.read("t", raw=True)) == [*whole, b"x" * size]

    def test_who_follows_gets_it_once_it_is_whole(self, storage: TapeStorage, tapes: Path) -> None:
        storage.record("s", tape_id="t").detach()
        lines = storage.follow("t")
        next(lines)
        waiting = Running(lambda: next(lines))
        with (tapes / "t.jsonl").open("ab", buffering=0) as file:
            file.write(b'{"type":"frame",')
            file.write(b'"seq":0}\n{"type"')
            assert waiting.result() == b'{"type":"frame","seq":0}\n'
            file.write(b':"frame","seq":1}\n')
            assert next(lines) == b'{"type":"frame","seq":1}\n'
        lines.close()

    def test_readers_hold_it_back_and_resume_sets_it_aside(self, storage: TapeStorage, tapes: Path) -> None:
        storage.record("s", tape_id="t").finalize()
        for torn in (b'{"type":"frame","seq":0', b"more"):
            before = (tapes / "t.jsonl").read_bytes()
            with (tapes / "t.jsonl").open("ab") as file:
                file.write(torn)
            assert b"".join(storage.read("t")) == before
            recorder, report = storage.resume("t")
            assert report.torn_bytes == len(torn)
            assert report.set_aside == str(tapes / "t.torn")
            assert (tapes / "t.jsonl").read_bytes() == before
            recorder.append(C2S, b"1")
            recorder.finalize()
        assert (tapes / "t.torn").read_bytes() == b'{"type":"frame","seq":0more'
        assert frames(storage, "t") == [1, 1]
        storage.delete("t")
        assert [path.name for path in tapes.iterdir()] == [".lock"]

    def test_resume_without_one_sets_nothing_aside(self, storage: TapeStorage, tapes: Path) -> None:
        storage.record("s", tape_id="t").finalize()
        recorder, report = storage.resume("t")
        recorder.finalize()
        assert (report.torn_bytes, report.set_aside) == (0, None)
        assert not (tapes / "t.torn").exists()


class Disk:
    """Stands in for `os.write`: takes `room` bytes, then fails as a full disk does, shortly first."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room, self.error, self._write = room, error, os.write

    def __call__(self, fd: int, data: Any) -> int:
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))
        written = self._write(fd, bytes(data)[: self.room])
        self.room -= written
        return written


class TestFullDisk:
    @pytest.mark.parametrize("room", [0, 1, 100, 250])
    def test_a_refused_write_is_undone_and_recording_goes_on(
        self, storage: TapeStorage, tapes: Path, monkeypatch: pytest.MonkeyPatch, room: int
    ) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"0")
            before = (tapes / "t.jsonl").read_bytes()
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", Disk(room))
                with pytest.raises(StorageFullError, match=r"t\.jsonl"):
                    tape.append_many([(C2S, b"1" * 120), (C2S, b"2" * 200)])
            assert (tapes / "t.jsonl").read_bytes() == before
            assert tape.append(C2S, b"3") == 1
        assert frames(storage, "t") == [0, 3]

    def test_a_short_write_is_continued(self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"0")
            tape.append_many([(C2S, b"1"), (C2S, b"2")])
        monkeypatch.undo()
        assert frames(storage, "t") == [0, 1, 2]

    def test_what_could_not_be_undone_is_undone_before_the_next_frame(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, "broken")

        with storage.record("s", tape_id="t") as tape:
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", Disk(10))
                patch.setattr(os, "ftruncate", refuse)
                with pytest.raises(StorageFullError):
                    tape.append(C2S, b"0")
            with monkeypatch.context() as patch:
                patch.setattr(os, "ftruncate", refuse)
                with pytest.raises(StorageUnavailableError):
                    tape.append(C2S, b"0")
            assert list(storage.read("t"))[1:] == []
            assert tape.append(C2S, b"1") == 0
        assert frames(storage, "t") == [1]

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_FSIZE as Linux has it")
    def test_a_limit_of_the_process_is_a_full_storage(self, tapes: Path) -> None:
        child = run_python(
            OPEN
            + """
import resource
from shadowcat_registry.errors import StorageFullError
storage = open_storage(sys.argv[1])
tape = storage.record("s", tape_id="t")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
count = 0
try:
    while True:
        tape.append("client_to_server", b"x" * 1000); count += 1
except StorageFullError:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert tape.append("client_to_server", b"1") == count
tape.finalize(); storage.close(); print(count)
""",
            str(tapes),
            stdout=subprocess.PIPE,
        )
        out, _ = child.communicate(timeout=30)
        assert child.returncode == 0
        lines = (tapes / "t.jsonl").read_bytes().splitlines()
        assert int(out) > 10
        assert len(lines) == int(out) + 2
        assert all(json.loads(line) or True for line in lines if b"xxx" not in line)

    @as_root
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs")
    def test_a_real_small_disk_fills_up_and_recovers(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount")
        try:
            (disk / "ballast").write_bytes(b"x" * 100_000)
            with handle(open_backend("filesystem", disk)) as storage:
                tape = storage.record("s", tape_id="t")
                count = 0
                with contextlib.suppress(StorageFullError):
                    while True:
                        tape.append(C2S, b"1" * 3000)
                        count += 1
                assert len(list(storage.read("t"))) == count + 1
                (disk / "ballast").unlink()
                assert tape.append(C2S, b"2") == count
                tape.finalize()
                assert frames(storage, "t")[-1] == 2
                assert storage.get_meta("t")[0]["stats"]["frame_count"] == count + 1
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


class TestReadOnly:
    @as_root
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts of Linux")
    def test_a_mount_can_be_read_and_says_why_it_cannot_be_written(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount")
        try:
            with (
                handle(open_backend("filesystem", disk)) as storage,
                storage.record("s", tape_id="t") as tape,
            ):
                tape.append(C2S, b"1")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            with handle(open_backend("filesystem", disk)) as storage:
                assert frames(storage, "t") == [1]
                assert [item["tape_id"] for item in storage.list().items] == ["t"]
                assert len(list(storage.follow("t"))) == 2
                uses: list[Callable[[], object]] = [
                    lambda: storage.record("s"),
                    lambda: storage.resume("t"),
                    lambda: storage.set_meta("t", {}),
                    lambda: storage.delete("t"),
                ]
                for use in uses:
                    with pytest.raises(StorageUnavailableError, match="Read-only"):
                        use()
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


class TestVanishedDirectory:
    @posix
    def test_everything_says_so_with_a_typed_error(self, tmp_path: Path, tapes: Path) -> None:
        storage = handle(open_backend("filesystem", tmp_path))
        tape = storage.record("s", tape_id="t")
        tape.append(C2S, b"1")
        tapes.rename(tmp_path / "moved")
        for use in (storage.list, storage.stats, lambda: storage.record("s")):
            with pytest.raises(StorageUnavailableError, match="tapes"):
                use()
        with pytest.raises(TapeNotFoundError):
            storage.get_meta("t")
        (tmp_path / "moved" / "t.jsonl").unlink()
        tape._appender._look_at = 0.0  # type: ignore[attr-defined]  # the time to look again has come
        with pytest.raises(SyncFailedError, match="removed while it is recorded"):
            tape.flush(durable=True)
        with pytest.raises(StorageUnavailableError, match="removed while it is recorded"):
            tape.append(C2S, b"2")
        with pytest.raises(SyncFailedError):
            tape.finalize()
        storage.close()


class TestOneWriter:
    def test_two_storages_on_one_directory_exclude_each_other(
        self, storage: TapeStorage, tmp_path: Path
    ) -> None:
        with handle(open_backend("filesystem", tmp_path)) as other:
            with storage.record("s", tape_id="t"):
                with pytest.raises(TapeBusyError) as caught:
                    other.resume("t")
                assert caught.value.pid == (os.getpid() if sys.platform == "linux" else None)
                with pytest.raises(TapeBusyError):
                    other.delete("t")
                with pytest.raises(TapeExistsError):
                    other.record("s", tape_id="t")
            other.delete("t")

    def test_another_process_is_excluded_until_it_dies(self, storage: TapeStorage, tapes: Path) -> None:
        child = run_python(
            OPEN
            + """
tape = open_storage(sys.argv[1]).record("s", tape_id="t")
tape.append("client_to_server", b"1")
print("recording", flush=True)
sys.stdin.read()
""",
            str(tapes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == b"recording"
            with pytest.raises(TapeBusyError):
                storage.resume("t")
            assert frames(storage, "t") == [1]
            child.kill()
            child.wait()
        recorder, report = storage.resume("t")
        with recorder:
            recorder.append(C2S, b"2")
        assert report.last_seq == 0
        assert frames(storage, "t") == [1, 2]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
    def test_a_forked_child_does_not_keep_the_tape_of_its_parent(self, storage: TapeStorage) -> None:
        context = multiprocessing.get_context("fork")
        tape = storage.record("s", tape_id="t")
        release = context.Event()
        child = context.Process(target=release.wait)
        child.start()
        try:
            tape.finalize()
            storage.resume("t")[0].finalize()
        finally:
            release.set()
            child.join()

    def test_without_fcntl_it_holds_within_the_process(
        self, storage: TapeStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "_fcntl", None)
        with handle(open_backend("filesystem", tmp_path)) as other:
            with storage.record("s", tape_id="t") as tape:
                with pytest.raises(TapeBusyError):
                    other.resume("t")
                with pytest.raises(TapeBusyError):
                    other.delete("t")
                tape.append(C2S, b"1")
            other.resume("t")[0].finalize()
            other.delete("t")
        assert locks._held_here == set()

    @posix
    def test_a_file_system_without_locks_is_refused(
        self, storage: TapeStorage, tapes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class NoLocks:
            LOCK_EX = LOCK_NB = LOCK_UN = 0

            @staticmethod
            def flock(fd: int, operation: int) -> None:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(locks, "_fcntl", NoLocks)
        with pytest.raises(StorageUnavailableError, match=r"Operation not supported: .*tapes"):
            storage.record("s", tape_id="t")
        assert not (tapes / "t.jsonl").exists()


class TestFactory:
    @pytest.mark.parametrize("directory", ["", "a\0b", 7])
    def test_what_is_no_path_is_refused(self, directory: object) -> None:
        with pytest.raises(ValueError, match="not a path"):
            FilesystemProviderFactory().validate_config({"directory": directory})

    def test_what_is_a_path_is_accepted(self) -> None:
        FilesystemProviderFactory().validate_config({"directory": "./tapes"})

    def test_a_check_touches_nothing(self, tmp_path: Path) -> None:
        FilesystemProviderFactory().check({"directory": "a/b"}, Context(tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_the_way_fails_the_check_and_the_creation(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for directory in ("file", "file/below"):
            config = {"directory": directory}
            with pytest.raises(StorageUnavailableError, match="Not a directory"):
                FilesystemProviderFactory().check(config, Context(tmp_path))
            with pytest.raises(NotADirectoryError):
                FilesystemProviderFactory().create(config, Context(tmp_path))

    @posix
    def test_a_directory_that_cannot_be_written_fails_the_check(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
        with pytest.raises(StorageUnavailableError, match="no permission to create"):
            FilesystemProviderFactory().check({"directory": "a"}, Context(tmp_path))
        with pytest.raises(StorageUnavailableError, match="no permission to write to"):
            FilesystemProviderFactory().check({"directory": "."}, Context(tmp_path))

    @pytest.mark.parametrize("type_name", ["filesystem", "memory"])
    def test_the_schema_is_valid_and_agrees_with_the_defaults(self, type_name: str) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        path = DATA.parents[1] / "schemas" / "providers" / f"{type_name}.schema.json"
        if not path.exists():
            pytest.skip("the schemas are not beside the tests")
        schema = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        defaults = {
            key: field["default"] for key, field in schema["properties"].items() if "default" in field
        }
        jsonschema.Draft202012Validator(schema).validate(defaults)
        assert not jsonschema.Draft202012Validator(schema).is_valid({**defaults, "typo": 1})
