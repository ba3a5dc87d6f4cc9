"""A tape out of a storage, as the file that it is."""

from __future__ import annotations

from typing import BinaryIO

from ..storage import TapeStorage


def export_tape(storage: TapeStorage, tape_id: str, out: BinaryIO) -> int:
    """Write the lines of a tape as they are stored, and return how many bytes that was. What `out`
    raises comes through as it is.

    Raises:
        InvalidTapeIdError, TapeNotFoundError, StorageUnavailableError, StorageClosedError.
    """
    size_bytes = 0
    for line in storage.read(tape_id):
        out.write(line)
        size_bytes += len(line)
    return size_bytes
