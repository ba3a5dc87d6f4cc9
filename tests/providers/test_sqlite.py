"""The file of the sqlite provider: whose it is, how it comes up to date, what damage and deletion do."""

from __future__ import annotations

import json
import logging
import os
import random
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.backend import TapeQuery, TapeStorageBackend
from shadowcat_registry.errors import (
    InvalidMetadataError,
    StorageClosedError,
    StorageDamagedError,
    StorageFullError,
    StorageUnavailableError,
    TapeBusyError,
    TapeNotFoundError,
)
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.providers import sqlite
from shadowcat_registry.providers.sqlite import (
    SqliteProviderFactory,
    connections,
    files,
    frame_reader,
    layout,
    segments,
)
from shadowcat_registry.providers.sqlite.backend import SqliteBackend
from shadowcat_registry.recorder import TapeRecorder
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction

from ..storages import DATA, Context, handle, open_backend

C2S: Direction = "client_to_server"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tapes.db"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[TapeStorage]:
    backend = open_backend("sqlite", tmp_path)
    with handle(backend) as opened:
        yield opened
    backend.close()


def backend_of(storage: TapeStorage) -> SqliteBackend:
    backend = storage.use.source.backend
    assert isinstance(backend, SqliteBackend)
    return backend


def refused(tmp_path: Path, pattern: str) -> None:
    for use in (SqliteProviderFactory().check, SqliteProviderFactory().create):
        with pytest.raises(StorageUnavailableError, match=pattern):
            use({}, Context(tmp_path))


def record(storage: TapeStorage, tape_id: str, count: int = 3, size: int = 10) -> None:
    with storage.record("s", tape_id=tape_id) as tape:
        tape.append_many((C2S, b'"%d %s"' % (n, b"x" * size)) for n in range(count))


