"""The rule at work: while tapes are written, and when somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shadowcat_registry.backend import StorageStats, TapeStorageBackend
from shadowcat_registry.errors import StorageClosedError, StorageFullError, StorageUnavailableError
from shadowcat_registry.housekeeping import Housekeeper, Readers
from shadowcat_registry.metadata import format_time
from shadowcat_registry.retention import Retention
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.tapes.pruning import prune_tapes

from .fakes import Running
from .storages import FACTORIES, handle, open_backend

Open = Callable[..., TapeStorage]
FRAME = ("client_to_server", b'"%s"' % (b"x" * 1000))


@pytest.fixture(params=sorted(FACTORIES))
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens a storage of each kind with these fields of `retention`."""
    opened: list[tuple[TapeStorage, TapeStorageBackend]] = []

    def open_(config: Mapping[str, Any] | None = None, **retention: object) -> TapeStorage:
        backend = open_backend(request.param, tmp_path, {**(config or {}), "retention": retention})
        storage = handle(backend)
        opened.append((storage, backend))
        return storage

    yield open_
    for storage, backend in opened:
        storage.close()
        backend.close()


def ids(storage: TapeStorage) -> list[str]:
    return [meta["tape_id"] for meta in storage.list_all()]


def record(storage: TapeStorage, tape_id: str, frames: int = 10, *, days_ago: float = 0, **more: Any) -> None:
    with storage.record("s", tape_id=tape_id, **more) as tape:
        tape.append_many([FRAME] * frames)  # type: ignore[list-item]
    if days_ago:
        meta, _ = storage.get_meta(tape_id)
        moment = format_time(datetime.now(UTC) - timedelta(days=days_ago))
        storage.set_meta(tape_id, {**meta, "finalized_at": moment})


