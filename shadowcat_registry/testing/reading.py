"""Reading, listing, metadata, deleting, and ids."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..backend import StorageStats, TapeQuery
from ..errors import (
    InvalidMetadataError,
    InvalidTapeIdError,
    MetadataConflictError,
    StorageUnavailableError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..storage import TapeStorage
from ..tape import dump_metadata, make_init_line, make_metadata, new_tape_id
from .places import C2S, Place, UnderTest, messages_in, pages


class ReadingConformance(UnderTest):
    def test_only_what_follows_a_frame(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        assert messages_in(storage, "t", 2) == [3, 4]
        assert list(storage.read("t", 4)) == []
        assert len(list(storage.read("t", -1))) == 6

    def test_a_reader_sees_whole_lines_of_a_stable_prefix_while_it_is_written(
        self, storage: TapeStorage
    ) -> None:
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(300):
                    tape.append(C2S, b'"%s"' % (b"x" * (number * 37 % 5000)))
            finally:
                done.set()

        with storage.record("s", tape_id="t") as tape:
            thread = threading.Thread(target=write)
            thread.start()
            seen: list[bytes] = []
            while True:
                last = done.is_set()
                now = list(storage.read("t"))
                assert now[: len(seen)] == seen
                assert all(line.endswith(b"}\n") for line in now)
                seen = now
                if last:
                    break
            thread.join()
        assert len(seen) == 301

    def test_a_tape_that_is_not_there_is_told(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            next(storage.read("t"))

    def test_a_reader_outlives_the_deletion_of_its_tape_or_is_told(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        reader = storage.read("t")
        next(reader)
        try:
            storage.delete("t")
        except StorageUnavailableError:  # Windows does not remove what somebody reads
            reader.close()
            return
        assert len(list(reader)) == 5

    def test_a_limit_ends_it(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        assert len(list(storage.read("t", limit=2))) == 2
        assert len(list(storage.read("t", 1, 2))) == 2
        assert list(storage.read("t", limit=0)) == []
        assert len(list(storage.read("t", raw=True))) == 6

    def test_several_readers_are_at_different_places(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(50))
        whole = list(storage.read("t"))
        with closing(storage.read("t")) as one, closing(storage.read("t")) as other:
            assert [next(one) for _ in range(30)] == whole[:30]
            assert [next(other) for _ in range(10)] == whole[:10]
            assert list(one) == whole[30:]
            assert list(other) == whole[10:]

    def test_one_that_is_left_half_way_holds_nothing_up(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(50))
        lines = storage.read("t")
        next(lines)
        lines.close()
        again, _ = storage.resume("t")
        again.append(C2S, b"1")
        again.finalize()
        storage.delete("t")

    def test_deleting_while_others_read_breaks_nobody(self, storage: TapeStorage) -> None:
        """Each reader sees a prefix of the tape, or is told that there is none."""
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(400))
        whole = list(storage.read("t"))
        started = threading.Barrier(4)
        seen: list[list[bytes]] = []

        def read() -> None:
            started.wait()
            found: list[bytes] = []
            with suppress(TapeNotFoundError):
                for line in storage.read("t"):
                    found.append(line)  # noqa: PERF402 - what was read before an error counts
            seen.append(found)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait()
        deadline = monotonic() + 30
        while True:
            try:
                storage.delete("t")
            except StorageUnavailableError:  # a system that does not remove what somebody reads
                assert monotonic() < deadline
                continue
            break
        for thread in threads:
            thread.join()
        assert all(found == whole[: len(found)] for found in seen)
        with pytest.raises(TapeNotFoundError):
            next(storage.read("t"))


class ListingConformance(UnderTest):
    def test_pages_are_ordered_complete_and_without_doubles(self, storage: TapeStorage) -> None:
        ids = sorted(f"t{n}" for n in range(7))
        for tape_id in reversed(ids):
            storage.record("s", tape_id=tape_id).finalize()
        found = list(pages(storage, limit=3))
        seen = [tape_id for page in found for tape_id in page]
        sizes = [len(page) for page in found]
        assert seen == ids
        assert sizes == [3, 3, 1]
        assert [item["tape_id"] for item in storage.list_all()] == ids
        assert storage.list(limit=7).cursor is None

    def test_a_query_finds_by_session_tag_and_status(self, storage: TapeStorage) -> None:
        storage.record("s-1", tape_id="a", tags=["x", "y"]).finalize()
        storage.record("s-2", tape_id="b", tags=["y"]).abort()
        for query, ids in (
            (TapeQuery(session_id="s-1"), ["a"]),
            (TapeQuery(tag="y"), ["a", "b"]),
            (TapeQuery(status="aborted"), ["b"]),
            (TapeQuery(tag="y", status="finalized"), ["a"]),
            (TapeQuery(tag="z"), []),
        ):
            assert [item["tape_id"] for item in storage.list(query).items] == ids

    def test_a_query_finds_by_a_range_of_dates_that_begins_inclusive_and_ends_exclusive(
        self, storage: TapeStorage
    ) -> None:
        midnight = datetime(2026, 11, 22, tzinfo=timezone(timedelta(hours=1)))
        for tape_id, moment in (
            ("a", midnight - timedelta(milliseconds=1)),
            ("b", midnight),
            ("c", midnight + timedelta(days=1)),
        ):
            init = make_init_line(tape_id, "s", moment)
            storage.adopt(init, make_metadata(json.loads(init), "recording")).finalize()
        storage.record("s", tape_id="d").finalize()
        storage.set_meta("d", {"created_at": "some day"})
        for query, ids in (
            (TapeQuery(created_after=midnight), ["b", "c"]),
            (TapeQuery(created_before=midnight), ["a"]),
            (TapeQuery(created_after=midnight, created_before=midnight + timedelta(days=1)), ["b"]),
            (TapeQuery(session_id="s", created_after=midnight + timedelta(days=2)), []),
        ):
            assert [item["tape_id"] for item in storage.list(query).items] == ids
        with pytest.raises(ValueError, match="time zone"):
            TapeQuery(created_after=midnight.replace(tzinfo=None))

    def test_a_limit_below_one_is_refused(self, storage: TapeStorage) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            storage.list(limit=0)

    def test_stats_count_tapes_and_bytes(self, storage: TapeStorage) -> None:
        assert storage.stats().tape_count == storage.stats().size_bytes == 0
        storage.record("s", tape_id="a").finalize()
        size = sum(map(len, storage.read("a"))) + len(dump_metadata("a", storage.get_meta("a")[0]))
        assert (storage.stats().tape_count, storage.stats().size_bytes) == (1, size)

    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_pages_of_any_size_are_what_a_query_asks_for(self, place: Place, data: st.DataObject) -> None:
        day = datetime(2026, 11, 25, tzinfo=UTC)
        moments = st.integers(0, 4).map(lambda n: day + timedelta(hours=n))
        with place.open() as storage:
            known = {meta["tape_id"]: meta for meta in storage.list_all()}
            tapes = data.draw(
                st.lists(
                    st.tuples(
                        st.sampled_from(["s-1", "s-2"]),
                        st.lists(st.sampled_from(["x", "y"]), max_size=2),
                        st.sampled_from(["finalized", "aborted"]),
                        moments,
                    ),
                    max_size=3,
                )
            )
            for session_id, tags, status, moment in tapes:
                tape_id = new_tape_id()
                init_line = make_init_line(tape_id, session_id, moment)
                meta = make_metadata(json.loads(init_line), status, tags=tags)  # type: ignore[arg-type]
                storage.adopt(init_line, {**meta, "status": "recording"}).finalize(meta)
                known[tape_id] = meta
            maybe: Any = st.none()
            query = TapeQuery(
                data.draw(maybe | st.sampled_from(["s-1", "s-2", "s-3"])),
                data.draw(maybe | st.sampled_from(["x", "y", "z"])),
                data.draw(maybe | st.sampled_from(["finalized", "aborted", "recording"])),
                data.draw(maybe | moments),
                data.draw(maybe | moments),
            )
            limit = data.draw(st.integers(1, 5))
            found = [tape_id for page in pages(storage, query, limit=limit) for tape_id in page]
            assert found == sorted(tape_id for tape_id, meta in known.items() if query.matches(meta))

    def test_it_is_complete_and_without_doubles_while_others_insert(self, storage: TapeStorage) -> None:
        there = [f"t{n:03}" for n in range(0, 60, 2)]
        for tape_id in there:
            storage.record("s", tape_id=tape_id).finalize()
        stop = threading.Event()

        def insert() -> None:
            for n in range(1, 60, 2):
                if stop.is_set():
                    return
                storage.record("s", tape_id=f"t{n:03}").finalize()

        thread = threading.Thread(target=insert)
        thread.start()
        try:
            for _ in range(5):
                seen = [tape_id for page in pages(storage, limit=7) for tape_id in page]
                assert seen == sorted(set(seen))
                assert set(there) <= set(seen)
        finally:
            stop.set()
            thread.join()

    def test_listing_while_others_delete_finds_what_stays(self, storage: TapeStorage) -> None:
        for n in range(40):
            storage.record("s", tape_id=f"t{n:03}").finalize()
        stays = [f"t{n:03}" for n in range(1, 40, 2)]

        def delete() -> None:
            for n in range(0, 40, 2):
                storage.delete(f"t{n:03}")

        thread = threading.Thread(target=delete)
        thread.start()
        try:
            for _ in range(5):
                seen = [meta["tape_id"] for meta in storage.list_all()]
                assert seen == sorted(set(seen))
                assert set(stays) <= set(seen)
        finally:
            thread.join()
        assert [meta["tape_id"] for meta in storage.list_all()] == stays

    def test_a_cursor_of_a_tape_that_was_deleted_goes_on_behind_it(self, storage: TapeStorage) -> None:
        for tape_id in ("a", "b", "c", "d"):
            storage.record("s", tape_id=tape_id).finalize()
        page = storage.list(limit=2)
        storage.delete("b")
        assert page.cursor is not None
        assert [meta["tape_id"] for meta in storage.list(cursor=page.cursor).items] == ["c", "d"]

    def test_stats_fall_when_a_tape_is_deleted(self, storage: TapeStorage) -> None:
        for tape_id in ("a", "b"):
            with storage.record("s", tape_id=tape_id) as tape:
                tape.append(C2S, b'"%s"' % (b"x" * 10_000))
        before = storage.stats()
        storage.delete("a")
        after = storage.stats()
        assert after.tape_count == before.tape_count - 1
        assert after.size_bytes <= before.size_bytes - 10_000
        storage.delete("b")
        assert storage.stats() == StorageStats(0, 0)


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
        threads = [threading.Thread(target=work, args=(key,)) for key in keys]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
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
