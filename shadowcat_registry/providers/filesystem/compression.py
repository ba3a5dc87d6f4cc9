"""A block of lines made smaller, and back: one gzip member or one zstd frame each, behind a note that says
which part of the tape it is.

Put one behind the other, blocks are what `zcat` and `zstdcat` read: the note stands where those formats have
room for foreign data. Knows bytes, no files.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Final, Literal, Protocol

from ...errors import StorageUnavailableError

Compression = Literal["none", "gzip", "zstd"]

_NOTE: Final = struct.Struct("<4sQQQqI")
_MAGIC: Final = b"SCB1"
_CHECK: Final = struct.Struct("<I")
HIGHEST: Final = 2**63 - 2
"""What is counted here ends there."""

_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class Note:
    """Which part of which tape a block is."""

    start: int
    """The place of its first byte in the tape, and how many bytes it has, before compression."""
    size: int
    packed_size: int
    """How many bytes follow the note."""
    highest_seq: int
    """Of all frames before the block, -1 where there is none; at most `HIGHEST`."""
    tape: int
    """32 bits of what tells one tape from another, see `tails`."""

    def pack(self) -> bytes:
        note = _NOTE.pack(_MAGIC, self.start, self.size, self.packed_size, self.highest_seq, self.tape)
        return note + _CHECK.pack(zlib.crc32(note))

    @classmethod
    def unpack(cls, note: bytes) -> Note | None:
        if len(note) != NOTE_SIZE or _CHECK.unpack(note[-4:])[0] != zlib.crc32(note[:-4]):
            return None
        magic, *fields = _NOTE.unpack(note[:-4])
        return cls(*fields) if magic == _MAGIC else None


NOTE_SIZE: Final = _NOTE.size + _CHECK.size


class Codec(Protocol):
    name: ClassVar[Compression]
    suffix: ClassVar[str]
    """Of the file with the blocks, behind the name of the tape's own."""
    head: ClassVar[bytes]
    """What a block begins with; the note follows."""

    def compress(self, raw: bytes) -> bytes:
        """What follows the note."""

    def decompress(self, packed: bytes, size: int) -> bytes:
        """Never more than `size` bytes are made. Raises: ValueError: it is not what `compress` gave."""


class Gzip:
    """RFC 1952: the note is an extra field, subfield `SC`; no name, no time."""

    name: ClassVar[Compression] = "gzip"
    suffix: ClassVar[str] = ".gz"
    head: ClassVar[bytes] = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack(
        "<H2sH", NOTE_SIZE + 4, b"SC", NOTE_SIZE
    )

    def compress(self, raw: bytes) -> bytes:
        deflate = zlib.compressobj(_GZIP_LEVEL, wbits=-zlib.MAX_WBITS)
        end = struct.pack("<II", zlib.crc32(raw), len(raw) & 0xFFFFFFFF)
        return b"".join((deflate.compress(raw), deflate.flush(), end))

    def decompress(self, packed: bytes, size: int) -> bytes:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = inflate.decompress(packed, size + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        checksum = struct.pack("<II", zlib.crc32(raw), len(raw) & 0xFFFFFFFF)
        if not inflate.eof or len(raw) != size or inflate.unused_data != checksum:
            raise ValueError("its checksum or its size is another")
        return raw


class Zstd:
    """RFC 8878: the note is a skippable frame. Each block has a checksum."""

    name: ClassVar[Compression] = "zstd"
    suffix: ClassVar[str] = ".zst"
    head: ClassVar[bytes] = struct.pack("<II", 0x184D2A5C, NOTE_SIZE)

    def __init__(self) -> None:
        """Raises: StorageUnavailableError: this Python has no zstd."""
        self._library = zstd_library()
        parameter = self._library.CompressionParameter
        self._options = {parameter.compression_level: _ZSTD_LEVEL, parameter.checksum_flag: 1}

    def compress(self, raw: bytes) -> bytes:
        packed: bytes = self._library.compress(raw, options=self._options)
        return packed

    def decompress(self, packed: bytes, size: int) -> bytes:
        decompressor = self._library.ZstdDecompressor()
        try:
            raw: bytes = decompressor.decompress(packed, size + 1)
        except self._library.ZstdError as error:
            raise ValueError(str(error)) from error
        if not decompressor.eof or len(raw) != size or decompressor.unused_data:
            raise ValueError("its size is another")
        return raw


SUFFIXES: Final = {"gzip": Gzip.suffix, "zstd": Zstd.suffix}


@cache
def codec_of(name: str) -> Codec:
    """Raises: StorageUnavailableError: as `zstd_library`."""
    return Zstd() if name == "zstd" else Gzip()


def zstd_library() -> Any:
    """That of Python 3.14, or its backport: the same under another name.

    Raises:
        StorageUnavailableError: neither is there.
    """
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(module)
        except ImportError:
            continue
    raise StorageUnavailableError(
        "zstd is a part of Python from 3.14 on; until then it takes the extra [zstd]: "
        "pip install 'shadowcat-registry[zstd]'"
    )
