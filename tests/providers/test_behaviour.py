"""What every storage has to do, run over each built-in type: the difference is only where tapes live."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat_registry.backend import SearchHit, TapeQuery, TapeStorageBackend
from shadowcat_registry.errors import (
    InvalidMessageError,
    InvalidMetadataError,
    MetadataConflictError,
    StorageClosedError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
    TransactionError,
    UnsupportedCapabilityError,
)
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tape import Direction, dump_metadata, make_init_line, make_metadata
from shadowcat_registry.tapes.exporting import export_tape
from shadowcat_registry.tapes.importing import import_tape

from ..fakes import Running
from ..storages import FACTORIES, RECORDINGS, handle, open_backend

C2S: Direction = "client_to_server"
S2C: Direction = "server_to_client"


@pytest.fixture(params=sorted(FACTORIES))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TapeStorageBackend]:
    opened = open_backend(request.param, tmp_path)
    yield opened
    opened.close()
    opened.close()  # idempotent


@pytest.fixture
def storage(backend: TapeStorageBackend) -> Iterator[TapeStorage]:
    with handle(backend) as opened:
        yield opened


def messages_in(storage: TapeStorage, tape_id: str, after_seq: int = -1) -> list[object]:
    records = map(json.loads, storage.read(tape_id, after_seq))
    return [record["env"]["message"] for record in records if record["type"] == "frame"]


class TestRecording:
    def test_frames_come_back_in_order_and_verbatim(self, storage: TapeStorage) -> None:
        odd = b'{"a":1E2, "b":NaN,"a":"\\ud800"} '
        with storage.record("s-1", tape_id="t", name="n", tags=["x"], protocol_version="2025-11-25") as tape:
            assert tape.accepted_seq == -1
            assert tape.append(C2S, odd) == 0
            assert tape.append_many([(S2C, b"1"), (C2S, b"2")]) == range(1, 3)
            assert tape.append_many([]) == range(3, 3)
            assert tape.append(S2C, b"3") == 3
            assert tape.accepted_seq == 3
        lines = list(storage.read("t"))
        assert json.loads(lines[0])["protocol_version"] == "2025-11-25"
        assert odd in lines[1]
        assert [json.loads(line)["seq"] for line in lines[1:]] == [0, 1, 2, 3]
        assert [json.loads(line)["dir"] for line in lines[1:]] == [C2S, S2C, C2S, S2C]

    def test_finalize_writes_status_and_statistics_and_keeps_what_others_set(
        self, storage: TapeStorage
    ) -> None:
        tape = storage.record("s-1", tape_id="t", name="n", tags=["x"])
        meta, etag = storage.get_meta("t")
        assert (meta["status"], meta["name"], meta["tags"]) == ("recording", "n", ["x"])
        storage.set_meta("t", {**meta, "x_note": "mine", "stats": {"x_own": 1}}, etag)
        tape.append(C2S, b"{}")
        tape.finalize()
        meta, _ = storage.get_meta("t")
        size = sum(map(len, storage.read("t")))
        assert (meta["status"], meta["x_note"]) == ("finalized", "mine")
        assert meta["finalized_at"] == meta["updated_at"] is not None
        assert meta["stats"] == {
            "x_own": 1,
            "frame_count": 1,
            "duration_ms": json.loads(list(storage.read("t"))[1])["ts"],
            "message_counts": {C2S: 1, S2C: 0},
            "error_count": 0,
            "correlation_count": 0,
            "file_size_bytes": size,
            "last_sequence": 0,
            "checkpoint_count": 0,
        }

    def test_an_error_in_the_block_aborts_the_tape_and_keeps_its_frames(self, storage: TapeStorage) -> None:
        def fail() -> None:
            with storage.record("s", tape_id="t") as tape:
                tape.append(C2S, b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert storage.get_meta("t")[0]["status"] == "aborted"
        assert messages_in(storage, "t") == [1]

    def test_the_first_end_counts_and_nothing_is_added_behind_it(self, storage: TapeStorage) -> None:
        tape = storage.record("s", tape_id="t")
        tape.abort()
        tape.finalize()
        tape.abort()
        assert storage.get_meta("t")[0]["status"] == "aborted"
        for use in (
            lambda: tape.append(C2S, b"1"),
            lambda: tape.append_many([(C2S, b"1")]),
            lambda: tape.append_lines([b"1\n"]),
            tape.flush,
        ):
            with pytest.raises(StorageClosedError):
                use()
        assert messages_in(storage, "t") == []

    def test_a_refused_message_takes_no_seq(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            with pytest.raises(InvalidMessageError):
                tape.append(C2S, b"1\n")
            with pytest.raises(InvalidMessageError):
                tape.append_many([(C2S, b"1"), (C2S, b"")])
            with pytest.raises(InvalidMessageError):
                tape.append_lines([b"fine\n", b"torn"])
            with pytest.raises(InvalidMessageError):
                tape.append_lines([b"two\nlines\n"])
            assert tape.append(C2S, b"2") == 0
        assert messages_in(storage, "t") == [2]

    def test_raw_lines_are_kept_and_counted(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            assert (
                tape.append_lines([b"\xff\n", b'{"type":"frame","seq":41,"ts":5,"dir":"client_to_server"}\n'])
                == 2
            )
            assert tape.append_lines([]) == 0
            assert (tape.unparsed_count, tape.line_count, tape.accepted_seq) == (1, 3, 41)
            assert tape.append(S2C, b"1") == 42
        assert list(storage.read("t"))[1] == b"\xff\n"

    def test_flush_and_durable_flush_work(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            tape.flush()
            tape.flush(durable=True)

    def test_threads_share_one_recorder(self, storage: TapeStorage) -> None:
        seqs: list[int] = []

        def work(tape_id: int) -> None:
            for number in range(50):
                seqs.append(tape.append(C2S, b'"%d-%d"' % (tape_id, number)))
                seqs.extend(tape.append_many([(S2C, b"1"), (S2C, b"2")]))

        with storage.record("s", tape_id="t") as tape:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(seqs) == list(range(600))
        records = [json.loads(line) for line in list(storage.read("t"))[1:]]
        assert [record["seq"] for record in records] == list(range(600))
        assert storage.get_meta("t")[0]["stats"]["message_counts"] == {C2S: 200, S2C: 400}

    def test_a_message_of_22_mb_goes_in_and_out(self, storage: TapeStorage) -> None:
        message = b'"' + b"x" * 22_000_000 + b'"'
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, message)
        assert message in list(storage.read("t"))[1]

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(
            st.binary(min_size=1).filter(lambda m: not m.isspace() and not set(m) & {10, 13}), max_size=8
        )
    )
    @pytest.mark.parametrize("type_name", sorted(FACTORIES))
    def test_any_bytes_that_can_stand_on_a_line_come_back(
        self, type_name: str, tmp_path_factory: pytest.TempPathFactory, frames: list[bytes]
    ) -> None:
        backend = open_backend(type_name, tmp_path_factory.mktemp("any"))
        with handle(backend) as storage:
            with storage.record("s", tape_id="t") as tape:
                tape.append_many((C2S, frame) for frame in frames)
            found = list(storage.read("t"))[1:]
        backend.close()
        assert [line.split(b'"message":', 1)[1].rsplit(b',"direction"', 1)[0] for line in found] == frames


class TestExclusion:
    def test_an_id_is_taken_once(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()
        with pytest.raises(TapeExistsError):
            storage.record("s", tape_id="t")
        assert len(list(storage.read("t"))) == 1

    def test_of_racing_creators_one_wins(self, storage: TapeStorage) -> None:
        won: list[object] = []
        lost: list[BaseException] = []

        def work() -> None:
            try:
                won.append(storage.record("s", tape_id="t"))
            except (TapeExistsError, TapeBusyError) as error:
                lost.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 7)
        won[0].finalize()  # type: ignore[attr-defined]

    def test_a_tape_that_is_recorded_is_busy(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            with pytest.raises(TapeBusyError):
                storage.resume("t")
            with pytest.raises(TapeBusyError):
                storage.delete("t")
            tape.append(C2S, b"1")
        storage.delete("t")

    def test_a_recorder_that_was_detached_leaves_the_tape_as_it_is(self, storage: TapeStorage) -> None:
        tape = storage.record("s", tape_id="t")
        tape.append(C2S, b"1")
        tape.detach()
        assert storage.get_meta("t")[0]["status"] == "recording"
        again, _ = storage.resume("t")
        again.finalize()


class TestResuming:
    def test_seq_ts_and_statistics_go_on(self, storage: TapeStorage) -> None:
        with storage.record("s-1", tape_id="t") as tape:
            tape.append_many([(C2S, b"1"), (S2C, b"2")])
        again, report = storage.resume("t")
        assert (report.tape_id, report.last_seq, report.line_count, report.torn_bytes) == ("t", 1, 3, 0)
        meta, _ = storage.get_meta("t")
        assert (meta["status"], meta["finalized_at"]) == ("recording", None)
        assert (again.session_id, again.accepted_seq, again.line_count) == ("s-1", 1, 3)
        with again:
            assert again.append(S2C, b"3") == 2
        records = [json.loads(line) for line in list(storage.read("t"))[1:]]
        assert [record["env"]["message"] for record in records] == [1, 2, 3]
        assert sorted(record["ts"] for record in records) == [record["ts"] for record in records]
        stats = storage.get_meta("t")[0]["stats"]
        assert (stats["frame_count"], stats["last_sequence"]) == (3, 2)
        assert stats["file_size_bytes"] == sum(map(len, storage.read("t")))

    def test_ts_never_falls_behind_the_last_frame(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_lines([b'{"type":"frame","seq":0,"ts":86400000,"dir":"client_to_server"}\n'])
        again, _ = storage.resume("t")
        with again:
            again.append(C2S, b"1")
        assert json.loads(list(storage.read("t"))[-1])["ts"] >= 86400000

    @pytest.mark.parametrize("ts", [10**40, -5])
    def test_a_tape_with_absurd_times_can_be_continued(self, storage: TapeStorage, ts: int) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_lines([b'{"type":"frame","seq":0,"ts":%d,"dir":"client_to_server"}\n' % ts])
        again, _ = storage.resume("t")
        with again:
            assert again.append(C2S, b"1") == 1

    def test_a_tape_that_is_not_there_cannot_be_resumed(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            storage.resume("t")


class TestReading:
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
        except OSError:  # Windows does not remove what somebody reads
            reader.close()
            return
        assert len(list(reader)) == 5


class TestFollowing:
    def test_what_is_there_comes_first_then_each_line_as_it_comes_until_the_tape_has_ended(
        self, storage: TapeStorage
    ) -> None:
        tape = storage.record("s", tape_id="t")
        tape.append_many([(C2S, b"0"), (C2S, b"1")])
        lines = storage.follow("t")
        seen = [next(lines) for _ in range(3)]
        for number in range(2, 5):
            waiting = Running(lambda: next(lines))
            tape.append(C2S, b"%d" % number)
            seen.append(waiting.result())
        tape.append_lines([b"\xff\n", b'{"type":"frame","seq":3,"odd":true}\n', b"{}\n"])
        rest = Running(lambda: list(lines))
        tape.append(C2S, b"5")
        tape.finalize()
        assert seen + rest.result() == list(storage.read("t"))

    def test_only_what_follows_a_frame(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(5))
        assert list(storage.follow("t", 2)) == list(storage.read("t", 2))
        assert list(storage.follow("t", 9)) == []

    def test_it_ends_with_its_handle(self, backend: TapeStorageBackend) -> None:
        ways: list[Callable[[TapeStorage], object]] = [
            lambda other: other.close(),
            lambda other: other.__exit__(None, None, None),
        ]
        with handle(backend) as storage, storage.record("s", tape_id="t") as tape:
            for leave in ways:
                other = handle(backend)
                lines = other.follow("t")
                assert len([next(lines)]) == 1
                following = Running(lambda lines=lines: list(lines))  # type: ignore[misc]
                leave(other)
                assert following.result() == []
            tape.append(C2S, b"1")

    def test_what_was_recorded_by_others_is_found(self, backend: TapeStorageBackend) -> None:
        """Another source has recorders that ring for nobody here, as another process does."""
        with handle(backend) as storage, handle(backend) as elsewhere:
            tape = elsewhere.record("s", tape_id="t")
            lines = storage.follow("t")
            next(lines)
            waiting = Running(lambda: next(lines))
            tape.append(C2S, b"1")
            assert b'"message":1,' in waiting.result()
            tape.finalize()
            assert list(lines) == []

    def test_a_tape_that_is_not_there_or_goes_is_told(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            storage.follow("t")
        tape = storage.record("s", tape_id="t")
        lines = storage.follow("t")
        next(lines)
        tape.detach()
        storage.delete("t")
        with pytest.raises(TapeNotFoundError):
            next(lines)

    def test_following_can_be_given_up(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t"):
            lines = storage.follow("t")
            next(lines)
            lines.close()
            assert storage.use.source.followers.all == ()


class TestListing:
    def test_pages_are_ordered_complete_and_without_doubles(self, storage: TapeStorage) -> None:
        ids = sorted(f"t{n}" for n in range(7))
        for tape_id in reversed(ids):
            storage.record("s", tape_id=tape_id).finalize()
        seen, cursor, sizes = [], None, []
        while True:
            page = storage.list(cursor=cursor, limit=3)
            seen += [item["tape_id"] for item in page.items]
            sizes.append(len(page.items))
            cursor = page.cursor
            if cursor is None:
                break
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


class TestMetadata:
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


class TestDeleting:
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


class TestCapabilities:
    @pytest.mark.parametrize(
        ("capability", "use"),
        [
            (ProviderCapability.SEARCH, lambda storage: storage.search("x")),
            (ProviderCapability.TRANSACTIONS, lambda storage: storage.transaction()),
        ],
    )
    def test_what_it_does_not_claim_fails_with_one_error(
        self, storage: TapeStorage, capability: ProviderCapability, use: Callable[[TapeStorage], object]
    ) -> None:
        if capability in storage.capabilities:
            use(storage)
            return
        with pytest.raises(UnsupportedCapabilityError):
            use(storage)

    def test_an_instance_claims_no_more_than_its_type(
        self, backend: TapeStorageBackend, storage: TapeStorage
    ) -> None:
        assert storage.capabilities <= FACTORIES[backend.storage_type]().capabilities


def capable(storage: TapeStorage, capability: ProviderCapability) -> TapeStorage:
    if capability not in storage.capabilities:
        pytest.skip(f"it does not claim {capability}")
    return storage


class TestSearching:
    @pytest.fixture
    def searchable(self, storage: TapeStorage) -> TapeStorage:
        return capable(storage, ProviderCapability.SEARCH)

    def test_a_word_is_found_in_the_frame_that_has_it(self, searchable: TapeStorage) -> None:
        with searchable.record("s", tape_id="a") as tape:
            tape.append(C2S, b'{"method":"tools/call","params":{"name":"read_file"}}')
            tape.append(S2C, b'{"result":{"text":"a zebra\\nand a \\u00e9clair"}}')
        with searchable.record("s", tape_id="b") as tape:
            tape.append(C2S, b'{"method":"tools/list"}')
        for text, found in (
            ("zebra", [("a", 1)]),
            ("ZEBRA \u00e9clair", [("a", 1)]),
            ("zebra read_file", []),
            ("read_file", [("a", 0)]),
            ("tools/list", [("b", 0)]),
            ("elephant", []),
            ("session_id", []),  # of the envelope, not of a message
        ):
            hits = searchable.search(text).items
            assert [(hit.tape_id, hit.seq) for hit in hits] == found, text
        assert {hit.tape_id for hit in searchable.search("tools").items} == {"a", "b"}
        hit = searchable.search("zebra").items[0]
        assert "[zebra]" in hit.snippet
        assert hit.score == hit.score  # a number

    @pytest.mark.parametrize(
        "text",
        ["", " ", "*", '"', "C++", "NEAR(a b)", "a AND", "-a", "a:b", "^a", "(", "{a b}:c", "\0", "\ud800",
         "a'b", 'say "x', "OR", "tool*", "\x1b[31m", "%", "x" * 100_000],
    )  # fmt: skip
    def test_no_character_is_syntax_and_none_an_error(self, searchable: TapeStorage, text: str) -> None:
        with searchable.record("s", tape_id="t") as tape:
            tape.append(C2S, b'"something else"')
        assert searchable.search(text).items == ()

    @pytest.mark.parametrize(
        "word", ["tools/call", "C++", '"quoted"', "a.b-c_d", "NEAR", "*star*", "50%", "x:y"]
    )
    def test_odd_words_are_found_as_they_are(self, searchable: TapeStorage, word: str) -> None:
        with searchable.record("s", tape_id="t") as tape:
            tape.append(C2S, json.dumps(f"before {word} after").encode())
        assert [hit.seq for hit in searchable.search(word).items] == [0]

    def test_what_was_appended_before_is_found_also_while_it_is_recorded(
        self, searchable: TapeStorage
    ) -> None:
        with searchable.record("s", tape_id="t") as tape:
            for number in range(3):
                tape.append(C2S, b'"common word%d"' % number)
                assert len(searchable.search("common").items) == number + 1
                assert [hit.seq for hit in searchable.search(f"word{number}").items] == [number]

    def test_the_best_comes_first_and_pages_are_complete(self, searchable: TapeStorage) -> None:
        with searchable.record("s", tape_id="t") as tape:
            for number in range(7):
                tape.append(C2S, b'"%s"' % b" ".join([b"fish"] * (number + 1) + [b"other"] * (20 - number)))
        seen: list[SearchHit] = []
        cursor = None
        while True:
            page = searchable.search("fish", cursor, 3)
            seen += page.items
            cursor = page.cursor
            if cursor is None:
                break
            assert len(page.items) == 3
        assert [hit.seq for hit in seen] == [6, 5, 4, 3, 2, 1, 0]
        assert sorted(seen, key=lambda hit: -hit.score) == seen

    def test_a_deleted_tape_is_not_found(self, searchable: TapeStorage) -> None:
        for tape_id in ("a", "b"):
            with searchable.record("s", tape_id=tape_id) as tape:
                tape.append(C2S, b'"zebra"')
        assert len(searchable.search("zebra").items) == 2
        searchable.delete("a")
        assert [hit.tape_id for hit in searchable.search("zebra").items] == ["b"]


class TestTransactions:
    @pytest.fixture
    def transactional(self, storage: TapeStorage) -> TapeStorage:
        return capable(storage, ProviderCapability.TRANSACTIONS)

    @staticmethod
    def _change(storage: TapeStorage) -> None:
        with storage.record("s", tape_id="new") as tape:
            tape.append(C2S, b"1")
        storage.delete("old")
        storage.set_meta("kept", {"name": "changed"})
        assert messages_in(storage, "new") == [1], "a thread sees what it did"
        assert [item["tape_id"] for item in storage.list().items] == ["kept", "new"]

    def test_all_of_it_is_there_at_the_end(self, transactional: TapeStorage) -> None:
        for tape_id in ("kept", "old"):
            transactional.record("s", tape_id=tape_id).finalize()
        with transactional.transaction():
            self._change(transactional)
            seen: list[object] = []
            other = threading.Thread(target=lambda: seen.extend(transactional.list_all()))
            other.start()
            other.join()
            assert [item["tape_id"] for item in seen] == ["kept", "old"]  # type: ignore[index]
        assert [item["tape_id"] for item in transactional.list_all()] == ["kept", "new"]
        assert messages_in(transactional, "new") == [1]
        assert transactional.get_meta("kept")[0]["name"] == "changed"

    def test_after_an_error_nothing_of_it_is(self, transactional: TapeStorage) -> None:
        for tape_id in ("kept", "old"):
            transactional.record("s", tape_id=tape_id).finalize()
        before = [transactional.get_meta(tape_id) for tape_id in ("kept", "old")]

        def fail() -> None:
            with transactional.transaction():
                self._change(transactional)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert [transactional.get_meta(tape_id) for tape_id in ("kept", "old")] == before
        assert len(list(transactional.read("old"))) == 1
        transactional.record("s", tape_id="new").finalize()  # the id is free, and nobody holds it

    def test_a_refused_operation_leaves_the_others_in_it(self, transactional: TapeStorage) -> None:
        with transactional.transaction():
            transactional.record("s", tape_id="a").finalize()
            with pytest.raises(TapeExistsError):
                transactional.record("s", tape_id="a")
            with pytest.raises(TapeNotFoundError):
                transactional.delete("b")
        assert [item["tape_id"] for item in transactional.list_all()] == ["a"]

    def test_one_within_another_is_refused(self, transactional: TapeStorage) -> None:
        with transactional.transaction():
            transactional.record("s", tape_id="a").finalize()
            with pytest.raises(TransactionError), transactional.transaction():
                pass
        assert [item["tape_id"] for item in transactional.list_all()] == ["a"]

    def test_a_recorder_from_outside_of_it_takes_no_part(self, transactional: TapeStorage) -> None:
        with transactional.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            with transactional.transaction(), pytest.raises(TransactionError):
                tape.append(C2S, b"2")
            tape.append(C2S, b"3")
        assert messages_in(transactional, "t") == [1, 3]

    def test_a_recorder_that_was_opened_in_it_outlives_its_end(self, transactional: TapeStorage) -> None:
        with transactional.transaction():
            tape = transactional.record("s", tape_id="t")
            tape.append(C2S, b"1")
        tape.append(C2S, b"2")
        tape.finalize()
        assert messages_in(transactional, "t") == [1, 2]

    def test_a_recorder_whose_transaction_was_rolled_back_is_dead(self, transactional: TapeStorage) -> None:
        tapes = []

        def fail() -> None:
            with transactional.transaction():
                tapes.append(transactional.record("s", tape_id="t"))
                tapes[0].append(C2S, b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        tape = tapes[0]
        with pytest.raises(TransactionError):
            tape.append(C2S, b"2")
        tape.detach()
        with transactional.record("s", tape_id="t") as again:
            again.append(C2S, b"3")
        assert messages_in(transactional, "t") == [3]


class TestRecordings:
    @pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem[:8])
    def test_a_real_recording_goes_in_and_out_byte_for_byte(self, storage: TapeStorage, path: Path) -> None:
        assert import_tape(storage, path).outcome == "imported"
        out = io.BytesIO()
        assert export_tape(storage, path.stem, out) == path.stat().st_size
        assert out.getvalue() == path.read_bytes()
        text = path.with_name(path.stem + ".meta.json").read_bytes()
        assert dump_metadata(path.stem, storage.get_meta(path.stem)[0]) == text
        assert import_tape(storage, path).outcome == "identical"
