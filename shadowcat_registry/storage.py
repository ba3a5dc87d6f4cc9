"""What the embedder holds: a leased handle on a backend, and the recorders that it gives out.

What is common to all storages is done here, once: ids, closed handles, capabilities, the building
of frames, statistics, and the translation of every foreign exception. Knows no registry (its lease
is given back by a callback) and no kind of storage.
"""

from __future__ import annotations

import errno
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast

from .backend import Appender, Page, RepairReport, StorageStats, TapeQuery, TapeStorageBackend
from .errors import (
    InvalidMessageError,
    MetadataConflictError,
    RecorderOpenError,
    RegistryError,
    RegistryForkedError,
    StorageClosedError,
    StorageFullError,
    StorageUnavailableError,
    UnsupportedCapabilityError,
)
from .metadata import ProviderCapability, format_time
from .tape import (
    Direction,
    FrameEncoder,
    Metadata,
    TapeCounters,
    TapeStatus,
    check_tape_id,
    dump_metadata,
    make_init_line,
    make_metadata,
    new_tape_id,
    parse_init_line,
)

if TYPE_CHECKING:
    from .aio import Lane

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

_FULL: Final = frozenset(
    code
    for code in (getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG"))
    if code is not None  # Windows has no quotas of that name
)
_METADATA_ATTEMPTS: Final = 100
_LONGEST_MS: Final = 10**13  # three centuries: no believable tape is longer


def translate(error: Exception) -> Exception:
    """The exception that a caller sees for one that a backend raised: total, and the only place.

    Our own errors and `MemoryError` stay what they are. Of anything else than an `OSError` only the
    type is told, since a backend's text may hold what is in its config.
    """
    if isinstance(error, RegistryError | MemoryError):
        return error
    if not isinstance(error, OSError):
        return StorageUnavailableError(f"the backend failed with {type(error).__name__}")
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        reason += f": {error.filename}"
    return StorageFullError(reason) if error.errno in _FULL else StorageUnavailableError(reason)


def type_of(backend: TapeStorageBackend) -> str:
    """Ask a backend for its `storage_type`, which is foreign code; the class serves where it has none."""
    return getattr(backend, "storage_type", type(backend).__name__)


class _Translation:
    """`with translated:` around foreign code, and around nothing else."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and (translation := translate(error)) is not error:
            raise translation from error


translated: Final = _Translation()


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What all handles on one opened backend have in common."""

    backend: TapeStorageBackend
    provider: str
    storage_type: str
    """As the backend said once: a handle is made without calling it."""
    capabilities: frozenset[ProviderCapability] = frozenset()
    # Guards what is open and what is closed on each handle; see there. One for all: it is held for moments.
    lock: threading.Lock = field(default_factory=lambda: threading.Lock())  # as patched, where a test does


class HandleLease(Protocol):
    """What a handle has to give back."""

    def release(self) -> None:
        """Called once, when the handle is closed and nothing works through it any more."""

    def is_superseded(self) -> bool: ...


_OPEN, _CLOSED, _RELEASED, _FORKED = range(4)


class Use(weakref.ref["TapeStorage"]):
    """What a handle does its work with, and what is left of it once it was dropped: then, this calls back
    with itself. Holds neither the handle nor its recorders."""

    __slots__ = ("beginning", "lease", "lock", "source", "state", "tapes")
    source: Source
    lease: HandleLease
    # That of the source. Guards the three below: what is open and what is closed change in one step. Neither
    # the backend nor a tape nor the lease is called under it.
    lock: threading.Lock
    beginning: tuple[str, ...]
    tapes: tuple[_OpenTape, ...]
    state: int
    """Closed: given back as soon as nothing is open. Forked: this is a child process, all of it is the
    parent's, and it is not touched any more."""

    @property
    def is_open(self) -> bool:
        return self.state == _OPEN

    def call(self, operation: str, *arguments: object) -> Any:
        method = getattr(self.source.backend, operation, None)
        if method is None:
            raise UnsupportedCapabilityError(self.source.storage_type, operation)
        with translated:
            return method(*arguments)

    def update_meta(self, tape_id: str, changes: Mapping[str, Any]) -> None:
        """Lay `changes` over the metadata, and keep what others set meanwhile. Works on a handle that
        is being closed, since its recorders end their tapes then."""
        for attempt in range(1, _METADATA_ATTEMPTS + 1):
            meta, etag = self.call("get_meta", tape_id)
            stats = meta.get("stats")
            merged = {**meta, **changes}
            if "stats" in changes and isinstance(stats, Mapping):
                merged["stats"] = {**stats, **changes["stats"]}
            try:
                self.call("set_meta", tape_id, merged, etag)
            except MetadataConflictError:
                if attempt == _METADATA_ATTEMPTS:  # somebody else's write succeeded each time
                    raise
            else:
                return

    def check_idle(self) -> None:
        """Locked."""
        if self.beginning or self.tapes:
            raise RecorderOpenError(sorted([*self.beginning, *(tape.tape_id for tape in self.tapes)]))

    def tape_ended(self, tape: _OpenTape) -> None:
        with self.lock:
            self.tapes = tuple(other for other in self.tapes if other is not tape)
        self.release_if_done()

    def release_if_done(self) -> None:
        with self.lock:
            if self.state != _CLOSED or self.beginning or self.tapes:
                return
            self.state = _RELEASED
        self.lease.release()

    def end(self) -> None:
        """Tapes that are still open end as `aborted`, with every frame kept, and the lease is given back."""
        with self.lock:
            if self.state == _OPEN:
                self.state = _CLOSED
            tapes = self.tapes
        for tape in tapes:
            try:
                tape.end("aborted", None)
            except RegistryError as failure:  # what ends here matters more
                _logger.warning("tape %s could not be marked as aborted: %s", tape.tape_id, failure)
        self.release_if_done()

    def mark_forked(self) -> None:
        """In a child: refuse every use, and touch nothing."""
        self.lock = threading.Lock()  # a thread of the parent may hold the old one
        self.state = _FORKED
        for tape in self.tapes:
            tape.lock = threading.Lock()
            tape.is_open = False


class TapeStorage:
    """A lease on an opened storage. Thread-safe; `close()` it, or use `with`.

    The backend is not closed here: whoever counts the leases knows whether this was the last one.
    """

    __slots__ = ("__weakref__", "_backend", "instance_id", "revision", "use")

    def __init__(
        self,
        source: Source,
        lease: HandleLease,
        revision: int = 1,
        instance_id: str | None = None,
        tell_dropped: Callable[[Use], object] | None = None,
    ) -> None:
        """`tell_dropped(use)` is called when the handle is dropped, closed or not. It runs wherever the
        collector runs, perhaps under some lock: all it may do is to put aside what is not closed.
        `use.end()` later does what the handle would have done."""
        self._backend = source.backend
        self.revision: Final = revision
        self.instance_id: Final = instance_id
        self.use = use = Use(self, tell_dropped)
        use.source = source
        use.lease = lease
        use.lock = source.lock
        use.beginning = use.tapes = ()
        use.state = _OPEN

    @property
    def provider(self) -> str:
        return self.use.source.provider

    @property
    def storage_type(self) -> str:
        return self.use.source.storage_type

    @property
    def capabilities(self) -> frozenset[ProviderCapability]:
        return self.use.source.capabilities

    def __repr__(self) -> str:
        instance = f" instance_id={self.instance_id!r}" if self.instance_id is not None else ""
        state = "closed" if self.closed else "open"
        return (
            f"<TapeStorage provider={self.provider!r} type={self.storage_type!r} "
            f"revision={self.revision}{instance} {state}>"
        )

    @property
    def superseded(self) -> bool:
        """A newer revision, another default or a removal waits for this lease."""
        return self.use.lease.is_superseded()

    @property
    def closed(self) -> bool:
        return self.use.state != _OPEN

    # -- recording ------------------------------------------------------------------------------

    def record(
        self,
        session_id: str,
        *,
        tape_id: str | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        protocol_version: str | None = None,
    ) -> TapeRecorder:
        """Begin a tape; without a `tape_id` it gets a new UUID.

        Raises:
            InvalidTapeIdError, TapeExistsError, TapeBusyError, StorageClosedError.
        """
        if isinstance(tags, str):
            raise TypeError("tags are a collection of strings, not one string")
        tape_id = check_tape_id(new_tape_id() if tape_id is None else tape_id)
        now = datetime.now(UTC)
        # The format has milliseconds: what is written must be what the frames are counted from.
        started_at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        init_line = make_init_line(tape_id, session_id, started_at, protocol_version)
        init = parse_init_line(init_line, tape_id)
        return self.adopt(init_line, make_metadata(init, "recording", name=name, tags=tags))

    async def arecord(
        self,
        session_id: str,
        *,
        tape_id: str | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        protocol_version: str | None = None,
    ) -> TapeRecorder:
        """`record`, awaited. If it is cancelled, a tape that was begun all the same ends as `aborted`."""
        from .aio import off_loop

        begin = partial(
            self.record, session_id, tape_id=tape_id, name=name, tags=tags, protocol_version=protocol_version
        )
        return await off_loop(begin, TapeRecorder.abort)

    def adopt(self, init_line: bytes, metadata: Metadata) -> TapeRecorder:
        """Begin a tape whose `init` line was written elsewhere; it is stored verbatim.

        Raises:
            InvalidTapeError: it is no init line.
            InvalidMetadataError: the metadata is not this tape's.
            InvalidTapeIdError, TapeExistsError, TapeBusyError, StorageClosedError.
        """
        init = parse_init_line(init_line, "init line")
        tape_id: str = init["tape_id"]
        dump_metadata(tape_id, metadata)  # refuse before anything is touched

        def begin() -> tuple[TapeRecorder, None]:
            appender: Appender = self._call("create", tape_id, init_line, metadata)
            counters = TapeCounters(size_bytes=len(init_line))
            return TapeRecorder(self, init, appender, counters), None

        return self._open_recorder(tape_id, begin)[0]

    def resume(self, tape_id: str) -> tuple[TapeRecorder, RepairReport]:
        """Go on with a tape behind its last whole line. Its status is `recording` again, `seq`, `ts`
        and the statistics continue; what is there is read once.

        Raises:
            TapeNotFoundError, TapeBusyError, StorageClosedError.
            InvalidTapeError: what is stored under this id is no tape.
        """
        check_tape_id(tape_id)

        def begin() -> tuple[TapeRecorder, RepairReport]:
            appender, report = self._call("resume", tape_id)
            try:
                recorder = self._recorder_of(tape_id, appender)
                meta, _ = self.get_meta(tape_id)
                if meta.get("status") != "recording":
                    self.use.update_meta(tape_id, {"status": "recording", "finalized_at": None})
            except BaseException:
                with translated:
                    appender.close()
                raise
            return recorder, report

        return self._open_recorder(tape_id, begin)

    def _recorder_of(self, tape_id: str, appender: Appender) -> TapeRecorder:
        lines = self.read(tape_id)
        init_line = next(lines, b"")
        # A file that was renamed by hand goes by its new name, whatever its init line says.
        init = {**parse_init_line(init_line, tape_id), "tape_id": tape_id}
        counters = TapeCounters(size_bytes=len(init_line))
        for line in lines:
            counters.add_line(line)
        return TapeRecorder(self, init, appender, counters)

    def _open_recorder(
        self, tape_id: str, begin: Callable[[], tuple[TapeRecorder, _T]]
    ) -> tuple[TapeRecorder, _T]:
        use = self.use
        with use.lock:  # one that is being opened counts already: `close` cannot slip in between
            self._check_open()
            use.beginning = (*use.beginning, tape_id)
        recorder: TapeRecorder | None = None
        try:
            recorder, report = begin()
        finally:
            with use.lock:
                before = list(use.beginning)
                before.remove(tape_id)
                use.beginning = tuple(before)
                if recorder is not None:
                    use.tapes = (*use.tapes, recorder._tape)  # noqa: SLF001 - one module, one noun
            use.release_if_done()
        if use.state != _OPEN:  # the `with` block was left meanwhile
            recorder.abort()
            raise StorageClosedError(repr(self))
        return recorder, report

    # -- reading and keeping --------------------------------------------------------------------

    def read(self, tape_id: str, after_seq: int = -1) -> Generator[bytes, None, None]:
        """The whole lines of a tape as they were written, newline included, in constant memory; with
        `after_seq` those behind that frame. A tape may be read while it is recorded.

        Raises:
            InvalidTapeIdError, StorageClosedError.
            TapeNotFoundError: at the call or at the first line.
        """
        check_tape_id(tape_id)
        self._check_open()
        return self._lines(self._call("read", tape_id, after_seq))

    def _lines(self, lines: Iterator[bytes]) -> Generator[bytes, None, None]:
        try:
            with translated:
                for line in lines:
                    yield line
                    self._check_open()
        finally:
            close = getattr(lines, "close", None)
            if close is not None:
                with translated:
                    close()

    def list(self, query: TapeQuery | None = None, cursor: str | None = None, limit: int = 100) -> Page:
        """One page of the metadata of the tapes that match, by ascending tape id."""
        self._check_open()
        if limit < 1:
            raise ValueError(f"limit is at least 1, not {limit}")
        return cast(Page, self._call("list", query or TapeQuery(), cursor, limit))

    def list_all(self, query: TapeQuery | None = None) -> Iterator[dict[str, Any]]:
        """All pages of `list`, one tape after the other."""
        page = self.list(query)
        yield from page.items
        while page.cursor is not None:
            page = self.list(query, page.cursor)
            yield from page.items

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        """The metadata of a tape and its etag.

        Raises:
            InvalidTapeIdError, TapeNotFoundError, StorageClosedError.
            InvalidMetadataError: what is stored is no metadata.
        """
        check_tape_id(tape_id)
        self._check_open()
        return cast("tuple[dict[str, Any], str]", self._call("get_meta", tape_id))

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None = None) -> str:
        """Replace the metadata of a tape at once; returns the new etag.

        Raises:
            InvalidTapeIdError, TapeNotFoundError, StorageClosedError.
            InvalidMetadataError: it is no JSON object, or another tape's.
            MetadataConflictError: `if_match` is not the etag of what is stored.
        """
        check_tape_id(tape_id)
        self._check_open()
        dump_metadata(tape_id, meta)
        return cast(str, self._call("set_meta", tape_id, meta, if_match))

    def delete(self, tape_id: str) -> None:
        """Remove a tape and all that belongs to it.

        Raises:
            InvalidTapeIdError, TapeNotFoundError, TapeBusyError, StorageClosedError.
        """
        check_tape_id(tape_id)
        self._check_open()
        self._call("delete", tape_id)

    def stats(self) -> StorageStats:
        self._check_open()
        return cast(StorageStats, self._call("stats"))

    def search(self, text: str, cursor: str | None = None, limit: int = 100) -> Page:
        """Raises: UnsupportedCapabilityError, before anything is touched."""
        self._check_capable(ProviderCapability.SEARCH, "search")
        return cast(Page, self._call("search", text, cursor, limit))

    def transaction(self) -> AbstractContextManager[object]:
        """Raises: UnsupportedCapabilityError, before anything is touched."""
        self._check_capable(ProviderCapability.TRANSACTIONS, "transaction")
        return cast("AbstractContextManager[object]", self._call("transaction"))

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the lease back. Idempotent.

        Raises:
            RecorderOpenError: something still records through this handle; nothing was changed.
        """
        use = self.use
        with use.lock:
            if use.state != _OPEN:
                return  # or it is left as soon as its last tape has ended
            if use.beginning or use.tapes:
                use.check_idle()
            use.state = _RELEASED
        use.lease.release()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Open recorders are aborted, with every frame kept, and the lease is given back in any case.

        Raises:
            RecorderOpenError: the block was left without an error while something still recorded.
        """
        use = self.use
        if use.state == _FORKED:  # the parent leaves this block too
            return
        unfinished: RecorderOpenError | None = None
        with use.lock:
            try:
                use.check_idle()
            except RecorderOpenError as caught:
                unfinished = caught
            if use.state == _OPEN:
                use.state = _CLOSED  # together with the check: no recorder begins in between
        use.end()
        if error is None and unfinished is not None:
            raise unfinished

    async def aclose(self) -> None:
        """`close`, awaited. Once begun, it goes on also if it is cancelled."""
        from .aio import off_loop

        await off_loop(self.close)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from .aio import off_loop

        await off_loop(partial(self.__exit__, kind, error, trace))

    # -- checks and calls -----------------------------------------------------------------------

    def _check_open(self) -> None:
        if (state := self.use.state) != _OPEN:
            raise (RegistryForkedError if state == _FORKED else StorageClosedError)(repr(self))

    def _check_capable(self, capability: ProviderCapability, operation: str) -> None:
        self._check_open()
        if capability not in self.capabilities:
            raise UnsupportedCapabilityError(self.storage_type, operation)

    def _call(self, operation: str, *arguments: object) -> Any:
        return self.use.call(operation, *arguments)


