"""What reads one tape at any place, again and again: what the embedder holds, and what is under it for a
backend that has nothing of its own.

What is common to all storages is done here, once: closed readers, foreign exceptions, missing frames. Knows
no kind of storage.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from functools import partial
from itertools import islice
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from .awaited import batched
from .backend import FrameReader
from .callers import Caller, UnclosedWarning
from .errors import (
    FrameNotFoundError,
    RegistryError,
    RegistryForkedError,
    StorageClosedError,
    TapeNotFoundError,
)
from .following import Counted
from .tape import frame_seq
from .translation import translate, translated
from .use import FORKED, OPEN, Use

if TYPE_CHECKING:
    from .aio import Lane
    from .storage import TapeStorage  # only a word in a signature: nothing is imported from above

_logger = logging.getLogger(__name__)

_LINGER_SECONDS: Final = 0.1


class OpenReader:
    """What has to be let go of when a reader ends, whoever ends it. Holds neither that nor its handle."""

    __slots__ = ("reader", "tape_id", "use", "who")

    def __init__(self, use: Use, tape_id: str, who: Caller) -> None:
        self.use = use
        self.tape_id = tape_id
        self.who = who
        self.reader: FrameReader | None = None

    def end(self) -> None:
        """Idempotent."""
        reader, self.reader = self.reader, None
        self.use.source.readers.remove(self)
        if reader is not None and self.use.state != FORKED:
            with translated:
                reader.close()


def open_reader(storage: TapeStorage, tape_id: str, who: Caller) -> TapeReader:
    """Raises: as `TapeStorage.reader`."""
    use = storage.use
    readers = use.source.readers
    opened = OpenReader(use, tape_id, who)
    readers.add(opened, tape_id)  # first: it counts as being read already
    try:
        if hasattr(use.source.backend, "reader"):
            opened.reader = use.call("reader", tape_id)
        else:
            opened.reader = ReadThrough(use, tape_id)
        if use.state != OPEN:  # closed meanwhile
            raise StorageClosedError(repr(storage))
    except BaseException:
        opened.end()
        raise
    return TapeReader(storage, opened)


def end_readers(use: Use) -> None:
    """Those of a handle that is being closed, and tell of those that were dropped."""
    readers = use.source.readers
    for who in readers.all():
        if isinstance(who, OpenReader) and who.use is use:
            try:
                who.end()
            except RegistryError as failure:  # what ends here matters more
                _logger.warning("the reader of tape %s could not be closed: %s", who.tape_id, failure)
    tell_dropped(use)


def tell_dropped(use: Use) -> None:
    """Warn of readers that were dropped unclosed. They have let go of everything already."""
    for opened in use.source.readers.take_dropped():
        assert isinstance(opened, OpenReader)  # noqa: S101 - nothing else is dropped
        UnclosedWarning(
            f"a reader of tape {opened.tape_id!r} was dropped without close(); it was opened", opened.who
        )


class TapeReader:
    """Reads one tape, any part of it, again and again; made by `TapeStorage.reader`. `close()` it, or use
    `with`; it is closed with its handle at the latest.

    Thread-safe: several threads may use one at once. With `filesystem` they do not wait for each other, but
    for blocks that are decompressed, and for the one pass over the tape by which frames are found; that goes
    as far as anybody has asked, and on from there. It takes 8 bytes of memory a frame.

    A call sees every line that was whole when it began: what is recorded meanwhile is there from the next
    call on. A tape that is being read is removed by no `retention`. Where it is deleted all the same, what
    had been found can be read on, or there is a `TapeNotFoundError`; never a line of another tape.
    """

    def __init__(self, storage: TapeStorage, opened: OpenReader) -> None:
        self._storage = storage  # the lease lives as long as its last reader
        self._opened = opened
        self._lane: Lane | None = None

    @property
    def tape_id(self) -> str:
        return self._opened.tape_id

    @property
    def closed(self) -> bool:
        return self._opened.reader is None or self._opened.use.state != OPEN

    def __repr__(self) -> str:
        return f"<TapeReader tape_id={self.tape_id!r} {'closed' if self.closed else 'open'}>"

    def frame(self, seq: int) -> bytes:
        """The line of one frame as it was written, newline included. Where several have that `seq`, which
        no recorder writes, the first.

        Raises:
            FrameNotFoundError: no whole line of the tape is that frame, now.
            StorageClosedError: this reader, or its handle, was closed.
            TapeNotFoundError: the tape was deleted.
            StorageUnavailableError, StorageDamagedError.
        """
        seq = index(seq)
        opened = self._opened
        reader = opened.reader
        if reader is None or opened.use.state != OPEN:
            raise self._refusal()
        try:
            line = reader.frame(seq)
        except Exception as error:
            translation = translate(error)
            if translation is error:
                raise
            raise translation from error
        if line is None:
            raise FrameNotFoundError(opened.tape_id, seq)
        return line

    def read(self, after_seq: int = -1, limit: int | None = None) -> Generator[bytes, None, None]:
        """As `TapeStorage.read`, and begins at once, wherever that is. It ends with this reader.

        Raises:
            StorageClosedError, TapeNotFoundError, StorageUnavailableError, StorageDamagedError.
        """
        after_seq = index(after_seq)
        if limit is not None and limit < 0:
            raise ValueError(f"limit is at least 0, not {limit}")
        reader = self._opened.reader
        if reader is None or self.closed:
            raise self._refusal()
        with translated:
            lines = reader.read(after_seq)
        return self._lines(lines, limit)

    def _lines(self, lines: Iterator[bytes], limit: int | None) -> Generator[bytes, None, None]:
        try:
            with translated:
                for line in lines if limit is None else islice(lines, limit):
                    yield line
                    if self.closed:
                        raise self._refusal()
        finally:
            with translated:
                close_lines(lines)

    def close(self) -> None:
        """Idempotent. A call in another thread comes to its end, or raises `StorageClosedError`."""
        self._opened.end()

    def __enter__(self) -> Self:
        if self.closed:
            raise self._refusal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Wherever the collector runs: nothing is locked, nobody is called; the next one who comes by warns.
        opened = self._opened
        if opened.reader is not None and opened.use.state != FORKED:
            opened.reader = None
            opened.use.source.readers.drop(opened)

    def _refusal(self) -> RegistryError:
        return (RegistryForkedError if self._opened.use.state == FORKED else StorageClosedError)(repr(self))

    # -- awaited --------------------------------------------------------------------------------

    async def aframe(self, seq: int) -> bytes:
        """`frame`, awaited. Those of one reader are read one after the other, by one thread."""
        if self.closed:
            raise self._refusal()
        lane = self._lane
        if lane is None:
            from .aio import Lane

            self._lane = lane = Lane(_LINGER_SECONDS)
        return await lane.run(partial(self.frame, seq))

    def aread(self, after_seq: int = -1, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """`read`, for `async for`, as `TapeStorage.aread`.

        Raises:
            As `read`.
        """
        if self.closed:
            raise self._refusal()
        return batched(partial(self.read, after_seq, limit))

    async def aclose(self) -> None:
        """`close`, awaited. It goes on also if it is cancelled."""
        from .aio import off_loop

        if self._lane is not None:
            self._lane.linger(0.0)
        await off_loop(self.close, surely=True)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class ReadThrough:
    """Reads single frames by the `read` of a backend, as quickly as that finds a place.

    That the tape is not another one of this name is known by its first line. Where a frame is missing, it has
    to know whether that stands behind one with a higher `seq`, as no recorder writes it: for that it looks
    through the tape once, and later through what has come since.
    """

    def __init__(self, use: Use, tape_id: str) -> None:
        """Raises: TapeNotFoundError."""
        self._use: Final = use
        self._tape_id: Final = tape_id
        # Guards the three below. The backend's `read` is called under it, by one thread at a time: that knows
        # nobody here.
        self._looking = threading.Lock()
        self._late: set[int] = set()
        self._seq, self._skip = -1, 0
        self._first_line: Final = self._look_at_first()

    def _look_at_first(self) -> bytes | None:
        lines = self._call(-1)
        try:
            return next(lines, None)
        finally:
            close_lines(lines)

    def frame(self, seq: int) -> bytes | None:
        lines = self.read(max(seq, 0) - 1)
        is_late = False
        try:
            for line in lines:
                found = frame_seq(line)
                if found == seq:
                    return line
                if found is not None and found > seq and not is_late:
                    is_late = self._is_late(seq)
                    if not is_late:
                        return None
        finally:
            close_lines(lines)
        return None

    def read(self, after_seq: int) -> Iterator[bytes]:
        lines = self._call(after_seq)
        try:
            first = next(lines, None)  # from here on it is one and the same tape
            if self._look_at_first() != self._first_line:
                raise TapeNotFoundError(self._tape_id)
            if first is not None:
                yield first
                yield from lines
        finally:
            close_lines(lines)

    def _call(self, after_seq: int) -> Iterator[bytes]:
        lines: Iterator[bytes] = self._use.call("read", self._tape_id, after_seq)
        return lines

    def close(self) -> None:
        """Nothing is held between two calls."""

    def _is_late(self, seq: int) -> bool:
        """Whether such a frame stands behind one with a higher seq."""
        with self._looking:
            lines = self.read(self._seq)
            try:
                next(islice(lines, self._skip, self._skip), None)
                counted = Counted(lines, self._seq, self._skip)
                for line in counted:
                    if counted.skip and (found := frame_seq(line)) is not None:
                        self._late.add(found)
                    self._seq, self._skip = counted.seq, counted.skip
            finally:
                close_lines(lines)
            return seq in self._late


def close_lines(lines: Iterator[bytes]) -> None:
    """Of a backend; what is no generator need have no `close`."""
    close = getattr(lines, "close", None)
    if close is not None:
        close()
