"""The contracts of a provider author: what a factory and a backend look like.

Protocols only: nothing needs to be inherited. Users never see a backend; they hold a `TapeStorage`,
which checks ids, closed handles and capabilities and translates errors, once, for every backend.

Concurrency: any thread may call a factory and a backend, several at once; for one `Appender` see there.
Lines are `bytes`, whole, end in a newline, and are opaque. A backend raises the `StorageError`s of `errors`;
`OSError` is translated, anything else counts as a fault of the backend.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from .metadata import Config, ProviderCapability
from .tape import Metadata

if TYPE_CHECKING:
    from .storage import TapeStorage  # only a word in a signature: nothing is imported from above

DurabilityMode = Literal["none", "interval", "frame"]


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledged frame outlives beyond the death of the process, which it outlives in any mode.

    - `none`: a loss of power too once somebody asks for that, with `flush(durable=True)` or `finalize()`.
    - `interval`: a loss of power too, `sync_interval_seconds` and a sync later. `durable_seq` says how far.
    - `frame`: a loss of power too, at once.

    It is declared here and carried out by the recorder, once for every backend, by calls of `sync`.
    """

    mode: DurabilityMode = "none"
    sync_interval_seconds: float = 0.1
    volatile: bool = False
    """Nothing in this storage outlives the process, whatever is synced: nothing ever counts as durable. As
    long as it holds tapes, no change of a manifest puts another storage in its place."""

    @classmethod
    def of(cls, config: Config) -> Durability:
        """From the fields `durability` and `sync_interval_ms` of a config: every type that touches a disk
        has them, with the texts and defaults of `filesystem`."""
        return cls(config.get("durability", "interval"), config.get("sync_interval_ms", 100) / 1000)


UNSYNCED: Final = Durability()
"""Of a backend that says nothing."""


@dataclass(frozen=True, slots=True)
class TapeQuery:
    """Which tapes to list; every field that is not None must hold."""

    session_id: str | None = None
    tag: str | None = None
    status: str | None = None
    created_after: datetime | None = None
    """The first moment that counts: inclusive."""
    created_before: datetime | None = None
    """The first moment that does not count any more: exclusive, so that days put side by side do not
    overlap."""

    def __post_init__(self) -> None:
        for moment in (self.created_after, self.created_before):
            if moment is not None and moment.tzinfo is None:
                raise ValueError("a query needs moments with a time zone: it is a matter of hours")

    def matches(self, metadata: Metadata) -> bool:
        tags = metadata.get("tags")
        return (
            (self.session_id is None or metadata.get("session_id") == self.session_id)
            and (self.tag is None or (isinstance(tags, list) and self.tag in tags))
            and (self.status is None or metadata.get("status") == self.status)
            and ((self.created_after is None and self.created_before is None) or self._created(metadata))
        )

    def _created(self, metadata: Metadata) -> bool:
        """A tape that does not say when it was created is in no range of dates."""
        created_at = created_moment(metadata)
        return (
            created_at is not None
            and (self.created_after is None or self.created_after <= created_at)
            and (self.created_before is None or created_at < self.created_before)
        )


