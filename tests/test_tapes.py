from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.errors import (
    InvalidMetadataError,
    InvalidTapeError,
    InvalidTapeIdError,
    StorageFullError,
    StorageUnavailableError,
    TapeBusyError,
    TapeNotFoundError,
)
from shadowcat_registry.marks import Mark
from shadowcat_registry.recorder import TapeRecorder
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tapes.exporting import export_tape
from shadowcat_registry.tapes.importing import ImportResult, import_tape

from .storages import DATA, FACTORIES, handle, open_backend

TAPE_ID = "97c53ba7-64ec-481b-840a-bc30da2e2656"
LINE_COUNT = 33


@pytest.fixture(params=sorted(FACTORIES))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TapeStorage]:
    backend = open_backend(request.param, tmp_path / "storage")
    with handle(backend) as opened:
        yield opened
    backend.close()


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """A copy of a real recording that a test may spoil, with its metadata beside it."""
    for suffix in (".jsonl", ".meta.json"):
        shutil.copyfile(DATA / (TAPE_ID + suffix), tmp_path / ("tape" + suffix))
    return tmp_path / "tape.jsonl"


def exported(storage: TapeStorage) -> bytes:
    out = io.BytesIO()
    assert export_tape(storage, TAPE_ID, out) == len(out.getvalue())
    return out.getvalue()


def half_import(storage: TapeStorage, tape: Path, line_count: int) -> None:
    """What an import that was killed behind so many lines leaves behind."""
    lines = tape.read_bytes().splitlines(keepends=True)
    beside = tape.with_name("tape.meta.json")
    meta = json.loads(beside.read_bytes()) if beside.exists() else {"tape_id": TAPE_ID}
    recorder = storage.adopt(lines[0], {**meta, "status": "recording", "stats": {}})
    recorder.append_lines(lines[1:line_count])
    recorder.detach()


class TestImport:
    def test_the_name_of_the_file_does_not_matter(self, storage: TapeStorage, tape: Path) -> None:
        assert import_tape(storage, tape) == ImportResult(TAPE_ID, "imported", LINE_COUNT)
        assert exported(storage) == tape.read_bytes()
        meta = json.loads(tape.with_name("tape.meta.json").read_bytes())
        assert storage.get_meta(TAPE_ID)[0] == meta
        assert import_tape(storage, str(tape)).outcome == "identical"

    def test_without_metadata_it_is_made_and_counted(self, storage: TapeStorage, tape: Path) -> None:
        original = json.loads(tape.with_name("tape.meta.json").read_bytes())
        tape.with_name("tape.meta.json").unlink()
        import_tape(storage, tape)
        meta, _ = storage.get_meta(TAPE_ID)
        assert (meta["status"], meta["session_id"]) == ("finalized", "b85d1876-74ea-49ca-9d8b-de92a62b2f51")
        assert meta["stats"] | {"duration_ms": 0} == original["stats"] | {"duration_ms": 0}
        assert import_tape(storage, tape).outcome == "identical"

    def test_a_torn_last_line_is_no_data(self, storage: TapeStorage, tape: Path) -> None:
        whole = tape.read_bytes()
        tape.write_bytes(whole + b'{"type":"fra')
        assert import_tape(storage, tape) == ImportResult(TAPE_ID, "imported", LINE_COUNT, torn_bytes=12)
        assert exported(storage) == whole
        assert import_tape(storage, tape) == ImportResult(TAPE_ID, "identical", LINE_COUNT, torn_bytes=12)

    def test_a_line_that_cannot_be_parsed_is_kept_and_reported(
        self, storage: TapeStorage, tape: Path
    ) -> None:
        tape.write_bytes(tape.read_bytes() + b"\xff{\n\n")
        result = import_tape(storage, tape)
        line = LINE_COUNT + 1
        assert result == ImportResult(
            TAPE_ID, "imported", LINE_COUNT + 2, 0, 2, Mark(str(tape), line, 1, line, 1)
        )
        assert exported(storage) == tape.read_bytes()

    def test_a_second_init_line_is_kept(self, storage: TapeStorage, tape: Path) -> None:
        content = tape.read_bytes()
        tape.write_bytes(content + content.splitlines(keepends=True)[0])
        assert import_tape(storage, tape).unparsed_count == 0
        assert exported(storage) == tape.read_bytes()

    def test_many_batches_and_a_long_line(self, storage: TapeStorage, tape: Path) -> None:
        more = b"".join(b'{"type":"x_%d"}\n' % n for n in range(2000)) + b'{"type":"%s"}\n' % (
            b"x" * 3_000_000
        )
        tape.write_bytes(tape.read_bytes() + more)
        assert import_tape(storage, tape).line_count == LINE_COUNT + 2001
        assert exported(storage) == tape.read_bytes()


