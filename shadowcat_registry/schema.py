"""What a JSON Schema says of a config: defaults, paths, secrets, and everything that is wrong.

Messages are built from keyword, path and schema. Neither a value nor a text of the jsonschema library
gets into one: that text quotes values, and a value may be a secret. Nothing is ever fetched: a `$ref`
leads to a place in its own schema or is refused. Knows nothing of YAML, marks or files.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import forks
from .accelerate import acceptor
from .errors import Problem, did_you_mean
from .marks import Pointer
from .patterns import MAX_TEXT_CHARACTERS, fault_of

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

Schema = Mapping[str, Any]
_Part = Schema | bool

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_MAX_KEPT: Final = 256
_MAX_BRANCHES: Final = 10_000
"""How many schemas one may ask about the same value."""
_MAX_NAME_CHARACTERS: Final = 1024
"""Of a field; each is matched against the patterns for names."""

# Guards the two dicts; nothing is compiled or called under it. A validator itself is never changed once
# it is built, so threads share it. Both are keyed by the digest of a schema.
_lock = threading.Lock()
_compiled: dict[bytes, Compiled] = {}
_checked: dict[bytes, tuple[str, ...]] = {}


def _start_anew() -> None:
    """In a forked child: a thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


forks.module_in_child(_start_anew)


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`, as a copy: mappings merge deeply, everything else replaces, null included."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        # The order is that of the base, then what is new: a config reads the same wherever it came from.
        merged = {key: merge(item, over[key]) if key in over else copied(item) for key, item in base.items()}
        merged.update((key, copied(item)) for key, item in over.items() if key not in base)
        return merged
    return copied(over)


def copied(value: Any) -> Any:
    """As `deepcopy`, in a fifth of the time for the values of JSON; nothing in it is shared."""
    kind = type(value)
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if kind is list:
        return [copied(item) for item in value]
    return value if kind in _ATOMS else deepcopy(value)


def fill_defaults(schema: Schema | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` with the defaults of its schema where it has nothing.

    Defaults count in `properties`, also behind a local `$ref` and in `allOf`; those of a branch that may
    or may not apply (`anyOf`, `if`, …) do not.
    """
    filled: dict[str, Any] = copied(dict(config))
    if schema is not None:
        _fill(schema, [schema], filled)
    return filled


def names_with_defaults(root: Schema, part: Schema) -> frozenset[str]:
    """The fields that `fill_defaults` gives a mapping of which `part`, somewhere in `root`, is the schema."""
    return frozenset(
        name
        for one in _expand(root, [part], certain=True)
        for name, child in _mapping(one, "properties").items()
        if any("default" in it for it in _expand(root, [child], certain=True))
    )


def _fill(root: Schema, parts: Iterable[_Part], value: Any) -> None:
    expanded = list(_expand(root, parts, certain=True))
    if isinstance(value, dict):
        for part in expanded:
            for key, child in _mapping(part, "properties").items():
                if key not in value and isinstance(child, Mapping):
                    default = next((p for p in _expand(root, [child], certain=True) if "default" in p), None)
                    if default is not None:
                        value[key] = copied(default["default"])
        for key, item in value.items():
            if isinstance(item, dict | list):
                _fill(root, list(_children(expanded, key)), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                _fill(root, list(_children(expanded, index)), item)


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


def declared_at(schema: Schema | None, pointer: Pointer) -> list[Schema]:
    """All that a schema says of one place. Nothing where it does not know the place, and nothing where that,
    or anything around it, is secret."""
    parts: list[_Part] = [] if schema is None else [schema]
    expanded: list[Schema] = []
    for depth in range(len(pointer) + 1):
        expanded = [] if schema is None else list(_expand(schema, parts, certain=False))
        if any(part.get("x-secret") is True for part in expanded):
            return []
        if depth < len(pointer):
            parts = list(_children(expanded, pointer[depth]))
    return expanded


def mentions(schema: Schema | None, keyword: str) -> bool:
    """Whether `keyword` is anywhere in a schema: where not, there is nothing to look for in the data."""
    return schema is not None and any(keyword in part for _, part in _subschemas(schema))


def types_at(schema: Schema | None, config: Mapping[str, Any]) -> dict[Pointer, frozenset[str]]:
    """Which JSON types the schema has in mind for each text in `config`."""
    found: dict[Pointer, frozenset[str]] = {}
    if schema is not None:
        for pointer, value, parts in _walk(schema, config):
            if isinstance(value, str):
                kinds = [part["type"] for part in parts if "type" in part]
                found[pointer] = frozenset(
                    k for kind in kinds for k in ([kind] if isinstance(kind, str) else kind)
                )
    return found


def _walk(schema: Schema, config: Mapping[str, Any]) -> Iterator[tuple[Pointer, Any, list[Schema]]]:
    """Every place in `config` with all parts of the schema that may have a say there."""
    stack: list[tuple[Pointer, Any, list[_Part]]] = [((), config, [schema])]
    while stack:
        pointer, value, parts = stack.pop()
        expanded = list(_expand(schema, parts, certain=False))
        yield pointer, value, expanded
        if isinstance(value, Mapping):
            stack.extend(
                ((*pointer, key), item, list(_children(expanded, key))) for key, item in value.items()
            )
        elif isinstance(value, list):
            stack.extend(((*pointer, i), item, list(_children(expanded, i))) for i, item in enumerate(value))


def _expand(root: Schema, parts: Iterable[_Part], *, certain: bool) -> Iterator[Schema]:
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
        if "$ref" in part and (target := _resolve(root, part["$ref"])) is not None:
            pending.append(target)
        pending.extend(part.get("allOf", ()))
        if not certain:
            for keyword in ("anyOf", "oneOf"):
                pending.extend(part.get(keyword, ()))
            pending.extend(part[keyword] for keyword in ("if", "then", "else") if keyword in part)
            pending.extend(_mapping(part, "dependentSchemas").values())


def _children(parts: Iterable[Schema], key: str | int) -> Iterator[_Part]:
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
        properties = _mapping(part, "properties")
        if key in properties:
            named = True
            yield properties[key]
        for pattern, child in _mapping(part, "patternProperties").items():
            if re.search(pattern, key):
                named = True
                yield child
        if not named:
            for keyword in ("additionalProperties", "unevaluatedProperties"):
                if isinstance(part.get(keyword), Mapping):
                    yield part[keyword]


def _mapping(part: Schema, keyword: str) -> Mapping[str, Any]:
    value = part.get(keyword)
    return value if isinstance(value, Mapping) else {}


def _resolve(root: Schema, reference: object) -> Schema | None:
    """What a local `$ref` (`#`, `#/…`, `#anchor`) leads to, or None."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    if reference[1:2] not in ("", "/"):
        named = (part for _, part in _subschemas(root) if part.get("$anchor") == reference[1:])
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


