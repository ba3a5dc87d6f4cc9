"""Removing what a storage need not keep, when somebody asks. (While tapes are written, it goes by itself.)"""

from __future__ import annotations

from ..housekeeping import Housekeeper, PruneReport
from ..retention import Retention
from ..storage import TapeStorage


def prune_tapes(
    storage: TapeStorage, retention: Retention | None = None, *, dry_run: bool = False
) -> PruneReport:
    """Remove every tape that has to go by `retention`, or by what the storage is configured with; or only
    say which. What is being recorded, has not ended, or is read through a handle of this process stays.

    Raises:
        ValueError: the storage is configured to keep everything, and no `retention` is given.
        StorageUnavailableError, StorageClosedError.
    """
    source = storage.use.source
    storage.stats()  # refuses a handle that is closed
    keeper = source.housekeeper
    if retention is not None:
        keeper = Housekeeper(source.backend, retention, source.readers, source.provider)
    if keeper is None:
        raise ValueError(f"provider {storage.provider!r} keeps everything: its config has no `retention`")
    return keeper.tidy(dry_run=dry_run)
