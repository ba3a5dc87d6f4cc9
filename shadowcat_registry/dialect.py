"""The JSON Schema that is meant here: draft 2020-12, with two things made strict and two made quick.

`jsonschema` does the work; this is the one place that sets it up, and loads it only when it is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from .patterns import MAX_TEXT_CHARACTERS
from .schema_walk import Schema

if TYPE_CHECKING:
    from jsonschema import ValidationError

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_KEPT: Final = 256
"""Of what is worked out once for a schema and kept by its digest."""


def digest(schema: Schema) -> bytes:
    return sha256(json.dumps(schema, sort_keys=True, allow_nan=False).encode()).digest()


@cache
def validator_class() -> Any:
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


def _canonical(value: Any) -> Any:
    """Something that can be hashed, equal where JSON Schema calls values equal: 1 is 1.0 and not true."""
    if isinstance(value, Mapping):
        return ("{", frozenset((key, _canonical(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("[", *map(_canonical, value))
    return (isinstance(value, bool), value)
