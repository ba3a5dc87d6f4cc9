"""What the file of a tape says of its beginning, where that stands compressed in another one.

`<tape_id>.jsonl` is the tape, or only its end: then its first line is no record, but says how many bytes of
the tape come before, and how many bytes of `<tape_id>.jsonl.zst` (or `.gz`) these are. What is further back
there does not count yet, or not any more. The line and the end of the tape behind it are replaced at once,
by a rename: that is the moment from which on blocks count. Knows files, no blocks.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Self

from .compression import HIGHEST, SUFFIXES
from .files import read_at

_START: Final = b'{"type":"blocks",'
_LONGEST_LINE_BYTES: Final = 1024
_LONGEST_INIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """The part of a tape that stands in blocks."""

    compression: str
    raw_bytes: int
    packed_bytes: int
    highest_seq: int
    """Of the frames in it, -1 where there is none; at most `HIGHEST`, which then stands for all above."""
    tape: int
    """See `tape_number`."""

    def line(self) -> bytes:
        return json.dumps({"type": "blocks", **asdict(self)}, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Self | None:
        """None: it is not such a line."""
        try:
            record = json.loads(line)
            sealed = cls(*(record[name] for name in _FIELDS))
            numbers = (sealed.raw_bytes, sealed.packed_bytes, sealed.highest_seq + 1, sealed.tape)
            is_sound = sealed.compression in SUFFIXES and all(
                0 <= number <= HIGHEST + 1 for number in numbers
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return sealed if is_sound else None

    def blocks_of(self, path: Path) -> Path:
        return blocks_path(path, self.compression)


_FIELDS: Final = tuple(field.name for field in fields(Sealed))


def blocks_path(path: Path, compression: str) -> Path:
    """Where the blocks of the tape at `path` are."""
    return path.with_name(path.name + SUFFIXES[compression])


def rename_path(path: Path) -> Path:
    """Where the file is made that takes the name of the tape at `path`."""
    return path.with_name(f".{path.name}.tmp")


def read_sealed(fd: int) -> tuple[Sealed | None, int]:
    """What the first line says, and its length; None and 0: it is the beginning of the tape.

    Raises:
        ValueError: it should say something, and cannot be read.
    """
    head = read_at(fd, _LONGEST_LINE_BYTES, 0)
    if not head.startswith(_START):
        return None, 0
    line, newline, _ = head.partition(b"\n")
    sealed = Sealed.of_line(line) if newline else None
    if sealed is None:
        raise ValueError("the line that says where its beginning is cannot be read")
    return sealed, len(line) + 1


def tape_number(fd: int) -> int:
    """Tells the tape that is in this file from another one of its name: a digest of its `init` line."""
    sealed, _ = read_sealed(fd)
    if sealed is not None:
        return sealed.tape
    line = read_at(fd, _LONGEST_INIT_BYTES, 0).partition(b"\n")[0]
    return int.from_bytes(hashlib.sha256(line).digest()[:4], "little")


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
