"""The end of one backend, and what is said about it: that it failed, that it hangs, that it was forgotten.

On the records of `leases.py`; what counts, and who closes what when, is `openings`. Backends are called here,
without any lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple

from .callers import UnclosedWarning
from .leases import Lease, Opening
from .metadata import Unclosed

_logger = logging.getLogger(__name__)


class HangingClose(NamedTuple):
    """A backend whose `close()` nobody waits for any more."""

    provider: str
    revision: int
    age_seconds: float
    given_up_at: datetime
    thread: threading.Thread | None
    """That it hangs in."""


def find_hanging(openings: Iterable[Opening]) -> list[HangingClose]:
    """Those of them that are such, in their order."""
    now = monotonic()
    return [
        HangingClose(
            opening.revision.provider,
            opening.revision.number,
            now - opening.closing_since,
            opening.late_since,
            opening.closer,
        )
        for opening in openings
        if opening.late_since is not None and opening.closing_since is not None
    ]


def close_backend(opening: Opening) -> Unclosed | None:
    """Call its `close()`, once. A failure is logged and returned."""
    revision = opening.revision
    began = monotonic()
    if opening.source is None or opening.is_closed:
        opening.is_closed = True
        return None
    backend = opening.source.backend
    try:
        opening.is_closed = True
        backend.close()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, the next storage has to be closed too
        seconds = monotonic() - began
        _logger.exception(
            "closing the storage of provider %r failed, after %.1f s", revision.provider, seconds
        )
        return Unclosed(revision.provider, revision.number, f"failed with {type(error).__name__}", seconds)
    return None


def close_dependencies(opening: Opening) -> None:
    """Give back what its factory opened for it, in reverse."""
    for dependency in reversed(opening.dependencies):
        try:
            # Not `close()`: the lease has to be given back even if something still records there.
            dependency.__exit__(None, None, None)
        except Exception:
            _logger.exception(
                "provider %r could not give back the storage of %r",
                opening.revision.provider,
                dependency.provider,
            )


def say_late(opening: Opening, seconds: float) -> Unclosed:
    """Its `close()` takes so long that nobody waits for it any more."""
    if opening.late_since is None:
        opening.late_since = datetime.now(UTC)
    revision = opening.revision
    unclosed = Unclosed(revision.provider, revision.number, "still closing, and left alone", seconds)
    _logger.warning("the storage of %s", unclosed)
    return unclosed


def say_dropped(lease: Lease) -> None:
    """Its handle was never closed."""
    name = lease.opening.revision.provider
    UnclosedWarning(
        f"a storage of provider {name!r} was dropped without close(); it was acquired", lease.caller
    )
