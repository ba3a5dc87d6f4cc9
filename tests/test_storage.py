from __future__ import annotations

import errno
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from shadowcat_registry.backend import (
    Appender,
    Durability,
    Page,
    RepairReport,
    SearchHit,
    SearchPage,
    StorageStats,
    TapeQuery,
)
from shadowcat_registry.errors import (
    InvalidTapeIdError,
    MetadataConflictError,
    RecorderOpenError,
    RegistryError,
    StorageClosedError,
    StorageFullError,
    StorageUnavailableError,
    SyncFailedError,
    TapeNotFoundError,
    UnsupportedCapabilityError,
)
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.storage import TapeStorage
from shadowcat_registry.translation import translate
from shadowcat_registry.use import Source, Use

from .storages import handle


class FakeAppender:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.calls: list[str] = []
        self.fail: BaseException | None = None
        self.fail_to_close: BaseException | None = None

    def append(self, lines: Sequence[bytes]) -> None:
        if self.fail is not None:
            raise self.fail
        self.lines.extend(lines)

    def sync(self) -> None:
        self.calls.append("sync")
        if self.fail is not None:
            raise self.fail

    def close(self) -> None:
        self.calls.append("close")
        if self.fail_to_close is not None:
            raise self.fail_to_close


class FakeBackend:
    """One tape, whatever its id; raises `fail` wherever it is asked."""

    storage_type = "fake"

    def __init__(self) -> None:
        self.appender = FakeAppender()
        self.meta: dict[str, Any] = {}
        self.fail: Exception | None = None
        self.asked: list[str] = []
        self.conflicts = 0
        self.before_create: Callable[[], None] = lambda: None

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.fail is not None:
            raise self.fail

    def create(self, tape_id: str, init_line: bytes, meta: Any) -> Appender:
        self._ask("create")
        self.before_create()
        self.appender.lines.append(init_line)
        self.meta = dict(meta)
        return self.appender

    def resume(self, tape_id: str) -> tuple[Appender, RepairReport]:
        self._ask("resume")
        return self.appender, RepairReport(tape_id, -1, 1)

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        yield from self.appender.lines
        self._ask("read")

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        self._ask("list")
        return Page(())

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        self._ask("get_meta")
        return dict(self.meta), "etag"

    def set_meta(self, tape_id: str, meta: Any, if_match: str | None) -> str:
        self._ask("set_meta")
        if self.conflicts:
            self.conflicts -= 1
            self.meta["x_theirs"] = self.conflicts
            raise MetadataConflictError(tape_id)
        self.meta = dict(meta)
        return "etag"

    def delete(self, tape_id: str) -> None:
        self._ask("delete")

    def stats(self) -> StorageStats:
        self._ask("stats")
        return StorageStats(0, 0)

    def close(self) -> None:
        raise AssertionError("a handle never closes the backend")


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


class Releases:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def releases() -> Releases:
    return Releases()


@pytest.fixture
def storage(backend: FakeBackend, releases: Releases) -> TapeStorage:
    return handle(backend, release=releases)


USES: dict[str, Callable[[TapeStorage], object]] = {
    "create": lambda s: s.record("s", tape_id="t"),
    "resume": lambda s: s.resume("t"),
    "read": lambda s: list(s.read("t")),
    "list": lambda s: s.list(),
    "get_meta": lambda s: s.get_meta("t"),
    "set_meta": lambda s: s.set_meta("t", {}),
    "delete": lambda s: s.delete("t"),
    "stats": lambda s: s.stats(),
}
WITH_ID: dict[str, Callable[[TapeStorage, str], object]] = {
    "record": lambda s, i: s.record("s", tape_id=i),
    "resume": lambda s, i: s.resume(i),
    "read": lambda s, i: s.read(i),
    "get_meta": lambda s, i: s.get_meta(i),
    "set_meta": lambda s, i: s.set_meta(i, {}),
    "delete": lambda s, i: s.delete(i),
}


