"""The awaitable twins of what reads and keeps: the same operations of a handle, off the loop.

Knows of a handle only that it has the plain ones. Recording has its own way off the loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from .backend import Page, SearchPage, StorageStats, TapeQuery
from .callers import Caller, find_caller
from .following import Follower
from .tape import Metadata, check_tape_id

if TYPE_CHECKING:
    from .reader import TapeReader  # only a word in a signature: nothing is imported from above

_T = TypeVar("_T")
_Batches = Generator[list[bytes], None, None]
_BATCH_BYTES: Final = 256 * 1024
_BATCH_LINES: Final = 1000


class _Handle(Protocol):
    """The plain names."""

    def read(
        self, tape_id: str, after_seq: int = -1, limit: int | None = None, raw: bool = False
    ) -> Generator[bytes, None, None]: ...
    def list(self, query: TapeQuery | None = None, cursor: str | None = None, limit: int = 100) -> Page: ...
    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]: ...
    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None = None) -> str: ...
    def delete(self, tape_id: str) -> None: ...
    def stats(self) -> StorageStats: ...
    def search(self, text: str, cursor: str | None = None, limit: int = 100) -> SearchPage: ...
    @property
    def use(self) -> object: ...
    def _check_open(self) -> None: ...
    def _reader(self, tape_id: str, who: Caller) -> TapeReader: ...
    def _followed(self, follower: Follower, seq: int) -> _Batches: ...


class AwaitedReads:
    """What `TapeStorage` has of it. A call that is cancelled may still be carried out, or not at all."""

    __slots__ = ()

    def aread(
        self: _Handle, tape_id: str, after_seq: int = -1, limit: int | None = None, raw: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """`read`, for `async for`: lines are fetched off the loop, a batch of at most about 256 KiB (or one
        line) at a time. Whoever leaves the loop early does as with every asynchronous generator: close it
        by `aclose()` or `contextlib.aclosing`, or leave that to the event loop.

        Raises:
            As `read`; that there is no such tape, at the first line.
        """
        check_tape_id(tape_id)
        self._check_open()
        return batched(partial(self.read, tape_id, after_seq, limit, raw))

    def afollow(self: _Handle, tape_id: str, after_seq: int = -1) -> AsyncGenerator[bytes, None]:
        """`follow`, for `async for`: lines are waited for off the loop. It ends with the tape or the handle;
        whoever leaves it earlier does as with `aread`, and nothing goes on waiting.

        Raises:
            As `follow`; that there is no such tape, at the first line.
        """
        check_tape_id(tape_id)
        self._check_open()
        return _followed(self, Follower(tape_id, self.use), after_seq)

    async def areader(self: _Handle, tape_id: str) -> TapeReader:
        """`reader`, awaited; what it gives is used by `aframe`, `aread`, `aclose` and `async with`. If it is
        cancelled, one that was opened all the same is closed."""
        from .aio import off_loop

        return await off_loop(partial(self._reader, tape_id, find_caller()), _close_reader)

    async def alist(
        self: _Handle, query: TapeQuery | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page:
        """`list`, awaited."""
        return await _off_loop(partial(self.list, query, cursor, limit))

    async def alist_all(
        self: _Handle, query: TapeQuery | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """`list_all`, for `async for`: a page at a time."""
        cursor: str | None = None
        while True:
            page = await _off_loop(partial(self.list, query, cursor))
            for item in page.items:
                yield item
            cursor = page.cursor
            if cursor is None:
                return

    async def aget_meta(self: _Handle, tape_id: str) -> tuple[dict[str, Any], str]:
        """`get_meta`, awaited."""
        return await _off_loop(partial(self.get_meta, tape_id))

    async def aset_meta(self: _Handle, tape_id: str, meta: Metadata, if_match: str | None = None) -> str:
        """`set_meta`, awaited."""
        return await _off_loop(partial(self.set_meta, tape_id, meta, if_match))

    async def adelete(self: _Handle, tape_id: str) -> None:
        """`delete`, awaited."""
        await _off_loop(partial(self.delete, tape_id))

    async def astats(self: _Handle) -> StorageStats:
        """`stats`, awaited."""
        return await _off_loop(self.stats)

    async def asearch(self: _Handle, text: str, cursor: str | None = None, limit: int = 100) -> SearchPage:
        """`search`, awaited."""
        return await _off_loop(partial(self.search, text, cursor, limit))


def _close_reader(reader: TapeReader) -> None:
    reader.close()


async def _off_loop(call: Callable[[], _T]) -> _T:
    from .aio import off_loop

    return await off_loop(call)


async def batched(read: Callable[[], Generator[bytes, None, None]]) -> AsyncGenerator[bytes, None]:
    """What `read` gives, fetched off the loop, a batch at a time."""
    from .aio import Lane

    lane = Lane()  # one call at a time: a generator is used by one thread only
    lines = await lane.run(read, lambda nobodys: nobodys.close())
    try:
        while batch := await lane.run(partial(take, lines)):
            for line in batch:
                yield line
    finally:
        # Behind whatever is still being read for somebody who was cancelled.
        await lane.run(lines.close, surely=True)


async def _followed(handle: _Handle, follower: Follower, after_seq: int) -> AsyncGenerator[bytes, None]:
    from .aio import Lane

    lane = Lane()
    await lane.run(partial(handle.get_meta, follower.tape_id))
    batches = handle._followed(follower, after_seq)  # noqa: SLF001 - its own twin
    try:
        while batch := await lane.run(partial(next, batches, None)):
            for line in batch:
                yield line
    finally:
        follower.stop()  # or closing would wait behind the next line
        await lane.run(batches.close, surely=True)


def take(lines: Iterator[bytes]) -> list[bytes]:
    """The next batch; empty: there is no more."""
    batch: list[bytes] = []
    size_bytes = 0
    for line in lines:
        batch.append(line)
        size_bytes += len(line)
        if size_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_LINES:
            break
    return batch