class TestAnIdThatIsThere:
    @pytest.mark.parametrize("change", ["longer", "shorter", "other", "meta"])
    def test_another_tape_differs_and_nothing_is_changed(
        self, storage: TapeStorage, tape: Path, change: str
    ) -> None:
        import_tape(storage, tape)
        before = exported(storage), storage.get_meta(TAPE_ID)
        lines = tape.read_bytes().splitlines(keepends=True)
        if change == "longer":
            tape.write_bytes(b"".join([*lines, lines[-1]]))
        elif change == "shorter":
            tape.write_bytes(b"".join(lines[:-1]))
        elif change == "other":
            tape.write_bytes(b"".join([*lines[:5], b"{}\n", *lines[6:]]))
        else:
            beside = tape.with_name("tape.meta.json")
            beside.write_bytes(beside.read_bytes().replace(b"noisy-stdout", b"other"))
        assert import_tape(storage, tape).outcome == "differs"
        assert (exported(storage), storage.get_meta(TAPE_ID)) == before

    @pytest.mark.parametrize("line_count", [1, 2, 20, LINE_COUNT])
    @pytest.mark.parametrize("with_metadata", [True, False])
    def test_a_killed_import_is_completed(
        self, storage: TapeStorage, tape: Path, line_count: int, with_metadata: bool
    ) -> None:
        if not with_metadata:
            tape.with_name("tape.meta.json").unlink()
        half_import(storage, tape, line_count)
        assert import_tape(storage, tape).outcome == "resumed"
        assert exported(storage) == tape.read_bytes()
        assert storage.get_meta(TAPE_ID)[0]["status"] == "finalized"
        assert import_tape(storage, tape).outcome == "identical"

    def test_half_an_import_claims_no_frames(
        self, storage: TapeStorage, tape: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[object, object]] = []
        append_lines = TapeRecorder.append_lines

        def look(self: TapeRecorder, lines: Iterable[bytes], *, counted: bool) -> int:
            meta, _ = storage.get_meta(TAPE_ID)
            seen.append((meta["status"], meta["stats"]))
            return append_lines(self, lines, counted=counted)

        monkeypatch.setattr(TapeRecorder, "append_lines", look)
        assert import_tape(storage, tape).outcome == "imported"
        assert set(map(repr, seen)) == {repr(("recording", {}))}

    def test_one_that_is_being_imported_is_busy(self, storage: TapeStorage, tape: Path) -> None:
        meta = json.loads(tape.with_name("tape.meta.json").read_bytes())
        init_line = tape.read_bytes().splitlines(keepends=True)[0]
        with (
            storage.adopt(init_line, {**meta, "status": "recording", "stats": {}}),
            pytest.raises(TapeBusyError),
        ):
            import_tape(storage, tape)

    def test_what_another_import_completed_meanwhile_is_not_added_twice(
        self, storage: TapeStorage, tape: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        half_import(storage, tape, 5)
        resume = TapeStorage.resume

        def late(self: TapeStorage, tape_id: str) -> object:
            monkeypatch.undo()
            assert import_tape(storage, tape).outcome == "resumed"
            return resume(self, tape_id)

        monkeypatch.setattr(TapeStorage, "resume", late)
        import_tape(storage, tape)
        assert exported(storage) == tape.read_bytes()
        assert import_tape(storage, tape).outcome == "identical"

    def test_the_beginning_of_a_finished_tape_is_not_continued(
        self, storage: TapeStorage, tape: Path
    ) -> None:
        half_import(storage, tape, 5)
        meta, _ = storage.get_meta(TAPE_ID)
        storage.set_meta(TAPE_ID, {**meta, "status": "aborted"})
        assert import_tape(storage, tape).outcome == "differs"
        assert len(list(storage.read(TAPE_ID))) == 5


class TestBadInput:
    @pytest.mark.parametrize("content", [b"", b"hello\n", b'{"type":"init"', b'{"type":"frame"}\n'])
    def test_what_is_no_tape_is_refused_with_its_place(
        self, storage: TapeStorage, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "x.jsonl"
        path.write_bytes(content)
        with pytest.raises(InvalidTapeError) as caught:
            import_tape(storage, path)
        assert str(caught.value).startswith(f"{path}:1:1: not a tape")
        assert storage.list().items == ()

    def test_an_id_that_is_no_safe_name_is_refused(self, storage: TapeStorage, tape: Path) -> None:
        tape.write_bytes(tape.read_bytes().replace(TAPE_ID.encode(), b"../../etc/x"))
        with pytest.raises(InvalidTapeIdError):
            import_tape(storage, tape)

    def test_a_file_that_cannot_be_read_is_named(self, storage: TapeStorage, tmp_path: Path) -> None:
        for path in (tmp_path / "missing.jsonl", tmp_path):
            with pytest.raises(StorageUnavailableError) as caught:
                import_tape(storage, path)
            assert str(path) in str(caught.value)

    @pytest.mark.parametrize("text", [b"{", b"[]", b'{"tape_id":"other"}'])
    def test_broken_metadata_is_refused_before_anything_is_stored(
        self, storage: TapeStorage, tape: Path, text: bytes
    ) -> None:
        tape.with_name("tape.meta.json").write_bytes(text)
        with pytest.raises(InvalidMetadataError):
            import_tape(storage, tape)
        assert storage.list().items == ()

    def test_a_tape_that_is_not_there_cannot_be_exported(self, storage: TapeStorage) -> None:
        with pytest.raises(TapeNotFoundError):
            export_tape(storage, TAPE_ID, io.BytesIO())


class TestFailureHalfWay:
    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def append_lines(recorder: TapeRecorder, lines: Any, *, counted: bool) -> int:
            raise StorageFullError("no space")

        monkeypatch.setattr(TapeRecorder, "append_lines", append_lines)

    @pytest.mark.usefixtures("failing")
    def test_nothing_is_left_behind(self, storage: TapeStorage, tape: Path) -> None:
        with pytest.raises(StorageFullError):
            import_tape(storage, tape)
        assert storage.list().items == ()
        storage.record("s", tape_id=TAPE_ID).finalize()

    @pytest.mark.parametrize("error", [StorageFullError("x"), KeyboardInterrupt()])
    def test_a_half_that_was_there_stays_and_can_be_completed(
        self, storage: TapeStorage, tape: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        half_import(storage, tape, 10)

        def append_lines(recorder: TapeRecorder, lines: Sequence[bytes], *, counted: bool) -> int:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(TapeRecorder, "append_lines", append_lines)
            with pytest.raises(type(error)):
                import_tape(storage, tape)
        assert storage.get_meta(TAPE_ID)[0]["status"] == "recording"
        assert import_tape(storage, tape).outcome == "resumed"
        assert exported(storage) == tape.read_bytes()

    def test_the_readers_error_on_the_way_out_is_not_ours(self, storage: TapeStorage, tape: Path) -> None:
        class Pipe(io.BytesIO):
            def write(self, data: Any) -> int:
                raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        import_tape(storage, tape)
        with pytest.raises(BrokenPipeError) as caught:
            export_tape(storage, TAPE_ID, Pipe())
        assert not isinstance(caught.value, StorageUnavailableError)