def created_moment(metadata: Metadata) -> datetime | None:
    """When a tape was created, as its metadata says; without a time zone that means UTC."""
    try:
        moment = datetime.fromisoformat(metadata["created_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, ordered by tape id; `cursor` asks for the next part, None: there is none."""

    items: tuple[dict[str, Any], ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One frame that a text was found in."""

    tape_id: str
    seq: int
    snippet: str
    """The surroundings of what was found, with `[` and `]` around it."""
    score: float
    """The higher, the better; comparable within one search only."""

    def as_json(self) -> dict[str, Any]:
        return {"tape_id": self.tape_id, "seq": self.seq, "snippet": self.snippet, "score": self.score}


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Part of what a search found, the best first; `cursor` asks for the next part, None: there is none."""

    items: tuple[SearchHit, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What `resume` found: where the tape goes on, and what it had to set aside."""

    tape_id: str
    last_seq: int
    """Of the last frame that is there, -1 where there is none."""
    line_count: int
    torn_bytes: int = 0
    """How much of an unfinished last line was set aside (never deleted)."""
    set_aside: str | None = None
    """Where the torn bytes are now."""


@dataclass(frozen=True, slots=True)
class StorageStats:
    tape_count: int
    size_bytes: int


@runtime_checkable
class Appender(Protocol):
    """Exclusive write access to one tape.

    `append` is called by one thread at a time. Another thread may be in `sync` meanwhile, one at a time too,
    so that appends need not wait for the disk. `close` is called when neither is.
    """

    def append(self, lines: Sequence[bytes]) -> None:
        """Add whole lines at the end, in one step. On return they outlive this process. On an
        error, none of them is in the tape, or only whole ones are."""

    def sync(self) -> None:
        """On return, everything whose `append` had returned when this was called outlives a loss of power.
        After an error nobody can tell, and no later success says so: the recorder does not ask again."""

    def close(self) -> None:
        """Give the tape free for others. Idempotent."""


@runtime_checkable
class FrameReader(Protocol):
    """Read access to one tape, at any place. Thread-safe."""

    def frame(self, seq: int) -> bytes | None:
        """The line of the first frame with that seq, whatever order the frames stand in; None: there is none
        at this moment. Raises: TapeNotFoundError: it was deleted."""

    def read(self, after_seq: int) -> Iterator[bytes]:
        """As `TapeStorageBackend.read`."""

    def close(self) -> None:
        """Free what it holds. Called once; perhaps while another thread is in a call: that comes to its end,
        or raises `StorageClosedError`. Not called for a reader that the collector takes with its user."""


@runtime_checkable
class Reconfiguration(Protocol):
    """A new config that a backend is ready to take, and has not taken yet. Exactly one of the two is called,
    once."""

    def apply(self) -> None:
        """Use the new config from now on; called right after the commit of which it is a part. Quick, and
        cannot fail: what could is done before. (If it fails all the same, a new revision takes the place of
        this backend.)"""

    def discard(self) -> None:
        """It is not to be after all: free what was got ready for it. The backend never noticed."""


@runtime_checkable
class TapeStorageBackend(Protocol):
    """An opened storage. A method that is missing fails when it is used.

    It may have, and is asked once, when it has been opened:

    - `capabilities`, a frozenset: what this instance really has. Without it, what its factory claims.
    - `durability`, a `Durability`: when the recorder calls `Appender.sync`. Without it, mode `none`.
    - `retention`, a `Retention` (or None): what is kept. Carried out while tapes are written, by `stats`,
      `list` and `delete`. Without it, everything is kept.

    With the capability `search`, it has
    `search(text, cursor, limit) -> SearchPage`: frames in whose message all words of `text` are. `text` is a
    user's: no character of it is syntax, and none of it is an error. At most `limit` hits, the best first.

    With the capability `transactions`, it has
    `transaction()`: a context manager. What the thread that entered it creates, appends, sets and deletes
    until it leaves is there for everybody when it has left, all at once; after an error, nothing of it is.
    Syncs within it may wait for its end. It is not entered twice; other threads are not part of it, and may
    have to wait for it. An appender that was opened within it and is still open after an error is dead.

    It may have `free_bytes() -> int`, of its medium: without it, `min_free_bytes` does not bind.

    It may have `new_tape_id() -> str`, for a tape that is begun without an id. Without it, that is a UUID.

    It may have `tail(tape_id) -> Iterator[bytes]`, for `follow`: as `read`, and with a `close()`; once at its
    end, it can be asked again for what has come since. Without it, `read` is asked from the last frame on.

    It may have `reader(tape_id) -> FrameReader`, for `TapeStorage.reader`; it raises `TapeNotFoundError`.
    Without it, `read` is called for each frame.

    It may have `torn(tape_id) -> bytes`, for `read(raw=True)`: what follows the last newline of a tape;
    `backup(destination, replace, progress)` and `damages() -> Iterator[str]`, as `back_up` and `find_damages`
    in `tapes.wholes` promise them.

    It may have `reconfigure(config) -> Reconfiguration | None`, which is asked before a new revision is made
    when the config of its provider changes; None: this change needs one. It may take its time to try the new
    config out (log in with the new password), changes nothing yet, and refuses one by `InvalidConfigError`.
    """

    @property
    def storage_type(self) -> str: ...

    def create(self, tape_id: str, init_line: bytes, meta: Metadata) -> Appender:
        """Begin a tape. Raises: TapeExistsError, TapeBusyError."""

    def resume(self, tape_id: str) -> tuple[Appender, RepairReport]:
        """Go on with a tape behind its last whole line. Raises: TapeNotFoundError, TapeBusyError."""

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        """Whole lines in order, in constant memory, up to what is there when it gets there.

        Raises: TapeNotFoundError, at the call or at the first line."""

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        """At most `limit` tapes that match, by ascending tape id, behind `cursor`."""

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        """Metadata and its etag. Raises: TapeNotFoundError."""

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None) -> str:
        """Replace the metadata at once, if its etag is still `if_match`; returns the new etag.

        Raises: TapeNotFoundError, MetadataConflictError."""

    def delete(self, tape_id: str) -> None:
        """Raises: TapeNotFoundError, TapeBusyError."""

    def stats(self) -> StorageStats: ...

    def close(self) -> None:
        """Free every resource. Idempotent."""


class SearchableBackend(TapeStorageBackend, Protocol):
    """A backend with the capability `search`."""

    def search(self, text: str, cursor: str | None, limit: int) -> SearchPage: ...


class TransactionalBackend(TapeStorageBackend, Protocol):
    """A backend with the capability `transactions`."""

    def transaction(self) -> AbstractContextManager[object]: ...


class CreateContext(Protocol):
    """What a factory may use of its surroundings while it creates a backend."""

    @property
    def provider(self) -> str:
        """The name of the provider that is being opened."""

    @property
    def base_directory(self) -> Path:
        """Of the manifest, or the working directory: what relative paths are relative to."""

    @property
    def logger(self) -> logging.Logger: ...

    def open(self, name: str) -> TapeStorage:
        """Another provider's storage, for one that stands on it; closed with the backend that asked."""

    async def aopen(self, name: str) -> TapeStorage:
        """`open` for `acreate`."""


@runtime_checkable
class StorageProviderFactory(Protocol):
    """A provider type. Optional methods that are used where they exist: `acreate(config, context)`, which
    the awaitable operations use, and all others where there is no `create`; it runs in a loop of the
    registry's own, which lives as long as what is open;
    `check(config, context)`, which raises a `StorageError` if the storage could not be opened now and
    touches nothing, and `close()`."""

    @property
    def name(self) -> str: ...
    @property
    def display_name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def capabilities(self) -> frozenset[ProviderCapability]: ...

    def config_schema(self) -> Mapping[str, Any] | None:
        """A JSON Schema (draft 2020-12) of the config, or None: anything goes."""

    def validate_config(self, config: Config) -> None:
        """What a schema cannot say. Touches nothing. Raises: ValueError, with no value in its text."""

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        """Open a storage. `config` is complete and valid. Runs without any lock of the registry."""
