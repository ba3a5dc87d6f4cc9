"""Writes one tape whose lines become blocks: first plain, exactly as without compression, and when there are
enough of them, all at once.

Until the moment of the rename the tape is the old file, and from then on the new one with the blocks, which
are durable before. Whatever a kill or an error leaves half done is therefore a copy of what still stands in
the file: it does not count, and the next attempt writes over it.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...directories import sync_directory
from ...tape import frame_seq
from .appender import FileAppender
from .compression import HIGHEST, Codec, Note, codec_of
from .files import SAFELY, naming, reader
from .locks import WriteLock
from .tails import Sealed, blocks_path, is_at, rename_path, tape_number

_BLOCK_BYTES: Final = 1 << 18
"""From that size on a block is full: smaller ones gain less, larger ones cost whoever reads one frame."""
_SEAL_BYTES: Final = 1 << 20
"""So much is plain before it becomes blocks: each time, the disk has to be waited for."""
_LEAST_BYTES: Final = 4096
"""Less than that stays as it is when a tape is closed: no file system would give anything back."""


@dataclass(frozen=True, slots=True)
class _Tail:
    """The file that is written to, and what is before it."""

    appender: FileAppender
    head_bytes: int
    sealed: Sealed

    @property
    def plain_bytes(self) -> int:
        return self.appender.size_bytes - self.head_bytes


class SealingAppender:
    def __init__(
        self,
        appender: FileAppender,
        path: Path,
        tape_id: str,
        compression: str,
        logger: logging.Logger,
        *,
        sealed: Sealed | None = None,
        head_bytes: int = 0,
    ) -> None:
        """Goes on for `appender`, on whose file `sealed` and `head_bytes` are what `read_sealed` says. A tape
        that has blocks gets more of their kind.

        Raises:
            StorageUnavailableError: see `compression`.
        """
        if sealed is None:
            sealed = Sealed(compression, 0, 0, -1, tape_number(appender.fd))
        self._path: Final = path
        self._tape_id: Final = tape_id
        self._codec: Final[Codec] = codec_of(sealed.compression)
        self._logger: Final = logger
        # Guards which tail it is; held while that is synced, so that it is not replaced and closed meanwhile.
        self._current = threading.Lock()
        self._tail = _Tail(appender, head_bytes, sealed)
        self._next: _Tail | None = None
        """About to take its place: the rename has been asked for, and may have been done."""
        self._seal_at_bytes = _SEAL_BYTES
        self._has_failed = self._closed = False
        self._owner: Final = os.getpid()

    def append(self, lines: Sequence[bytes]) -> None:
        if self._next is not None:
            self._settle_next()
        # Before anything is written: what interrupts it must not leave lines that nobody knows of.
        if self._tail.plain_bytes >= self._seal_at_bytes:
            self._try_to_seal()
        self._tail.appender.append(lines)

    def sync(self) -> None:
        with self._current:
            self._tail.appender.sync()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._next is not None:
                self._settle_next()
            if self._tail.plain_bytes > _LEAST_BYTES:
                self._try_to_seal()
        finally:
            self._tail.appender.close()

    def _try_to_seal(self) -> None:
        """Costs space or time where it fails, and never a line."""
        if os.getpid() != self._owner:
            return  # a forked child's copy: the file is to keep its name for whoever records
        try:
            self._seal()
            self._seal_at_bytes, self._has_failed = _SEAL_BYTES, False
        except OSError as error:
            self._seal_at_bytes = self._tail.plain_bytes + _SEAL_BYTES
            if not self._has_failed:
                self._logger.warning(
                    "tape %s goes on uncompressed for now, and is tried again: %s", self._tape_id, error
                )
            self._has_failed = True

    def _seal(self) -> None:
        tail = self._tail
        tail.appender.look()
        tail.appender.settle()
        sealed = self._write_blocks(tail)
        temporary = rename_path(self._path)
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | SAFELY, 0o600)
        lock = WriteLock(fd, temporary)
        try:
            lock.acquire(self._tape_id)  # before it has the name
            appender = FileAppender(lock, self._path, 0)
            head = sealed.line()
            appender.append((head,))
            with naming(temporary):
                os.fsync(fd)
            with self._current:
                self._next = _Tail(appender, len(head), sealed)
                os.replace(temporary, self._path)  # noqa: PTH105  (beside the other calls of os)
                self._take(self._next)
        except BaseException:
            self._settle_next()
            if self._tail.appender.fd != fd:
                lock.release()
                temporary.unlink(missing_ok=True)
            raise

    def _settle_next(self) -> None:
        """Something came between: what counts is which file has the name."""
        with self._current:
            if self._next is None:
                return
            if is_at(self._next.appender.fd, self._path):
                self._take(self._next)
            else:
                refused, self._next = self._next, None
                refused.appender.close()

    def _take(self, tail: _Tail) -> None:
        before, self._tail = self._tail, tail
        self._next = None
        before.appender.close()

    def _write_blocks(self, tail: _Tail) -> Sealed:
        """All whole lines of the tail behind the blocks that count."""
        before = tail.sealed
        path = blocks_path(self._path, before.compression)
        flags = os.O_RDWR | SAFELY
        if not before.packed_bytes:
            path.unlink(missing_ok=True)  # what an attempt left that nobody could clean up behind
            flags |= os.O_CREAT | os.O_EXCL
        with naming(path), os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
            if file.seek(0, os.SEEK_END) < before.packed_bytes:
                raise OSError(errno.EIO, "the blocks of the tape are cut off")
            try:
                os.ftruncate(file.fileno(), before.packed_bytes)
                file.seek(before.packed_bytes)
                raw_bytes, highest_seq = before.raw_bytes, before.highest_seq
                for lines in _in_blocks(tail):
                    raw = b"".join(lines)
                    packed = self._codec.compress(raw)
                    note = Note(raw_bytes, len(raw), len(packed), highest_seq, before.tape)
                    file.write(self._codec.head + note.pack() + packed)
                    raw_bytes += len(raw)
                    seqs = [seq for line in lines if (seq := frame_seq(line)) is not None]
                    highest_seq = min(max([highest_seq, *seqs]), HIGHEST)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):  # a full disk needs the room
                    os.ftruncate(file.fileno(), before.packed_bytes)
                raise
            packed_bytes = file.tell()
        if not before.packed_bytes:
            sync_directory(self._path.parent)
        return Sealed(before.compression, raw_bytes, packed_bytes, highest_seq, before.tape)


def _in_blocks(tail: _Tail) -> Iterator[list[bytes]]:
    with reader(tail.appender.fd, close=False) as file:
        file.seek(tail.head_bytes)
        left = tail.plain_bytes
        lines: list[bytes] = []
        size = 0
        while left:
            line = file.readline()
            lines.append(line)
            size += len(line)
            left -= len(line)
            if size >= _BLOCK_BYTES or not left:
                yield lines
                lines, size = [], 0
