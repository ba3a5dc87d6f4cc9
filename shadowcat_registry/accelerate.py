"""A quick yes to a config, by jsonschema-rs where that is installed (the extra `fast`).

It only ever accepts: what it does not accept is asked of jsonschema, which decides and explains. So it may
be stricter and never more lenient, and it is not asked where the two read a schema or a value differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NoReturn

MAX_TEXT_CHARACTERS: Final = 1024
"""No longer text, and no longer name, is passed on: what is longer has budgets of its own."""
_MAX_INTEGER: Final = 2**53

# Literals (a line end and a tab by their letters, too), classes of them, groups, repetitions, both ends: what
# Python and ECMA 262 read alike. Not `.` and not the classes by letter (`\d`), whose characters differ.
_plain_pattern = re.compile(
    r"(?:[^\\.(\[$^]|\\[^\w\s]|\\[nrt]|\((?!\?)|\[\^?(?:[^\\\[\]]|\\[^\w\s]|\\[nrt])+\]|^\^|\$$)*"
)
_not_asked: Final = frozenset({"multipleOf", "format", "$dynamicRef", "contentMediaType", "contentSchema"})


@cache
def _library() -> Any:
    try:
        import jsonschema_rs
    except ImportError:
        return None
    return jsonschema_rs


def acceptor(schema: Mapping[str, Any]) -> Callable[[Any], bool] | None:
    """What says True to values that `schema` certainly has nothing against; None where nobody can."""
    library = _library()
    if library is None or not all(map(_is_read_alike, _parts(schema))):
        return None
    try:
        accepts: Callable[[Any], bool] = library.Draft202012Validator(schema, retriever=_never).is_valid
    except ValueError:  # what it cannot compile: the other one may
        return None

    def accept(value: Any) -> bool:
        try:
            return _is_seen_alike(value) and accepts(value)
        except ValueError:  # a lone surrogate, or what the library gives up on
            return False

    return accept


def _never(_uri: str) -> NoReturn:
    raise ValueError("nothing is fetched")


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a schema, schemas among them: more than has to be looked at."""
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, Mapping):
            yield part
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)


def _is_read_alike(part: Mapping[str, Any]) -> bool:
    # A schema that refers to the whole of itself may do so without an end, which the other one notices.
    if not _not_asked.isdisjoint(part) or part.get("$ref") == "#":
        return False
    named = part.get("patternProperties")
    patterns = [*(named if isinstance(named, Mapping) else ()), part.get("pattern")]
    return all(_plain_pattern.fullmatch(it) for it in patterns if isinstance(it, str))


def _is_seen_alike(value: Any) -> bool:
    """Not so are floats that may pass for integers, integers that floats cannot hold, and long texts.

    Raises:
        UnicodeEncodeError: a text is none that could be written.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is str:
            if len(item) > MAX_TEXT_CHARACTERS:
                return False
            if not item.isascii():
                item.encode()  # raises on a lone surrogate, which the environment may hold
        elif kind is dict:
            if not all(type(name) is str for name in item):
                return False
            stack.extend(item)
            stack.extend(item.values())
        elif kind is list:
            stack.extend(item)
        elif kind is int:
            if not -_MAX_INTEGER < item < _MAX_INTEGER:
                return False
        elif kind is float:
            if item.is_integer():
                return False
        elif item is not None and kind is not bool:
            return False
    return True
