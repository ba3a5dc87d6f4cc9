"""The file with the blocks of one tape, as its readers see it: bytes of the tape, by their place in it."""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Final

from ...errors import StorageDamagedError
from .compression import HIGHEST, NOTE_SIZE, Note, codec_of
from .files import SAFELY, Descriptor, read_at
from .tails import Sealed


class Blocks:
    """Of a tape whose `sealed` part it is. Not thread-safe: each reader has its own.

    Where the blocks are is found out as far as it is needed. Of those that were read last, as many are kept
    as `cache_bytes` are enough for, one at least.
    """

    def __init__(self, path: Path, sealed: Sealed, tape_id: str, cache_bytes: int = 0) -> None:
        """`path` is that of the tape.

        Raises:
            FileNotFoundError: there is no such file.
            StorageUnavailableError: nothing here can read it, see `compression`.
        """
        self._path: Final = sealed.blocks_of(path)
        self._sealed: Final = sealed
        self._tape_id: Final = tape_id
        self._codec: Final = codec_of(sealed.compression)
        self._starts, self._offsets, self._packed_sizes, self._before = (array("q") for _ in range(4))
        self._known_raw = self._known_packed = 0
        self._cache_bytes = cache_bytes
        self._kept: dict[int, bytes] = {}  # the one that was read last comes last
        self._kept_bytes = 0
        self._file = Descriptor(os.open(self._path, os.O_RDONLY | SAFELY))
        if not stat.S_ISREG(os.fstat(self._file.fd).st_mode):
            raise self._damaged("its blocks are no regular file")

    def read(self, position: int, most: int) -> bytes:
        """At most so many bytes of the tape from there on, which is before the end of the sealed part.

        Raises:
            StorageDamagedError: they are not what was written.
        """
        while self._known_raw <= position:
            self._look_at_next()
        number = bisect_right(self._starts, position) - 1
        raw = self._kept.pop(number, None)
        if raw is None:
            raw = self._decompressed(number)
            self._kept_bytes += len(raw)
            while self._kept and self._kept_bytes > self._cache_bytes:
                self._kept_bytes -= len(self._kept.pop(next(iter(self._kept))))
        self._kept[number] = raw
        first = position - self._starts[number]
        return raw[first : first + most]

    def place_before(self, after_seq: int) -> int:
        """A place in the tape before which no frame has a seq of `after_seq` or more: that of the last block
        of which this is known, or the end of the blocks."""
        if after_seq > HIGHEST:
            return 0
        if after_seq > self._sealed.highest_seq:
            return self._sealed.raw_bytes
        while self._known_raw < self._sealed.raw_bytes:
            self._look_at_next()
        number = bisect_left(self._before, after_seq) - 1
        return self._starts[number] if number > 0 else 0

    def _look_at_next(self) -> None:
        head_size = len(self._codec.head) + NOTE_SIZE
        head = self._bytes_at(self._known_packed, head_size)
        note = Note.unpack(head.removeprefix(self._codec.head))
        if (
            note is None
            or (note.tape, note.start) != (self._sealed.tape, self._known_raw)
            or not note.size
            or self._known_raw + note.size > self._sealed.raw_bytes
            or self._known_packed + head_size + note.packed_size > self._sealed.packed_bytes
        ):
            raise self._damaged("no block of it is where one should be")
        self._starts.append(note.start)
        self._offsets.append(self._known_packed + head_size)
        self._packed_sizes.append(note.packed_size)
        self._before.append(note.highest_seq)
        self._known_raw += note.size
        self._known_packed += head_size + note.packed_size

    def _decompressed(self, number: int) -> bytes:
        end = self._starts[number + 1] if number + 1 < len(self._starts) else self._known_raw
        packed = self._bytes_at(self._offsets[number], self._packed_sizes[number])
        try:
            return self._codec.decompress(packed, end - self._starts[number])
        except ValueError as error:
            raise self._damaged(f"a block cannot be decompressed ({error})", self._offsets[number]) from None

    def _bytes_at(self, offset: int, size: int) -> bytes:
        parts = []
        while size and (part := read_at(self._file.fd, size, offset)):
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _damaged(self, what: str, offset: int | None = None) -> StorageDamagedError:
        place = self._known_packed if offset is None else offset
        return StorageDamagedError(f"{what}: {self._path}, at byte {place}", self._tape_id)
