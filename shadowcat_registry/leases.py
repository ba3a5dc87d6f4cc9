"""Bookkeeping of what is open and who uses it: revisions, openings, leases.

Plain mutable records without a lock of their own: every field is guarded by the registry's one
lock, except where a field says that it may be read without. Nothing here calls foreign code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from .callers import Caller, place_of
from .errors import RegistryError
from .latch import Latch
from .metadata import UNKNOWN_HEALTH, Health, Holder
from .use import OPEN, RELEASED, Use

if TYPE_CHECKING:
    from .backend import TapeStorageBackend
    from .storage import TapeStorage
    from .use import Source


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
    health: Health = UNKNOWN_HEALTH
    """Readable without the lock; replaced by the one who monitors it."""

    def lease_count(self) -> int:
        """Readable without the lock: a moment's number."""
        return sum(len(opening.leases) for opening in self.openings.copy())

    def holders(self, now: float) -> list[Holder]:
        """Readable without the lock: the leases of a moment and their ages at `now`, the oldest first."""
        return [lease.as_holder(now) for opening in self.openings.copy() for lease in opening.leases.copy()]


@dataclass(eq=False, slots=True)
class Opening:
    """One backend, from the moment its construction begins until its `close()` has returned."""

    revision: Revision
    shared: bool
    leases: dict[Lease, None] = field(default_factory=dict)
    owner: LeaseOwner | None = None
    source: Source | None = None
    """Once it is open."""
    used: bool = False
    """A lease on it was given back by somebody who had it, and not only for somebody who had gone."""
    dependencies: list[TapeStorage] = field(default_factory=list)
    """Storages that the factory opened for it; closed after it, in reverse."""
    constructed: Latch = field(default_factory=Latch)
    """Set once `source` or `error` is."""
    error: RegistryError | None = None
    waits_for: Opening | None = None
    """Whose construction this construction is waiting for; how cycles over threads are found."""
    closing_since: float | None = None
    """By `monotonic()`. Its `close()` has been taken on by somebody: nobody else may, and nobody gets a
    lease."""
    late_since: datetime | None = None
    """When it was said that its `close()` takes so long; None: it was not."""
    closer: threading.Thread | None = None
    """Who is at its `close()`. If it is closing without that, whoever had to was interrupted."""
    is_closed: bool = False
    """The `close()` of its backend has been called: it is not called twice."""

    @property
    def closing(self) -> bool:
        return self.closing_since is not None

    @property
    def is_taken(self) -> bool:
        """Somebody is at its `close()`."""
        return self.closer is not None

    @property
    def backend(self) -> TapeStorageBackend | None:
        return self.source.backend if self.source is not None else None

    def mark_closing(self) -> None:
        """The caller now has to close it."""
        if self.closing_since is None:
            self.closing_since = monotonic()
        if self.revision.shared is self:
            self.revision.shared = None


class LeaseOwner(Protocol):
    """Who counts leases."""

    def close(self, opening: Opening) -> object:
        """Without the lock."""

    def pass_on_instance(self, lease: Lease) -> None:
        """Locked."""

    def is_default(self, provider: str) -> bool: ...


class Lease(Use):
    """One use of a provider, and what its handle works with. It counts while it is one of its opening's
    leases: from before the construction until after the close."""

    __slots__ = ("caller", "of_default", "opening", "since")

    def __init__(
        self,
        opening: Opening,
        lock: threading.Lock,
        caller: Caller,
        instance_id: str | None = None,
        of_default: bool = False,
    ) -> None:
        # All in one frame: nearly every handle comes with one of these, and there are many handles.
        self.opening = opening
        if (source := opening.source) is not None:  # else it gets it later, before anybody has the handle
            self.source = source
        self.lock = lock
        self.caller = caller
        self.instance_id = instance_id
        self.of_default = of_default
        """Acquired as "the default", whatever its name was."""
        self.since = monotonic()
        self.beginning = self.tapes = ()
        self.state = OPEN
        self.guard = None

    @property
    def is_counted(self) -> bool:
        return self in self.opening.leases

    def leave(self, *, unused: bool = False) -> Callable[[], object] | None:
        """Locked: it counts no more, except for the last one of what ends with it: that counts until what is
        returned has closed it. `unused`: nobody has ever had it."""
        opening = self.opening
        if unused:
            self.state = RELEASED  # whoever closes it may be late, and nobody is to be blamed for the handle
        else:
            opening.used = True
        leases = opening.leases
        if self not in leases:  # somebody has closed the registry meanwhile
            return None
        if (
            len(leases) == 1
            and (not opening.shared or opening.revision.superseded or not opening.used)
            and opening.source is not None
            and not opening.is_taken
            and opening.owner is not None
        ):
            opening.mark_closing()
            return partial(opening.owner.close, opening)
        if self.instance_id is not None and opening.owner is not None:
            opening.owner.pass_on_instance(self)
        del leases[self]
        self.guard = None  # only now: until then, a handle that is dropped has to be noticed
        return None

    @property
    def revision(self) -> int:
        return self.opening.revision.number

    def is_superseded(self) -> bool:
        """Readable without the lock: a newer revision, another default or a removal waits for this lease."""
        opening = self.opening
        if opening.revision.superseded:
            return True
        is_default = opening.owner is None or opening.owner.is_default(opening.revision.provider)
        return self.of_default and not is_default

    @property
    def place(self) -> tuple[str, int]:
        """Of the acquisition, as `place_of` says."""
        return place_of(self.caller)

    @property
    def acquired_at(self) -> str:
        file, line = self.place
        return f"{file}:{line}" if line else file

    def as_holder(self, now: float) -> Holder:
        revision = self.opening.revision
        return Holder(
            provider=revision.provider,
            revision=revision.number,
            acquired_at=self.acquired_at,
            thread=self.caller[2].name,
            age_seconds=now - self.since,
            instance_id=self.instance_id,
        )