class TestWhileWriting:
    def test_the_number_is_kept(self, open_storage: Open) -> None:
        storage = open_storage(max_tapes=3)
        for number in range(6):
            record(storage, f"t{number}")
        assert ids(storage) == ["t3", "t4", "t5"]

    def test_the_size_is_kept_while_one_long_tape_is_recorded(self, open_storage: Open) -> None:
        storage = open_storage(max_total_bytes=100_000)
        for number in range(4):
            record(storage, f"t{number}", 20)
        with storage.record("s", tape_id="long") as tape:
            for _ in range(50):
                tape.append(*FRAME)  # type: ignore[arg-type]
                assert storage.stats().size_bytes <= 100_000
        assert ids(storage) == ["long", "t3"]

    def test_what_is_recorded_is_never_cut_off(self, open_storage: Open) -> None:
        storage = open_storage(max_total_bytes=10_000, max_tapes=1)
        with storage.record("s", tape_id="a") as one, storage.record("s", tape_id="b") as other:
            for _ in range(20):
                one.append(*FRAME)  # type: ignore[arg-type]
                other.append(*FRAME)  # type: ignore[arg-type]
        assert len(list(storage.read("b"))) == 21

    def test_old_ones_go_with_the_first_append(self, open_storage: Open) -> None:
        storage = open_storage()
        record(storage, "old", days_ago=8)
        record(storage, "new", days_ago=6)
        strict = Retention(max_age_days=7)
        keeper = Housekeeper(storage.use.source.backend, strict, Readers(), "p")
        keeper.wrote(1)
        assert ids(storage) == ["new"]

    def test_old_ones_go_while_nothing_else_changes(self, open_storage: Open) -> None:
        storage = open_storage()
        record(storage, "a")
        time = [0.0]
        keeper = Housekeeper(
            storage.use.source.backend,
            Retention(max_age_days=7),
            Readers(),
            "p",
            clock=lambda: time[0],
            now=lambda: datetime.now(UTC) + timedelta(days=time[0]),
        )
        keeper.wrote(1)
        time[0] = 59
        keeper.wrote(1)
        assert ids(storage) == ["a"]
        time[0] = 61
        keeper.wrote(1)
        assert ids(storage) == []

    def test_tags_keep(self, open_storage: Open) -> None:
        storage = open_storage(max_tapes=2, keep_tags=["incident"])
        record(storage, "a", tags=["incident"])
        for name in "bcd":
            record(storage, name)
        assert ids(storage) == ["a", "d"]

    def test_a_tape_that_is_read_stays_until_it_was(self, open_storage: Open) -> None:
        storage = open_storage(max_tapes=1)
        record(storage, "a")
        with closing(storage.read("a")) as lines:
            next(lines)
            record(storage, "b")
            assert ids(storage) == ["a", "b"]
            assert len(list(lines)) == 10
        record(storage, "c")
        assert ids(storage) == ["c"]

    def test_one_that_somebody_goes_on_with_stays(self, open_storage: Open) -> None:
        storage = open_storage(max_tapes=1)
        record(storage, "a")
        again, _ = storage.resume("a")
        record(storage, "b")
        assert "a" in ids(storage)
        again.append(*FRAME)  # type: ignore[arg-type]
        again.finalize()

    def test_a_tape_takes_no_more_than_it_may_have(self, open_storage: Open) -> None:
        storage = open_storage(max_tape_bytes=4_500)
        with storage.record("s", tape_id="t") as tape:
            for _ in range(3):
                tape.append(*FRAME)  # type: ignore[arg-type]
            with pytest.raises(StorageFullError, match="max_tape_bytes"):
                tape.append_many([FRAME] * 2)  # type: ignore[list-item]
            assert tape.append("client_to_server", b"1") == 3  # a smaller one fits
        assert len(list(storage.read("t"))) == 5
        again, _ = storage.resume("t")
        with again, pytest.raises(StorageFullError, match="max_tape_bytes"):
            again.append(*FRAME)  # type: ignore[arg-type]

    def test_what_was_removed_is_said(self, open_storage: Open, caplog: pytest.LogCaptureFixture) -> None:
        storage = open_storage(max_tapes=1)
        with caplog.at_level(logging.INFO):
            record(storage, "a")
            record(storage, "b")
        assert "provider tapes: tape a was removed, for max_tapes (" in caplog.text

    def test_a_failure_of_it_costs_no_frame(
        self, open_storage: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_storage(max_tapes=1)

        def stats() -> StorageStats:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(storage.use.source.backend, "stats", stats)
        record(storage, "a")
        record(storage, "b")
        assert ids(storage) == ["a", "b"]
        assert caplog.text.count("its retention could not be enforced") == 1

    def test_it_does_not_look_at_each_append_once_nothing_more_can_be_removed(
        self, open_storage: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_storage(max_total_bytes=200_000)
        backend = storage.use.source.backend
        looks: list[int] = []
        stats = backend.stats

        def count() -> StorageStats:
            looks.append(1)
            return stats()

        monkeypatch.setattr(backend, "stats", count)
        with storage.record("s", tape_id="t") as tape:
            for _ in range(1_000):
                tape.append("client_to_server", FRAME[1])
        assert len(looks) < 400


class TestReaders:
    def test_one_that_the_collector_drops_while_another_is_counted_holds_nobody_up(self) -> None:
        readers = Readers()

        def read(tape_id: str) -> Iterator[None]:
            with readers.reading(tape_id):
                yield

        dropped = [read("a"), read("a")]
        assert [next(reader) for reader in dropped] == [None, None]

        class Collecting(str):
            """At whatever step it is looked at, the collector runs."""

            __slots__ = ()

            def __hash__(self) -> int:
                dropped.clear()
                return super().__hash__()

        def count() -> None:
            with readers.reading(Collecting("b")):
                assert "b" in readers

        Running(count).result()
        dropped.clear()
        assert readers.tape_ids() == frozenset()

    def test_a_tape_counts_until_its_last_reader_has_gone(self) -> None:
        readers = Readers()
        with readers.reading("t"):
            with readers.reading("t"):
                assert "t" in readers
            assert "t" in readers
        assert "t" not in readers


class TestFloor:
    """`min_free_bytes`, on a backend that says how much is free."""

    @pytest.fixture
    def storage(self, open_storage: Open) -> TapeStorage:
        return open_storage()

    def keeper(self, storage: TapeStorage, free: list[int], **fields: Any) -> Housekeeper:
        backend = storage.use.source.backend

        class Tight:
            """The same backend on a smaller disk: what is deleted there is free here."""

            def free_bytes(self) -> int:
                return free[0]

            def delete(self, tape_id: str) -> None:
                before = backend.stats().size_bytes
                backend.delete(tape_id)
                free[0] += before - backend.stats().size_bytes

            def __getattr__(self, name: str) -> object:
                return getattr(backend, name)

        return Housekeeper(Tight(), Retention(**fields), Readers(), "p")  # type: ignore[arg-type]

    def test_tapes_make_room(self, storage: TapeStorage) -> None:
        record(storage, "a")
        record(storage, "b")
        keeper = self.keeper(storage, [5_000], min_free_bytes=6_000)
        keeper.check_room("c", 0, 1_000)
        assert ids(storage) == ["b"]

    def test_where_none_may_go_the_frame_is_refused_until_there_is_room(self, storage: TapeStorage) -> None:
        record(storage, "a")
        free = [5_000]
        keeper = self.keeper(storage, free, min_free_bytes=6_000, may_remove=False)
        for _ in range(2):
            with pytest.raises(StorageFullError, match="6000 have to stay so"):
                keeper.check_room("c", 0, 1_000)
        assert ids(storage) == ["a"]
        free[0] = 7_000
        keeper.check_room("c", 0, 1_000)

    def test_a_disk_with_room_is_not_asked_at_each_append(self, storage: TapeStorage) -> None:
        free = [10**9]
        keeper = self.keeper(storage, free, min_free_bytes=6_000)
        keeper.check_room("c", 0, 1_000)
        free[0] = 0
        keeper.check_room("c", 0, 1_000)
        keeper.wrote(4 << 20)
        with pytest.raises(StorageFullError):
            keeper.check_room("c", 0, 1_000)

    def test_it_holds_on_a_real_disk(self, tmp_path: Path) -> None:
        backend = open_backend("filesystem", tmp_path, {"min_free_bytes": 1 << 60})
        with handle(backend) as storage:
            tape = storage.record("s", tape_id="t")
            with pytest.raises(StorageFullError, match="min_free_bytes"):
                tape.append("client_to_server", b"1")
            tape.abort()
            assert len(list(storage.read("t"))) == 1
        backend.close()


class TestPrune:
    def test_it_removes_what_has_to_go(self, open_storage: Open) -> None:
        storage = open_storage()
        record(storage, "a", days_ago=8)
        record(storage, "b")
        report = prune_tapes(storage, Retention(max_age_days=7))
        assert [(removal.tape_id, removal.rule) for removal in report.removed] == [("a", "max_age_days")]
        assert report.removed_bytes > 10_000
        assert (report.tape_count, report.exceeded) == (1, ())
        assert ids(storage) == ["b"]
        assert prune_tapes(storage, Retention(max_age_days=7)).removed == ()

    def test_a_dry_run_says_the_same_and_removes_nothing(self, open_storage: Open) -> None:
        storage = open_storage()
        for name in "abc":
            record(storage, name)
        said = prune_tapes(storage, Retention(max_tapes=1), dry_run=True)
        assert ids(storage) == ["a", "b", "c"]
        assert prune_tapes(storage, Retention(max_tapes=1)).removed == said.removed
        assert said.tape_count == 1

    def test_what_stays_above_a_bound_is_said(self, open_storage: Open) -> None:
        storage = open_storage()
        record(storage, "a", tags=["keep"])
        record(storage, "b", tags=["keep"])
        report = prune_tapes(storage, Retention(max_tapes=1, keep_tags=frozenset({"keep"})))
        assert (report.removed, report.exceeded) == ((), ("max_tapes",))

    def test_it_goes_by_the_config(self, open_storage: Open) -> None:
        storage = open_storage(max_tapes=10, keep_tags=["x"])
        assert storage.retention == Retention(max_tapes=10, keep_tags=frozenset({"x"}))
        assert prune_tapes(storage).removed == ()

    def test_without_one_it_is_an_error(self, open_storage: Open) -> None:
        storage = open_storage()
        assert storage.retention is None
        with pytest.raises(ValueError, match="no `retention`"):
            prune_tapes(storage)

    def test_a_closed_handle_prunes_nothing(self, open_storage: Open) -> None:
        storage = open_storage(max_tapes=1)
        storage.close()
        with pytest.raises(StorageClosedError):
            prune_tapes(storage)

    def test_a_storage_that_never_gets_smaller_is_not_emptied(
        self, open_storage: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_storage()
        for number in range(20):
            record(storage, f"t{number:02}", 2)
        size = storage.stats().size_bytes
        monkeypatch.setattr(storage.use.source.backend, "stats", lambda: StorageStats(20, size))
        report = prune_tapes(storage, Retention(max_total_bytes=size - 1))
        assert len(report.removed) == 1
        assert len(ids(storage)) == 19

    def test_a_failure_is_told(self, open_storage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = open_storage()
        record(storage, "a")

        def delete(tape_id: str) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(storage.use.source.backend, "delete", delete)
        with pytest.raises(StorageUnavailableError, match="Input/output error"):
            prune_tapes(storage, Retention(max_total_bytes=1))

    def test_one_that_became_busy_is_spared_and_the_next_goes(
        self, open_storage: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_storage()
        record(storage, "a")
        record(storage, "b")
        backend = storage.use.source.backend
        resumed, _ = backend.resume("a")
        try:
            report = prune_tapes(storage, Retention(max_tapes=1))
        finally:
            resumed.close()
        assert [removal.tape_id for removal in report.removed] == ["b"]
