"""What is known about a provider, as plain immutable values.

Nothing here acts: no registry, no lock, no file. Every record serialises to JSON with `as_json()`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal, NoReturn

from .marks import Pointer

Config = Mapping[str, Any]
"""The configuration of a provider: JSON values, already merged, with defaults filled in."""

Origin = Literal["code", "manifest"]
ProviderStateName = Literal["active", "pending", "retiring"]
PluginUse = Literal["import", "probe", "verify", "ignore"]
"""How far to go with plugins: to have their code here; to be told by another process which types they have;
to look whose bytes they are; not to look at all."""
PluginStateName = Literal[
    "built-in", "pinned", "owned", "installed", "refused", "shadowed", "restart needed", "retiring"
]

NAME_PATTERN: Final = r"[a-z][a-z0-9_-]{0,62}"
_name = re.compile(NAME_PATTERN)

FALLBACK_DEFAULT: Final = "filesystem"
"""The default provider, where there is one of that name, as long as nobody has set a default."""


def serving_default(default: str | None, names: Container[str]) -> str | None:
    """Which of these providers is used where none is named; `default` is what was set."""
    return FALLBACK_DEFAULT if default is None and FALLBACK_DEFAULT in names else default


def is_valid_name(name: str) -> bool:
    """Whether `name` may name a provider or a provider type: `[a-z][a-z0-9_-]{0,62}`."""
    return _name.fullmatch(name) is not None


class ProviderCapability(StrEnum):
    """What a storage can do beyond recording and reading tapes."""

    COMPRESSION = "compression"
    ENCRYPTION = "encryption"
    STREAMING = "streaming"
    TRANSACTIONS = "transactions"
    REMOTE_STORAGE = "remote_storage"
    LOCAL_STORAGE = "local_storage"
    SEARCH = "search"
    REPLICATION = "replication"


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-11-22T20:14:19.358Z`, as tapes and events have it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


HealthState = Literal["unknown", "healthy", "degraded", "failing"]
_FAILURES_UNTIL_FAILING: Final = 3
_TIMEOUTS_UNTIL_FAILING: Final = 2


@dataclass(frozen=True, slots=True)
class Health:
    """How a provider stands by its checks.

    `unknown` before the first one. One that fails makes it `degraded`; three in a row, or two of them
    without any answer, make it `failing`; one that succeeds makes it `healthy`.
    """

    state: HealthState = "unknown"
    error: str | None = None
    """What the last check found."""
    since: datetime | None = None
    """When it came to be in this state."""
    checked_at: datetime | None = None
    failures: int = 0
    """In a row."""
    timeouts: int = 0
    """Among these."""

    def after(self, error: str | None, at: datetime, *, is_timeout: bool = False) -> Health:
        """What one more check makes of it: one that found `error`, None: nothing wrong."""
        failures = 0 if error is None else self.failures + 1
        timeouts = 0 if error is None else self.timeouts + is_timeout
        state: HealthState = "healthy"
        if failures >= _FAILURES_UNTIL_FAILING or timeouts >= _TIMEOUTS_UNTIL_FAILING:
            state = "failing"
        elif failures:
            state = "degraded"
        since = self.since if state == self.state else at
        return Health(state, error, since, at, failures, timeouts)

    def __str__(self) -> str:
        return f"{self.state}: {self.error}" if self.error is not None else self.state

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "error": self.error,
            "since": format_time(self.since) if self.since is not None else None,
            "checked_at": format_time(self.checked_at) if self.checked_at is not None else None,
        }


UNKNOWN_HEALTH: Final = Health()


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How often a provider is checked, and what a check has for its answer."""

    interval_seconds: float = 30.0
    timeout_seconds: float = 5.0

    def as_json(self) -> dict[str, Any]:
        return {"interval_seconds": self.interval_seconds, "timeout_seconds": self.timeout_seconds}


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """What a factory says of itself, under the name that it was registered with."""

    name: str
    display_name: str
    version: str
    description: str
    capabilities: frozenset[ProviderCapability]
    registered_at: datetime

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "display_name": self.display_name,
            "version": self.version,
            "description": self.description,
            "capabilities": sorted(self.capabilities),
            "registered_at": format_time(self.registered_at),
        }


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a lease: what `unregister` and the operator are told about a provider in use."""

    provider: str
    revision: int
    acquired_at: str
    """`file:line` of the caller, or `unknown`."""
    thread: str
    age_seconds: float
    instance_id: str | None = None

    def __str__(self) -> str:
        instance = f"{self.instance_id!r}, " if self.instance_id is not None else ""
        return f"{instance}{self.acquired_at}, thread {self.thread}, {self.age_seconds:.1f} s"

    def as_json(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "revision": self.revision,
            "acquired_at": self.acquired_at,
            "thread": self.thread,
            "age_seconds": round(self.age_seconds, 3),
            "instance_id": self.instance_id,
        }


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """One revision of a provider that something is open of, or that gives out leases."""

    number: int
    lease_count: int
    is_open: bool
    """A storage of it is open, or being opened."""
    superseded: bool
    """It gives out no new lease, and ends with the last it has."""

    def as_json(self) -> dict[str, Any]:
        return {
            "revision": self.number,
            "lease_count": self.lease_count,
            "is_open": self.is_open,
            "superseded": self.superseded,
        }


@dataclass(frozen=True, slots=True)
class Unclosed:
    """A backend that a `close()` of the registry could not close, or not in time."""

    provider: str
    revision: int
    reason: str
    after_seconds: float

    def __str__(self) -> str:
        return (
            f"provider {self.provider!r}, revision {self.revision}: "
            f"{self.reason}, after {self.after_seconds:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """A provider as it stands: its metadata, and its state at the moment of asking."""

    metadata: ProviderMetadata
    type: str
    state: ProviderStateName
    revision: int
    instance_count: int
    is_default: bool
    origin: Origin
    health: Health = UNKNOWN_HEALTH
    """By its checks; `unknown` unless its declaration asks for them."""

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def display_name(self) -> str:
        return self.metadata.display_name

    @property
    def version(self) -> str:
        return self.metadata.version

    @property
    def description(self) -> str:
        return self.metadata.description

    @property
    def capabilities(self) -> frozenset[ProviderCapability]:
        return self.metadata.capabilities

    @property
    def registered_at(self) -> datetime:
        return self.metadata.registered_at

    def as_json(self) -> dict[str, Any]:
        return self.metadata.as_json() | {
            "type": self.type,
            "state": self.state,
            "revision": self.revision,
            "instance_count": self.instance_count,
            "is_default": self.is_default,
            "origin": self.origin,
            "health": self.health.as_json(),
        }


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as it stands.

    `pinned` by its digest, `owned` by whom the process trusts, or `installed` as a distribution that is
    allowed: its types are there. `refused`, and `shadowed` by another that has its name or a type of its:
    none of them is; `problem` says why. `restart needed`: another version of its distribution is installed
    by now. `retiring`: it is no longer asked for, and something still uses its code.
    """

    name: str
    state: PluginStateName
    path: str | None = None
    """Of its file or directory; None for a distribution."""
    distribution: str | None = None
    """Its name and version, as they were when it was imported: `shadowcat-glacier 1.2.0`."""
    sha256: str | None = None
    """Of the bytes that run."""
    types: Mapping[str, str] = field(default_factory=dict)
    """The provider types that it adds, each with its version."""
    problem: str | None = None
    generations: int = 0
    """How much of its code is alive: one for each of its versions that something still uses, or has used
    until a moment ago. 0: it is not imported here."""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "path": self.path,
            "distribution": self.distribution,
            "sha256": self.sha256,
            "types": dict(self.types),
            "problem": self.problem,
            "generations": self.generations,
        }


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A declared provider: a named use of a type with its config. What a plan compares.

    `config` is complete: merged, references resolved, defaults filled in. It may hold secrets, so
    it is kept out of `repr`, and a spec is never pickled.
    """

    name: str
    type: str
    config: Config = field(repr=False, default_factory=dict)
    display_name: str | None = None
    """None: the factory's."""
    secrets: frozenset[Pointer] = field(repr=False, compare=False, default=frozenset())
    """Where in `config` the secrets are."""
    version: str | None = None
    """The range that the version of the type has to be in, as PEP 440 writes them; None: any."""
    requires: tuple[str, ...] = ()
    """Providers that have to be declared too; they are prepared first, and removed last."""
    protect: bool = False
    """It cannot be removed, nor change its type, before this has been lifted in a generation of its own."""
    health: HealthPolicy | None = None
    """None: it is not checked."""
    references: Mapping[Pointer, str] = field(repr=False, compare=False, default_factory=dict)
    """Where in `config` other providers are named, by the schema keyword `x-provider`, and which."""
    implementation: str = ""
    """Which code of a plugin its type is; empty for a type that comes from no plugin."""
    content: bytes = field(repr=False, compare=False, default=b"")
    """Of a config that was loaded: the same as another's only if the two are exactly the same. Empty: not
    known."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The providers that it stands on, by `requires` and by its config."""
        return (*self.requires, *self.references.values()) if self.references else self.requires

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ProviderSpec is not pickled: it may hold secrets")
