"""What importing and copying have in common: lines in batches, and a tape that is not whole yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from ..tape import Metadata

_BATCH_LINES: Final = 256
_BATCH_BYTES: Final = 1 << 20


def batches(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines in lists of at most 256, and of not much more than 1 MiB."""
    batch: list[bytes] = []
    batch_bytes = 0
    for line in lines:
        batch.append(line)
        batch_bytes += len(line)
        if len(batch) >= _BATCH_LINES or batch_bytes >= _BATCH_BYTES:
            yield batch
            batch = []
            batch_bytes = 0
    if batch:
        yield batch


def unfinished(metadata: Metadata) -> dict[str, Any]:
    """What stands beside a tape until its last line is in: nothing that is not true yet. So whoever comes
    after a kill knows half a tape."""
    begun = {**metadata, "status": "recording", "stats": {}}
    if begun.get("checksum") is not None:
        begun["checksum"] = None
    return begun
