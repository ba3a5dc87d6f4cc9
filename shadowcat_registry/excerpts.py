"""The lines that findings point at, made safe to show.

A line of a manifest may hold a secret, also where nobody expects one: under a misspelt key, in a comment,
in a file that is no YAML yet. So nothing of a line is shown but what is known to be harmless, and the rest
of it becomes `***`, whatever its length. Harmless are the names of fields, and those values whose schema
is known, wants a value of that kind, and does not call it secret; of a text that could not be read as
YAML, the names of known fields alone. Prints nothing itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from .document import Document
from .errors import Excerpt, Finding
from .interpolate import MASK, mask
from .marks import Pointer
from .schema_files import manifest_schema, schema_directory
from .schema_walk import Schema, declared_at

MAX_CONTEXT: Final = 120
"""Characters of a line on either side of the place; a line may have millions."""
MAX_PLACE: Final = 120
"""Characters of the place itself."""
_BLOCK_CHARACTERS: Final = 64 * 1024

_Span = tuple[int, int]

_line_end = re.compile(r"\r\n?|\n")
_name = re.compile(r"[\w.-]{1,64}")
# What is between keys and values and is no structure; a comment begins behind a space.
_between = re.compile(r"(?P<comment>(?:^|(?<=\s))#.*)|[^\s{}\[\],:?-]+", re.DOTALL)
# References without a default, which would be a literal of its own; also the common `${NAME}`.
_reference = re.compile(
    r"\$\$|\$\{(?:env:)?[A-Za-z_][A-Za-z0-9_]*\}|\$\{env:\w+:\?[^{}]*\}|\$\{file:[^{}]*\}"
)
# What may be left of one that is misspelt, with its default still in it.
_like_reference = re.compile(r"[${}]|:[-?]")
_field = re.compile(r"(?:[{\[,] *)?(?<![^\s{\[,])([A-Za-z_][A-Za-z0-9_-]*) *:(?=\s|$)(?: +[\[{])?")
_lead = re.compile(r"\s*(?:- +)*[\[{]?")
_INDICATORS: Final = frozenset("{}[],:*&!|>%@`\"'\\$-?#\t<")


class _Place(NamedTuple):
    """Where a finding is in its text, and how much of the line around it is looked at."""

    finding: Finding
    start: int
    end: int
    low: int
    high: int


_Harmless = Callable[[_Place], tuple[list[_Span], int]]
"""What may be shown of a place, in order, and where the line is cut off (a comment begins there)."""


def of_document(
    document: Document, findings: Iterable[Finding], schemas: Mapping[str, Schema | None]
) -> tuple[Excerpt, ...]:
    """The lines of findings in a document that has been read. `schemas` are those of the provider types
    that it uses; of a config whose type is not among them, no value is shown."""
    own = manifest_schema()

    def harmless(place: _Place) -> tuple[list[_Span], int]:
        return _known(document, place, own, schemas)

    return tuple(_excerpts(document.text, findings, harmless))


def of_broken_text(text: str, findings: Iterable[Finding]) -> tuple[Excerpt, ...]:
    """The lines of findings in a text that could not be read as YAML."""

    def harmless(place: _Place) -> tuple[list[_Span], int]:
        return _guessed(text, place), place.high

    return tuple(_excerpts(text, findings, harmless))


def _excerpts(text: str, findings: Iterable[Finding], harmless: _Harmless) -> Iterator[Excerpt]:
    seen: set[object] = set()
    line, line_start = 1, 0
    for finding in sorted(findings, key=lambda it: it.mark):
        mark = finding.mark
        if mark in seen:
            continue
        seen.add(mark)
        line_start = _start_of_line(text, mark.line, since=(line, line_start))
        line = mark.line
        start = line_start + mark.column - 1
        found = _line_end.search(text, start, start + MAX_PLACE + MAX_CONTEXT)
        line_stop = found.start() if found else len(text)
        end = line_start + mark.end_column - 1 if mark.end_line == mark.line else line_stop
        end = min(end, start + MAX_PLACE)
        place = _Place(
            finding, start, end, max(line_start, start - MAX_CONTEXT), min(line_stop, end + MAX_CONTEXT)
        )
        kept, stop = harmless(place)
        shown, first, last = _compose(text, place, kept, stop)
        if place.low > line_start:
            shown, first, last = "…" + shown, first + 1, last + 1
        if place.high < line_stop and stop == place.high:
            shown += "…"
        yield Excerpt(mark, shown, first, last)


def _start_of_line(text: str, line: int, since: tuple[int, int]) -> int:
    """The first character of a line, looked for behind a line that is known. Counts in blocks: a file may
    have millions of lines."""
    number, index = since
    while number < line and index < len(text):
        end = min(index + _BLOCK_CHARACTERS, len(text))
        if text[end - 1 : end + 1] == "\r\n":
            end += 1
        breaks = text.count("\n", index, end) + text.count("\r", index, end) - text.count("\r\n", index, end)
        if number + breaks < line:
            number, index = number + breaks, end
            continue
        for found in _line_end.finditer(text, index, end):
            number, index = number + 1, found.end()
            if number == line:
                break
    return index


def _compose(text: str, place: _Place, kept: list[_Span], stop: int) -> tuple[str, int, int]:
    """The text from `place.low` to `stop` with all masked that is not kept, and the place in it."""
    shown = ""
    first: int | None = None
    last: int | None = None

    def add(start: int, end: int, masked: str | None = None) -> None:
        nonlocal shown, first, last
        if start < end:
            if first is None and start <= place.start < end:
                first = len(shown) + (0 if masked else place.start - start)
            if last is None and start < place.end <= end:
                last = len(shown) + (len(masked) if masked else place.end - start)
            shown += masked or text[start:end]

    position = place.low
    for start, end in (*kept, (stop, stop)):
        between = text[position:start]
        if between.strip():
            body_start = position + len(between) - len(between.lstrip())
            body_end = start - len(between) + len(between.rstrip())
            add(position, body_start)
            add(body_start, body_end, MASK)
            position = body_end
        add(position, end)
        position = max(position, end)
    first = len(shown) if first is None else first
    last = len(shown) if last is None else last
    shown = shown[:first] + shown[first:].rstrip()
    return shown, first, max(first, min(last, len(shown)))


def _known(
    document: Document, place: _Place, own: Schema, schemas: Mapping[str, Schema | None]
) -> tuple[list[_Span], int]:
    """By the structure of a document: every key and value is judged, and what is between them is shown
    where it is structure."""
    text = document.text
    kept: list[_Span] = []
    position = place.low

    def between(end: int) -> int | None:
        nonlocal position
        for found in _between.finditer(text, position, end):
            kept.append((position, found.start()))
            position = found.end()
            if found["comment"]:
                return found.start()
        kept.append((position, end))
        return None

    leaves = sorted(document.leaves(place.low, place.high), key=lambda leaf: leaf[2:])
    for pointer, is_key, first, last in leaves:
        if first > position and (comment := between(first)) is not None:
            return kept, comment
        if _may_be_shown(document, pointer, is_key, text[first:last], own, schemas):
            kept.append((max(first, place.low), min(last, place.high)))
        position = max(position, last)
    comment = between(place.high) if position < place.high else None
    return kept, place.high if comment is None else comment


def _may_be_shown(
    document: Document,
    pointer: Pointer,
    is_key: bool,
    written: str,
    own: Schema,
    schemas: Mapping[str, Schema | None],
) -> bool:
    # What has an anchor may be meant for another place, and that place may be secret. A text of several
    # lines may be a key file.
    if written[:1] in ("&", "!", "*") or _line_end.search(written):
        return False
    parts = declared_at(*_schema_of(document.value, pointer[:-1] if is_key else pointer, own, schemas))
    kinds: set[str] = set()
    for part in parts:
        kind = part.get("type", ())
        kinds.update([kind] if isinstance(kind, str) else kind)
    if is_key:
        return "object" in kinds and _name.fullmatch(str(pointer[-1])) is not None
    value: Any = document.value
    for step in pointer:
        value = value[step]
    match value:
        case None:
            return True
        case bool():
            return "boolean" in kinds
        case int():
            return bool(kinds & {"integer", "number"})
        case float():
            return "number" in kinds
        case str():
            literal = _reference.sub("", value)
            harmless = not _like_reference.search(literal) and mask({"": value}, ()) == {"": value}
            return harmless and ("string" in kinds or (bool(kinds) and not literal))
    return False


def _schema_of(
    root: Any, pointer: Pointer, own: Schema, schemas: Mapping[str, Schema | None]
) -> tuple[Schema | None, Pointer]:
    """The schema that a place in a manifest is under, and where in that."""
    match pointer:
        case ("providers", name, "config", *rest):
            type_name = root["providers"][name].get("type")
            return (schemas.get(type_name) if isinstance(type_name, str) else None), tuple(rest)
        case ("defaults", "config", str(type_name), *rest):
            return schemas.get(type_name), tuple(rest)
        case _:
            return own, pointer


def _guessed(text: str, place: _Place) -> list[_Span]:
    """By the look of a text: the names of known fields, a bracket behind one, and the place itself where it
    is no more than a sign, or a key that the message names anyway."""
    kept = []
    if lead := _lead.match(text, place.low, place.high):
        kept.append(lead.span())
    kept += [
        found.span() for found in _field.finditer(text, place.low, place.high) if found[1] in _field_names()
    ]
    written = text[place.start : place.end]
    is_named = place.finding.code == "SC109" and _name.fullmatch(written)
    if written in _INDICATORS or is_named or written == "<<":
        kept.append((place.start, place.end))
    return sorted(kept)  # they may overlap


@cache
def _field_names() -> frozenset[str]:
    """The fields of all schemas that ship with this package, and the names of its types: nobody's secret."""
    found: set[str] = set()
    stack: list[Any] = [manifest_schema()]
    for path in (schema_directory() / "providers").glob("*.schema.json"):
        found.add(path.name.removesuffix(".schema.json"))
        stack.append(json.loads(path.read_text(encoding="utf-8")))
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            properties = part.get("properties")
            found.update(properties if isinstance(properties, dict) else ())
            stack.extend(part.values())
        elif isinstance(part, list):
            stack.extend(part)
    return frozenset(found)
