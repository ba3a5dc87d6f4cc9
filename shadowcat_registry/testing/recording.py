"""Recording, and going on with a tape."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..errors import (
    InvalidMessageError,
    StorageClosedError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..storage import TapeStorage
from ..tape import dump_metadata, make_init_line, make_metadata, new_tape_id
from ..tapes.exporting import export_tape
from ..tapes.importing import import_tape
from ..tapes.verifying import verify_tape
from .places import C2S, NO_FAULT_OF_THE_STORAGE, S2C, UnderTest, messages_in


class RecordingConformance(UnderTest):
    recordings: ClassVar[Sequence[Path]] = ()
    """Tape files that have to come back byte for byte."""

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

    def test_lines_that_are_not_counted_are_kept_and_no_wrong_statistics_are_written(
        self, storage: TapeStorage
    ) -> None:
        init_line = make_init_line("t", "s", datetime.now(UTC))
        stats = {"frame_count": 7, "checkpoint_count": 1}
        tape = storage.adopt(init_line, {"tape_id": "t", "status": "recording", "stats": stats})
        lines = [b"\xff\n", b'{"type":"frame","seq":41,"ts":5,"dir":"client_to_server"}\n']
        assert tape.append_lines(lines, counted=False) == 2
        assert (tape.line_count, tape.accepted_seq) == (3, 41)
        assert tape.append(S2C, b"1") == 42
        tape.finalize()
        assert list(storage.read("t"))[1:3] == lines
        assert storage.get_meta("t")[0]["stats"] == stats

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

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=NO_FAULT_OF_THE_STORAGE,
    )
    @given(
        frames=st.lists(
            st.binary(min_size=1).filter(lambda m: not m.isspace() and not set(m) & {10, 13}), max_size=8
        )
    )
    def test_any_bytes_that_can_stand_on_a_line_come_back(
        self, storage: TapeStorage, frames: list[bytes]
    ) -> None:
        tape_id = new_tape_id()
        with storage.record("s", tape_id=tape_id) as tape:
            tape.append_many((C2S, frame) for frame in frames)
        found = list(storage.read(tape_id))[1:]
        assert [line.split(b'"message":', 1)[1].rsplit(b',"direction"', 1)[0] for line in found] == frames

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=NO_FAULT_OF_THE_STORAGE,
    )
    @given(
        lines=st.lists(st.binary().map(lambda b: b.replace(b"\n", b" ") + b"\n"), max_size=8),
        meta=st.dictionaries(
            st.text(max_size=8).filter(lambda key: key not in ("tape_id", "stats")),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(max_size=8),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
                ),
                max_leaves=6,
            ),
            max_size=6,
        ),
    )
    def test_what_is_loaded_is_what_was_saved(
        self, storage: TapeStorage, lines: list[bytes], meta: dict[str, Any]
    ) -> None:
        tape_id = new_tape_id()
        init_line = make_init_line(tape_id, "s", datetime.now(UTC))
        meta = {**meta, "tape_id": tape_id}
        tape = storage.adopt(init_line, {"tape_id": tape_id, "status": "recording"})
        tape.append_lines(lines)
        tape.finalize(meta)
        assert list(storage.read(tape_id)) == [init_line, *lines]
        assert storage.get_meta(tape_id)[0] == meta

    @pytest.mark.parametrize(
        "message",
        [
            '{"text":"\u00e9 \u4e2d \U0001f408 \u202e \ufeff"}'.encode(),
            b'{"text":"\\u0000 \\ud800 \\n"}',
            b'{"text":"\x00\x01\x7f\x1b[2J"}',
            b"\xff\xfe not UTF-8",
            b"not JSON at all",
            b'{"n":1E2,"big":123456789012345678901234567890,"nan":NaN,"a":1,"a":2}',
            b"[" * 3_000 + b"]" * 3_000,
            b" \t{} ",
        ],
        ids=["unicode", "escapes", "control", "bytes", "text", "numbers", "deep", "blanks"],
    )
    def test_a_message_comes_back_as_it_was_on_the_wire(self, storage: TapeStorage, message: bytes) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, message)
        assert message in list(storage.read("t"))[1]
        assert storage.get_meta("t")[0]["stats"]["frame_count"] == 1

    def test_records_that_are_no_json_are_kept_where_they_were(self, storage: TapeStorage) -> None:
        odd = [b'{"type":"x_non_json","text":"\xff\xfe"}\n', b"\x00\n", b"\n", b'{"type":"x_own"}\n']
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            tape.append_lines(odd)
            tape.append(C2S, b"2")
        lines = list(storage.read("t"))
        assert lines[2:-1] == odd
        assert len(lines) == 7

    def test_recordings_go_in_and_out_byte_for_byte(self, storage: TapeStorage) -> None:
        if not self.recordings:
            pytest.skip("there are no `recordings`")
        for path in self.recordings:
            assert import_tape(storage, path).outcome == "imported"
            out = io.BytesIO()
            tape_id = json.loads(path.read_bytes().partition(b"\n")[0])["tape_id"]
            assert export_tape(storage, tape_id, out) == path.stat().st_size
            assert out.getvalue() == path.read_bytes()
            beside = path.with_name(path.name.removesuffix(".jsonl") + ".meta.json")
            if beside.exists():
                assert dump_metadata(tape_id, storage.get_meta(tape_id)[0]) == beside.read_bytes()
            assert import_tape(storage, path).outcome == "identical"
            assert verify_tape(storage, tape_id).ok

    def test_an_empty_tape_is_a_tape(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()
        (line,) = storage.read("t")
        assert json.loads(line)["tape_id"] == "t"
        assert storage.get_meta("t")[0]["stats"]["frame_count"] == 0
        assert storage.get_meta("t")[0]["stats"]["last_sequence"] == -1
        again, report = storage.resume("t")
        again.finalize()
        assert (report.last_seq, report.line_count) == (-1, 1)
        assert verify_tape(storage, "t").ok

    def test_what_was_finalized_verifies(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many([(C2S, b"%d" % n) for n in range(300)])
            tape.append_lines([b"\xff\n"])
        report = verify_tape(storage, "t")
        assert report.checksum == "matches"
        assert [flaw.kind for flaw in report.flaws] == ["unparsed"]

    def test_a_long_line_among_short_ones(self, storage: TapeStorage) -> None:
        messages = [b'"%s"' % (b"x" * size) for size in (1, 1_000_000, 2, 100_000, 3)]
        with storage.record("s", tape_id="t") as tape:
            for message in messages[:2]:
                tape.append(C2S, message)
            tape.append_many((S2C, message) for message in messages[2:])
        assert [json.dumps(found).encode() for found in messages_in(storage, "t")] == messages

    def test_many_tapes_are_recorded_at_once(self, storage: TapeStorage) -> None:
        tapes = [storage.record(f"s-{n}", tape_id=f"t-{n}") for n in range(20)]
        for number in range(5):
            for n, tape in enumerate(tapes):
                tape.append(C2S, b"[%d,%d]" % (n, number))
        for tape in tapes:
            tape.finalize()
        for n in range(20):
            assert messages_in(storage, f"t-{n}") == [[n, number] for number in range(5)]

    def test_a_clock_that_went_back_reorders_nothing(self, storage: TapeStorage) -> None:
        """The tape was begun tomorrow, as this clock has it."""
        init_line = make_init_line("t", "s", datetime.now(UTC) + timedelta(days=1))
        tape = storage.adopt(init_line, make_metadata(json.loads(init_line), "recording"))
        tape.append(C2S, b"1")
        tape.detach()
        again, _ = storage.resume("t")
        again.append(C2S, b"2")
        again.finalize()
        records = [json.loads(line) for line in list(storage.read("t"))[1:]]
        assert [record["seq"] for record in records] == [0, 1]
        assert 0 <= records[0]["ts"] <= records[1]["ts"]
        assert [item["tape_id"] for item in storage.list().items] == ["t"]


class ExclusionConformance(UnderTest):
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


class ResumingConformance(UnderTest):
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
