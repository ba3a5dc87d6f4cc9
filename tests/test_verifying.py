"""What `verify_tape` finds, and that it finds nothing on a tape that is fine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat_registry.errors import InvalidTapeIdError, TapeNotFoundError
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tapes.importing import import_tape
from shadowcat_registry.tapes.verifying import Flaw, VerifyReport, verify_tape

from .storages import FACTORIES, RECORDINGS, handle, open_backend

INIT = b'{"type":"init","version":"2.0","tape_id":"t","session_id":"s","created_at":"2026-11-25T10:00:00Z"}\n'


def frame(seq: object) -> bytes:
    return b'{"type":"frame","seq":%s,"ts":1,"dir":"client_to_server","env":{"message":1}}\n' % (
        json.dumps(seq).encode()
    )


@pytest.fixture(params=sorted(FACTORIES))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TapeStorage]:
    backend = open_backend(request.param, tmp_path)
    with handle(backend) as opened:
        yield opened
    backend.close()


def store(storage: TapeStorage, *lines: bytes, **changes: object) -> None:
    """A tape of these lines, with the metadata that a recorder writes, but for `changes`."""
    recorder = storage.adopt(INIT, {"tape_id": "t", "session_id": "s", "status": "recording", "stats": {}})
    recorder.append_lines(lines)
    recorder.finalize()
    if changes:
        meta, _ = storage.get_meta("t")
        storage.set_meta("t", {**meta, **changes})


def kinds(report: VerifyReport) -> list[str]:
    return [flaw.kind for flaw in report.flaws]


class TestAFineTape:
    def test_one_that_was_recorded_here_matches_its_checksum(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append_many(("client_to_server", b"%d" % n) for n in range(5))
        text = b"".join(storage.read("t"))
        digest = hashlib.sha256(text).hexdigest()
        assert storage.get_meta("t")[0]["checksum"] == f"sha256:{digest}"
        report = verify_tape(storage, "t")
        assert report == VerifyReport("t", "finalized", 6, 5, len(text), digest, "matches")
        assert report.ok

    @pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem[:8])
    def test_a_real_recording_has_no_flaw(self, storage: TapeStorage, path: Path) -> None:
        import_tape(storage, path)
        report = verify_tape(storage, path.stem)
        assert report.flaws == ()
        assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert report.checksum == "absent"

    def test_one_that_is_being_recorded_is_fine_as_far_as_it_is(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append("client_to_server", b"1")
            report = verify_tape(storage, "t")
            assert (report.ok, report.status, report.frame_count) == (True, "recording", 1)

    def test_one_that_was_aborted_has_no_checksum(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").abort()
        report = verify_tape(storage, "t")
        assert (report.ok, report.status, report.checksum) == (True, "aborted", "absent")

    def test_one_that_was_gone_on_with_has_a_new_checksum(self, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize()
        tape, _ = storage.resume("t")
        assert storage.get_meta("t")[0]["checksum"] is None
        tape.append("client_to_server", b"1")
        tape.finalize()
        assert verify_tape(storage, "t").checksum == "matches"


class TestFlaws:
    def test_frames_that_are_missing(self, storage: TapeStorage) -> None:
        store(storage, frame(0), frame(2), frame(7))
        report = verify_tape(storage, "t")
        offset = len(INIT) + len(frame(0))
        assert report.flaws == (
            Flaw("gap", "frame 2 follows here, frame 1 is missing", 3, offset),
            Flaw("gap", "frame 7 follows here, 3 to 6 are missing", 4, offset + len(frame(2))),
        )
        assert not report.ok

    def test_frames_in_the_wrong_order(self, storage: TapeStorage) -> None:
        store(storage, frame(0), frame(1), frame(1), frame(0), frame(2))
        assert [(flaw.kind, flaw.line) for flaw in verify_tape(storage, "t").flaws] == [
            ("order", 4),
            ("order", 5),
        ]

    @pytest.mark.parametrize("line", [b"\xff\n", b"\n", b"[]\n", b"{}\n", b"1\n", frame("x"), frame(None)])
    def test_lines_that_are_no_records(self, storage: TapeStorage, line: bytes) -> None:
        store(storage, frame(0), line, frame(1))
        (flaw,) = verify_tape(storage, "t").flaws
        assert (flaw.kind, flaw.line, flaw.offset) == ("unparsed", 3, len(INIT) + len(frame(0)))

    def test_records_of_an_unknown_type_are_none(self, storage: TapeStorage) -> None:
        store(storage, b'{"type":"x_own"}\n', frame(0), b'{"type":"init"}\n')
        assert verify_tape(storage, "t").ok

    def test_a_checksum_of_other_records(self, storage: TapeStorage) -> None:
        store(storage, frame(0), checksum="sha256:" + "0" * 64)
        report = verify_tape(storage, "t")
        assert (kinds(report), report.checksum) == (["checksum"], "differs")

    @pytest.mark.parametrize("checksum", ["", 7, "md5:0", "0" * 64, {"x": 1}])
    def test_a_checksum_of_another_kind_is_none_that_we_could_compare(
        self, storage: TapeStorage, checksum: object
    ) -> None:
        store(storage, frame(0), checksum=checksum)
        report = verify_tape(storage, "t")
        assert (report.ok, report.checksum) == (True, "unknown")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"stats": {"frame_count": 2}}, "its metadata says frame_count 2, counted: 1"),
            ({"stats": {"last_sequence": 9}}, "its metadata says last_sequence 9, counted: 0"),
            ({"stats": {"message_counts": 1}}, "its metadata says message_counts 1, counted: "),
            ({"session_id": "other"}, "its metadata and its init record differ in session_id"),
            ({"created_at": "2020-01-01T00:00:00Z"}, "its metadata and its init record differ in created_at"),
        ],
    )
    def test_metadata_that_says_otherwise(
        self, storage: TapeStorage, changes: dict[str, Any], told: str
    ) -> None:
        store(storage, frame(0), **changes)
        (flaw,) = verify_tape(storage, "t").flaws
        assert flaw.kind == "metadata"
        assert flaw.message.startswith(told)

    def test_only_the_first_hundred_are_kept_and_all_are_counted(self, storage: TapeStorage) -> None:
        store(storage, *[b"x\n"] * 250)
        report = verify_tape(storage, "t")
        assert (len(report.flaws), report.flaw_count) == (100, 250)

    @given(st.lists(st.integers(min_value=0, max_value=6)))
    def test_a_sequence_is_fine_if_it_counts_from_nought(self, seqs: list[int]) -> None:
        backend = open_backend("memory", Path())
        with handle(backend) as storage:
            store(storage, *map(frame, seqs))
            assert verify_tape(storage, "t").ok == (seqs == list(range(len(seqs))))
        backend.close()

    def test_a_tape_that_is_not_there_is_told(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            verify_tape(storage, "t")
        with pytest.raises(InvalidTapeIdError):
            verify_tape(storage, "../t")


class TestFiles:
    """What can only be done to files."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[TapeStorage]:
        backend = open_backend("filesystem", tmp_path, {"directory": str(tmp_path)})
        with handle(backend) as opened:
            yield opened
        backend.close()

    def test_a_torn_tail(self, storage: TapeStorage, tmp_path: Path) -> None:
        store(storage, frame(0))
        path = tmp_path / "t.jsonl"
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(b'{"type":')
        report = verify_tape(storage, "t")
        assert report.torn_bytes == 8
        assert report.flaws == (
            Flaw("torn", "8 bytes of an unfinished line follow the last whole one", 3, size),
        )
        assert report.checksum == "matches"

    def test_of_a_tape_that_is_recorded_it_is_none(self, storage: TapeStorage, tmp_path: Path) -> None:
        tape = storage.record("s", tape_id="t")
        tape.detach()
        with (tmp_path / "t.jsonl").open("ab") as file:
            file.write(b"{")
        report = verify_tape(storage, "t")
        assert (report.ok, report.torn_bytes) == (True, 1)

    def test_a_bit_that_has_turned(self, storage: TapeStorage, tmp_path: Path) -> None:
        store(storage, frame(0), frame(1))
        path = tmp_path / "t.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"message":1', b'"message":3'))
        assert kinds(verify_tape(storage, "t")) == ["checksum"]

    def test_a_file_that_was_renamed_by_hand(self, storage: TapeStorage, tmp_path: Path) -> None:
        store(storage, frame(0))
        (tmp_path / "t.jsonl").rename(tmp_path / "u.jsonl")
        report = verify_tape(storage, "u")
        assert kinds(report) == ["metadata"]
        assert "says that it is tape t" in report.flaws[0].message

    def test_what_is_no_tape_any_more(self, storage: TapeStorage, tmp_path: Path) -> None:
        store(storage, frame(0))
        path = tmp_path / "t.jsonl"
        path.write_bytes(path.read_bytes().replace(b'{"type":"init"', b'{"type":"tini"'))
        assert "init" in kinds(verify_tape(storage, "t"))
