"""What an error of the jsonschema library means, in our words, with a hint.

Built from keyword, path and schema alone: the library's own text quotes values, and a value may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import Problem, did_you_mean
from .marks import Pointer
from .schema_walk import Schema, expand, mapping

if TYPE_CHECKING:
    from jsonschema import ValidationError

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
_units: Final = {"Length": "characters", "Items": "items", "Properties": "fields"}


def explain(error: ValidationError, root: Schema) -> Iterator[Problem]:
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
            declared = mapping(schema, "properties")
            # What has its default was most likely filled in, and may be the one that was misspelt.
            set_by_hand = {k for k in value if not _has_its_default(mapping(declared, k), value[k])}
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
            yield from explain(inner, root)
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


def _known_properties(root: Schema, schema: Schema) -> frozenset[str]:
    """The fields that `additionalProperties` or `unevaluatedProperties` of this schema leave room for."""
    if "unevaluatedProperties" not in schema:
        return frozenset(mapping(schema, "properties"))
    return frozenset(k for part in expand(root, [schema], certain=False) for k in mapping(part, "properties"))


def _matches_a_pattern(schema: Schema, key: str) -> bool:
    return any(re.search(pattern, key) for pattern in mapping(schema, "patternProperties"))


def _pattern_hint(keyword: str | None, rule: object) -> str | None:
    return f"it has to match {rule}" if keyword == "pattern" else None


def _example(schema: Schema, name: str) -> str | None:
    part = mapping(schema, "properties").get(name)
    examples = part.get("examples") if isinstance(part, Mapping) else None
    return f"for example `{name}: {examples[0]}`" if examples and isinstance(examples[0], str | int) else None


def merge_typos(found: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """A misspelt field that has to be there is one problem: not "unknown" and "missing"."""
    suggested = {(problem.pointer[:-1], problem.hint) for problem in found if problem.code == "SC201"}
    return tuple(
        problem
        for problem in found
        if problem.code != "SC202"
        or (problem.pointer[:-1], did_you_mean(str(problem.pointer[-1]), [str(problem.pointer[-1])]))
        not in suggested
    )