class _OpenTape:
    """What has to be done when a tape ends, whoever is left to do it."""

    __slots__ = ("appender", "counters", "is_open", "lock", "tape_id", "use")

    def __init__(self, use: Use, tape_id: str, appender: Appender, counters: TapeCounters) -> None:
        self.use = use
        self.tape_id = tape_id
        self.appender = appender
        self.counters = counters
        # Guards the counters, the recorder's encoder and `is_open`, and gives the appender one caller at a
        # time. Under it only the appender is called, which knows neither recorder nor storage.
        self.lock = threading.Lock()
        self.is_open = True

    def check_open(self) -> None:
        if not self.is_open:
            what = f"the recorder of tape {self.tape_id!r}"
            raise (RegistryForkedError if self.use.state == _FORKED else StorageClosedError)(what)

    def end(self, status: TapeStatus | None, metadata: Metadata | None) -> None:
        with self.lock:
            if not self.is_open:
                return
            self.is_open = False
        # No append comes after this, so that the appender is ours without the lock.
        try:
            if status is not None:
                with translated:
                    self.appender.sync()
                self._write_metadata(status, metadata)
        finally:
            try:
                with translated:
                    self.appender.close()
            finally:
                self.use.tape_ended(self)

    def _write_metadata(self, status: TapeStatus, metadata: Metadata | None) -> None:
        if metadata is not None:
            self.use.call("set_meta", self.tape_id, metadata, None)
            return
        now = format_time(datetime.now(UTC))
        changes = {
            "status": status,
            "updated_at": now,
            "finalized_at": now if status == "finalized" else None,
            "stats": self.counters.as_stats(),
        }
        self.use.update_meta(self.tape_id, changes)


