"""A provider type that a manifest uses, with its schema checked and what follows from that worked out once.

Knows nothing of the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from .backend import StorageProviderFactory
from .schema import Compiled, compiled
from .schema_faults import check_schema
from .schema_walk import Schema, mentions


@dataclass(frozen=True, slots=True)
class TypeInUse:
    """A provider type with its schema; without one if it has none, or if that is broken."""

    factory: StorageProviderFactory
    compiled: Compiled | None
    faults: tuple[str, ...] = ()
    """What is wrong with the schema."""
    has_defaults: bool = False
    has_paths: bool = False
    has_secrets: bool = False
    has_advice: bool = False
    has_exclusive: bool = False
    has_references: bool = False

    @property
    def schema(self) -> Schema | None:
        return None if self.compiled is None else self.compiled.schema


def type_in_use(factory: StorageProviderFactory, known: TypeInUse | None) -> TypeInUse:
    """The type of a factory: the `known` one, if that is still the same."""
    schema = factory.config_schema()
    if (
        known is not None
        and not known.faults
        and known.factory is factory
        and content_of(known.schema) == content_of(schema)
    ):
        return known
    if schema is None:
        return TypeInUse(factory, None)
    if faults := check_schema(schema):
        return TypeInUse(factory, None, faults)
    return TypeInUse(
        factory,
        compiled(schema),
        has_defaults=mentions(schema, "default"),
        has_paths=mentions(schema, "x-path"),
        has_secrets=mentions(schema, "x-secret"),
        has_advice=mentions(schema, "x-path") or mentions(schema, "deprecated"),
        has_exclusive=mentions(schema, "x-exclusive"),
        has_references=mentions(schema, "x-provider"),
    )


def content_of(value: Mapping[str, Any] | list[Any] | None) -> bytes:
    """The same for the same values, in the same order; `repr` tells 1, 1.0 and True apart."""
    return sha256(repr(value).encode("utf-8", "surrogatepass")).digest()