# What holds schemas: one, a list of them, or a mapping to them.
_one: Final = frozenset(
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
_many: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_named: Final = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
_plain: Final = frozenset(
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


def _subschemas(schema: Schema) -> Iterator[tuple[Pointer, Schema]]:
    """The schema and every one inside it, with its place."""
    stack: list[tuple[Pointer, Any]] = [((), schema)]
    while stack:
        pointer, part = stack.pop()
        if not isinstance(part, Mapping):
            continue
        yield pointer, part
        for keyword, value in part.items():
            if keyword in _one:
                stack.append(((*pointer, keyword), value))
            elif keyword in _many and isinstance(value, list):
                stack.extend(((*pointer, keyword, i), item) for i, item in enumerate(value))
            elif keyword in _named and isinstance(value, Mapping):
                stack.extend(((*pointer, keyword, name), item) for name, item in value.items())


def check_schema(schema: object) -> tuple[str, ...]:
    """What is wrong with a schema as the config schema of a provider type; nothing is fetched for it.

    It has to be valid against the meta-schema of draft 2020-12, use only keywords that exist (or `x-…`),
    every `$ref` has to lead to a place inside it and none back to itself, and every pattern has to be
    one that ends in time on any text.
    """
    if not isinstance(schema, Mapping):
        return ("it is not a mapping",)
    try:
        digest = _digest(schema)
    except (TypeError, ValueError, RecursionError):
        return ("it is not JSON",)
    wrong = _checked.get(digest)
    if wrong is None:
        wrong = tuple(_faults(schema))
        with _lock:
            if len(_checked) >= _MAX_KEPT:
                _checked.clear()
            _checked[digest] = wrong
    return wrong


def _digest(schema: Schema) -> bytes:
    return sha256(json.dumps(schema, sort_keys=True, allow_nan=False).encode()).digest()


def _faults(schema: Schema) -> list[str]:
    try:
        wrong = [
            f"{'/'.join(map(str, error.absolute_path)) or 'the schema'}: breaks the rule `{error.validator}`"
            for error in _class()(_class().META_SCHEMA).iter_errors(schema)
        ]
    except RecursionError:
        return ["it is nested too deeply"]
    if wrong:
        return wrong
    for pointer, part in _subschemas(schema):
        place = "/".join(map(str, pointer)) or "the schema"
        for keyword, value in part.items():
            if keyword.startswith("x-") or keyword in _plain | _one | _many | _named:
                if (
                    keyword == "$ref"
                    and _resolve(schema, value) is None
                    and not _is_local_bool(schema, value)
                ):
                    wrong.append(f"{place}: $ref leads to no place inside the schema")
                elif keyword in ("$dynamicRef", "$dynamicAnchor") or (keyword == "$id" and pointer):
                    wrong.append(f"{place}: {keyword} is not supported")
                elif keyword == "$schema" and value != _DRAFT:
                    wrong.append(f"{place}: $schema has to be {_DRAFT}")
                continue
            hint = did_you_mean(keyword, _plain | _one | _many | _named)
            wrong.append(f"{place}: there is no keyword {keyword!r}" + (f"; {hint}" if hint else ""))
        patterns = (part.get("pattern", ""), *_mapping(part, "patternProperties"))
        wrong.extend(f"{place}: {fault}" for fault in map(fault_of, patterns) if fault)
    return wrong or _endless_references(schema)


def _endless_references(schema: Schema) -> list[str]:
    """What asks about one place without an end: `{"$ref": "#"}`, or branches whose number explodes."""
    # Post-order over the references of each subschema to others for the same place, without recursion.
    weights: dict[int, int | None] = {}  # None: being counted
    for pointer, start in _subschemas(schema):
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
    candidates.extend(_mapping(part, "dependentSchemas").values())
    if "$ref" in part:
        candidates.append(_resolve(root, part["$ref"]))
    return (candidate for candidate in candidates if isinstance(candidate, Mapping))


def problems(schema: Schema | None, config: Any) -> tuple[Problem, ...]:
    """All that is wrong with `config`, pointers relative to it. `schema` has passed `check_schema`."""
    return () if schema is None else compiled(schema).problems(config)


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
            for keyword in ("x-path", "x-exclusive", "x-secret", "deprecated")
        }

    @property
    def _validator(self) -> Validator:
        made = self._made
        if made is None:
            import referencing

            # An empty registry of our own: without it, a `$ref` to http:// is fetched and file:// is read.
            made = self._made = _class()(_without_false(self.schema), registry=referencing.Registry())
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
            for pointer, value, parts in _walk(self.schema, config):
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
    for pointer, part in _subschemas(schema):
        if part.get(keyword) is True:
            if set(pointer[::2]) - {"properties"}:
                return None
            found.append(pointer[1::2])
    if found and mentions(schema, "$ref"):  # what is marked may count elsewhere, too
        return None
    return tuple(found)


def compiled(schema: Schema) -> Compiled:
    """The one of this schema, kept by the digest of that."""
    digest = _digest(schema)
    found = _compiled.get(digest)
    if found is None:
        made = Compiled(schema)
        with _lock:
            if len(_compiled) >= _MAX_KEPT:
                _compiled.clear()
            found = _compiled.setdefault(digest, made)
    return found


def _problems(validator: Validator, schema: Schema, config: Any) -> tuple[Problem, ...]:
    if (place := _overlong_name(config)) is not None:
        message = f"a name of more than {_MAX_NAME_CHARACTERS} characters"
        return (Problem(place, "SC208", message, None, True),)
    found: dict[tuple[Pointer, str, str], Problem] = {}
    try:
        for error in validator.iter_errors(config):
            for problem in _explain(error, schema):
                found.setdefault((problem.pointer, problem.code, problem.message), problem)
    except RecursionError:
        return (Problem((), "SC501", "the schema of this type refers to itself without an end"),)
    return _merge_typos(tuple(found.values()))


_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


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


def _canonical(value: Any) -> Any:
    """Something that can be hashed, equal where JSON Schema calls values equal: 1 is 1.0 and not true."""
    if isinstance(value, Mapping):
        return ("{", frozenset((key, _canonical(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("[", *map(_canonical, value))
    return (isinstance(value, bool), value)


@cache
def _class() -> Any:
    """Draft 2020-12 with two things made strict (`1.0` is no integer, `$` is the end and nothing else) and
    two made quick: texts too long for a pattern are refused, and `uniqueItems` takes time in proportion."""
    import jsonschema  # takes longer to load than all the rest of this package: only when it is needed

    def pattern(validator: Any, pattern: str, instance: object, schema: object) -> Iterator[ValidationError]:  # noqa: ARG001
        if isinstance(instance, str):
            if len(instance) > MAX_TEXT_CHARACTERS:
                yield jsonschema.ValidationError(
                    "", validator="maxLength", validator_value=MAX_TEXT_CHARACTERS
                )
            elif not re.search(_at_the_very_end(pattern), instance):
                yield jsonschema.ValidationError("")

    def unique_items(_: Any, unique: bool, instance: object, _schema: object) -> Iterator[ValidationError]:
        if unique and isinstance(instance, list) and len(set(map(_canonical, instance))) < len(instance):
            yield jsonschema.ValidationError("")

    base = jsonschema.Draft202012Validator
    checker = base.TYPE_CHECKER.redefine(
        "integer", lambda _, it: isinstance(it, int) and not isinstance(it, bool)
    )
    extend: Any = jsonschema.validators.extend
    return extend(base, {"pattern": pattern, "uniqueItems": unique_items}, type_checker=checker)


def _at_the_very_end(pattern: str) -> str:
    # JSON Schema means the `$` of ECMA 262; that of Python also matches in front of a last newline.
    return pattern[:-1] + r"\Z" if pattern.endswith("$") and not pattern.endswith(r"\$") else pattern


def _without_false(schema: Schema) -> dict[str, Any]:
    """A copy in which a field that is never allowed has a keyword that says so: jsonschema reports a bare
    `false` at the place of the whole mapping."""
    copy = deepcopy(dict(schema))
    for _, part in _subschemas(copy):
        for keyword in _named & part.keys():
            named = part[keyword]
            named.update({name: {"not": {}} for name, child in named.items() if child is False})
    return copy


def _is_local_bool(schema: Schema, reference: object) -> bool:
    """Whether a `$ref` leads to `true` or `false`, which are schemas too."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return False
    parent, _, name = reference.rpartition("/")
    found = _resolve(schema, parent)
    return found is not None and isinstance(found.get(name), bool)


_ARTICLES: Final = {
    "string": "a text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}
_yaml_1_1_bool = re.compile(r"(?:y|yes|n|no|on|off)", re.IGNORECASE)
_yaml_1_1_number = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_yaml_1_1_sexagesimal = re.compile(r"[-+]?[0-9]+(?::[0-5]?[0-9])+")


def _type_name(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _type_hint(wanted: Iterable[str], value: object) -> str | None:
    """What YAML 1.1 made of it, or why there is nothing."""
    wanted = set(wanted)
    if isinstance(value, str):
        if "boolean" in wanted and _yaml_1_1_bool.fullmatch(value):
            return "in YAML 1.2 `yes`, `no`, `on` and `off` are texts: write true or false"
        if "boolean" in wanted and value.lower() in ("true", "false"):
            return "remove the quotes"
        if wanted & {"integer", "number"}:
            if _yaml_1_1_sexagesimal.fullmatch(value):
                return "in YAML 1.2 digits with colons are a text: write one number"
            if "_" in value and _yaml_1_1_number.fullmatch(value):
                return "in YAML 1.2 a number with `_` is a text: write digits only"
            if _yaml_1_1_number.fullmatch(value):
                return "remove the quotes"
    if isinstance(value, float) and "integer" in wanted:
        return "write it without a decimal point or an exponent"
    if isinstance(value, int | float) and "string" in wanted:
        return "put it in quotes"
    return None


def _shown(value: object) -> str:
    """A value out of a schema."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _has_its_default(declared: Schema, value: object) -> bool:
    if "default" not in declared:
        return False
    default = declared["default"]
    if declared.get("x-path") is True and isinstance(default, str) and isinstance(value, str):
        return Path(value).parts[-1:] == Path(default).parts[-1:]  # it has been made absolute
    return bool(default == value)


def shown_key(key: str) -> str:
    """As much of a wrong key as may be shown: what follows a `:` or `=` was meant as a value, which a missing
    space has made a part of the key, and may be a secret."""
    return re.split("[:=]", key, maxsplit=1)[0][:64]


def _explain(error: ValidationError, root: Schema) -> Iterator[Problem]:
    """What one error of jsonschema means, in our words: its `message` quotes the value."""
    at: Pointer = tuple(error.absolute_path)
    keyword: Any = error.validator
    rule: Any = error.validator_value
    value: Any = error.instance
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    where = f"`{at[-1]}`" if at and isinstance(at[-1], str) else "the value"
    help_text = schema.get("patternErrorMessage") or schema.get("errorMessage")
    hint = help_text if isinstance(help_text, str) else None
    if len(error.absolute_schema_path) > 1 and error.absolute_schema_path[-2] == "propertyNames":
        yield Problem(
            (*at, str(value)), "SC208", "a name of the wrong form", hint or _pattern_hint(keyword, rule), True
        )
        return
    match keyword:
        case "additionalProperties" | "unevaluatedProperties":
            known = _known_properties(root, schema)
            declared = _mapping(schema, "properties")
            # What has its default was most likely filled in, and may be the one that was misspelt.
            set_by_hand = {k for k in value if not _has_its_default(_mapping(declared, k), value[k])}
            for key in value:
                if not (key in known or _matches_a_pattern(schema, key)):
                    nearest = did_you_mean(shown_key(key), known - set_by_hand)
                    listing = "it has: " + ", ".join(sorted(known)) if known else None
                    yield Problem(
                        (*at, key),
                        "SC201",
                        f"there is no field `{shown_key(key)}` here",
                        nearest or listing,
                        True,
                    )
        case "required":
            for name in rule:
                if name not in value:
                    message = f"the field `{name}` is missing"
                    yield Problem((*at, name), "SC202", message, _example(schema, name), True)
        case "dependentRequired":
            for name, needed in rule.items():
                for other in needed:
                    if name in value and other not in value:
                        yield Problem(
                            (*at, name), "SC202", f"`{name}` needs the field `{other}` beside it", None, True
                        )
        case "type":
            kinds = [rule] if isinstance(rule, str) else list(rule)
            wanted = " or ".join(_ARTICLES.get(kind, kind) for kind in kinds)
            message = f"{where} has to be {wanted}, not {_type_name(value)}"
            if isinstance(value, float) and "number" not in kinds and "integer" in kinds:
                message = f"{where} has to be {wanted}"
            yield Problem(at, "SC203", message, hint or _type_hint(kinds, value))
        case "enum":
            nearest = (
                did_you_mean(value, [it for it in rule if isinstance(it, str)])
                if isinstance(value, str)
                else None
            )
            allowed = ", ".join(_shown(it) for it in rule[:20]) + (", …" if len(rule) > 20 else "")
            yield Problem(at, "SC204", f"{where} has to be one of {allowed}", hint or nearest)
        case "const":
            yield Problem(at, "SC204", f"{where} has to be {_shown(rule)}", hint)
        case "minimum":
            yield Problem(at, "SC205", f"{where} has to be at least {rule}", hint)
        case "maximum":
            yield Problem(at, "SC205", f"{where} has to be at most {rule}", hint)
        case "exclusiveMinimum":
            yield Problem(at, "SC205", f"{where} has to be more than {rule}", hint)
        case "exclusiveMaximum":
            yield Problem(at, "SC205", f"{where} has to be less than {rule}", hint)
        case "multipleOf":
            yield Problem(at, "SC205", f"{where} has to be a multiple of {rule}", hint)
        case "minLength" | "minItems" | "minProperties":
            short = "cannot be empty" if rule == 1 else f"has to have at least {rule} {_units[keyword[3:]]}"
            yield Problem(at, "SC206", f"{where} {short}", hint)
        case "maxLength" | "maxItems" | "maxProperties":
            yield Problem(at, "SC206", f"{where} can have at most {rule} {_units[keyword[3:]]}", hint)
        case "pattern":
            yield Problem(at, "SC207", f"{where} has the wrong form", hint or _pattern_hint(keyword, rule))
        case "format":
            yield Problem(at, "SC207", f"{where} has to be of the form {_shown(rule)}", hint)
        case "anyOf" | "oneOf":
            yield from _explain_choice(error, root, at, where, hint)
        case "not" if rule == {}:
            yield Problem(at, "SC209", f"{where} is not allowed here", hint)
        case _:
            yield Problem(at, "SC209", f"{where} breaks the rule `{keyword}` of its type", hint)


_units: Final = {"Length": "characters", "Items": "items", "Properties": "fields"}


def _explain_choice(
    error: ValidationError, root: Schema, at: Pointer, where: str, hint: str | None
) -> Iterator[Problem]:
    """None of several forms fits: if the value is of the type of one of them, that one is meant."""
    branches: dict[int, list[ValidationError]] = {}
    for inner in error.context or ():
        branches.setdefault(int(inner.schema_path[0]), []).append(inner)
    meant = [
        errors
        for errors in branches.values()
        if not any(inner.validator == "type" and not inner.relative_path for inner in errors)
    ]
    if len(meant) == 1:
        for inner in meant[0]:
            yield from _explain(inner, root)
        return
    kinds: list[str] = []
    for errors in branches.values():
        for inner in errors:
            if inner.validator == "type" and not inner.relative_path:
                rule: Any = inner.validator_value
                kinds.extend([rule] if isinstance(rule, str) else rule)
    if not meant and kinds:
        wanted = " or ".join(dict.fromkeys(_ARTICLES.get(kind, kind) for kind in kinds))
        message = f"{where} has to be {wanted}, not {_type_name(error.instance)}"
        yield Problem(at, "SC203", message, hint or _type_hint(kinds, error.instance))
        return
    yield Problem(at, "SC209", f"{where} has none of the forms that its type allows here", hint)


def _known_properties(root: Schema, schema: Schema) -> frozenset[str]:
    """The fields that `additionalProperties` or `unevaluatedProperties` of this schema leave room for."""
    if "unevaluatedProperties" not in schema:
        return frozenset(_mapping(schema, "properties"))
    return frozenset(
        k for part in _expand(root, [schema], certain=False) for k in _mapping(part, "properties")
    )


def _matches_a_pattern(schema: Schema, key: str) -> bool:
    return any(re.search(pattern, key) for pattern in _mapping(schema, "patternProperties"))


def _pattern_hint(keyword: str | None, rule: object) -> str | None:
    return f"it has to match {rule}" if keyword == "pattern" else None


def _example(schema: Schema, name: str) -> str | None:
    part = _mapping(schema, "properties").get(name)
    examples = part.get("examples") if isinstance(part, Mapping) else None
    return f"for example `{name}: {examples[0]}`" if examples and isinstance(examples[0], str | int) else None


def _merge_typos(found: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """A misspelt field that has to be there is one problem: not "unknown" and "missing"."""
    suggested = {(problem.pointer[:-1], problem.hint) for problem in found if problem.code == "SC201"}
    return tuple(
        problem
        for problem in found
        if problem.code != "SC202"
        or (problem.pointer[:-1], did_you_mean(str(problem.pointer[-1]), [str(problem.pointer[-1])]))
        not in suggested
    )