class TapeRecorder:
    """Writes one tape. Thread-safe; frames get their `seq` in the order in which they get in.

    As a context manager it finalizes the tape, or aborts it when the block is left by an error.
    """

    def __init__(
        self,
        storage: TapeStorage,
        init: Mapping[str, Any],
        appender: Appender,
        counters: TapeCounters,
    ) -> None:
        self.tape_id: Final[str] = init["tape_id"]
        self.session_id: Final[str] = init["session_id"]
        self._storage = storage  # the lease lives as long as its last recorder
        self._tape = _OpenTape(storage.use, self.tape_id, appender, counters)
        self._appender = appender
        self._counters = counters
        self._encoder = _encoder_for(init, counters)
        self._next_seq = counters.last_seq + 1

    def __repr__(self) -> str:
        return f"<TapeRecorder tape_id={self.tape_id!r} accepted_seq={self.accepted_seq}>"

    @property
    def accepted_seq(self) -> int:
        """Of the last frame that was acknowledged, -1 before the first."""
        return self._counters.last_seq

    @property
    def line_count(self) -> int:
        """How many lines the tape has, the `init` line included."""
        return self._counters.line_count

    @property
    def unparsed_count(self) -> int:
        """How many lines were added by `append_lines`, or found by `resume`, that are no records."""
        return self._counters.unparsed_count

    def append(self, direction: Direction, message: bytes) -> int:
        """Add one frame and return its `seq`; on return it outlives this process. `message` is spliced
        in as it is, not parsed. After an error the frame is not in the tape, its `seq` is used by the
        next one, and the recorder goes on.

        Raises:
            InvalidMessageError: it is empty, or holds a CR or LF.
            StorageClosedError: the tape has ended.
            StorageFullError, StorageUnavailableError.
        """
        with self._tape.lock:
            self._tape.check_open()
            seq = self._next_seq
            line = self._encoder.encode(direction, message, seq)
            # Taken before the write: an interrupt in the middle of it leaves a gap, never a double.
            self._next_seq = seq + 1
            try:
                self._appender.append((line,))
            except Exception as error:
                self._next_seq = seq
                translation = translate(error)
                if translation is error:
                    raise
                raise translation from error
            self._counters.add_frame(direction, seq, self._encoder.last_ms, len(line))
            return seq

    def append_many(self, frames: Iterable[tuple[Direction, bytes]]) -> range:
        """Add frames in one write and return their `seq`s: all of them are in the tape, or, after an
        error, none. `frames` is held in memory.

        Raises:
            As `append`.
        """
        batch = tuple(frames)  # before the lock: an iterable is foreign code
        with self._tape.lock:
            self._tape.check_open()
            first, encode = self._next_seq, self._encoder.encode
            lines: list[bytes] = []
            times_ms: list[int] = []
            for seq, (direction, message) in enumerate(batch, first):
                lines.append(encode(direction, message, seq))
                times_ms.append(self._encoder.last_ms)
            seqs = range(first, first + len(lines))
            if lines:
                self._next_seq = seqs.stop
                try:
                    with translated:
                        self._appender.append(lines)
                except Exception:
                    self._next_seq = first
                    raise
            for seq, (direction, _), ts_ms, line in zip(seqs, batch, times_ms, lines, strict=True):
                self._counters.add_frame(direction, seq, ts_ms, len(line))
            return seqs

    def append_lines(self, lines: Iterable[bytes]) -> int:
        """Add whole lines verbatim, in one write, and count what is on them; returns how many. Later
        frames go on behind the highest `seq` among them.

        Raises:
            InvalidMessageError: one of them does not end in its only newline; none was added.
            StorageClosedError, StorageFullError, StorageUnavailableError.
        """
        batch = tuple(lines)
        for line in batch:
            if not line.endswith(b"\n") or line.count(b"\n") != 1:
                raise InvalidMessageError("a raw line ends in a newline, and holds no other")
        with self._tape.lock:
            self._tape.check_open()
            if batch:
                with translated:
                    self._appender.append(batch)
            for line in batch:
                self._counters.add_line(line)
            self._next_seq = max(self._next_seq, self._counters.last_seq + 1)
            return len(batch)

    def flush(self, durable: bool = False) -> None:
        """Every acknowledged frame has left this process already; with `durable` it outlives a loss of
        power too, as far as the storage can promise that at all.

        Raises:
            StorageClosedError, StorageFullError, StorageUnavailableError.
        """
        with self._tape.lock:
            self._tape.check_open()
            if durable:
                with translated:
                    self._appender.sync()

    def finalize(self, metadata: Metadata | None = None) -> None:
        """End the tape: everything in it is durable before its metadata says `finalized`. Statistics
        are written, what others set meanwhile is kept; a given `metadata` is stored as it is instead.
        Idempotent, also after `abort`. After an error the tape is free for others all the same.

        Raises:
            StorageFullError, StorageUnavailableError, TapeNotFoundError, InvalidMetadataError.
            RegistryForkedError: this is a forked child, and the tape is its parent's.
        """
        if self._tape.use.state == _FORKED:
            self._tape.check_open()
        self._tape.end("finalized", metadata)

    def abort(self) -> None:
        """End the tape as `aborted`, with every frame kept. Otherwise as `finalize`."""
        self._tape.end("aborted", None)

    def detach(self) -> None:
        """Give the tape free as it is, status `recording`, for a later `resume`. Idempotent."""
        self._tape.end(None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finalize()
            return
        try:
            self.abort()
        except RegistryError as failure:  # the error that ends the block says more
            _logger.warning("tape %s could not be marked as aborted: %s", self.tape_id, failure)

    # -- awaited: off the loop, one after the other, in the order in which they were asked for

    async def aappend(self, direction: Direction, message: bytes) -> int:
        """`append`, awaited. Many may wait at once; each is answered when its frame outlives this process.
        One that is cancelled may have been recorded already."""
        return await self._lane().run(partial(self.append, direction, message))

    async def aflush(self, durable: bool = False) -> None:
        """`flush`, awaited, behind every frame that was asked for before."""
        await self._lane().run(partial(self.flush, durable))

    async def afinalize(self) -> None:
        """`finalize`, awaited, behind every frame that was asked for before."""
        await self._lane().run(self.finalize)

    async def aabort(self) -> None:
        """`abort`, awaited, behind every frame that was asked for before."""
        await self._lane().run(self.abort)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lane().run(partial(self.__exit__, kind, error, trace))

    def _lane(self) -> Lane:
        from .aio import Lane

        if self._tape.use.state == _FORKED:  # the parent's lane may look busy here for ever
            self._tape.check_open()
        lane: Lane = self.__dict__.setdefault("_own_lane", Lane())  # one step: of two, the first counts
        return lane


def _encoder_for(init: Mapping[str, Any], counters: TapeCounters) -> FrameEncoder:
    """An encoder that goes on where the tape stands: `ts` counts from the start of the tape and never
    falls behind its last frame, also where the system's clock did."""
    now = datetime.now(UTC)
    try:
        started_at = datetime.fromisoformat(str(init.get("created_at")))
        if started_at.tzinfo is None:
            started_at = started_at.replace(tzinfo=UTC)
    except ValueError:
        started_at = now
    if not 1970 <= started_at.year <= 2999:  # a tape from elsewhere: no later frame may fail over it
        started_at = now
    elapsed_ms = round((now - started_at).total_seconds() * 1000)
    last_ms = min(counters.last_ts_ms, _LONGEST_MS)
    return FrameEncoder(init["session_id"], started_at, elapsed_ms=max(elapsed_ms, last_ms, 0))
