"""What the embedder holds: a leased handle on a backend, which gives out recorders and readers.

What is common to all storages is done here, once: ids, closed handles, capabilities, and that every foreign
exception is translated. Knows no registry (what it has to give back, its `Use` does) and no kind of storage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

from .awaited import AwaitedReads, take
from .backend import Appender, Durability, Page, RepairReport, SearchPage, StorageStats, TapeQuery
from .callers import Caller, find_caller
from .errors import RecorderOpenError, RegistryForkedError, StorageClosedError, UnsupportedCapabilityError
from .following import Behind, Counted, Follower
from .metadata import ProviderCapability
from .reader import TapeReader, close_lines, end_readers, open_reader, tell_dropped
from .recorder import OnFull, TapeRecorder
from .retention import Retention
from .tape import (
    Metadata,
    TapeCounters,
    check_tape_id,
    dump_metadata,
    make_init_line,
    make_metadata,
    new_tape_id,
    parse_init_line,
)
from .translation import translated
from .use import CLOSED, FORKED, OPEN, RELEASED, Guard, Use

_T = TypeVar("_T")

_LOOK_SECONDS: Final = 0.02
_REST_SECONDS: Final = 0.25
"""How often somebody who follows a tape looks for what another process wrote: between these two."""


class TapeStorage(AwaitedReads):
    """A lease on an opened storage. Thread-safe; `close()` it, or use `with`.

    The backend is not closed here: whoever counts the leases knows whether this was the last one.
    """

    __slots__ = ("__weakref__", "use")

    def __init__(self, use: Use, tell_dropped: Callable[[Guard], object] | None = None) -> None:
        """`tell_dropped(guard)` is called when the handle is dropped unclosed. It runs wherever the collector
        runs, perhaps under some lock: all it may do is to put that aside. `guard.use.end()` later does what
        the handle would have done."""
        self.use: Final = use
        use.guard = guard = Guard(self, tell_dropped)
        guard.use = use

    @property
    def revision(self) -> int:
        """Of the provider's config that is behind this handle now. It stays, unless the storage takes a new
        config in place: then it is that one's."""
        return self.use.revision

    @property
    def instance_id(self) -> str | None:
        return self.use.instance_id

    @property
    def provider(self) -> str:
        return self.use.source.provider

    @property
    def storage_type(self) -> str:
        return self.use.source.storage_type

    @property
    def capabilities(self) -> frozenset[ProviderCapability]:
        """What this storage really has, which may be less than its type claims."""
        return self.use.source.capabilities

    @property
    def durability(self) -> Durability:
        """What an acknowledged frame outlives."""
        return self.use.source.durability

    def __repr__(self) -> str:
        instance = f" instance_id={self.instance_id!r}" if self.instance_id is not None else ""
        state = "closed" if self.closed else "open"
        return (
            f"<TapeStorage provider={self.provider!r} type={self.storage_type!r} "
            f"revision={self.revision}{instance} {state}>"
        )

    @property
    def retention(self) -> Retention | None:
        """What is kept; None: everything, until somebody deletes it."""
        return self.use.source.retention

    @property
    def superseded(self) -> bool:
        """A newer revision, another default or a removal waits for this lease."""
        return self.use.is_superseded()

    @property
    def closed(self) -> bool:
        return self.use.state != OPEN

    # -- recording ------------------------------------------------------------------------------

    def record(
        self,
        session_id: str,
        *,
        tape_id: str | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        protocol_version: str | None = None,
        on_full: OnFull = "raise",
    ) -> TapeRecorder:
        """Begin a tape; without a `tape_id` it gets a new one, a UUID unless the storage has its own. With
        `on_full="drop"`, a frame for which there is no space is left out and counted, and recording goes on
        when there is space again.

        Raises:
            InvalidTapeIdError, TapeExistsError, TapeBusyError, StorageClosedError.
        """
        if isinstance(tags, str):
            raise TypeError("tags are a collection of strings, not one string")
        tape_id = check_tape_id(self._new_tape_id() if tape_id is None else tape_id)
        now = datetime.now(UTC)
        # The format has milliseconds: what is written must be what the frames are counted from.
        started_at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        init_line = make_init_line(tape_id, session_id, started_at, protocol_version)
        init = parse_init_line(init_line, tape_id)
        return self.adopt(init_line, make_metadata(init, "recording", name=name, tags=tags), on_full)

    def _new_tape_id(self) -> str:
        self._check_open()
        if hasattr(self.use.source.backend, "new_tape_id"):
            return cast(str, self._call("new_tape_id"))
        return new_tape_id()

    async def arecord(
        self,
        session_id: str,
        *,
        tape_id: str | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        protocol_version: str | None = None,
        on_full: OnFull = "raise",
    ) -> TapeRecorder:
        """`record`, awaited. If it is cancelled, a tape that was begun all the same ends as `aborted`."""
        from .aio import off_loop

        begin = partial(
            self.record,
            session_id,
            tape_id=tape_id,
            name=name,
            tags=tags,
            protocol_version=protocol_version,
            on_full=on_full,
        )
        return await off_loop(begin, TapeRecorder.abort)

    def adopt(self, init_line: bytes, metadata: Metadata, on_full: OnFull = "raise") -> TapeRecorder:
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
            with _closed_on_error(appender):
                appender = self._watched(tape_id, appender, len(init_line), begun=True)
                counters = TapeCounters(size_bytes=len(init_line))
                return TapeRecorder(self, init, appender, counters, on_full), None

        return self._open_recorder(tape_id, begin)[0]

    def resume(self, tape_id: str, on_full: OnFull = "raise") -> tuple[TapeRecorder, RepairReport]:
        """Go on with a tape behind its last whole line. Its status is `recording` again, `seq`, `ts`
        and the statistics continue; what is there is read once.

        Raises:
            TapeNotFoundError, TapeBusyError, StorageClosedError.
            InvalidTapeError: what is stored under this id is no tape.
        """
        check_tape_id(tape_id)

        def begin() -> tuple[TapeRecorder, RepairReport]:
            appender, report = self._call("resume", tape_id)
            with _closed_on_error(appender):
                init, counters = self._look_back(tape_id)
                meta, _ = self.get_meta(tape_id)
                if meta.get("status") != "recording":
                    changes = {"status": "recording", "finalized_at": None, "checksum": None}
                    self.use.update_meta(tape_id, changes)
                appender = self._watched(tape_id, appender, counters.size_bytes, begun=False)
                return TapeRecorder(self, init, appender, counters, on_full), report

        return self._open_recorder(tape_id, begin)

    def _look_back(self, tape_id: str) -> tuple[dict[str, Any], TapeCounters]:
        """What a tape opens with, and what is on it."""
        lines = self.read(tape_id)
        init_line = next(lines, b"")
        # A file that was renamed by hand goes by its new name, whatever its init line says.
        init = {**parse_init_line(init_line, tape_id), "tape_id": tape_id}
        counters = TapeCounters(size_bytes=len(init_line))
        for line in lines:
            counters.add_line(line)
        return init, counters

    def _watched(self, tape_id: str, appender: Appender, size_bytes: int, *, begun: bool) -> Appender:
        keeper = self.use.source.housekeeper
        return appender if keeper is None else keeper.watch(tape_id, appender, size_bytes, begun=begun)

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
                    use.tapes = (*use.tapes, recorder.tape)
            use.release_if_done()
        if use.state != OPEN:  # the `with` block was left meanwhile
            recorder.abort()
            raise StorageClosedError(repr(self))
        return recorder, report

    # -- reading and keeping --------------------------------------------------------------------

    def read(
        self, tape_id: str, after_seq: int = -1, limit: int | None = None, raw: bool = False
    ) -> Generator[bytes, None, None]:
        """The whole lines of a tape as they were written, newline included, in constant memory; with
        `after_seq` those behind that frame, with `limit` at most so many. Lines that are no records are
        among them: nothing that is on a tape is hidden. A tape may be read while it is recorded.

        With `raw`, what follows the last newline comes last, if there is anything: the line that is being
        written, or was when its writer was killed. It is no data, and the only item without a newline.

        Raises:
            InvalidTapeIdError, StorageClosedError.
            TapeNotFoundError: at the call or at the first line.
        """
        check_tape_id(tape_id)
        self._check_open()
        if limit is not None and limit < 0:
            raise ValueError(f"limit is at least 0, not {limit}")
        lines: Iterator[bytes] = self._call("read", tape_id, after_seq)
        if raw and hasattr(self.use.source.backend, "torn"):
            lines = self._with_torn(lines, tape_id)
        return self._lines(tape_id, lines, limit)

    def reader(self, tape_id: str) -> TapeReader:
        """Opens a tape to read frames of it by their `seq`, in any order: where `read` looks for its place
        anew, this keeps the tape open and knows the places.

        Raises:
            InvalidTapeIdError, StorageClosedError, TapeNotFoundError.
        """
        return self._reader(tape_id, find_caller())

    def _reader(self, tape_id: str, who: Caller) -> TapeReader:
        check_tape_id(tape_id)
        self._check_open()
        tell_dropped(self.use)
        return open_reader(self, tape_id, who)

    def follow(self, tape_id: str, after_seq: int = -1) -> Generator[bytes, None, None]:
        """As `read`, and then each line as it comes, until the tape has ended and all of it was read, or this
        handle is closed. What is recorded in this process is told of at once; whatever else may write to the
        tape is looked for, a few times a second. In constant memory.

        Raises:
            InvalidTapeIdError, StorageClosedError, TapeNotFoundError: at the call.
            TapeNotFoundError: the tape was deleted.
        """
        check_tape_id(tape_id)
        self._check_open()
        self._call("get_meta", tape_id)
        return self._each_of(self._followed(Follower(tape_id, self.use), after_seq))

    def _each_of(self, batches: Generator[list[bytes], None, None]) -> Generator[bytes, None, None]:
        with closing(batches):
            for batch in batches:
                for line in batch:
                    yield line
                    if self.use.state != OPEN:
                        return

    def _followed(self, follower: Follower, seq: int) -> Generator[list[bytes], None, None]:
        """What `follow` gives, in batches: none is empty, and none waits to become larger."""
        use, tape_id = self.use, follower.tape_id
        followers = use.source.followers
        followers.add(follower)
        look_seconds = _LOOK_SECONDS
        try:
            with closing(self._looks(tape_id, seq)) as looks:
                while use.state == OPEN and not follower.is_stopped:
                    follower.rung.clear()  # before the look: whatever comes later rings again
                    has_ended = self._call("get_meta", tape_id)[0].get("status") != "recording"
                    look_seconds = min(2 * look_seconds, _REST_SECONDS)
                    lines = next(looks)
                    while (batch := take(lines)) and use.state == OPEN:
                        look_seconds = _LOOK_SECONDS
                        yield batch
                    if has_ended:
                        return
                    if not follower.is_stopped:
                        follower.rung.wait(look_seconds)
        except StorageClosedError:
            if use.state == OPEN:  # it is something else that is closed
                raise
        finally:
            followers.remove(follower)

    def _looks(self, tape_id: str, seq: int) -> Generator[Iterator[bytes], None, None]:
        """Without end: the lines that have come since the last look, each of which has to be read out."""
        if hasattr(self.use.source.backend, "tail"):
            growing: Iterator[bytes] = self._call("tail", tape_id)
            try:
                behind = Behind(growing, seq)
                while True:
                    with closing(self._lines(tape_id, behind, None)) as lines:
                        yield lines
            finally:
                with translated:
                    close_lines(growing)
        skip = 0  # lines behind the frame `seq`, the highest so far, that have been given out
        while True:
            with closing(self._lines(tape_id, self._call("read", tape_id, seq), None)) as lines:
                next(islice(lines, skip, skip), None)
                counted = Counted(lines, seq, skip)
                yield counted
                seq, skip = counted.seq, counted.skip

    def _with_torn(self, lines: Iterator[bytes], tape_id: str) -> Iterator[bytes]:
        try:
            yield from lines
        finally:
            close_lines(lines)
        if torn := self._call("torn", tape_id):
            yield torn

    def _lines(self, tape_id: str, lines: Iterator[bytes], limit: int | None) -> Generator[bytes, None, None]:
        try:
            with self.use.source.readers.reading(tape_id), translated:
                for line in lines if limit is None else islice(lines, limit):
                    yield line
                    self._check_open()
        finally:
            with translated:
                close_lines(lines)

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

    def search(self, text: str, cursor: str | None = None, limit: int = 100) -> SearchPage:
        """One page of the frames in whose message all words of `text` are, the best first. No character
        of `text` is syntax.

        Raises:
            UnsupportedCapabilityError: before anything is touched.
            StorageClosedError.
        """
        self._check_capable(ProviderCapability.SEARCH, "search")
        if limit < 1:
            raise ValueError(f"limit is at least 1, not {limit}")
        return cast(SearchPage, self._call("search", text, cursor, limit))

    def transaction(self) -> AbstractContextManager[None]:
        """What this thread records, sets and deletes in the block is there for everybody when the block has
        been left, all at once; if it is left by an error, nothing of it is.

        Raises:
            UnsupportedCapabilityError: before anything is touched.
            StorageClosedError.
        """
        self._check_capable(ProviderCapability.TRANSACTIONS, "transaction")
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_open()
        transaction: AbstractContextManager[object] = self._call("transaction")
        with translated:
            transaction.__enter__()
        try:
            yield
        except BaseException as error:
            with translated:
                transaction.__exit__(type(error), error, error.__traceback__)
            raise
        with translated:
            transaction.__exit__(None, None, None)

    # -- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the lease back. Idempotent.

        Raises:
            RecorderOpenError: something still records through this handle; nothing was changed.
        """
        use = self.use
        with use.lock:
            if use.state != OPEN:
                return  # or it is left as soon as its last tape has ended
            if use.beginning or use.tapes:
                use.check_idle()
            rest = use.leave()
            use.state = RELEASED
        try:
            if use.source.followers.all:
                use.source.followers.ring_for(use)
            end_readers(use)
        finally:
            if rest is not None:
                rest()

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
        if use.state == FORKED:  # the parent leaves this block too
            return
        unfinished: RecorderOpenError | None = None
        with use.lock:
            try:
                use.check_idle()
            except RecorderOpenError as caught:
                unfinished = caught
            if use.state == OPEN:
                use.state = CLOSED  # together with the check: no recorder begins in between
        use.source.followers.ring_for(use)
        end_readers(use)
        use.end()
        if error is None and unfinished is not None:
            raise unfinished

    async def aclose(self) -> None:
        """`close`, awaited. It goes on also if it is cancelled."""
        from .aio import off_loop

        await off_loop(self.close, surely=True)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from .aio import off_loop

        await off_loop(partial(self.__exit__, kind, error, trace), surely=True)

    # -- checks and calls -----------------------------------------------------------------------

    def _check_open(self) -> None:
        if (state := self.use.state) != OPEN:
            raise (RegistryForkedError if state == FORKED else StorageClosedError)(repr(self))

    def _check_capable(self, capability: ProviderCapability, operation: str) -> None:
        self._check_open()
        if capability not in self.capabilities:
            raise UnsupportedCapabilityError(self.storage_type, operation)

    def _call(self, operation: str, *arguments: object) -> Any:
        return self.use.call(operation, *arguments)


@contextmanager
def _closed_on_error(appender: Appender) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with translated:
            appender.close()
        raise
