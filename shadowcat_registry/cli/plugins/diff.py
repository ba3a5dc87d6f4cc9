"""What changes in the section `plugins` of a manifest, as `diff -u` shows it.

A manifest may hold secrets: of what does not belong to the section nothing is shown, also where it stands on
the same line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final, NamedTuple

from ...document import Document

_CONTEXT_LINES: Final = 3
_POINTER: Final = ("plugins",)
_LINE: Final = re.compile(r"([^\r\n]*)(\r\n|\n|\r|\Z)")
_COMMENT: Final = re.compile(r"[ \t]*(#.*)?\Z")


class _Line(NamedTuple):
    text: str
    shown: str | None
    """None: it is no part of the section."""
    has_end: bool


def section_diff(old: Document, new: Document, name: object) -> Iterator[str]:
    """The lines of it; none where nothing changes."""
    before, after = list(_lines(old)), list(_lines(new))
    if before == after:
        return
    yield f"--- {name}"
    yield f"+++ {name}"
    # What both have before and behind the section is left out first: a manifest may be long.
    head = _same(before, after)
    tail = min(_same(before[::-1], after[::-1]), len(before) - head, len(after) - head)
    start, rest = max(0, head - _CONTEXT_LINES), max(0, tail - _CONTEXT_LINES)
    old_part, new_part = before[start : len(before) - rest], after[start : len(after) - rest]
    matcher = SequenceMatcher(None, old_part, new_part, autojunk=False)
    for group in matcher.get_grouped_opcodes(_CONTEXT_LINES):
        rows = list(_rows(group, old_part, new_part))
        above = next(index for index, row in enumerate(rows) if _is_said(row))
        beneath = next(index for index, row in enumerate(rows[::-1]) if _is_said(row))
        rows = rows[above : len(rows) - beneath]
        first_old, first_new = start + group[0][1] + above + 1, start + group[0][3] + above + 1
        yield f"@@ -{_range(first_old, rows, '-')} +{_range(first_new, rows, '+')} @@"
        for sign, line in rows:
            yield sign + (line.shown if line.shown is not None else "…")
            if not line.has_end:
                yield "\\ No newline at end of file"


def _lines(document: Document) -> Iterator[_Line]:
    text = document.text
    start, end = document.span(_POINTER)
    if _POINTER[0] in (document.value if isinstance(document.value, dict) else ()):
        key = document.key_mark(_POINTER)
        start = min(start, _index(text, key.line, key.column))
    for found in _LINE.finditer(text):
        first, last = found.span(1)
        if first == last and not found[2] and first:
            return
        shown = None
        if first < end and last > start:
            shown = text[max(first, start) : min(last, end)]
            if first < start:
                shown = _instead_of(text[first:start]) + shown
            if end < last:
                behind = text[end:last]
                shown += behind if _COMMENT.match(behind) else " …"
        yield _Line(found[1], shown, bool(found[2]))


def _is_said(row: tuple[str, _Line]) -> bool:
    sign, line = row
    return sign != " " or line.shown is not None


def _instead_of(before: str) -> str:
    return "… " if before.strip() else before


def _index(text: str, line: int, column: int) -> int:
    starts = (found.start() for found in _LINE.finditer(text))
    return next(start for number, start in enumerate(starts, 1) if number == line) + column - 1


def _same(one: Sequence[_Line], other: Sequence[_Line]) -> int:
    """How many they have in common at their beginning."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def _rows(
    group: Sequence[tuple[str, int, int, int, int]], old: Sequence[_Line], new: Sequence[_Line]
) -> Iterator[tuple[str, _Line]]:
    for tag, old_start, old_end, new_start, new_end in group:
        if tag == "equal":
            yield from ((" ", line) for line in old[old_start:old_end])
            continue
        yield from (("-", line) for line in old[old_start:old_end])
        yield from (("+", line) for line in new[new_start:new_end])


def _range(first: int, rows: Sequence[tuple[str, _Line]], sign: str) -> str:
    count = sum(it in (" ", sign) for it, _ in rows)
    if count == 0:
        return f"{first - 1},0"
    return f"{first}" if count == 1 else f"{first},{count}"
