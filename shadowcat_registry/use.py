"""What a handle does its work with, and what all handles on one opened backend have in common.

Apart from the handle itself, since it outlives a handle that was dropped: its tapes end then, and its lease
is given back. Knows no registry and no kind of storage.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from .backend import UNSYNCED, Durability, TapeStorageBackend
from .errors import MetadataConflictError, RecorderOpenError, RegistryError, UnsupportedCapabilityError
from .metadata import ProviderCapability
from .translation import translated, type_of

if TYPE_CHECKING:
    from .recorder import OpenTape  # only words in signatures: nothing is imported from above
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
    # Guards what is open and what is closed on each handle; see there. One for all: it is held for moments.
    lock: threading.Lock = field(default_factory=lambda: threading.Lock())  # as patched, where a test does

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
        return cls(backend, provider, type_of(backend), capabilities, durability)


class HandleLease(Protocol):
    """What a handle has to give back."""

    def release(self) -> None:
        """Called once, when the handle is closed and nothing works through it any more."""

    def is_superseded(self) -> bool: ...


OPEN: Final = 0
CLOSED: Final = 1
RELEASED: Final = 2
FORKED: Final = 3


class Use(weakref.ref["TapeStorage"]):
    """What a handle does its work with, and what is left of it once it was dropped: then, this calls back
    with itself. Holds neither the handle nor its recorders."""

    __slots__ = ("beginning", "lease", "lock", "source", "state", "tapes")
    source: Source
    lease: HandleLease
    # That of the source. Guards the three below: what is open and what is closed change in one step. Neither
    # the backend nor a tape nor the lease is called under it.
    lock: threading.Lock
    beginning: tuple[str, ...]
    tapes: tuple[OpenTape, ...]
    state: int
    """Closed: given back as soon as nothing is open. Forked: this is a child process, all of it is the
    parent's, and it is not touched any more."""

    @property
    def is_open(self) -> bool:
        return self.state == OPEN

    def call(self, operation: str, *arguments: object) -> Any:
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
        self.release_if_done()

    def release_if_done(self) -> None:
        with self.lock:
            if self.state != CLOSED or self.beginning or self.tapes:
                return
            self.state = RELEASED
        self.lease.release()

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
            tape.lock = threading.Lock()
            tape.is_open = False
