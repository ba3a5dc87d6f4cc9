"""Type name → factory. The built-in types are only named here; each is imported when it is used."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Final, cast

from . import forks
from .backend import StorageProviderFactory
from .errors import InvalidNameError, ProviderExistsError, UnknownTypeError
from .metadata import is_valid_name

BUILTIN_TYPES: Final = {
    "filesystem": "FilesystemProviderFactory",
    "memory": "MemoryProviderFactory",
    "sqlite": "SqliteProviderFactory",
}
"""Type name → class in the module of that name in `providers`."""

NOT_YET: Final = {
    name: f"the {name} provider is planned, this version does not have it yet"
    for name in ("postgresql", "s3")
}
"""Types that the documentation of Shadowcat speaks of and that this version cannot serve."""


def factory_behind(given: StorageProviderFactory | type) -> StorageProviderFactory:
    """What is registered when somebody registers `given`: a factory, or a class below `@provider`.

    Raises:
        TypeError: it is another class.
    """
    if not isinstance(given, type):
        return given
    from .plugins.decorator import declared_factory  # who gives no class needs nothing of plugins

    declared = declared_factory(given)
    if declared is None:
        raise TypeError(
            f"{given.__qualname__} is a class with no `@provider` above it: give an instance of it"
        )
    return declared


class Catalog:
    """The provider types that a manifest may use: the built-in ones and those that were added."""

    def __init__(self, factories: Iterable[StorageProviderFactory | type] = ()) -> None:
        # Guards the swap of the dict; factories are imported and made outside of it.
        self._lock = threading.Lock()
        forks.in_child(self, Catalog._start_anew)
        self._factories: dict[str, StorageProviderFactory] = {}
        for factory in factories:
            self.add(factory)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*BUILTIN_TYPES, *self._factories}))

    def __contains__(self, type_name: object) -> bool:
        return type_name in BUILTIN_TYPES or type_name in self._factories

    def factory(self, type_name: str) -> StorageProviderFactory:
        """The one factory of this type; a built-in one is imported on first use.

        Raises:
            UnknownTypeError: there is no such type; the error lists those there are.
        """
        factory = self._factories.get(type_name)
        if factory is not None:
            return factory
        if type_name not in BUILTIN_TYPES:
            raise UnknownTypeError(type_name, self.names())
        module = import_module(f"{__package__}.providers.{type_name}")
        made = cast(StorageProviderFactory, getattr(module, BUILTIN_TYPES[type_name])())
        with self._lock:
            if type_name not in self._factories:
                self._factories = {**self._factories, type_name: made}
            return self._factories[type_name]

    def implementation(self, type_name: str) -> str:
        """Which code of a plugin a type is; empty for what stays the same as long as the process lives."""
        del type_name
        return ""

    def extended(
        self, types: Mapping[str, StorageProviderFactory], implementations: Mapping[str, str]
    ) -> Catalog:
        """One that has these types too, which stay as they are. Of a name that is taken, ours counts."""
        return _Extended(self, types, implementations) if types else self

    def add(self, given: StorageProviderFactory | type) -> None:
        """Add a type by its factory, or by a class below `@provider`.

        Raises:
            InvalidNameError: its name is not one.
            ProviderExistsError: there is a type of that name already.
            TypeError: it is a class, and none below `@provider`.
        """
        factory = factory_behind(given)
        if not is_valid_name(factory.name):
            raise InvalidNameError(factory.name)
        with self._lock:
            if factory.name in self:
                raise ProviderExistsError(factory.name)
            self._factories = {**self._factories, factory.name: factory}


class _Extended(Catalog):
    """Another catalog's types, and those of plugins as they were at one moment."""

    def __init__(
        self,
        base: Catalog,
        types: Mapping[str, StorageProviderFactory],
        implementations: Mapping[str, str],
    ) -> None:
        self._base, self._types, self._implementations = base, dict(types), dict(implementations)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._base.names(), *self._types}))

    def __contains__(self, type_name: object) -> bool:
        return type_name in self._types or type_name in self._base

    def factory(self, type_name: str) -> StorageProviderFactory:
        if type_name in self._base or type_name not in self._types:
            if type_name not in self:
                raise UnknownTypeError(type_name, self.names())
            return self._base.factory(type_name)
        return self._types[type_name]

    def implementation(self, type_name: str) -> str:
        return "" if type_name in self._base else self._implementations.get(type_name, "")

    def add(self, given: StorageProviderFactory | type) -> None:
        factory = factory_behind(given)
        if factory.name in self._types:
            raise ProviderExistsError(factory.name)
        self._base.add(factory)
