from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shadowcat_registry.errors import StorageClosedError, StorageFullError
from shadowcat_registry.providers.memory import MemoryBackend
from shadowcat_registry.storage import TapeStorage

from ..storages import handle, open_backend

ROOM = 65_536


def ids(storage: TapeStorage) -> list[str]:
    return [item["tape_id"] for item in storage.list_all()]


def fill(storage: TapeStorage, tape_id: str, size_bytes: int, *, finalize: bool = True) -> None:
    tape = storage.record("s", tape_id=tape_id)
    tape.append("client_to_server", b"x" * size_bytes)
    (tape.finalize if finalize else tape.detach)()


def bounded(*, max_bytes: int = ROOM, max_tapes: int = 1000) -> TapeStorage:
    logger = logging.getLogger("tests.memory")
    return handle(MemoryBackend(logger, max_bytes=max_bytes, max_tapes=max_tapes))


class TestBounds:
    def test_the_oldest_finalized_tape_makes_room_for_bytes_and_this_is_said(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with bounded() as storage:
            fill(storage, "c", 10_000)
            fill(storage, "b", 10_000)
            fill(storage, "a", 25_000)
            assert caplog.text == ""
            fill(storage, "d", 10_000)
            assert ids(storage) == ["a", "b", "d"]
        assert "tape c, the oldest that has ended, made room" in caplog.text

    def test_the_oldest_finalized_tape_makes_room_for_tapes(self) -> None:
        with bounded(max_tapes=2) as storage:
            for tape_id in ("c", "b", "a"):
                fill(storage, tape_id, 1)
            assert ids(storage) == ["a", "b"]

    def test_what_is_recorded_or_unfinished_is_never_evicted(self) -> None:
        with bounded(max_tapes=3) as storage:
            fill(storage, "unfinished", 1, finalize=False)
            with storage.record("s", tape_id="recorded"):
                fill(storage, "done", 1)
                fill(storage, "next", 1)
                assert ids(storage) == ["next", "recorded", "unfinished"]

    def test_what_is_recorded_is_kept_whatever_its_metadata_says(self) -> None:
        with bounded(max_tapes=1) as storage, storage.record("s", tape_id="t") as tape:
            storage.set_meta("t", {"status": "finalized"})
            with pytest.raises(StorageFullError):
                storage.record("s")
            tape.append("client_to_server", b"1")

    def test_it_is_full_when_nothing_can_be_evicted_and_then_nothing_is(self) -> None:
        with bounded() as storage:
            fill(storage, "small", 1)
            with storage.record("s", tape_id="t") as tape:
                tape.append("client_to_server", b"x" * 20_000)
                with pytest.raises(StorageFullError):
                    tape.append("client_to_server", b"x" * ROOM)
                assert ids(storage) == ["small", "t"]
                assert tape.append("client_to_server", b"1") == 1
            assert len(list(storage.read("t"))) == 3

    def test_a_tape_that_fills_it_can_be_finalized(self) -> None:
        with bounded() as storage:
            tape = storage.record("s", tape_id="t")

            def fill_up() -> None:
                while True:
                    tape.append("client_to_server", b"x" * 100)

            with pytest.raises(StorageFullError):
                fill_up()
            tape.finalize()
            assert storage.get_meta("t")[0]["status"] == "finalized"

    def test_metadata_counts_too(self) -> None:
        with bounded() as storage:
            fill(storage, "a", 10_000)
            fill(storage, "b", 10_000)
            storage.set_meta("b", {"status": "finalized", "x": "y" * 45_000})
            assert ids(storage) == ["b"]
            with pytest.raises(StorageFullError):
                storage.set_meta("b", {"x": "y" * ROOM})
            assert len(storage.get_meta("b")[0]["x"]) == 45_000

    def test_what_was_deleted_leaves_its_room(self) -> None:
        with bounded() as storage:
            for _ in range(20):
                fill(storage, "t", 30_000)
                storage.delete("t")
            fill(storage, "a", 25_000)
            fill(storage, "b", 25_000)
            assert ids(storage) == ["a", "b"]

    def test_a_number_of_tapes_that_are_all_in_use_is_full(self) -> None:
        with bounded(max_tapes=1) as storage, storage.record("s"), pytest.raises(StorageFullError):
            storage.record("s")


class TestClose:
    def test_everything_is_gone_and_says_so(self, tmp_path: Path) -> None:
        backend = open_backend("memory", tmp_path, {"max_bytes": ROOM, "max_tapes": 2})
        appender = backend.create("t", b'{"type":"init"}\n', {})
        backend.close()
        with pytest.raises(StorageClosedError):
            appender.append([b"1\n"])
        with pytest.raises(StorageClosedError):
            backend.get_meta("t")
        appender.close()

    def test_an_appender_that_was_closed_cannot_write(self, tmp_path: Path) -> None:
        backend = open_backend("memory", tmp_path)
        appender = backend.create("t", b'{"type":"init"}\n', {})
        appender.close()
        appender.close()
        with pytest.raises(StorageClosedError):
            appender.append([b"1\n"])


class TestIds:
    def test_they_are_the_same_each_time_where_that_was_asked_for(self, tmp_path: Path) -> None:
        for _ in range(2):
            backend = open_backend("memory", tmp_path, {"deterministic_ids": True})
            with handle(backend) as storage:
                storage.record("s", tape_id="tape-000002").finalize()
                ids = []
                for _ in range(2):
                    with storage.record("s") as tape:
                        ids.append(tape.tape_id)
                assert ids == ["tape-000001", "tape-000003"]

    def test_they_are_anything_otherwise(self, tmp_path: Path) -> None:
        with handle(open_backend("memory", tmp_path)) as storage, storage.record("s") as tape:
            assert len(tape.tape_id) == 36
