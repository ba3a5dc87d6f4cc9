"""What a handle does its work with, and what all handles on one opened backend have in common.

Apart from the handle itself, since it outlives a handle that was dropped: its tapes end then, and its lease
is given back. Knows no registry and no kind of storage.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from .backend import UNSYNCED, Durability, TapeStorageBackend
from .durability import Syncer
from .errors import MetadataConflictError, RecorderOpenError, RegistryError, UnsupportedCapabilityError
from .following import Followers
from .housekeeping import Housekeeper, Readers
from .metadata import ProviderCapability
from .retention import Retention
from .translation import translated, type_of

if TYPE_CHECKING:
    from .open_tape import OpenTape  # only words in signatures: nothing is imported from above
    from .storage import TapeStorage  # noqa: F401 - a weak reference to one, in quotes

_logger = logging.getLogger(__name__)

_METADATA_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What all handles on one opened backend have in common."""

    backend: TapeStorageBackend
    provider: str
    storage_type: str
    """As the backend said once, like the two below: a handle is made without calling it."""
    capabilities: frozenset[ProviderCapability] = frozenset()
    durability: Durability = UNSYNCED
    readers: Readers = field(default_factory=Readers)
    housekeeper: Housekeeper | None = None
    """Of a backend that says how much it keeps."""
    syncer: Syncer | None = None
    """Makes tapes durable by and by, where that is what `durability` says."""
    followers: Followers = field(default_factory=Followers)
    """Whoever waits for more of a tape."""

    @property
    def retention(self) -> Retention | None:
        return None if self.housekeeper is None else self.housekeeper.retention

    @classmethod
    def of(
        cls, backend: TapeStorageBackend, provider: str, claimed: frozenset[ProviderCapability] = frozenset()
    ) -> Self:
        """Ask a backend, which is foreign code, what it is. `claimed` are the capabilities of its type, for
        a backend that does not say what it really has.

        Raises:
            TypeError, ValueError: it says something that makes no sense.
        """
        said = getattr(backend, "capabilities", claimed)
        capabilities = frozenset(ProviderCapability(capability) for capability in said)
        durability = getattr(backend, "durability", UNSYNCED)
        if not isinstance(durability, Durability):
            raise TypeError(f"`durability` is a Durability, not {type(durability).__name__}")
        retention = getattr(backend, "retention", None)
        if not isinstance(retention, Retention | None):
            raise TypeError(f"`retention` is a Retention or None, not {type(retention).__name__}")
        readers = Readers()
        housekeeper = None if retention is None else Housekeeper(backend, retention, readers, provider)
        syncer = Syncer(durability.sync_interval_seconds) if durability.mode == "interval" else None
        return cls(
            backend, provider, type_of(backend), capabilities, durability, readers, housekeeper, syncer
        )


OPEN: Final = 0
CLOSED: Final = 1
RELEASED: Final = 2
FORKED: Final = 3


class Guard(weakref.ref["TapeStorage"]):
    """Calls back when its handle is dropped, unless that was closed: then it has gone before."""

    __slots__ = ("use",)
    use: Use


class Use:
    """What a handle does its work with, and what is left of it once it was dropped. Holds neither the handle
    nor its recorders."""

    __slots__ = ("beginning", "guard", "instance_id", "lock", "source", "state", "tapes")
    source: Source
    instance_id: str | None
    # Whoever counts the leases has it, so that what is open, what is closed and what is counted change in one
    # step. Guards the three below. Neither the backend nor a tape is called under it.
    lock: threading.Lock
    beginning: tuple[str, ...]
    tapes: tuple[OpenTape, ...]
    state: int
    """Closed: given back as soon as nothing is open. Forked: this is a child process, all of it is the
    parent's, and it is not touched any more."""
    guard: Guard | None
    """Of the handle, as long as that has not given its lease back. It has to be here: of a cycle that is
    dropped as a whole, what is in the cycle itself calls nobody."""

    def __init__(self, source: Source) -> None:
        """Of a handle that nobody counts."""
        self.source = source
        self.lock = threading.Lock()
        self.instance_id = None
        self.beginning = self.tapes = ()
        self.state = OPEN
        self.guard = None

    def leave(self) -> Callable[[], object] | None:
        """Locked: nothing works through the handle any more; give back what it had. What is returned has to
        be called next, without the lock. Once it has left, nothing happens."""
        self.guard = None
        return None

    @property
    def revision(self) -> int:
        return 1

    def is_superseded(self) -> bool:
        """A newer revision, another default or a removal waits for this."""
        return False

    @property
    def is_open(self) -> bool:
        return self.state == OPEN

    def call(self, operation: str, *arguments: object) -> Any:
        with translated:  # a backend around another may have a `__getattr__`, which is foreign code too
            method = getattr(self.source.backend, operation, None)
        if method is None:
            raise UnsupportedCapabilityError(self.source.storage_type, operation)
        with translated:
            return method(*arguments)

    def update_meta(self, tape_id: str, changes: Mapping[str, Any]) -> None:
        """Lay `changes` over the metadata, and keep what others set meanwhile. Works on a handle that
        is being closed, since its recorders end their tapes then."""
        for attempt in range(1, _METADATA_ATTEMPTS + 1):
            meta, etag = self.call("get_meta", tape_id)
            stats = meta.get("stats")
            merged = {**meta, **changes}
            if "stats" in changes and isinstance(stats, Mapping):
                merged["stats"] = {**stats, **changes["stats"]}
            try:
                self.call("set_meta", tape_id, merged, etag)
            except MetadataConflictError:
                if attempt == _METADATA_ATTEMPTS:  # somebody else's write succeeded each time
                    raise
            else:
                return

    def check_idle(self) -> None:
        """Locked."""
        if self.beginning or self.tapes:
            raise RecorderOpenError(sorted([*self.beginning, *(tape.tape_id for tape in self.tapes)]))

    def tape_ended(self, tape: OpenTape) -> None:
        with self.lock:
            self.tapes = tuple(other for other in self.tapes if other is not tape)
        self.source.followers.ring(tape.tape_id)
        self.release_if_done()

    def release_if_done(self) -> None:
        with self.lock:
            if self.state != CLOSED or self.beginning or self.tapes:
                return
            rest = self.leave()
            self.state = RELEASED
        if rest is not None:
            rest()

    def end(self) -> None:
        """Tapes that are still open end as `aborted`, with every frame kept, and the lease is given back."""
        with self.lock:
            if self.state == OPEN:
                self.state = CLOSED
            tapes = self.tapes
        for tape in tapes:
            try:
                tape.end("aborted", None)
            except RegistryError as failure:  # what ends here matters more
                _logger.warning("tape %s could not be marked as aborted: %s", tape.tape_id, failure)
        self.release_if_done()

    def mark_forked(self) -> None:
        """In a child: refuse every use, and touch nothing."""
        self.lock = threading.Lock()  # a thread of the parent may hold the old one
        self.state = FORKED
        for tape in self.tapes:
            tape.start_anew()
            tape.is_open = False
