"""Every declared error, a handle that was closed, and a storage beneath which something fails."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest

from ..errors import (
    InvalidMessageError,
    InvalidTapeError,
    MetadataConflictError,
    RecorderOpenError,
    RegistryError,
    StorageClosedError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..metadata import ProviderCapability
from ..storage import TapeStorage
from .faults import Faults, FaultyFactory, SystemFaults, faulty_system
from .places import C2S, Place, UnderTest, messages_in

MESSAGE = b'{"pad":"%s"}' % (b"x" * 3_000)


class ErrorConformance(UnderTest):
    def test_every_declared_error_is_raised_as_itself(self, storage: TapeStorage) -> None:
        tape = storage.record("s", tape_id="t")
        etag = storage.get_meta("t")[1]
        storage.set_meta("t", {**storage.get_meta("t")[0], "name": "new"})
        uses: list[tuple[type[Exception], Callable[[], object]]] = [
            (TapeExistsError, lambda: storage.record("s", tape_id="t")),
            (TapeBusyError, lambda: storage.resume("t")),
            (TapeBusyError, lambda: storage.delete("t")),
            (MetadataConflictError, lambda: storage.set_meta("t", {}, etag)),
            (MetadataConflictError, lambda: storage.set_meta("t", {}, "no etag at all")),
            (TapeNotFoundError, lambda: storage.resume("u")),
            (TapeNotFoundError, lambda: list(storage.read("u"))),
            (TapeNotFoundError, lambda: storage.get_meta("u")),
            (TapeNotFoundError, lambda: storage.set_meta("u", {})),
            (TapeNotFoundError, lambda: storage.delete("u")),
            (InvalidMessageError, lambda: tape.append(C2S, b"")),
            (InvalidTapeError, lambda: storage.adopt(b"{}\n", {})),
            (RecorderOpenError, storage.close),
        ]
        for error, use in uses:
            if error is TapeExistsError:  # which of the two is seen first, is left to the storage
                with pytest.raises((TapeExistsError, TapeBusyError)):
                    use()
                continue
            with pytest.raises(error):
                use()
        tape.append(C2S, b"1")
        tape.finalize()
        with pytest.raises(TapeExistsError):
            storage.record("s", tape_id="t")
        assert messages_in(storage, "t") == [1]

    def test_closing_is_idempotent(self, place: Place) -> None:
        storage = place.open()
        backend = storage.use.source.backend
        storage.record("s", tape_id="t").finalize()
        storage.close()
        storage.close()
        backend.close()
        backend.close()

    def test_a_closed_handle_refuses_every_use(self, place: Place) -> None:
        with place.open() as storage:
            storage.record("s", tape_id="t").finalize()
            reader = storage.read("t")
        uses: list[Callable[[], object]] = [
            lambda: storage.record("s"),
            lambda: storage.adopt(b'{"type":"init","version":"2.0","tape_id":"u","session_id":"s"}\n', {}),
            lambda: storage.resume("t"),
            lambda: storage.read("t"),
            lambda: storage.list(),
            lambda: list(storage.list_all()),
            lambda: storage.get_meta("t"),
            lambda: storage.set_meta("t", {}),
            lambda: storage.delete("t"),
            storage.stats,
            storage.transaction,
            lambda: storage.search("x"),
            storage.__enter__,
        ]
        for use in uses:
            with pytest.raises(StorageClosedError):
                use()
        with pytest.raises((StorageClosedError, TapeNotFoundError)):
            list(reader)

    def test_a_tape_that_was_left_open_ends_as_aborted_with_every_frame(self, place: Place) -> None:
        with place.open() as watcher:

            def fail() -> None:
                with place.open() as storage:
                    storage.record("s", tape_id="t").append(C2S, b"1")
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                fail()
            if place.is_lasting:
                assert watcher.get_meta("t")[0]["status"] == "aborted"
                assert messages_in(watcher, "t") == [1]


class FaultConformance(UnderTest):
    @pytest.fixture
    def faults(self) -> Faults:
        return Faults()

    @pytest.fixture
    def faulty(self, place: Place, faults: Faults) -> Iterator[TapeStorage]:
        """The storage, with a backend that fails as `faults` says."""
        other = place.with_factory(partial(FaultyFactory, faults=faults))
        with other.open() as storage:
            yield storage
            faults.errors.clear()
        other.registry.close()

    @pytest.mark.parametrize(
        ("error", "translation"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), StorageFullError),
            (OSError(errno.EIO, "Input/output error"), StorageUnavailableError),
            (InterruptedError(errno.EINTR, "Interrupted system call"), StorageUnavailableError),
            (TimeoutError("slow"), StorageUnavailableError),
            (KeyError("a fault of the backend, with password=hunter2"), StorageUnavailableError),
        ],
        ids=["ENOSPC", "EIO", "EINTR", "timeout", "fault"],
    )
    def test_an_append_that_fails_takes_no_seq_and_the_recorder_goes_on(
        self, faulty: TapeStorage, faults: Faults, error: Exception, translation: type[Exception]
    ) -> None:
        with faulty.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            faults.errors["append"] = error
            with pytest.raises(translation) as caught:
                tape.append(C2S, b"2")
            with pytest.raises(translation):
                tape.append_many([(C2S, b"3"), (C2S, b"4")])
            assert "hunter2" not in str(caught.value)
            assert tape.accepted_seq == 0
            faults.errors.clear()
            assert tape.append(C2S, b"5") == 1
        assert messages_in(faulty, "t") == [1, 5]
        assert faulty.get_meta("t")[0]["stats"]["frame_count"] == 2

    @pytest.mark.parametrize(
        "operation", ["create", "resume", "read", "list", "get_meta", "set_meta", "delete", "stats"]
    )
    def test_what_a_backend_raises_is_translated(
        self, faulty: TapeStorage, faults: Faults, operation: str
    ) -> None:
        faulty.record("s", tape_id="t").finalize()
        uses: dict[str, Callable[[], object]] = {
            "create": lambda: faulty.record("s"),
            "resume": lambda: faulty.resume("t"),
            "read": lambda: list(faulty.read("t")),
            "list": lambda: list(faulty.list_all()),
            "get_meta": lambda: faulty.get_meta("t"),
            "set_meta": lambda: faulty.set_meta("t", {}),
            "delete": lambda: faulty.delete("t"),
            "stats": faulty.stats,
        }
        for error in (OSError(errno.EIO, "Input/output error"), RuntimeError("a fault of the backend")):
            faults.errors[operation] = error
            with pytest.raises(StorageUnavailableError):
                uses[operation]()
        faults.errors.clear()
        assert len(list(faulty.read("t"))) == 1

    def test_a_read_that_fails_half_way_says_so(self, faulty: TapeStorage, faults: Faults) -> None:
        with faulty.record("s", tape_id="t") as tape:
            tape.append_many((C2S, b"%d" % n) for n in range(10))
        lines = faulty.read("t")
        next(lines)
        faults.errors["next_line"] = OSError(errno.EIO, "Input/output error")
        with pytest.raises(StorageUnavailableError):
            list(lines)

    def test_nothing_is_called_finalized_that_could_not_be_synced(
        self, faulty: TapeStorage, faults: Faults
    ) -> None:
        tape = faulty.record("s", tape_id="t")
        faults.errors["sync"] = OSError(errno.EIO, "Input/output error")

        def record() -> None:
            tape.append(C2S, b"1")  # where each frame is synced, this says so already
            tape.finalize()

        with pytest.raises(StorageError):
            record()
        faults.errors.clear()
        with suppress(StorageError):  # that failure is not forgotten
            tape.detach()
        assert faulty.get_meta("t")[0]["status"] == "recording"
        again, _ = faulty.resume("t")
        again.finalize()
        assert messages_in(faulty, "t") == [1]


class SystemFaultConformance(UnderTest):
    """What the system itself may do to a storage that writes through the calls of `os`."""

    @pytest.fixture
    def system(self, storage: TapeStorage) -> Iterator[SystemFaults]:
        if ProviderCapability.LOCAL_STORAGE not in storage.capabilities:
            pytest.skip("it does not claim local_storage")
        with faulty_system() as faults:
            with storage.record("s", tape_id="probe") as tape:
                before = faults.write_count
                tape.append(C2S, b"1")
                if faults.write_count == before:
                    tape.abort()
                    pytest.skip("it does not write through the calls of `os`")
            yield faults

    def test_a_short_write_is_continued(self, storage: TapeStorage, system: SystemFaults) -> None:
        with storage.record("s", tape_id="t") as tape:
            system.shorten = True
            for n in range(5):
                tape.append(C2S, b"%d" % n)
            tape.append_many((C2S, b"%d" % n) for n in range(5, 40))
            system.shorten = False
        assert messages_in(storage, "t") == list(range(40))

    @pytest.mark.parametrize(
        ("number", "translation"),
        [
            (errno.ENOSPC, StorageFullError),
            (errno.EIO, StorageUnavailableError),
            (errno.EINTR, StorageUnavailableError),
        ],
        ids=["ENOSPC", "EIO", "EINTR"],
    )
    def test_a_write_that_fails_leaves_the_tape_as_it_was_acknowledged(
        self,
        storage: TapeStorage,
        system: SystemFaults,
        number: int,
        translation: type[Exception],
    ) -> None:
        acknowledged: list[object] = []
        with storage.record("s", tape_id="t") as tape:
            for n in range(12):
                # Full, space again, full: each time a few frames get in.
                system.error = number if n % 4 >= 2 else None
                try:
                    tape.append(C2S, b'[%d,"%s"]' % (n, b"x" * 2000))
                except StorageError as error:
                    assert isinstance(error, translation)  # noqa: PT017 - of several
                else:
                    acknowledged.append(n)
                seen = [json.loads(line)["env"]["message"][0] for line in list(storage.read("t"))[1:]]
                assert seen == acknowledged
            system.error = None
            tape.append(C2S, b"[12]")
        assert [message[0] for message in messages_in(storage, "t")] == [*acknowledged, 12]  # type: ignore[index]
        assert len(acknowledged) >= 6

    def test_a_disk_that_becomes_full_in_the_middle_of_a_line_leaves_no_half_of_it(
        self, storage: TapeStorage, system: SystemFaults
    ) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, MESSAGE)
            system.shorten, system.error_after_writes, system.error = True, 1, errno.ENOSPC
            with pytest.raises(StorageFullError):
                tape.append(C2S, MESSAGE)
            system.shorten, system.error = False, None
            tape.append(C2S, b"1")
        lines = list(storage.read("t", raw=True))
        assert len(lines) == 3
        assert all(line.endswith(b"}\n") for line in lines)

    def test_a_slow_disk_only_takes_longer(self, storage: TapeStorage, system: SystemFaults) -> None:
        system.delay_seconds = 0.01
        with storage.record("s", tape_id="t") as tape:
            for n in range(5):
                tape.append(C2S, b"%d" % n)
        assert messages_in(storage, "t") == list(range(5))

    def test_a_sync_that_fails_is_told(self, storage: TapeStorage, system: SystemFaults) -> None:
        with storage.record("s", tape_id="t") as tape:
            tape.append(C2S, b"1")
            tape.flush(durable=True)  # the first may have more to do than the next
            tape.append(C2S, b"1")
            before = system.sync_count
            tape.flush(durable=True)
            if system.sync_count == before:
                pytest.skip("it does not sync through the calls of `os`")
            tape.append(C2S, b"2")
            system.sync_error = errno.EIO
            with pytest.raises(RegistryError):
                tape.flush(durable=True)
            system.sync_error = None
            tape.detach()
        assert messages_in(storage, "t") == [1, 1, 2]
