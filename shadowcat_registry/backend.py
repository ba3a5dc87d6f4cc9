"""The contracts of a provider author: what a factory and a backend look like.

Protocols only: nothing needs to be inherited. Users never see a backend; they hold a `TapeStorage`,
which checks ids, closed handles and capabilities and translates errors, once, for every backend.

Concurrency: any thread may call a factory and a backend, several at once; one `Appender` is called
by one thread at a time. Lines are `bytes`, whole, end in a newline, and are opaque. A backend raises
the `StorageError`s of `errors`; `OSError` is translated, anything else counts as a fault of the backend.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .metadata import Config, ProviderCapability
from .tape import Metadata

if TYPE_CHECKING:
    from .storage import TapeStorage  # only a word in a signature: nothing is imported from above


@dataclass(frozen=True, slots=True)
class TapeQuery:
    """Which tapes to list; every field that is not None must hold."""

    session_id: str | None = None
    tag: str | None = None
    status: str | None = None

    def matches(self, metadata: Metadata) -> bool:
        tags = metadata.get("tags")
        return (
            (self.session_id is None or metadata.get("session_id") == self.session_id)
            and (self.tag is None or (isinstance(tags, list) and self.tag in tags))
            and (self.status is None or metadata.get("status") == self.status)
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, ordered by tape id; `cursor` asks for the next part, None: there is none."""

    items: tuple[dict[str, Any], ...]
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
    """Exclusive write access to one tape."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Add whole lines at the end. On return they outlive this process. On an error, none of them
        is in the tape, or only whole ones are."""

    def sync(self) -> None:
        """On return, everything appended outlives a loss of power."""

    def close(self) -> None:
        """Give the tape free for others. Idempotent."""


@runtime_checkable
class TapeStorageBackend(Protocol):
    """An opened storage. A method that is missing fails when it is used."""

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
    touches nothing, `reconfigure(config)` and `close()`."""

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
