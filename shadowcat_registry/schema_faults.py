"""Whether a schema can be the config schema of a provider type: what is wrong with the schema itself.

It comes from whoever wrote the type, and is asked about every config: it must not fetch, hang or explode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from .dialect import DRAFT, MAX_KEPT, digest, validator_class
from .errors import did_you_mean
from .patterns import fault_of
from .schema_walk import MANY, NAMED, ONE, PLAIN, Schema, mapping, resolve_reference, subschemas

if TYPE_CHECKING:
    from jsonschema import ValidationError

_MAX_BRANCHES: Final = 10_000
"""How many schemas one may ask about the same value."""

_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")

_checked: dict[bytes, tuple[str, ...]] = {}
"""By the digest of a schema. Each step on it is one operation of a dict, so it needs no lock."""


def check_schema(schema: object) -> tuple[str, ...]:
    """What is wrong with a schema as the config schema of a provider type; nothing is fetched for it.

    It has to be valid against the meta-schema of draft 2020-12, use only keywords that exist (or `x-…`),
    every `$ref` has to lead to a place inside it and none back to itself, and every pattern has to be
    one that ends in time on any text.
    """
    if not isinstance(schema, Mapping):
        return ("it is not a mapping",)
    try:
        key = digest(schema)
    except (TypeError, ValueError, RecursionError):
        return ("it is not JSON",)
    wrong = _checked.get(key)
    if wrong is None:
        wrong = tuple(_faults(schema))
        if len(_checked) >= MAX_KEPT:
            _checked.clear()
        _checked[key] = wrong
    return wrong


def _faults(schema: Schema) -> list[str]:
    try:
        wrong = [
            f"{'/'.join(map(str, error.absolute_path)) or 'the schema'}: {_breach(error)}"
            for error in validator_class()(validator_class().META_SCHEMA).iter_errors(schema)
        ]
    except RecursionError:
        return ["it is nested too deeply"]
    if wrong:
        return wrong
    for pointer, part in subschemas(schema):
        place = "/".join(map(str, pointer)) or "the schema"
        for keyword, value in part.items():
            if keyword.startswith("x-") or keyword in PLAIN | ONE | MANY | NAMED:
                if (
                    keyword == "$ref"
                    and resolve_reference(schema, value) is None
                    and not _is_local_bool(schema, value)
                ):
                    wrong.append(f"{place}: $ref leads to no place inside the schema")
                elif keyword in ("$dynamicRef", "$dynamicAnchor") or (keyword == "$id" and pointer):
                    wrong.append(f"{place}: {keyword} is not supported")
                elif keyword == "$schema" and value != DRAFT:
                    wrong.append(f"{place}: $schema has to be {DRAFT}")
                continue
            hint = did_you_mean(keyword, PLAIN | ONE | MANY | NAMED)
            wrong.append(f"{place}: there is no keyword {keyword!r}" + (f"; {hint}" if hint else ""))
        patterns = (part.get("pattern", ""), *mapping(part, "patternProperties"))
        wrong.extend(f"{place}: {fault}" for fault in map(fault_of, patterns) if fault)
    return wrong or _endless_references(schema)


def _breach(error: ValidationError) -> str:
    """Of the meta-schema."""
    if (
        error.validator == "anyOf"
        and list(error.absolute_path)[-1:] == ["type"]
        and isinstance(error.instance, str)
    ):
        hint = did_you_mean(error.instance, _TYPES)
        return f"there is no type {error.instance[:64]!r}" + (f"; {hint}" if hint else "")
    return f"breaks the rule `{error.validator}`"


def _endless_references(schema: Schema) -> list[str]:
    """What asks about one place without an end: `{"$ref": "#"}`, or branches whose number explodes."""
    # Post-order over the references of each subschema to others for the same place, without recursion.
    weights: dict[int, int | None] = {}  # None: being counted
    for pointer, start in subschemas(schema):
        stack: list[tuple[Schema, bool]] = [(start, False)]
        while stack:
            part, is_counted = stack.pop()
            others = list(_same_place(schema, part))
            if is_counted:
                weight = 1 + sum(weights[id(other)] or 0 for other in others)
                weights[id(part)] = weight
                if weight > _MAX_BRANCHES:
                    return [f"{'/'.join(map(str, pointer)) or 'the schema'}: its branches are too many"]
            elif id(part) not in weights:
                weights[id(part)] = None
                stack.append((part, True))
                if any(weights.get(id(other), 0) is None for other in others):
                    return [f"{'/'.join(map(str, pointer)) or 'the schema'}: refers to itself without an end"]
                stack.extend((other, False) for other in others)
    return []


def _same_place(root: Schema, part: Schema) -> Iterator[Schema]:
    """The schemas that a schema asks about the very value that it is asked about."""
    candidates: list[Any] = [part[keyword] for keyword in ("not", "if", "then", "else") if keyword in part]
    for keyword in ("allOf", "anyOf", "oneOf"):
        candidates.extend(part.get(keyword, ()))
    candidates.extend(mapping(part, "dependentSchemas").values())
    if "$ref" in part:
        candidates.append(resolve_reference(root, part["$ref"]))
    return (candidate for candidate in candidates if isinstance(candidate, Mapping))


def _is_local_bool(schema: Schema, reference: object) -> bool:
    """Whether a `$ref` leads to `true` or `false`, which are schemas too."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return False
    parent, _, name = reference.rpartition("/")
    found = resolve_reference(schema, parent)
    return found is not None and isinstance(found.get(name), bool)
