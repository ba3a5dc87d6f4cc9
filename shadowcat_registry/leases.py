"""Bookkeeping of what is open and who uses it: revisions, openings, leases.

Plain mutable records without a lock of their own: every field is guarded by the registry's one
lock, except where a field says that it may be read without. Nothing here calls foreign code.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from .metadata import Holder

if TYPE_CHECKING:
    from .backend import TapeStorageBackend
    from .storage import TapeStorage


def find_caller() -> str:
    """`file:line` of the nearest frame outside of this package (its command line counts as outside)."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack() reads source files, 1,000 × slower
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown"


def _is_ours(module: str) -> bool:
    return module.startswith(f"{__package__}.") and not module.startswith(f"{__package__}.cli.")


@dataclass(eq=False, slots=True)
class Revision:
    """A provider's config as of one generation, and everything that was opened from it."""

    provider: str
    number: int
    superseded: bool = False
    """No new lease from now on; what is open closes with its last lease. Readable without the lock."""
    shared: Opening | None = None
    """The backend that `open_storage` hands out, being opened or open."""
    openings: dict[Opening, None] = field(default_factory=dict)
    """Who reads it, or an opening's leases, without the lock iterates over a `copy()`, which is one step."""

    def lease_count(self) -> int:
        """Readable without the lock: a moment's number."""
        return sum(len(opening.leases) for opening in self.openings.copy())

    def holders(self) -> list[Holder]:
        """Readable without the lock: a moment's list, the oldest lease first."""
        return [lease.as_holder() for opening in self.openings.copy() for lease in opening.leases.copy()]


@dataclass(eq=False, slots=True)
class Opening:
    """One backend, from the moment its construction begins until its `close()` has returned."""

    revision: Revision
    shared: bool
    leases: dict[Lease, None] = field(default_factory=dict)
    backend: TapeStorageBackend | None = None
    dependencies: list[TapeStorage] = field(default_factory=list)
    """Storages that the factory opened for it; closed after it, in reverse."""
    constructed: threading.Event = field(default_factory=threading.Event)
    """Set once `backend` or `error` is."""
    error: BaseException | None = None
    waits_for: Opening | None = None
    """Whose construction this construction is waiting for; how cycles over threads are found."""
    closing: bool = False
    """Its `close()` has been taken on by somebody: nobody else may, and nobody gets a lease."""

    @property
    def ends_with_last_lease(self) -> bool:
        return not self.shared or self.revision.superseded


@dataclass(eq=False, slots=True)
class Lease:
    """One use of a provider; it counts from before the construction until after the close."""

    opening: Opening
    acquired_at: str
    instance_id: str | None = None
    of_default: bool = False
    """Acquired as "the default", whatever its name was."""
    released: bool = False
    thread: str = field(default_factory=lambda: threading.current_thread().name)
    since: float = field(default_factory=monotonic)

    def as_holder(self) -> Holder:
        revision = self.opening.revision
        return Holder(
            provider=revision.provider,
            revision=revision.number,
            acquired_at=self.acquired_at,
            thread=self.thread,
            age_seconds=monotonic() - self.since,
            instance_id=self.instance_id,
        )
