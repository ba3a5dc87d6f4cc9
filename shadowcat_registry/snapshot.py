"""The readable state of a registry: one immutable value per generation.

A reader takes one `Snapshot` and sees the whole of one generation, never a mix. Counts of leases
are no part of it; they change without a generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar, final, overload

from .backend import StorageProviderFactory
from .errors import ProviderNotFoundError
from .leases import Revision
from .metadata import Origin, ProviderCapability, ProviderMetadata, ProviderSpec, ProviderStateName

_T = TypeVar("_T")
_REQUIRED: Final = [name for name in dir(StorageProviderFactory) if not name.startswith("_")]


def describe(
    factory: StorageProviderFactory, spec: ProviderSpec, registered_at: datetime
) -> ProviderMetadata:
    """What `factory` says of itself, under the name and display name of `spec`.

    Raises:
        TypeError: it is no factory: something is missing or of the wrong kind.
    """
    missing = [name for name in _REQUIRED if not hasattr(factory, name)]
    if missing == ["create"] and hasattr(factory, "acreate"):
        missing = []
    if missing:
        raise TypeError(
            f"{type(factory).__qualname__} is no StorageProviderFactory: it has no {', '.join(missing)}"
        )
    try:
        return ProviderMetadata(
            name=spec.name,
            display_name=spec.display_name or factory.display_name,
            version=str(factory.version),
            description=factory.description,
            capabilities=frozenset(ProviderCapability(capability) for capability in factory.capabilities),
            registered_at=registered_at,
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"{type(factory).__qualname__} is no StorageProviderFactory: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """A provider as of one generation."""

    spec: ProviderSpec
    metadata: ProviderMetadata
    factory: StorageProviderFactory = field(repr=False)
    live: Revision = field(repr=False)
    origin: Origin = "code"
    state: ProviderStateName = "active"
    replaceable: bool = False
    """Registered as a built-in default: a declaration of that name takes its place."""
    validated: bool = True
    """Its config has passed its type's checks; one that was registered without a config has not."""
    declared: ProviderSpec | None = None
    """Under an override, what the provider is without it."""
    base_directory: Path | None = None
    """What relative paths are relative to; None: whatever the registry says."""
    number: int | None = None
    """Of its revision, as of this generation; None: it has not been committed yet."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def type(self) -> str:
        return self.spec.type

    @property
    def revision(self) -> int:
        return self.live.number if self.number is None else self.number

    @property
    def can_be_checked(self) -> bool:
        return hasattr(self.factory, "check")


@final
class Snapshot(Mapping[str, Provider]):
    """Name → provider, as of one generation. An unknown name raises `ProviderNotFoundError`."""

    __slots__ = ("default", "generation", "providers")

    def __init__(self, providers: Mapping[str, Provider], default: str | None, generation: int) -> None:
        self.providers = providers
        self.default = default
        self.generation = generation

    def __getitem__(self, name: str) -> Provider:
        try:
            return self.providers[name]
        except KeyError:
            raise ProviderNotFoundError(name, tuple(self.providers)) from None

    @overload
    def get(self, key: str, /) -> Provider | None: ...
    @overload
    def get(self, key: str, /, default: Provider | _T) -> Provider | _T: ...
    def get(self, key: str, /, default: object = None) -> object:
        return self.providers.get(key, default)

    def __contains__(self, name: object) -> bool:
        return name in self.providers

    def __iter__(self) -> Iterator[str]:
        return iter(self.providers)

    def __len__(self) -> int:
        return len(self.providers)

    def __repr__(self) -> str:
        names = list(self.providers)
        return f"Snapshot(generation={self.generation}, default={self.default!r}, providers={names})"