class TestTranslation:
    @pytest.mark.parametrize(
        ("raised", "seen"),
        [
            (OSError(errno.ENOSPC, "No space", "/x"), StorageFullError("No space: /x")),
            (OSError(errno.EFBIG, "Too large"), StorageFullError("Too large")),
            (PermissionError(errno.EACCES, "Denied", "/x"), StorageUnavailableError("Denied: /x")),
            (TimeoutError(), StorageUnavailableError("TimeoutError")),
            (OSError("password=1"), StorageUnavailableError("OSError")),
            (ValueError("password=1"), StorageUnavailableError("the backend failed with ValueError")),
            (StopIteration(), StorageUnavailableError("the backend failed with StopIteration")),
            (RecursionError(), StorageUnavailableError("the backend failed with RecursionError")),
        ],
    )
    def test_what_is_foreign_becomes_ours(self, raised: Exception, seen: Exception) -> None:
        assert translate(raised) == seen

    @pytest.mark.parametrize("raised", [TapeNotFoundError("t"), StorageFullError("x"), MemoryError()])
    def test_what_is_ours_and_a_lack_of_memory_stay_what_they_are(self, raised: Exception) -> None:
        assert translate(raised) is raised

    @pytest.mark.parametrize("operation", USES)
    def test_it_is_total_over_every_operation(
        self, backend: FakeBackend, storage: TapeStorage, operation: str
    ) -> None:
        backend.fail = KeyError("secret")
        with pytest.raises(StorageUnavailableError) as caught:
            USES[operation](storage)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is backend.fail
        backend.fail = own = TapeNotFoundError("t")
        with pytest.raises(TapeNotFoundError) as again:
            USES[operation](storage)
        assert again.value is own
        storage.close()

    def test_it_is_total_where_a_backend_looks_its_methods_up_itself(
        self, backend: FakeBackend, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: object) -> object:
            raise KeyError("secret")

        monkeypatch.setattr(FakeBackend, "stats", property(broken))
        with pytest.raises(StorageUnavailableError, match="failed with KeyError"):
            storage.stats()
        storage.close()

    @pytest.mark.parametrize("operation", ["append", "append_many", "append_lines"])
    def test_it_is_total_over_the_recorder(
        self, backend: FakeBackend, storage: TapeStorage, operation: str
    ) -> None:
        tape = storage.record("s")
        backend.appender.fail = OSError(errno.ENOSPC, "full")
        uses: dict[str, Callable[[], object]] = {
            "append": lambda: tape.append("client_to_server", b"1"),
            "append_many": lambda: tape.append_many([("client_to_server", b"1")]),
            "append_lines": lambda: tape.append_lines([b"1\n"]),
        }
        with pytest.raises(StorageFullError) as caught:
            uses[operation]()
        assert caught.value.__cause__ is backend.appender.fail
        backend.appender.fail = None
        assert tape.append("client_to_server", b"1") == 0
        assert backend.appender.lines[1].startswith(b'{"type":"frame","seq":0,')
        tape.finalize()
        assert backend.meta["stats"]["frame_count"] == 1

    def test_an_interrupt_leaves_a_gap_and_never_a_double(
        self, backend: FakeBackend, storage: TapeStorage
    ) -> None:
        tape = storage.record("s")
        backend.appender.fail = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            tape.append("client_to_server", b"1")
        backend.appender.fail = None
        assert tape.append("client_to_server", b"1") == 1
        tape.finalize()


