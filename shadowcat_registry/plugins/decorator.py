"""`@provider`: a provider type out of a backend class alone.

    @provider(name="glacier", version="1.2.0", capabilities={"remote_storage"}, schema={…})
    class Glacier:
        def __init__(self, config, context): ...

    PROVIDERS = (Glacier,)

The class stays what it is. Its factory is made here, and found by whoever is given the class in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from ..backend import CreateContext, TapeStorageBackend
from ..errors import InvalidNameError, did_you_mean
from ..metadata import Config, ProviderCapability, is_valid_name

_MARK: Final = "__shadowcat_factory__"
_OPTIONAL: Final = ("acreate", "check")

Class = TypeVar("Class", bound=type)


class BackendFactory:
    """Makes storages by calling the class with `(config, context)`."""

    def __init__(
        self,
        backend: Callable[[Config, CreateContext], TapeStorageBackend],
        *,
        name: str,
        version: str,
        capabilities: frozenset[ProviderCapability],
        schema: Mapping[str, Any] | None,
        display_name: str,
        description: str,
    ) -> None:
        self.name, self.version, self.capabilities = name, version, capabilities
        self.display_name, self.description = display_name, description
        self.backend, self._schema = backend, schema
        for method in _OPTIONAL:
            if hasattr(backend, method):
                setattr(self, method, getattr(backend, method))

    def config_schema(self) -> Mapping[str, Any] | None:
        return self._schema

    def validate_config(self, config: Config) -> None:
        validate = getattr(self.backend, "validate_config", None)
        if validate is not None:
            validate(config)

    def create(self, config: Config, context: CreateContext) -> TapeStorageBackend:
        return self.backend(config, context)


def provider(
    *,
    name: str,
    version: str,
    capabilities: Iterable[str] = (),
    schema: Mapping[str, Any] | None = None,
    display_name: str | None = None,
    description: str | None = None,
) -> Callable[[Class], Class]:
    """Make a backend class a provider type: name the class in the `PROVIDERS` of a plugin, or register it.

    A storage is opened by calling the class with `(config, context)`, where `config` is complete and valid
    by `schema`, a JSON Schema (draft 2020-12); without one, anything goes. `capabilities` are those of
    `ProviderCapability`, or their names. `display_name` is else made from the name, `description` is else
    the first line of the class's docstring. Where the class has them as class methods or static methods,
    `validate_config(config)`, `acreate(config, context)` and `check(config, context)` are those of a factory.

    Raises:
        InvalidNameError: `name` matches not `[a-z][a-z0-9_-]{0,62}`.
        ValueError: there is no such capability.
    """
    if not is_valid_name(name):
        raise InvalidNameError(name)
    claimed = frozenset(map(_capability, capabilities))

    def declare(backend: Class) -> Class:
        first_line = (inspect.getdoc(backend) or "").partition("\n")[0].rstrip(".")
        factory = BackendFactory(
            backend,
            name=name,
            version=version,
            capabilities=claimed,
            schema=schema,
            display_name=display_name if display_name is not None else _words(name),
            description=description if description is not None else first_line,
        )
        setattr(backend, _MARK, factory)
        return backend

    return declare


def declared_factory(backend: type) -> BackendFactory | None:
    """That of a class with `@provider` above it; a class derived from it has none by that."""
    found = vars(backend).get(_MARK)
    return found if isinstance(found, BackendFactory) else None


def _words(name: str) -> str:
    words = name.replace("-", " ").replace("_", " ")
    return words[:1].upper() + words[1:]


def _capability(name: str) -> ProviderCapability:
    known = [str(capability) for capability in ProviderCapability]
    if name not in known:
        hint = did_you_mean(name, known) or f"there is: {', '.join(known)}"
        raise ValueError(f"{name!r} is no capability ({hint})")
    return ProviderCapability(name)
