"""A storage as a whole, where its kind knows how: a copy of all of it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path

from ..errors import StorageClosedError
from ..storage import TapeStorage
from ..translation import translated


def back_up(
    storage: TapeStorage,
    destination: str | PathLike[str],
    *,
    replace: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Copy all that is in the storage, as it is at this moment, into the new file `destination`, while
    others record and delete. It is there whole, checked and on the disk, or not at all; what is there under
    that name already is only replaced on demand. `progress(done, total)` is told how far it is.

    Raises:
        UnsupportedCapabilityError: this kind of storage has no such copy; `copy_tapes` works for all.
        StorageUnavailableError: there is something of that name, or it cannot be made.
        StorageFullError, StorageClosedError.
        StorageDamagedError: what was copied is damaged; there is no backup of it then.
    """
    _check_open(storage)
    storage.use.call("backup", Path(destination), replace, progress)


def find_damages(storage: TapeStorage) -> Iterator[str]:
    """What is wrong with the storage itself, in a line each; reads all of it. `verify_tape` says the same of
    what is recorded.

    Raises:
        UnsupportedCapabilityError: this kind of storage has no such check.
        StorageUnavailableError, StorageClosedError.
    """
    _check_open(storage)
    return _translated(storage.use.call("damages"))


def _translated(found: Iterator[str]) -> Iterator[str]:
    with translated:
        yield from found


def _check_open(storage: TapeStorage) -> None:
    if storage.closed:
        raise StorageClosedError(repr(storage))
