"""What a JSON Schema says of a config: paths, secrets, and everything that is wrong.

Neither a value nor a text of the jsonschema library gets into a message. Nothing is ever fetched: a `$ref`
leads to a place in its own schema or is refused. Knows nothing of YAML, marks or files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .accelerate import acceptor
from .defaults import copied
from .dialect import MAX_KEPT, digest, validator_class
from .errors import Problem
from .marks import Pointer
from .schema_errors import explain, merge_typos
from .schema_walk import NAMED, Schema, mentions, subschemas, walk

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_PROBLEMS: Final = 1_000
"""In one config: nobody mends more by hand, and each takes time."""
_MAX_NAME_CHARACTERS: Final = 1024
"""Of a field; each is matched against the patterns for names."""

_compiled: dict[bytes, Compiled] = {}
"""By the digest of a schema. Each step on it is one operation of a dict, so it needs no lock, which a
forked child could inherit. A `Compiled` is never changed once it is built: threads share it."""


def problems(schema: Schema | None, config: Any) -> tuple[Problem, ...]:
    """All that is wrong with `config`, pointers relative to it. `schema` has passed `check_schema`."""
    return () if schema is None else compiled(schema).problems(config)


def make_paths_absolute(
    schema: Schema | None, config: Mapping[str, Any], base_directory: Path
) -> dict[str, Any]:
    """A copy of `config` in which the values that its schema marks `x-path` do not depend on the
    working directory any more: relative ones are relative to `base_directory`."""
    if schema is None:
        return dict(copied(dict(config)))
    return compiled(schema).with_absolute_paths(config, base_directory)


def secret_pointers(schema: Schema | None, config: Mapping[str, Any]) -> frozenset[Pointer]:
    """The places of what is secret in `config`: all that any part of its schema marks `x-secret`."""
    if schema is None:
        return frozenset()
    return compiled(schema).secret_pointers(config)


def compiled(schema: Schema) -> Compiled:
    """The one of this schema, kept by the digest of that."""
    key = digest(schema)
    found = _compiled.get(key)
    if found is None:
        if len(_compiled) >= MAX_KEPT:
            _compiled.clear()
        found = _compiled.setdefault(key, Compiled(schema))
    return found


class Compiled:
    """A schema that has passed `check_schema`, and what is worked out once for all configs. Any thread may
    use it: what it works out late is at worst worked out twice. (`functools.cached_property` has a lock in
    Python 3.11, which a child would inherit that is forked meanwhile.)"""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._accepts = acceptor(schema)
        self._made: Validator | None = None
        self._places: dict[str, tuple[Pointer, ...] | None] = {
            keyword: _fixed_places(schema, keyword)
            for keyword in ("x-path", "x-exclusive", "x-provider", "x-secret", "deprecated")
        }

    @property
    def _validator(self) -> Validator:
        made = self._made
        if made is None:
            import referencing

            # An empty registry of our own: without it, a `$ref` to http:// is fetched and file:// is read.
            made = self._made = validator_class()(
                _without_false(self.schema), registry=referencing.Registry()
            )
        return made

    def problems(self, config: Any) -> tuple[Problem, ...]:
        """As the function of this name."""
        if self._accepts is not None and self._accepts(config):
            return ()
        return _problems(self._validator, self.schema, config)

    def with_absolute_paths(self, config: Mapping[str, Any], base_directory: Path) -> dict[str, Any]:
        """As `make_paths_absolute`."""
        result: dict[str, Any] = copied(dict(config))
        base = Path(os.path.abspath(base_directory))  # noqa: PTH100 - resolve() would follow links
        for pointer, value in self.marked("x-path", config):
            if isinstance(value, str) and value:
                container: Any = result
                for key in pointer[:-1]:
                    container = container[key]
                container[pointer[-1]] = str(base / value)
        return result

    def secret_pointers(self, config: Mapping[str, Any]) -> frozenset[Pointer]:
        """As the function of this name."""
        return frozenset(pointer for pointer, _ in self.marked("x-secret", config))

    def marked(self, keyword: str, config: Mapping[str, Any]) -> Iterator[tuple[Pointer, Any]]:
        """The places in `config`, and their values, that any part of the schema marks by `keyword`."""
        fixed = self._places.get(keyword)
        if fixed is None:
            for pointer, value, parts in walk(self.schema, config):
                if any(part.get(keyword) is True for part in parts):
                    yield pointer, value
            return
        for pointer in fixed:
            found: Any = config
            for name in pointer:
                if not isinstance(found, Mapping) or name not in found:
                    break
                found = found[name]
            else:
                yield pointer, found


def _fixed_places(schema: Schema, keyword: str) -> tuple[Pointer, ...] | None:
    """Where a schema marks by `keyword`, if it does so in nothing but `properties` of `properties`."""
    found: list[Pointer] = []
    for pointer, part in subschemas(schema):
        if part.get(keyword) is True:
            if set(pointer[::2]) - {"properties"}:
                return None
            found.append(pointer[1::2])
    if found and mentions(schema, "$ref"):  # what is marked may count elsewhere, too
        return None
    return tuple(found)


def _problems(validator: Validator, schema: Schema, config: Any) -> tuple[Problem, ...]:
    if (place := _overlong_name(config)) is not None:
        message = f"a name of more than {_MAX_NAME_CHARACTERS} characters"
        return (Problem(place, "SC208", message, None, True),)
    found: dict[tuple[Pointer, str, str], Problem] = {}
    try:
        for error in validator.iter_errors(config):
            for problem in explain(error, schema):
                found.setdefault((problem.pointer, problem.code, problem.message), problem)
                if len(found) >= MAX_PROBLEMS:
                    return merge_typos(tuple(found.values()))
    except RecursionError:
        return (Problem((), "SC501", "the schema of this type refers to itself without an end"),)
    return merge_typos(tuple(found.values()))


def _overlong_name(config: Any) -> Pointer | None:
    stack: list[tuple[Pointer, Any]] = [((), config)]
    while stack:
        pointer, value = stack.pop()
        if isinstance(value, Mapping):
            for key, item in value.items():
                if len(key) > _MAX_NAME_CHARACTERS:
                    return (*pointer, key)
                if isinstance(item, Mapping | list):
                    stack.append(((*pointer, key), item))
        elif isinstance(value, list):
            stack.extend(((*pointer, i), it) for i, it in enumerate(value) if isinstance(it, Mapping | list))
    return None


def _without_false(schema: Schema) -> dict[str, Any]:
    """A copy in which a field that is never allowed has a keyword that says so: jsonschema reports a bare
    `false` at the place of the whole mapping."""
    copy = deepcopy(dict(schema))
    for _, part in subschemas(copy):
        for keyword in NAMED & part.keys():
            named = part[keyword]
            named.update({name: {"not": {}} for name, child in named.items() if child is False})
    return copy
