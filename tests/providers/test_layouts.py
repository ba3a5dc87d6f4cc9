"""Where the filesystem provider puts tapes, and that it finds them wherever they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import StorageUnavailableError, TapeExistsError, TapeNotFoundError
from shadowcat_registry.providers.filesystem import listing, places
from shadowcat_registry.providers.filesystem.backend import FilesystemBackend
from shadowcat_registry.providers.filesystem.metadata_files import MetadataFiles
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, make_init_line, make_metadata, parse_line

from ..fakes import Running
from ..storages import handle, open_backend

C2S: Direction = "client_to_server"
DAY = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
LAYOUTS = ["flat", "date", "session", "sharded"]
posix = pytest.mark.skipif(os.name == "nt", reason="modes and links of POSIX")


def opened(directory: Path, layout: str, **config: Any) -> TapeStorage:
    return handle(open_backend("filesystem", directory, {"layout": layout, **config}))


def record(storage: TapeStorage, tape_id: str, session_id: str = "s-1") -> None:
    init_line = make_init_line(tape_id, session_id, DAY)
    metadata = make_metadata(parse_line(init_line) or {}, "recording")
    with storage.adopt(init_line, metadata) as tape:
        tape.append(C2S, b'"%s"' % tape_id.encode())


def ids(storage: TapeStorage) -> list[str]:
    return [item["tape_id"] for item in storage.list_all()]


class TestLayouts:
    @pytest.mark.parametrize(
        ("layout", "where"),
        [
            ("flat", "t.jsonl"),
            ("date", "2026-11-22/t.jsonl"),
            ("session", "s-1/t.jsonl"),
            ("sharded", "e3/t.jsonl"),
        ],
    )
    def test_a_new_tape_goes_where_the_layout_says_with_all_that_is_its(
        self, tmp_path: Path, layout: str, where: str
    ) -> None:
        with opened(tmp_path, layout) as storage:
            record(storage, "t")
            tape = tmp_path / "tapes" / where
            assert tape.is_file()
            assert tape.with_name("t.meta.json").is_file()
            with tape.open("ab") as file:
                file.write(b"torn")
            again, report = storage.resume("t")
            again.finalize()
            assert report.set_aside == str(tape.with_name("t.torn"))
            storage.delete("t")
        left = sorted(path.name for path in (tmp_path / "tapes").iterdir())
        assert left == [".lock"]  # the folder too, since it is empty

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_everything_works_in_each(self, tmp_path: Path, layout: str) -> None:
        with opened(tmp_path, layout) as storage:
            for number in range(5):
                record(storage, f"t{number}", f"s-{number % 2}")
            assert ids(storage) == [f"t{number}" for number in range(5)]
            assert storage.stats().tape_count == 5
            assert storage.list(cursor="t1", limit=2).cursor == "t3"
            with pytest.raises(TapeExistsError):
                record(storage, "t3", "another session")
            meta, etag = storage.get_meta("t3")
            storage.set_meta("t3", {**meta, "name": "n"}, etag)
            again, _ = storage.resume("t3")
            assert again.append(C2S, b"2") == 1
            again.finalize()
            assert len(list(storage.read("t3"))) == 3
            assert len(list(storage.follow("t3"))) == 3
            storage.delete("t3")
            with pytest.raises(TapeNotFoundError):
                storage.get_meta("t3")
            assert ids(storage) == ["t0", "t1", "t2", "t4"]

    @pytest.mark.parametrize("before", LAYOUTS)
    @pytest.mark.parametrize("after", ["date", "session", "sharded"])
    def test_another_layout_finds_what_is_there(self, tmp_path: Path, before: str, after: str) -> None:
        with opened(tmp_path, before) as storage:
            record(storage, "old")
        with opened(tmp_path, after) as storage:
            record(storage, "new")
            assert ids(storage) == ["new", "old"]
            assert len(list(storage.read("old"))) == 2
            with pytest.raises(TapeExistsError):
                record(storage, "old")
            storage.delete("old")
            assert ids(storage) == ["new"]

    def test_what_another_process_recorded_or_removed_is_seen(self, tmp_path: Path) -> None:
        with opened(tmp_path, "date") as here, opened(tmp_path, "session") as there:
            record(there, "t")
            assert ids(here) == ["t"]
            assert len(list(here.read("t"))) == 2
            there.delete("t")
            with pytest.raises(TapeNotFoundError):
                here.read("t")
            record(there, "t", "elsewhere")
            assert len(list(here.read("t"))) == 2
            assert ids(here) == ["t"]

    @pytest.mark.parametrize("session_id", ["../../etc", "a/b", ".hidden", "", "x" * 500, "con", "\ud800"])
    def test_a_hostile_session_is_no_path(self, tmp_path: Path, session_id: str) -> None:
        with opened(tmp_path, "session") as storage:
            record(storage, "t", session_id)
            assert ids(storage) == ["t"]
        (folder,) = (path for path in (tmp_path / "tapes").iterdir() if path.is_dir())
        assert folder.name.startswith("~")
        assert len(folder.name) == 33
        assert [path.name for path in tmp_path.iterdir()] == ["tapes"]

    @posix
    def test_folders_are_the_owners_alone_and_links_are_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "x.jsonl").write_bytes(make_init_line("x", "s", DAY))
        with opened(tmp_path, "session") as storage:
            record(storage, "t")
            assert (tmp_path / "tapes" / "s-1").stat().st_mode & 0o777 == 0o700
            (tmp_path / "tapes" / "link").symlink_to(tmp_path / "elsewhere")
            assert ids(storage) == ["t"]
            with pytest.raises(TapeNotFoundError):
                storage.read("x")
            with pytest.raises(StorageUnavailableError, match="link"):
                record(storage, "y", "link")


class TestNewIds:
    @pytest.mark.parametrize("layout", ["date", "session", "sharded"])
    def test_one_that_the_storage_made_is_looked_for_in_no_folder(
        self, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[str] = []
        names = places.Places._folder_names

        def counting(self: places.Places) -> list[str]:
            looks.append("a look")
            return names(self)

        monkeypatch.setattr(places.Places, "_folder_names", counting)
        with opened(tmp_path, layout) as storage:
            for session in ("a", "b"):
                with storage.record(session) as tape:
                    tape.append(C2S, b"1")
            assert looks == []
            storage.record("c", tape_id="mine").finalize()
            assert looks
            with pytest.raises(TapeExistsError):
                storage.record("d", tape_id="mine")
            with pytest.raises(TapeExistsError):
                storage.record("d", tape_id=tape.tape_id)

    def test_one_is_looked_for_when_it_is_used_again(self, tmp_path: Path) -> None:
        with opened(tmp_path, "session") as storage:
            backend = storage.use.source.backend
            assert isinstance(backend, FilesystemBackend)
            made = backend.new_tape_id()
            storage.record("a", tape_id=made).finalize()
            with pytest.raises(TapeExistsError):
                storage.record("b", tape_id=made)

    def test_those_that_nobody_used_are_forgotten(self, tmp_path: Path) -> None:
        with opened(tmp_path, "session") as storage:
            backend = storage.use.source.backend
            assert isinstance(backend, FilesystemBackend)
            for _ in range(2_500):
                backend.new_tape_id()
            assert len(backend._fresh) <= 1_000


class TestFoldedCase:
    """This machine's file systems tell case apart; so `open` and `lstat` are made to fold it."""

    @pytest.fixture
    def storage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TapeStorage:
        storage = opened(tmp_path, "flat")
        record(storage, "abc")
        tapes = str(tmp_path / "tapes")

        def folded(path: Any) -> Any:
            text = os.fspath(path)
            if isinstance(text, str) and text.startswith(tapes):
                return tapes + text.removeprefix(tapes).lower()
            return path

        really_open, really_lstat = os.open, Path.lstat
        monkeypatch.setattr(os, "open", lambda path, *rest, **more: really_open(folded(path), *rest, **more))
        monkeypatch.setattr(Path, "lstat", lambda path: really_lstat(Path(folded(path))))
        backend: Any = storage.use.source.backend
        backend._places._folds_case = None  # as it was before anybody looked
        return storage

    def test_two_ids_that_differ_in_case_are_not_taken_for_one(self, storage: TapeStorage) -> None:
        assert len(list(storage.read("abc"))) == 2
        uses: list[Callable[[str], object]] = [
            storage.read, storage.get_meta, storage.resume, storage.delete,
        ]  # fmt: skip
        for use in uses:
            with pytest.raises(TapeNotFoundError):
                use("ABC")
        with pytest.raises(TapeExistsError):
            record(storage, "ABC")
        assert len(list(storage.read("abc"))) == 2

    def test_what_folds_is_found_out_by_the_file_that_is_always_there(
        self, storage: TapeStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert places.Places(tmp_path / "tapes", "flat")._look_for_folding()
        monkeypatch.undo()
        assert not places.Places(tmp_path / "tapes", "flat")._look_for_folding()


def index_of(tmp_path: Path) -> Path:
    return tmp_path / "tapes" / ".index"


class TestIndex:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was just written counts as settled, and one entry is worth saving."""
        monkeypatch.setattr(listing, "_SETTLED_NS", -(10**18))
        monkeypatch.setattr(listing, "_WORTH_SAVING", 1)

    def test_a_listing_reads_a_file_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened(tmp_path, "flat") as storage:
            for number in range(5):
                record(storage, f"t{number}")
            first = storage.list()

        def refuse(*_: object) -> None:
            raise AssertionError("read again")

        with opened(tmp_path, "flat") as storage:  # another process, which has the index only
            with monkeypatch.context() as patch:
                patch.setattr(MetadataFiles, "text", refuse)
                assert storage.list() == storage.list() == first
            meta, etag = storage.get_meta("t3")
            storage.set_meta("t3", {**meta, "name": "changed"}, etag)
            assert [item["name"] for item in storage.list().items] == [None, None, None, "changed", None]
            (tmp_path / "tapes" / "t4.meta.json").write_text('{"name": "by hand"}')
            assert storage.list(cursor="t3").items[0]["name"] == "by hand"

    def test_what_a_caller_does_to_an_answer_is_his_own(self, tmp_path: Path) -> None:
        with opened(tmp_path, "flat") as storage:
            record(storage, "t")
            before = json.dumps(storage.list().items)
            item = storage.list().items[0]
            item["stats"]["message_counts"].clear()
            item["tags"].append("mine")
            assert json.dumps(storage.list().items) == before

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"{",
            b"[]",
            b'{"version": 9}',
            b'{"version":1,"tapes":{"t":[1]}}',
            b'{"version":1,"tapes":[]}',
        ],
    )
    def test_it_may_be_lost_or_damaged(self, tmp_path: Path, damage: bytes) -> None:
        with opened(tmp_path, "flat") as storage:
            record(storage, "t")
            before = storage.list()
        assert index_of(tmp_path).stat().st_mode & 0o777 == 0o600
        index_of(tmp_path).write_bytes(damage)
        with opened(tmp_path, "flat") as storage:
            assert storage.list() == before
        index_of(tmp_path).unlink()
        with opened(tmp_path, "flat") as storage:
            assert storage.list() == before

    def test_a_tape_that_is_gone_is_not_in_it(self, tmp_path: Path) -> None:
        with opened(tmp_path, "date") as storage:
            record(storage, "t")
            record(storage, "u")
            storage.list()
            storage.delete("t")
            assert ids(storage) == ["u"]
        with opened(tmp_path, "date") as storage:
            assert ids(storage) == ["u"]

    def test_two_that_list_and_save_at_once_disturb_nobody(self, tmp_path: Path) -> None:
        with opened(tmp_path, "flat") as one, opened(tmp_path, "flat") as other:
            for number in range(20):
                record(one, f"t{number:02}")
            for running in [Running(lambda s=s: [ids(s) for _ in range(10)]) for s in (one, other) * 2]:  # type: ignore[misc]
                assert running.result() == [[f"t{number:02}" for number in range(20)]] * 10


class TestTheRacyMoment:
    def test_what_has_just_changed_is_not_remembered(self, tmp_path: Path) -> None:
        """Within one tick of the clock, two versions may have the same stamps."""
        with opened(tmp_path, "flat") as storage:
            record(storage, "t")
            backend: Any = storage.use.source.backend
            os.utime(tmp_path / "tapes" / "t.meta.json")
            storage.list()
            assert backend._overview._listing._known == {}
