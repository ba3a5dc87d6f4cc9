"""What stands in for a provider while a test lasts: another factory, or a backend that somebody has made.

Knows no registry; which of several is in force is decided there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from .backend import StorageProviderFactory, TapeStorageBackend
from .leases import Revision
from .metadata import Config, ProviderCapability, ProviderSpec
from .snapshot import Provider, describe


def stand_in(base: Provider, other: StorageProviderFactory | TapeStorageBackend) -> Provider:
    """`base` as it is with this factory, or this backend, in its place: nothing of it is open yet.

    Raises:
        TypeError: it is a factory that lacks something.
    """
    if hasattr(other, "config_schema"):
        factory: Any = other
        spec = ProviderSpec(base.name, factory.name)
        metadata = describe(factory, spec, base.metadata.registered_at)
    else:
        factory = _Lender(other)
        spec = ProviderSpec(base.name, base.type)
        metadata = base.metadata
    return replace(
        base,
        spec=spec,
        declared=base.declared or base.spec,
        metadata=metadata,
        factory=factory,
        live=Revision(base.name, base.revision),
        validated=False,
    )


class _Lender:
    """A factory of one backend, which stays its maker's: it is never closed here."""

    name: Final = "override"
    display_name: Final = "Override"
    version: Final = "0"
    description: Final = "a backend that somebody has made"
    capabilities: Final[frozenset[ProviderCapability]] = frozenset()

    def __init__(self, backend: TapeStorageBackend) -> None:
        self._backend = backend

    def config_schema(self) -> None:
        return None

    def validate_config(self, _: Config) -> None:
        """There is nothing to configure."""

    def create(self, *_: object) -> Any:
        return _Lent(self._backend)


class _Lent:
    def __init__(self, backend: TapeStorageBackend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def close(self) -> None:
        """It is not ours to close."""
