"""Tapes from one storage into another: out of every kind, and into every kind."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from shadowcat_registry.backend import TapeQuery
from shadowcat_registry.errors import (
    InvalidTapeIdError,
    StorageFullError,
    StorageUnavailableError,
    TapeNotFoundError,
)
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tapes.batches import batches
from shadowcat_registry.tapes.copying import CopyProgress, CopyResult, copy_tapes
from shadowcat_registry.tapes.importing import import_tape

from .storages import DATA, FACTORIES, handle, open_backend

PAIRS = sorted({pair for name in FACTORIES for pair in ((name, "memory"), ("memory", name))})
SMALL = sorted(DATA.glob("*.jsonl"))


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TapeStorage, TapeStorage]]:
    backends = [
        open_backend(type_name, tmp_path / where)
        for type_name, where in zip(request.param, ("source", "target"), strict=True)
    ]
    with handle(backends[0]) as source, handle(backends[1]) as target:
        yield source, target
    for backend in backends:
        backend.close()


@pytest.fixture
def source(pair: tuple[TapeStorage, TapeStorage]) -> TapeStorage:
    return pair[0]


@pytest.fixture
def target(pair: tuple[TapeStorage, TapeStorage]) -> TapeStorage:
    return pair[1]


def outcomes(results: Iterable[CopyResult]) -> dict[str, str]:
    return {result.tape_id: result.outcome for result in results}


def fill(storage: TapeStorage, tape_id: str = "t", frames: int = 600, tags: Iterable[str] = ()) -> None:
    with storage.record("s", tape_id=tape_id, tags=tags) as tape:
        tape.append_many(("client_to_server", b'{"id":%d}' % n) for n in range(frames))


def same(source: TapeStorage, target: TapeStorage, tape_id: str) -> bool:
    return (
        list(source.read(tape_id)) == list(target.read(tape_id))
        and source.get_meta(tape_id)[0] == target.get_meta(tape_id)[0]
    )


def cut(monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int) -> None:
    """Let the copy end by `error` behind so many batches."""

    def some(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
        yield from itertools.islice(batches(lines), after)
        raise error

    monkeypatch.setattr("shadowcat_registry.tapes.copying.batches", some)


class TestCopy:
    def test_every_recording_arrives_with_its_metadata(
        self, source: TapeStorage, target: TapeStorage
    ) -> None:
        for path in SMALL:
            import_tape(source, path)
        results = copy_tapes(source, target)
        assert outcomes(results) == {path.stem: "copied" for path in SMALL}
        assert all(result.ok for result in results)
        assert [result.size_bytes for result in results] == [path.stat().st_size for path in SMALL]
        for path in SMALL:
            assert b"".join(target.read(path.stem)) == path.read_bytes()
            assert same(source, target, path.stem)

    def test_a_second_time_it_does_nothing(self, source: TapeStorage, target: TapeStorage) -> None:
        import_tape(source, SMALL[0])
        fill(source)
        copy_tapes(source, target)
        etags = [target.get_meta(tape_id)[1] for tape_id in ("t", SMALL[0].stem)]
        assert set(outcomes(copy_tapes(source, target)).values()) == {"identical"}
        assert [target.get_meta(tape_id)[1] for tape_id in ("t", SMALL[0].stem)] == etags

    def test_nothing_to_copy_is_fine(self, source: TapeStorage, target: TapeStorage) -> None:
        assert copy_tapes(source, target) == ()

    def test_a_query_or_ids_choose(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source, "a", tags=["x"])
        fill(source, "b")
        fill(source, "c")
        assert outcomes(copy_tapes(source, target, query=TapeQuery(tag="x"))) == {"a": "copied"}
        assert outcomes(copy_tapes(source, target, tape_ids=["c", "a", "c"])) == {
            "a": "identical",
            "c": "copied",
        }

    def test_an_id_that_is_not_there_is_told_before_anything_is_copied(
        self, source: TapeStorage, target: TapeStorage
    ) -> None:
        fill(source, "a")
        with pytest.raises(TapeNotFoundError):
            copy_tapes(source, target, tape_ids=["a", "b"])
        with pytest.raises(InvalidTapeIdError):
            copy_tapes(source, target, tape_ids=["a", "../b"])
        assert target.list().items == ()

    def test_an_empty_tape_is_one(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source, frames=0)
        assert outcomes(copy_tapes(source, target)) == {"t": "copied"}
        assert same(source, target, "t")

    def test_progress_adds_up(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source, "a", 600)
        fill(source, "b", 10)
        seen: list[CopyProgress] = []
        copy_tapes(source, target, progress=seen.append)
        assert [step.size_bytes for step in seen] == sorted(step.size_bytes for step in seen)
        assert seen[-1].size_bytes == seen[-1].total_bytes
        assert (seen[-1].tape_count, seen[-1].tape_total) == (2, 2)
        assert [step.result.tape_id for step in seen if step.result] == ["a", "b"]
        assert len(seen) > 4


class TestInterrupted:
    @pytest.mark.parametrize("after", [0, 1, 2])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageFullError("no space")], ids=["^C", "full"])
    def test_the_next_one_goes_on(
        self,
        source: TapeStorage,
        target: TapeStorage,
        monkeypatch: pytest.MonkeyPatch,
        after: int,
        error: BaseException,
    ) -> None:
        fill(source)
        with monkeypatch.context() as patch:
            cut(patch, error, after)
            with pytest.raises(type(error)):
                copy_tapes(source, target)
        assert target.get_meta("t")[0]["status"] == "recording"
        assert target.get_meta("t")[0]["stats"] == {}
        assert outcomes(copy_tapes(source, target)) == {"t": "resumed"}
        assert same(source, target, "t")

    def test_a_kill_behind_the_last_line_too(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source)
        lines = list(source.read("t"))
        meta, _ = source.get_meta("t")
        recorder = target.adopt(lines[0], {**meta, "status": "recording", "stats": {}})
        recorder.append_lines(lines[1:])
        recorder.detach()
        assert outcomes(copy_tapes(source, target)) == {"t": "resumed"}
        assert same(source, target, "t")

    def test_what_does_not_read_back_does_not_count_as_copied(
        self, source: TapeStorage, target: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(source)
        read = TapeStorage.read

        def rotten(self: TapeStorage, tape_id: str) -> object:
            lines = read(self, tape_id)
            return (line.replace(b":7}", b":8}") for line in lines) if self is target else lines

        with monkeypatch.context() as patch:
            patch.setattr(TapeStorage, "read", rotten)
            with pytest.raises(StorageUnavailableError, match="does not read back as it was written"):
                copy_tapes(source, target)
        assert target.get_meta("t")[0]["status"] == "recording"


class TestAnIdThatIsThere:
    @pytest.mark.parametrize("status", ["finalized", "recording"])
    def test_another_tape_is_left_alone(self, source: TapeStorage, target: TapeStorage, status: str) -> None:
        fill(source)
        tape = target.record("other", tape_id="t")
        tape.append("client_to_server", b"1")
        (tape.finalize if status == "finalized" else tape.detach)()
        before = list(target.read("t")), target.get_meta("t")
        (result,) = copy_tapes(source, target)
        assert (result.outcome, result.ok) == ("differs", False)
        assert (list(target.read("t")), target.get_meta("t")) == before

    def test_the_same_tape_under_another_name_differs(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source)
        copy_tapes(source, target)
        meta, _ = target.get_meta("t")
        target.set_meta("t", {**meta, "name": "mine"})
        assert outcomes(copy_tapes(source, target)) == {"t": "differs"}

    def test_one_that_somebody_writes_is_busy_and_the_others_arrive(
        self, source: TapeStorage, target: TapeStorage
    ) -> None:
        fill(source, "a")
        fill(source, "b")
        with target.record("s", tape_id="a"):
            results = copy_tapes(source, target)
        assert outcomes(results) == {"a": "busy", "b": "copied"}
        assert not results[0].ok

    def test_one_that_comes_free_meanwhile_is_copied(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source, "a")
        fill(source, "b")
        init_line = next(source.read("a"))
        recorder = target.adopt(init_line, {"status": "recording"})
        results = copy_tapes(source, target, progress=lambda step: recorder.detach())
        assert outcomes(results) == {"a": "resumed", "b": "copied"}


class TestAMovingSource:
    def test_a_tape_that_is_recorded_is_copied_as_far_as_it_is_and_gone_on_with(
        self, source: TapeStorage, target: TapeStorage
    ) -> None:
        with source.record("s", tape_id="t") as tape:
            tape.append("client_to_server", b"1")
            (result,) = copy_tapes(source, target)
            assert (result.outcome, result.ok) == ("partial", True)
            assert same(source, target, "t")
            tape.append("client_to_server", b"2")
            assert outcomes(copy_tapes(source, target)) == {"t": "partial"}
            assert same(source, target, "t")
        assert outcomes(copy_tapes(source, target)) == {"t": "resumed"}
        assert same(source, target, "t")

    def test_one_that_ends_while_it_is_copied_is_whole(
        self, source: TapeStorage, target: TapeStorage
    ) -> None:
        tape = source.record("s", tape_id="t")
        tape.append("client_to_server", b"1")

        def end(step: CopyProgress) -> None:
            if tape.line_count == 2:
                tape.append("client_to_server", b"2")
                tape.finalize()

        (result,) = copy_tapes(source, target, progress=end)
        assert result.outcome == "resumed"
        assert same(source, target, "t")

    def test_one_that_is_deleted_meanwhile_vanished(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source, "a")
        fill(source, "b")

        def forget(step: CopyProgress) -> None:
            if step.tape_id == "a" and step.result:
                source.delete("b")

        results = copy_tapes(source, target, progress=forget)
        assert outcomes(results) == {"a": "copied", "b": "vanished"}
        assert results[1].ok


class TestADamagedSource:
    def test_the_copy_is_made_and_the_damage_told(self, source: TapeStorage, target: TapeStorage) -> None:
        fill(source)
        meta, _ = source.get_meta("t")
        source.set_meta("t", {**meta, "checksum": "sha256:" + "0" * 64})
        (result,) = copy_tapes(source, target)
        assert (result.outcome, result.ok) == ("copied", False)
        assert "SHA-256" in (result.problem or "")
        assert same(source, target, "t")

    def test_a_tape_that_cannot_be_read_fails_and_the_others_arrive(
        self, source: TapeStorage, target: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(source, "a")
        fill(source, "b")
        read = TapeStorage.read

        def broken(self: TapeStorage, tape_id: str) -> object:
            if self is source and tape_id == "a":
                raise StorageUnavailableError("Input/output error")
            return read(self, tape_id)

        monkeypatch.setattr(TapeStorage, "read", broken)
        results = copy_tapes(source, target)
        assert outcomes(results) == {"a": "failed", "b": "copied"}
        assert "Input/output error" in (results[0].problem or "")

    def test_a_tape_that_is_too_large_for_the_target_fails_and_the_others_arrive(
        self, source: TapeStorage, tmp_path: Path
    ) -> None:
        fill(source, "a", 100)
        fill(source, "b", 1)
        backend = open_backend("memory", tmp_path, {"retention": {"max_tape_bytes": 10_000}})
        with handle(backend) as small:
            results = copy_tapes(source, small)
            assert outcomes(results) == {"a": "failed", "b": "copied"}
            assert "10000 bytes at most (max_tape_bytes)" in (results[0].problem or "")
            assert [meta["tape_id"] for meta in small.list_all()] == ["b"]
        backend.close()

    def test_a_file_that_was_renamed_by_hand_is_not_copied_under_its_old_name(self, tmp_path: Path) -> None:
        (tmp_path / "tapes").mkdir()
        shutil.copyfile(SMALL[0], tmp_path / "tapes" / "renamed.jsonl")
        source, target = open_backend("filesystem", tmp_path), open_backend("memory", tmp_path)
        with handle(source) as one, handle(target) as two:
            (result,) = copy_tapes(one, two)
            assert result.outcome == "failed"
            assert SMALL[0].stem in (result.problem or "")
            assert two.list().items == ()