class TestFile:
    def test_it_is_the_owners_alone_and_so_is_what_was_created_of_the_way(self, tmp_path: Path) -> None:
        backend = open_backend("sqlite", tmp_path, {"path": "a/b/t.db"})
        with handle(backend) as storage:
            record(storage, "t")
            if os.name != "nt":
                for each in ("a", "a/b"):
                    assert stat.S_IMODE((tmp_path / each).stat().st_mode) == 0o700
                found = {
                    each.name: stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "a/b").iterdir()
                }
                assert found == dict.fromkeys(("t.db", "t.db-wal", "t.db-shm", "t.db-lock"), 0o600)
        backend.close()
        assert {each.name for each in (tmp_path / "a/b").iterdir()} == {"t.db", "t.db-lock"}

    def test_it_says_whose_it_is_and_shrinks(self, storage: TapeStorage, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            values = [
                db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "journal_mode", "auto_vacuum")
            ]
        assert values == [layout.APPLICATION_ID, len(layout.MIGRATIONS), "wal", 2]

    @pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\0"])
    def test_what_is_no_sqlite_file_is_refused_and_left_alone(
        self, tmp_path: Path, path: Path, content: bytes
    ) -> None:
        path.write_bytes(content)
        refused(tmp_path, "is no SQLite file, and was left alone")
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]

    def test_somebody_elses_is_refused_and_left_alone(self, tmp_path: Path, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE mine (x)")
            db.commit()
        content = path.read_bytes()
        refused(tmp_path, "another application")
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]

    def test_one_that_is_newer_is_refused_and_left_alone(self, tmp_path: Path, path: Path) -> None:
        open_backend("sqlite", tmp_path).close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
        content = path.read_bytes()
        refused(tmp_path, r"newer shadowcat-registry \(layout 99, this one knows up to 1\).*upgrade")
        assert path.read_bytes() == content

    def test_an_older_one_is_migrated_once_and_keeps_its_tapes(
        self, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            record(storage, "t")
        backend.close()
        runs: list[int] = []

        def migrate(db: sqlite3.Connection) -> None:
            runs.append(1)
            db.execute("ALTER TABLE tape ADD COLUMN note TEXT")

        monkeypatch.setattr(layout, "MIGRATIONS", (*layout.MIGRATIONS, migrate))
        for _ in range(2):
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as storage:
                assert len(list(storage.read("t"))) == 4
            backend.close()
        assert runs == [1]
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (2,)

    def test_a_migration_that_fails_changes_nothing(
        self, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_backend("sqlite", tmp_path).close()

        def migrate(db: sqlite3.Connection) -> None:
            db.execute("CREATE TABLE half (x)")
            db.execute("no SQL")

        with monkeypatch.context() as patch:
            patch.setattr(layout, "MIGRATIONS", (*layout.MIGRATIONS, migrate))
            with pytest.raises(StorageUnavailableError):
                open_backend("sqlite", tmp_path)
        backend = open_backend("sqlite", tmp_path)
        with closing(sqlite3.connect(path)) as db:
            assert not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchall()
        backend.close()

    def test_a_sqlite_that_is_too_old_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
        refused(tmp_path, r"3\.37\.0 or newer is needed")
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_file_becomes_one(self, tmp_path: Path, path: Path) -> None:
        path.touch()
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            record(storage, "t")
        backend.close()

    def test_one_that_could_not_be_made_is_not_there(
        self, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(db: sqlite3.Connection) -> None:
            db.execute("no SQL")

        with monkeypatch.context() as patch:
            patch.setattr(layout, "MIGRATIONS", (*layout.MIGRATIONS, fail))
            with pytest.raises(StorageUnavailableError):
                open_backend("sqlite", tmp_path)
        assert [each.name for each in tmp_path.iterdir()] == ["tapes.db-lock"]

    def test_a_directory_in_its_place_is_refused(self, tmp_path: Path, path: Path) -> None:
        path.mkdir()
        with pytest.raises(StorageUnavailableError, match="Not a regular file"):
            SqliteProviderFactory().check({}, Context(tmp_path))
        with pytest.raises(StorageUnavailableError, match="Not a regular file"):
            SqliteProviderFactory().create({}, Context(tmp_path))

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
    def test_a_pipe_in_its_place_blocks_nobody(self, tmp_path: Path, path: Path) -> None:
        os.mkfifo(path)
        refused(tmp_path, "Not a regular file")

    def test_a_check_touches_nothing(self, tmp_path: Path) -> None:
        SqliteProviderFactory().check({"path": "a/b.db"}, Context(tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_a_check_of_an_open_one_drops_no_lock(self, tmp_path: Path, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            SqliteProviderFactory().check({}, Context(tmp_path))
            open_backend("sqlite", tmp_path).close()
            code = "import sys, fcntl; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, 2 | 4, 1, 1)"
            from ..children import run_python

            with run_python(code, str(tmp_path / "tapes.db-lock"), stderr=-1) as child:
                _, err = child.communicate(timeout=30)
            assert b"BlockingIOError" in err
            tape.append(C2S, b"1")

    @pytest.mark.parametrize("value", ["", "a\0b", 7])
    def test_what_is_no_path_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="not a path"):
            SqliteProviderFactory().validate_config({"path": value})

    def test_the_schema_agrees_with_the_defaults(self) -> None:
        schema_path = DATA.parents[1] / "schemas" / "providers" / "sqlite.schema.json"
        if not schema_path.exists():
            pytest.skip("the schemas are not beside the tests")
        fields = json.loads(schema_path.read_text(encoding="utf-8"))["properties"]
        assert fields["path"]["default"] == sqlite._DEFAULT_PATH
        assert fields["busy_timeout_ms"]["default"] == sqlite._BUSY_TIMEOUT_MS
        assert fields["min_free_bytes"]["default"] == sqlite._MIN_FREE_BYTES
        shared = json.loads((schema_path.parent / "filesystem.schema.json").read_text(encoding="utf-8"))
        for name in ("durability", "sync_interval_ms"):
            assert fields[name] == shared["properties"][name]

    def test_a_link_leads_to_the_file_and_its_locks(self, tmp_path: Path, path: Path) -> None:
        link = tmp_path / "link.db"
        try:
            link.symlink_to(path)
        except OSError:
            pytest.skip("this system makes no links")
        one, other = open_backend("sqlite", tmp_path), open_backend("sqlite", tmp_path, {"path": "link.db"})
        with handle(one) as storage, handle(other) as through, storage.record("s", tape_id="t"):  # noqa: SIM117
            with pytest.raises(TapeBusyError):
                through.resume("t")
        one.close()
        other.close()


class TestRemovedFile:
    @pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
    def test_a_recorder_is_told_that_its_file_has_no_name_any_more(
        self, storage: TapeStorage, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_LOOK_SECONDS", 0)
        tape = storage.record("s", tape_id="t")
        tape.append(C2S, b"1")
        path.unlink()
        with pytest.raises(StorageUnavailableError, match="No such file"):
            tape.append(C2S, b"2")
        path.write_bytes(b"")
        with pytest.raises(StorageUnavailableError, match="another file is in its place"):
            tape.append(C2S, b"2")
        tape.detach()


class TestDamage:
    def test_a_flipped_bit_is_an_error_about_its_tape_only(self, tmp_path: Path, path: Path) -> None:
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            for tape_id in ("a", "b", "c"):
                record(storage, tape_id, 50, 3000)
            with storage.record("s", tape_id="b2") as tape:
                tape.append(C2S, b'"needle"')
        backend.close()
        content = path.read_bytes()
        with closing(sqlite3.connect(path)) as db:
            blob = db.execute(
                "SELECT lines FROM segment WHERE key >> 32 = 2 ORDER BY key DESC LIMIT 1"
            ).fetchone()[0]
        at = content.index(blob[1000:1500])  # in tape a, b and c alike: the second is meant
        at = content.index(blob[1000:1500], at + 1)
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            lengths: list[int] = []
            errors: list[StorageDamagedError] = []
            for tape_id in ("a", "b", "b2", "c"):
                try:
                    lengths.append(len(list(storage.read(tape_id))))
                except StorageDamagedError as error:
                    errors.append(error)
                    assert error.tape_id == tape_id  # noqa: PT017 - which one it is, is chance
            assert sorted(lengths) == [2, 51, 51]
            assert [error.retryable for error in errors] == [False]
            assert "a block from its line 2 on has changed" in str(errors[0])
            assert len(storage.search("needle").items) == 1
            assert len(list(backend_of(storage).damages())) == 1
            record(storage, "d")
            for tape_id in ("a", "b", "b2", "c", "d"):
                storage.delete(tape_id)
            assert storage.stats().tape_count == 0
        backend.close()

    @pytest.mark.parametrize("seed", range(12))
    def test_no_broken_page_ends_the_process_or_escapes_as_something_else(
        self, tmp_path: Path, path: Path, seed: int
    ) -> None:
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            for number in range(8):
                record(storage, f"t{number}", 20, 1000)
        backend.close()
        chance = random.Random(seed)
        content = bytearray(path.read_bytes())
        for _ in range(3):  # not the first page: without that it is no file of ours
            page = chance.randrange(1, len(content) // 4096) * 4096
            content[page : page + 4096] = chance.randbytes(4096)
        path.write_bytes(content)
        allowed = (
            StorageDamagedError,
            StorageUnavailableError,
            TapeNotFoundError,
            InvalidMetadataError,
            ValueError,
        )
        good = 0
        try:
            backend = open_backend("sqlite", tmp_path)
        except allowed:
            return
        with handle(backend) as storage:
            for number in range(8):
                for use in (
                    lambda tape_id: sum(map(len, storage.read(tape_id))),
                    storage.get_meta,
                    lambda _: storage.list(),
                    lambda _: storage.search("0"),
                    lambda _: storage.stats(),
                    lambda _: list(backend_of(storage).damages()),
                    storage.delete,
                ):
                    try:
                        use(f"t{number}")
                        good += 1
                    except allowed:
                        pass
        backend.close()


class TestSpace:
    def test_the_file_shrinks_after_a_deletion(self, storage: TapeStorage, path: Path) -> None:
        for number in range(6):
            record(storage, f"t{number}", 300, 2000)
        full = path.stat().st_size
        for number in range(1, 6):
            storage.delete(f"t{number}")
        assert path.stat().st_size < full / 3
        storage.delete("t0")
        assert path.stat().st_size < full / 20

    def test_what_a_killed_deletion_left_is_cleared_away_by_the_next(
        self, storage: TapeStorage, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record(storage, "a", 300, 2000)
        record(storage, "b")
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint")
        full = path.stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr("shadowcat_registry.providers.sqlite.upkeep.clear_away", lambda *_: None)
            storage.delete("a")
        assert [item["tape_id"] for item in storage.list_all()] == ["b"]
        assert [hit.tape_id for hit in storage.search("0").items] == ["b"]
        storage.delete("b")
        assert path.stat().st_size < full / 3

    def test_a_floor_of_free_space_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not hasattr(os, "statvfs"):
            pytest.skip("this system does not tell")
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            tape = storage.record("s", tape_id="t")
            tape.append(C2S, b"1")
            real = os.statvfs(tmp_path)
            monkeypatch.setattr(connections, "_SPACE_SECONDS", -1)  # what was seen before does not count

            class Status:
                f_bavail, f_frsize = 1000, 4096

            monkeypatch.setattr(os, "statvfs", lambda _: Status)
            with pytest.raises(StorageFullError, match="min_free_bytes"):
                tape.append(C2S, b"2")
            assert storage.get_meta("t")[0]["status"] == "recording"
            monkeypatch.setattr(os, "statvfs", lambda _: real)
            assert tape.append(C2S, b"3") == 1
            tape.finalize()
        backend.close()

    def test_a_tape_can_be_ended_and_deleted_below_the_floor(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tape = storage.record("s", tape_id="t")
        tape.append(C2S, b"1")
        monkeypatch.setattr(
            connections.Connections, "_check_space", lambda *_: (_ for _ in ()).throw(StorageFullError("x"))
        )
        tape.finalize()
        assert storage.get_meta("t")[0]["status"] == "finalized"
        storage.delete("t")


class TestSegments:
    def test_a_long_batch_is_cut_and_read_back_in_chunks(
        self, storage: TapeStorage, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segments, "_SEGMENT_BYTES", 500)
        monkeypatch.setattr(segments, "_CHUNK_BYTES", 1000)
        record(storage, "t", 200, 100)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM segment").fetchone()[0] > 40
        lines = list(storage.read("t"))
        assert len(lines) == 201
        for after in (0, 1, 57, 198, 199, 500):
            assert list(storage.read("t", after)) == lines[after + 2 :]

    @pytest.mark.parametrize("seqs", [[5, 3, 9, 1], [0, 0, 0], [2, 1, 0], [7], []])
    def test_seqs_in_any_order_are_found_as_in_a_file(self, storage: TapeStorage, seqs: list[int]) -> None:
        from shadowcat_registry.tape import lines_after

        with storage.record("s", tape_id="t") as tape:
            for seq in seqs:
                tape.append_lines([b'{"type":"frame","seq":%d}\n' % seq, b"no record\n"])
        lines = list(storage.read("t"))
        for after in range(-1, 11):
            assert list(storage.read("t", after)) == list(lines_after(lines, after))

    def test_a_seq_beyond_all_bounds_is_only_a_line(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_lines([b'{"type":"frame","seq":%d}\n' % 10**30])
        assert len(list(storage.read("t"))) == 2

    def test_a_reader_of_a_deleted_tape_is_told_in_the_middle(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segments, "_SEGMENT_BYTES", 500)
        monkeypatch.setattr(segments, "_CHUNK_BYTES", 500)
        record(storage, "t", 50, 100)
        reader = storage.read("t")
        next(reader)
        storage.delete("t")
        record(storage, "t", 50, 100)  # of the same name, and yet another tape
        with pytest.raises(TapeNotFoundError):
            list(reader)

    def test_an_interrupted_append_is_neither_lost_nor_doubled(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tape = storage.record("s", tape_id="t")
        tape.append(C2S, b"1")
        real = connections.Connections.insert

        def interrupted(self: connections.Connections, *row: Any) -> None:
            real(self, *row)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(connections.Connections, "insert", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tape.append(C2S, b"2")  # it is in: only nobody was told
        tape.append(C2S, b"3")
        tape.finalize()
        assert [json.loads(line)["env"]["message"] for line in list(storage.read("t"))[1:]] == [1, 2, 3]

    def test_a_reader_that_a_deletion_overtakes_is_told_that_too(
        self, storage: TapeStorage, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segments, "_SEGMENT_BYTES", 500)
        monkeypatch.setattr(segments, "_CHUNK_BYTES", 500)
        record(storage, "t", 50, 100)
        reader = storage.read("t")
        next(reader)
        with closing(sqlite3.connect(path)) as db:  # the deletion, and the first part of clearing away
            db.execute("INSERT INTO doomed SELECT no, indexed FROM tape")
            db.execute("DELETE FROM tape")
            db.execute("DELETE FROM segment WHERE key IN (SELECT key FROM segment ORDER BY key LIMIT 4)")
            db.commit()
        with pytest.raises(TapeNotFoundError):
            list(reader)

    def test_what_a_transaction_raises_is_its_own_affair(self, storage: TapeStorage) -> None:
        def fail() -> None:
            with backend_of(storage).transaction(), closing(sqlite3.connect(":memory:")) as db:
                db.execute("no SQL of ours")

        with pytest.raises(sqlite3.OperationalError, match="syntax error"):
            fail()

    def test_a_lock_file_that_was_removed_is_still_ours(self, storage: TapeStorage, tmp_path: Path) -> None:
        with storage.record("s", tape_id="t"):
            (tmp_path / "tapes.db-lock").unlink()
            other = open_backend("sqlite", tmp_path)
            with handle(other) as through, pytest.raises(TapeBusyError):
                through.resume("t")
            other.close()


class TestWithoutFts5:
    @pytest.fixture
    def plain(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TapeStorageBackend]:
        monkeypatch.setattr(files, "has_fts5", lambda _: False)
        backend = open_backend("sqlite", tmp_path)
        yield backend
        backend.close()

    def test_everything_but_the_search_works(self, plain: TapeStorageBackend) -> None:
        with handle(plain) as storage:
            assert storage.capabilities == {ProviderCapability.LOCAL_STORAGE, ProviderCapability.TRANSACTIONS}
            record(storage, "t", 1500)
            assert len(list(storage.read("t"))) == 1501
            storage.delete("t")

    def test_what_it_recorded_is_found_by_one_that_has_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(files, "has_fts5", lambda _: False)
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as storage:
                record(storage, "t", 1500)
            backend.close()
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            assert [hit.seq for hit in storage.search("1499").items] == [1499]
            record(storage, "u")
        backend.close()
        with monkeypatch.context() as patch:  # and deleted without it: the index is behind, and nobody minds
            patch.setattr(files, "has_fts5", lambda _: False)
            backend = open_backend("sqlite", tmp_path)
            with handle(backend) as storage:
                storage.delete("t")
            backend.close()
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            assert storage.search("1499").items == ()
            assert [hit.tape_id for hit in storage.search("2").items] == ["u"]
        backend.close()

    def test_it_can_be_turned_off(self, tmp_path: Path) -> None:
        backend = open_backend("sqlite", tmp_path, {"search": False})
        with handle(backend) as storage:
            assert ProviderCapability.SEARCH not in storage.capabilities
            record(storage, "t", 1500)
            storage.delete("t")
        backend.close()


class TestCatchingUp:
    def test_a_search_that_finds_all_indexed_waits_for_no_writer(self, tmp_path: Path) -> None:
        backend = open_backend("sqlite", tmp_path, {"busy_timeout_ms": 0})
        with handle(backend) as storage, storage.record("s", tape_id="live") as tape:
            tape.append(C2S, b'"zebra"')
            assert len(storage.search("zebra").items) == 1
            found: list[object] = []
            with storage.transaction():
                thread = threading.Thread(target=lambda: found.extend(storage.search("zebra").items))
                thread.start()
                thread.join()
            assert len(found) == 1
        backend.close()

    def test_what_a_search_settles_is_not_what_somebody_writes(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage.record("s", tape_id="t").detach()
        with closing(sqlite3.connect(backend_of(storage)._file.path)) as db:
            db.execute("INSERT INTO unindexed VALUES (1)")
            db.execute("INSERT INTO unsettled VALUES (1)")
            db.commit()
        file = backend_of(storage)._file
        real = file.locks.is_free
        tapes: list[TapeRecorder] = []

        def resumed_in_between(no: int) -> bool:
            is_free = real(no)
            if not tapes:
                tapes.append(storage.resume("t")[0])
            return is_free

        monkeypatch.setattr(file.locks, "is_free", resumed_in_between)
        storage.search("x")
        tapes[0].append(C2S, b'"%s"' % (b"x" * 1000))
        assert storage.stats().size_bytes > 1000
        tapes[0].abort()


class TestQueries:
    def test_odd_metadata_is_kept_and_queried_as_python_would(self, storage: TapeStorage) -> None:
        record(storage, "t")
        odd = {"session_id": "\ud800", "tags": ["\ud800", 5, "x", "x"], "status": ["no"], "created_at": 7}
        storage.set_meta("t", odd)
        assert storage.get_meta("t")[0] == odd
        for query, count in (
            (TapeQuery(session_id="\ud800"), 1),
            (TapeQuery(session_id="\\ud800"), 0),
            (TapeQuery(tag="\ud800"), 1),
            (TapeQuery(tag="x"), 1),
            (TapeQuery(tag="5"), 0),
            (TapeQuery(status="no"), 0),
        ):
            assert len(storage.list(query).items) == count

    def test_a_query_reads_an_index_and_no_metadata_of_others(self, storage: TapeStorage, path: Path) -> None:
        record(storage, "t")
        with closing(sqlite3.connect(path)) as db:
            for where, index in (
                ("session_id = 's' ORDER BY tape_id", "tape_by_session"),
                ("status = 's' ORDER BY tape_id", "tape_by_status"),
                ("created_us >= 1 AND created_us < 2", "tape_by_time"),
                ("tape_id IN (SELECT tape_id FROM tag WHERE tag = 'x') ORDER BY tape_id", "PRIMARY KEY"),
            ):
                plan = " ".join(
                    row[3] for row in db.execute(f"EXPLAIN QUERY PLAN SELECT meta FROM tape WHERE {where}")
                )
                assert index in plan
                assert "SCAN" not in plan

    def test_broken_metadata_breaks_no_listing(
        self, storage: TapeStorage, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        record(storage, "t")
        record(storage, "u")
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE tape SET meta = x'00' WHERE tape_id = 't'")
            db.commit()
        with caplog.at_level(logging.WARNING):
            items = storage.list().items
        assert [(item["tape_id"], item["status"]) for item in items] == [("t", "aborted"), ("u", "finalized")]
        assert "listing tape t by its init line" in caplog.text
        with pytest.raises(InvalidMetadataError):
            storage.get_meta("t")

    def test_a_cursor_of_a_search_has_to_be_one(self, storage: TapeStorage) -> None:
        for cursor in ("-1", "x", "1; DROP TABLE tape"):
            with pytest.raises(StorageUnavailableError):
                storage.search("x", cursor)


class TestBackup:
    def test_it_is_consistent_while_others_write(self, storage: TapeStorage, tmp_path: Path) -> None:
        for number in range(20):
            record(storage, f"t{number:02}", 100, 1000)
        done, writing = threading.Event(), threading.Event()

        def write() -> None:
            with storage.record("s", tape_id="live") as tape:
                number = 0
                while not done.is_set():
                    tape.append(C2S, b'"live%d"' % number)
                    number += 1
                    writing.set()

        thread = threading.Thread(target=write)
        thread.start()
        writing.wait()
        steps: list[tuple[int, int]] = []
        try:
            backend_of(storage).backup(tmp_path / "copy.db", False, lambda *at: steps.append(at))
        finally:
            done.set()
            thread.join()
        assert steps[-1][0] == steps[-1][1] > 0
        copy = open_backend("sqlite", tmp_path, {"path": "copy.db"})
        with handle(copy) as copied:
            assert list(backend_of(copied).damages()) == []
            for number in range(20):
                assert list(copied.read(f"t{number:02}")) == list(storage.read(f"t{number:02}"))
            live = list(copied.read("live"))
            assert list(storage.read("live"))[: len(live)] == live
            recorder, report = copied.resume("live")
            assert report.line_count == len(live)
            recorder.abort()
            assert len(copied.search("99").items) == 20
        copy.close()
        assert not [each for each in tmp_path.iterdir() if "partial" in each.name]

    def test_a_backup_can_be_used_as_a_storage(self, storage: TapeStorage, tmp_path: Path) -> None:
        record(storage, "t")
        backend_of(storage).backup(tmp_path / "copy.db")
        copy = open_backend("sqlite", tmp_path, {"path": "copy.db"})
        with handle(copy) as copied:
            with closing(sqlite3.connect(tmp_path / "copy.db")) as db:
                assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            record(copied, "u")
        copy.close()

    def test_nothing_is_replaced_unless_that_was_asked_for(
        self, storage: TapeStorage, tmp_path: Path
    ) -> None:
        record(storage, "t")
        target = tmp_path / "copy.db"
        target.write_bytes(b"mine")
        with pytest.raises(StorageUnavailableError, match="File exists"):
            backend_of(storage).backup(target)
        assert target.read_bytes() == b"mine"
        backend_of(storage).backup(target, replace=True)
        assert target.read_bytes().startswith(b"SQLite format 3")

    def test_it_is_not_copied_onto_itself(self, storage: TapeStorage, path: Path) -> None:
        record(storage, "t")
        with pytest.raises(StorageUnavailableError, match="onto itself"):
            backend_of(storage).backup(path, replace=True)
        assert len(list(storage.read("t"))) == 4

    def test_one_that_fails_leaves_nothing(self, storage: TapeStorage, tmp_path: Path) -> None:
        record(storage, "t")

        def fail(*_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            backend_of(storage).backup(tmp_path / "copy.db", False, fail)
        assert {each.name for each in tmp_path.iterdir()} <= {
            "tapes.db", "tapes.db-wal", "tapes.db-shm", "tapes.db-lock"
        }  # fmt: skip
        record(storage, "u")

    def test_what_is_damaged_is_not_passed_off_as_a_backup(self, tmp_path: Path, path: Path) -> None:
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage:
            record(storage, "t", 500, 1000)
        backend.close()
        content = bytearray(path.read_bytes())
        content[4096 * 40 : 4096 * 60] = bytes(4096 * 20)
        path.write_bytes(content)
        backend = open_backend("sqlite", tmp_path)
        with handle(backend) as storage, pytest.raises(StorageDamagedError, match="the copy was dropped"):
            backend_of(storage).backup(tmp_path / "copy.db")
        backend.close()
        assert not (tmp_path / "copy.db").exists()


class TestClosing:
    def test_nothing_works_afterwards_and_an_open_appender_neither(self, tmp_path: Path) -> None:
        backend = open_backend("sqlite", tmp_path)
        appender = backend.create(
            "t", b'{"type":"init","version":"2.0","tape_id":"t","session_id":"s"}\n', {}
        )
        backend.close()
        for use in (
            lambda: appender.append([b"1\n"]),
            lambda: list(backend.read("t")),
            lambda: backend.get_meta("t"),
            lambda: backend.list(TapeQuery(), None, 1),
            backend.stats,
            lambda: backend.delete("t"),
        ):
            with pytest.raises(StorageClosedError):
                use()
        appender.close()
        again = open_backend("sqlite", tmp_path)
        with handle(again) as storage:
            storage.resume("t")[0].abort()
        again.close()

    def test_many_threads_share_it_and_leave_nothing_behind(self, storage: TapeStorage) -> None:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                with storage.record("s", tape_id=f"t{number}") as tape:
                    for n in range(30):
                        tape.append(C2S, b"%d" % n)
                        assert len(list(storage.read(f"t{number}"))) == n + 2
                storage.list()
                storage.search("7")
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert storage.stats().tape_count == 8


class TestReader:
    def test_as_many_segments_are_kept_as_fit(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frame_reader, "_KEPT_BYTES", 20_000)
        with storage.record("s", tape_id="t") as tape:
            for _ in range(40):
                tape.append_many((C2S, b'"%s"' % (b"x" * 200)) for _ in range(10))
        lines = list(storage.read("t"))[1:]
        with storage.reader("t") as reader:
            inner: Any = reader._opened.reader
            for seq in random.Random(5).choices(range(400), k=1_000):
                assert reader.frame(seq) == lines[seq]
                assert sum(size for size, _ in inner._kept.values()) == inner._kept_bytes <= 20_000

    def test_a_segment_that_has_changed_is_told(self, storage: TapeStorage, path: Path) -> None:
        with storage.record("s", tape_id="t") as tape:
            for _ in range(3):
                tape.append(C2S, b'"x"')
        with storage.reader("t") as reader:
            before = [reader.frame(0), reader.frame(1)]
            with closing(sqlite3.connect(path)) as db, db:
                (key,) = db.execute("SELECT max(key) FROM segment").fetchone()
                db.execute("UPDATE segment SET lines = ? WHERE key = ?", (b"{}\n", key))
            assert [reader.frame(0), reader.frame(1)] == before
            with pytest.raises(StorageDamagedError):
                reader.frame(2)
