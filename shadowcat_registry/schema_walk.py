"""A schema as a structure: what is inside of it, and what it says about one place in the data.

Knows the keywords of draft 2020-12 and where each holds schemas. Judges nothing and needs no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from .marks import Pointer

Schema = Mapping[str, Any]
Part = Schema | bool

# What holds schemas: one, a list of them, or a mapping to them.
ONE: Final = frozenset(
    {
        "additionalProperties",
        "unevaluatedProperties",
        "propertyNames",
        "items",
        "unevaluatedItems",
        "contains",
    }
    | {"not", "if", "then", "else", "contentSchema"}
)
MANY: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
PLAIN: Final = frozenset(
    {"$schema", "$id", "$ref", "$anchor", "$comment", "$vocabulary", "$dynamicRef", "$dynamicAnchor"}
    | {"type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}
    | {
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxContains",
        "minContains",
    }
    | {"maxProperties", "minProperties", "required", "dependentRequired", "format", "title", "description"}
    | {"default", "deprecated", "readOnly", "writeOnly", "examples", "contentEncoding", "contentMediaType"}
    # What editors understand beyond the standard.
    | {"markdownDescription", "markdownEnumDescriptions", "enumDescriptions", "deprecationMessage"}
    | {"patternErrorMessage", "errorMessage", "defaultSnippets", "doNotSuggest"}
)


def subschemas(schema: Schema) -> Iterator[tuple[Pointer, Schema]]:
    """The schema and every one inside it, with its place."""
    stack: list[tuple[Pointer, Any]] = [((), schema)]
    while stack:
        pointer, part = stack.pop()
        if not isinstance(part, Mapping):
            continue
        yield pointer, part
        for keyword, value in part.items():
            if keyword in ONE:
                stack.append(((*pointer, keyword), value))
            elif keyword in MANY and isinstance(value, list):
                stack.extend(((*pointer, keyword, i), item) for i, item in enumerate(value))
            elif keyword in NAMED and isinstance(value, Mapping):
                stack.extend(((*pointer, keyword, name), item) for name, item in value.items())


def mentions(schema: Schema | None, keyword: str) -> bool:
    """Whether `keyword` is anywhere in a schema: where not, there is nothing to look for in the data."""
    return schema is not None and any(keyword in part for _, part in subschemas(schema))


def declared_at(schema: Schema | None, pointer: Pointer) -> list[Schema]:
    """All that a schema says of one place. Nothing where it does not know the place, and nothing where that,
    or anything around it, is secret."""
    parts: list[Part] = [] if schema is None else [schema]
    expanded: list[Schema] = []
    for depth in range(len(pointer) + 1):
        expanded = [] if schema is None else list(expand(schema, parts, certain=False))
        if any(part.get("x-secret") is True for part in expanded):
            return []
        if depth < len(pointer):
            parts = list(children(expanded, pointer[depth]))
    return expanded


def types_at(schema: Schema | None, config: Mapping[str, Any]) -> dict[Pointer, frozenset[str]]:
    """Which JSON types the schema has in mind for each text in `config`."""
    found: dict[Pointer, frozenset[str]] = {}
    if schema is not None:
        for pointer, value, parts in walk(schema, config):
            if isinstance(value, str):
                kinds = [part["type"] for part in parts if "type" in part]
                found[pointer] = frozenset(
                    k for kind in kinds for k in ([kind] if isinstance(kind, str) else kind)
                )
    return found


def walk(schema: Schema, config: Mapping[str, Any]) -> Iterator[tuple[Pointer, Any, list[Schema]]]:
    """Every place in `config` with all parts of the schema that may have a say there."""
    stack: list[tuple[Pointer, Any, list[Part]]] = [((), config, [schema])]
    while stack:
        pointer, value, parts = stack.pop()
        expanded = list(expand(schema, parts, certain=False))
        yield pointer, value, expanded
        if isinstance(value, Mapping):
            stack.extend(
                ((*pointer, key), item, list(children(expanded, key))) for key, item in value.items()
            )
        elif isinstance(value, list):
            stack.extend(((*pointer, i), item, list(children(expanded, i))) for i, item in enumerate(value))


def expand(root: Schema, parts: Iterable[Part], *, certain: bool) -> Iterator[Schema]:
    """The parts, and whatever they refer to for the same place; with `certain` only what always applies."""
    pending = list(parts)
    seen: list[int] = []
    while pending:
        part = pending.pop(0)
        # A schema may refer to itself; the same part twice says nothing new.
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.append(id(part))
        yield part
        if "$ref" in part and (target := resolve_reference(root, part["$ref"])) is not None:
            pending.append(target)
        pending.extend(part.get("allOf", ()))
        if not certain:
            for keyword in ("anyOf", "oneOf"):
                pending.extend(part.get(keyword, ()))
            pending.extend(part[keyword] for keyword in ("if", "then", "else") if keyword in part)
            pending.extend(mapping(part, "dependentSchemas").values())


def children(parts: Iterable[Schema], key: str | int) -> Iterator[Part]:
    """What the parts say of one property or item."""
    for part in parts:
        if isinstance(key, int):
            prefix = part.get("prefixItems", ())
            if key < len(prefix):
                yield prefix[key]
            elif "items" in part:
                yield part["items"]
            continue
        named = False
        properties = mapping(part, "properties")
        if key in properties:
            named = True
            yield properties[key]
        for pattern, child in mapping(part, "patternProperties").items():
            if re.search(pattern, key):
                named = True
                yield child
        if not named:
            for keyword in ("additionalProperties", "unevaluatedProperties"):
                if isinstance(part.get(keyword), Mapping):
                    yield part[keyword]


def mapping(part: Schema, keyword: str) -> Mapping[str, Any]:
    value = part.get(keyword)
    return value if isinstance(value, Mapping) else {}


def resolve_reference(root: Schema, reference: object) -> Schema | None:
    """What a local `$ref` (`#`, `#/…`, `#anchor`) leads to, or None."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    if reference[1:2] not in ("", "/"):
        named = (part for _, part in subschemas(root) if part.get("$anchor") == reference[1:])
        return next(named, None)
    target: Any = root
    for token in reference[2:].split("/") if reference[1:] else ():
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and name in target:
            target = target[name]
        elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        else:
            return None
    return target if isinstance(target, Mapping) else None
