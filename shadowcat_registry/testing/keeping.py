"""What is kept of a tape: its id, its metadata, and nothing once it was deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ..errors import (
    InvalidMetadataError,
    InvalidTapeIdError,
    MetadataConflictError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..storage import TapeStorage
from .places import C2S, PATIENCE_SECONDS, UnderTest, in_background, messages_in


class IdConformance(UnderTest):
    @pytest.mark.parametrize(
        "tape_id",
        [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "/etc/passwd",
            "a..b",
            ".hidden",
            "-a",
            "a.",
            "con",
            "NUL.x",
            "a\0b",
            "a\nb",
            "a b",
            "\u00e9",
            "\u212a",
            "x" * 129,
            "C:x",
            "~",
            "a%2fb",
            "'; DROP TABLE tape; --",
        ],
    )
    def test_a_hostile_id_is_refused_everywhere_and_touches_nothing(
        self, storage: TapeStorage, tmp_path: Path, tape_id: str
    ) -> None:
        before = sorted(tmp_path.parent.rglob("*"))
        uses: list[Callable[[], object]] = [
            lambda: storage.record("s", tape_id=tape_id),
            lambda: storage.resume(tape_id),
            lambda: storage.read(tape_id),
            lambda: storage.get_meta(tape_id),
            lambda: storage.set_meta(tape_id, {}),
            lambda: storage.delete(tape_id),
        ]
        for use in uses:
            with pytest.raises(InvalidTapeIdError):
                use()
        assert storage.list().items == ()
        assert sorted(tmp_path.parent.rglob("*")) == before

    def test_odd_ids_are_different_tapes(self, storage: TapeStorage) -> None:
        """Also those that look like what a storage might keep beside a tape."""
        ids = [
            "t", "t.jsonl", "t.meta", "t.meta.json", "t.torn", "t.lock", "t.jsonl.gz", "t.tmp", "t-1",
            "t_1", "0", "x" * 128, "tapes", "tape", "index", "tapes.db", "sqlite_master",
        ]  # fmt: skip
        for number, tape_id in enumerate(ids):
            with storage.record("s", tape_id=tape_id) as tape:
                tape.append(C2S, b"%d" % number)
        assert [meta["tape_id"] for meta in storage.list_all()] == sorted(ids)
        for number, tape_id in enumerate(ids):
            assert messages_in(storage, tape_id) == [number]
        storage.delete("t")
        assert [meta["tape_id"] for meta in storage.list_all()] == sorted(ids[1:])
        assert messages_in(storage, "t.meta.json") == [3]

    def test_ids_that_differ_in_case_are_told_apart_or_refused(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="Tape") as tape:
            tape.append(C2S, b"1")
        try:
            with storage.record("s", tape_id="tAPE") as tape:
                tape.append(C2S, b"2")
        except TapeExistsError:
            assert [meta["tape_id"] for meta in storage.list_all()] == ["Tape"]
        else:
            assert messages_in(storage, "tAPE") == [2]
        assert messages_in(storage, "Tape") == [1]


class MetadataConformance(UnderTest):
    def test_an_etag_guards_against_lost_updates(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()
        meta, etag = storage.get_meta("t")
        newer = storage.set_meta("t", {**meta, "name": "one"}, etag)
        assert newer == storage.get_meta("t")[1] != etag
        with pytest.raises(MetadataConflictError):
            storage.set_meta("t", {**meta, "name": "two"}, etag)
        assert storage.get_meta("t")[0]["name"] == "one"
        storage.set_meta("t", {**meta, "name": "three"})
        assert storage.get_meta("t")[0]["name"] == "three"

    def test_racing_updates_under_an_etag_are_all_kept(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()

        def work(key: str) -> None:
            while True:
                meta, etag = storage.get_meta("t")
                try:
                    storage.set_meta("t", {**meta, key: 1}, etag)
                except MetadataConflictError:
                    continue
                return

        keys = [f"x_{n}" for n in range(6)]
        for update in [in_background(partial(work, key)) for key in keys]:
            update.result(PATIENCE_SECONDS)
        assert set(keys) <= set(storage.get_meta("t")[0])

    def test_another_tapes_metadata_is_refused(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()
        with pytest.raises(InvalidMetadataError):
            storage.set_meta("t", {"tape_id": "u"})

    def test_no_tape_no_metadata(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            storage.get_meta("t")
        with pytest.raises(TapeNotFoundError):
            storage.set_meta("t", {})
        with pytest.raises(TapeNotFoundError):
            storage.set_meta("t", {}, "etag")

    def test_what_we_do_not_know_is_kept(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()
        meta = {"tape_id": "t", "x_own": {"deep": [1, None, "\u00e9 \ud800 \x00"]}, "name": "\x1b[2J"}
        storage.set_meta("t", meta)
        assert storage.get_meta("t")[0] == meta

    def test_it_can_be_changed_while_the_tape_is_recorded_and_no_change_is_lost(
        self, storage: TapeStorage
    ) -> None:
        with storage.record("s", tape_id="t") as tape:

            def rename() -> None:
                for n in range(20):
                    while True:
                        meta, etag = storage.get_meta("t")
                        with suppress(MetadataConflictError):
                            storage.set_meta("t", {**meta, f"x_{n}": n}, etag)
                            break

            thread = threading.Thread(target=rename)
            thread.start()
            for n in range(20):
                tape.append(C2S, b"%d" % n)
            thread.join()
        meta, _ = storage.get_meta("t")
        assert {f"x_{n}" for n in range(20)} <= meta.keys()
        assert (meta["status"], meta["stats"]["frame_count"]) == ("finalized", 20)

    def test_what_cannot_be_written_as_json_is_refused_and_changes_nothing(
        self, storage: TapeStorage
    ) -> None:
        storage.record("s", tape_id="t").finalize()
        before = storage.get_meta("t")
        for value in (b"x", object(), float("nan"), {1, 2}):
            with pytest.raises(InvalidMetadataError):
                storage.set_meta("t", {"tape_id": "t", "x": value})
        assert storage.get_meta("t") == before


class DeletingConformance(UnderTest):
    def test_nothing_of_it_is_left(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t", name="old").finalize()
        storage.delete("t")
        assert storage.list().items == ()
        for use in (
            lambda: storage.get_meta("t"),
            lambda: next(storage.read("t")),
            lambda: storage.delete("t"),
        ):
            with pytest.raises(TapeNotFoundError):
                use()
        storage.record("s", tape_id="t").finalize()
        assert storage.get_meta("t")[0]["name"] is None