class TestChecks:
    @pytest.mark.parametrize("operation", WITH_ID)
    @pytest.mark.parametrize("tape_id", ["../x", "", "a/b"])
    def test_an_unsafe_id_never_reaches_the_backend(
        self, backend: FakeBackend, storage: TapeStorage, operation: str, tape_id: str
    ) -> None:
        with pytest.raises(InvalidTapeIdError):
            WITH_ID[operation](storage, tape_id)
        assert backend.asked == []

    @pytest.mark.parametrize("operation", USES)
    def test_a_closed_handle_never_reaches_the_backend(
        self, backend: FakeBackend, storage: TapeStorage, operation: str
    ) -> None:
        storage.close()
        with pytest.raises(StorageClosedError):
            USES[operation](storage)
        with pytest.raises(StorageClosedError):
            storage.search("x")
        assert backend.asked == []

    def test_a_reader_ends_with_its_handle(self, backend: FakeBackend, storage: TapeStorage) -> None:
        backend.appender.lines = [b"1\n", b"2\n"]
        reader = storage.read("t")
        next(reader)
        storage.close()
        with pytest.raises(StorageClosedError):
            next(reader)

    def test_a_method_that_the_backend_lacks_is_a_capability_that_it_lacks(self) -> None:
        class Poor:
            storage_type = "poor"

        with handle(Poor()) as storage:  # type: ignore[arg-type]
            with pytest.raises(UnsupportedCapabilityError) as caught:
                storage.stats()
            assert caught.value == UnsupportedCapabilityError("poor", "stats")

    def test_a_capability_that_is_claimed_is_used(self, backend: FakeBackend) -> None:
        hit = SearchHit("t", 3, "a [x] b", 1.5)
        backend.search = lambda text, cursor, limit: SearchPage((hit,))  # type: ignore[attr-defined]
        with handle(backend, capabilities=frozenset({ProviderCapability.SEARCH})) as storage:
            assert storage.search("x").items == (hit,)
            assert hit.as_json() == {"tape_id": "t", "seq": 3, "snippet": "a [x] b", "score": 1.5}
            with pytest.raises(ValueError, match="at least 1"):
                storage.search("x", limit=0)
            with pytest.raises(UnsupportedCapabilityError):
                storage.transaction()

    def test_what_a_backend_has_counts_and_not_what_its_type_claims(self, backend: FakeBackend) -> None:
        backend.capabilities = frozenset({"transactions"})  # type: ignore[attr-defined]
        claimed = frozenset({ProviderCapability.SEARCH})
        with handle(backend, capabilities=claimed) as storage:
            assert storage.capabilities == {ProviderCapability.TRANSACTIONS}
            with pytest.raises(UnsupportedCapabilityError):
                storage.search("x")
        assert backend.asked == []

    def test_a_transaction_is_left_as_the_block_is_and_its_errors_are_translated(
        self, backend: FakeBackend
    ) -> None:
        seen: list[object] = []
        failure: list[Exception] = []

        class Transaction:
            def __enter__(self) -> None:
                seen.append("begin")

            def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
                seen.append(kind)
                if failure:
                    raise failure[0]
                return True  # suppresses nothing all the same

        backend.transaction = Transaction  # type: ignore[attr-defined]
        with handle(backend, capabilities=frozenset({ProviderCapability.TRANSACTIONS})) as storage:
            with storage.transaction():
                seen.append("block")
            with pytest.raises(ZeroDivisionError), storage.transaction():
                raise ZeroDivisionError
            failure.append(OSError(errno.ENOSPC, "full"))
            with pytest.raises(StorageFullError), storage.transaction():
                pass
        assert seen == ["begin", "block", None, "begin", ZeroDivisionError, "begin", None]

    def test_what_a_backend_says_of_itself_has_to_make_sense(self, backend: FakeBackend) -> None:
        assert handle(backend).durability == Durability("none")
        backend.durability = "frame"  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="durability"):
            handle(backend)
        del backend.durability  # type: ignore[attr-defined]
        backend.capabilities = {"flying"}  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="flying"):
            handle(backend)

    def test_a_reader_may_ask_for_a_part_and_for_the_torn_rest(
        self, backend: FakeBackend, storage: TapeStorage
    ) -> None:
        backend.appender.lines = [b"1\n", b"2\n"]
        assert list(storage.read("t", limit=1)) == [b"1\n"]
        assert list(storage.read("t", limit=0)) == []
        assert list(storage.read("t", raw=True)) == [b"1\n", b"2\n"]
        backend.torn = lambda tape_id: b"torn"  # type: ignore[attr-defined]
        assert list(storage.read("t", raw=True)) == [b"1\n", b"2\n", b"torn"]
        assert list(storage.read("t", limit=2, raw=True)) == [b"1\n", b"2\n"]
        assert list(storage.read("t")) == [b"1\n", b"2\n"]
        with pytest.raises(ValueError, match="at least 0"):
            storage.read("t", limit=-1)

    def test_tags_are_not_one_string(self, storage: TapeStorage) -> None:
        with pytest.raises(TypeError):
            storage.record("s", tags="abc")


