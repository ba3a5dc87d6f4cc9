"""What a caller sees of the exceptions that a backend raises. Total, and the only place."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Final

from .backend import TapeStorageBackend
from .errors import RegistryError, StorageFullError, StorageUnavailableError

_FULL: Final = frozenset(
    code
    for code in (getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG"))
    if code is not None  # Windows has no quotas of that name
)


def translate(error: Exception) -> Exception:
    """The exception that a caller sees for one that a backend raised.

    Our own errors and `MemoryError` stay what they are. Of anything else than an `OSError` only the
    type is told, since a backend's text may hold what is in its config.
    """
    if isinstance(error, RegistryError | MemoryError):
        return error
    if not isinstance(error, OSError):
        return StorageUnavailableError(f"the backend failed with {type(error).__name__}")
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        reason += f": {error.filename}"
    return StorageFullError(reason) if error.errno in _FULL else StorageUnavailableError(reason)


def type_of(backend: TapeStorageBackend) -> str:
    """Ask a backend for its `storage_type`, which is foreign code; the class serves where it has none."""
    return getattr(backend, "storage_type", type(backend).__name__)


class _Translation:
    """`with translated:` around foreign code, and around nothing else."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and (translation := translate(error)) is not error:
            raise translation from error


translated: Final = _Translation()
