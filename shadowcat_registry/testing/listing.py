"""Listing: queries, pages, and what others do meanwhile."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..backend import StorageStats, TapeQuery
from ..storage import TapeStorage
from ..tape import dump_metadata, make_init_line, make_metadata, new_tape_id
from .places import C2S, NO_FAULT_OF_THE_STORAGE, Place, UnderTest, pages


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
        suppress_health_check=NO_FAULT_OF_THE_STORAGE,
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
                tape.append(
                    C2S, b'"%s"' % os.urandom(10_000).hex().encode()
                )  # nothing makes it less than half
        before = storage.stats()
        storage.delete("a")
        after = storage.stats()
        assert after.tape_count == before.tape_count - 1
        assert after.size_bytes <= before.size_bytes - 10_000
        storage.delete("b")
        assert storage.stats() == StorageStats(0, 0)