class TestLease:
    def test_it_is_given_back_once(self, storage: TapeStorage, releases: Releases) -> None:
        storage.close()
        storage.close()
        assert storage.closed
        assert releases.count == 1

    def test_it_is_given_back_once_by_racing_threads(self, backend: FakeBackend) -> None:
        for _ in range(20):
            releases = Releases()
            storage = handle(backend, release=releases)
            start = threading.Barrier(4)

            def work(storage: TapeStorage = storage, start: threading.Barrier = start) -> None:
                start.wait()
                storage.close()

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert releases.count == 1

    def test_an_open_recorder_keeps_it(self, storage: TapeStorage, releases: Releases) -> None:
        tape = storage.record("s", tape_id="t")
        with pytest.raises(RecorderOpenError) as caught:
            storage.close()
        assert caught.value == RecorderOpenError(["t"])
        assert not storage.closed
        assert releases.count == 0
        tape.append("client_to_server", b"1")
        tape.finalize()
        storage.close()
        assert releases.count == 1

    def test_a_recorder_that_is_being_opened_counts_already(
        self, backend: FakeBackend, storage: TapeStorage, releases: Releases
    ) -> None:
        def close() -> None:
            with pytest.raises(RecorderOpenError):
                storage.close()

        backend.before_create = close
        storage.record("s", tape_id="t").finalize()
        assert releases.count == 0
        storage.close()

    def test_a_block_that_is_left_while_a_recorder_is_being_opened_waits_for_it(
        self, backend: FakeBackend, storage: TapeStorage, releases: Releases
    ) -> None:
        def leave() -> None:
            storage.__exit__(ValueError, ValueError(), None)
            assert releases.count == 0

        backend.before_create = leave
        with pytest.raises(StorageClosedError):
            storage.record("s", tape_id="t")
        assert backend.meta["status"] == "aborted"
        assert releases.count == 1

    def test_a_failed_opening_does_not_keep_it(
        self, backend: FakeBackend, storage: TapeStorage, releases: Releases
    ) -> None:
        backend.fail = OSError(errno.EIO, "broken")
        with pytest.raises(StorageUnavailableError):
            storage.record("s")
        storage.close()
        assert releases.count == 1

    def test_leaving_by_an_error_aborts_and_gives_back(
        self, backend: FakeBackend, storage: TapeStorage, releases: Releases
    ) -> None:
        def fail() -> None:
            with storage:
                storage.record("s").append("client_to_server", b"1")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert backend.meta["status"] == "aborted"
        assert backend.meta["stats"]["frame_count"] == 1
        assert releases.count == 1

    def test_leaving_cleanly_with_an_open_recorder_gives_back_and_raises(
        self, backend: FakeBackend, storage: TapeStorage, releases: Releases
    ) -> None:
        def forget() -> None:
            with storage:
                storage.record("s", tape_id="t")

        with pytest.raises(RecorderOpenError) as caught:
            forget()
        assert caught.value.tape_ids == ("t",)
        assert backend.meta["status"] == "aborted"
        assert backend.appender.calls == ["sync", "close"]
        assert releases.count == 1

    def test_a_tape_that_cannot_be_marked_as_aborted_does_not_keep_it(
        self,
        backend: FakeBackend,
        storage: TapeStorage,
        releases: Releases,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail() -> None:
            with storage:
                storage.record("s", tape_id="t")
                backend.fail = OSError(errno.EIO, "broken")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert releases.count == 1
        assert "tape t could not be marked as aborted: the storage failed: broken" in caplog.text

    def test_it_can_be_weakly_referenced_and_is_collected(self, backend: FakeBackend) -> None:
        storage = handle(backend)
        reference = weakref.ref(storage)
        storage.record("s").finalize()
        del storage
        gc.collect()
        assert reference() is None

    def test_its_repr_says_what_it_is(self, backend: FakeBackend) -> None:
        class Third(Use):
            revision = 3

            def is_superseded(self) -> bool:
                return True

        use = Third(Source(backend, "p", "fake"))
        use.instance_id = "i"
        storage = TapeStorage(use)
        assert repr(storage) == "<TapeStorage provider='p' type='fake' revision=3 instance_id='i' open>"
        assert storage.superseded
        storage.close()
        assert repr(storage).endswith(" closed>")


class TestEndingATape:
    def test_what_others_set_meanwhile_is_kept(self, backend: FakeBackend, storage: TapeStorage) -> None:
        tape = storage.record("s")
        backend.conflicts = 3
        tape.finalize()
        assert backend.meta["status"] == "finalized"
        assert backend.meta["x_theirs"] == 0

    def test_a_conflict_without_end_is_an_error(self, backend: FakeBackend, storage: TapeStorage) -> None:
        tape = storage.record("s")
        backend.conflicts = 10_000
        with pytest.raises(MetadataConflictError):
            tape.finalize()
        assert backend.appender.calls[-1] == "close"

    @pytest.mark.parametrize("end", ["finalize", "abort"])
    def test_the_appender_is_closed_even_if_the_metadata_fails(
        self, backend: FakeBackend, storage: TapeStorage, end: str
    ) -> None:
        tape = storage.record("s")
        backend.fail = OSError(errno.ENOSPC, "full")
        with pytest.raises(StorageFullError):
            getattr(tape, end)()
        assert backend.appender.calls == ["sync", "close"]
        getattr(tape, end)()  # it has ended all the same
        storage.close()

    def test_nothing_says_finalized_that_is_not_durable(
        self, backend: FakeBackend, storage: TapeStorage
    ) -> None:
        tape = storage.record("s")
        backend.appender.fail = OSError(errno.EIO, "broken")
        with pytest.raises(SyncFailedError, match="broken"):
            tape.finalize()
        assert backend.meta["status"] == "recording"
        assert backend.appender.calls == ["sync", "close"]

    def test_an_appender_that_cannot_be_closed_does_not_keep_the_handle(
        self, backend: FakeBackend, storage: TapeStorage, releases: Releases
    ) -> None:
        tape = storage.record("s")
        backend.appender.fail_to_close = OSError(errno.EIO, "broken")
        with pytest.raises(StorageUnavailableError):
            tape.finalize()
        storage.close()
        assert releases.count == 1

    def test_a_given_metadata_is_stored_as_it_is(self, backend: FakeBackend, storage: TapeStorage) -> None:
        storage.record("s", tape_id="t").finalize({"tape_id": "t", "x": 1})
        assert backend.meta == {"tape_id": "t", "x": 1}

    def test_an_error_that_ends_the_block_is_not_hidden(
        self, backend: FakeBackend, storage: TapeStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            with storage.record("s", tape_id="t"):
                backend.fail = OSError(errno.EIO, "broken")
                raise ZeroDivisionError

        with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError):
            fail()
        assert "could not be marked as aborted" in caplog.text

    def test_a_resume_that_fails_gives_the_tape_free(
        self, backend: FakeBackend, storage: TapeStorage
    ) -> None:
        backend.appender.lines = [b"no init line\n"]
        with pytest.raises(RegistryError):
            storage.resume("t")
        assert backend.appender.calls == ["close"]
        storage.close()
