"""Findings as a compiler shows them: the place, the line, a caret under the very token, and what to do.

Prints only what the loader has made safe to show: it never opens the manifest itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Final

import click

from ..errors import Excerpt, Finding
from .output import printable, say

_TAB: Final = "    "
_BEFORE_COLUMNS: Final = 50
_PLACE_COLUMNS: Final = 60
_LINE_COLUMNS: Final = 100
_COLORS: Final = {"error": "red", "warning": "yellow"}


def say_findings(
    findings: Iterable[Finding], excerpts: Iterable[Excerpt] = (), *, to_stderr: bool = False
) -> None:
    """Each finding as a block of lines with an empty line behind it; in colour on a terminal."""
    by_mark = {excerpt.mark: excerpt for excerpt in excerpts}
    color = _wants_color(to_stderr=to_stderr)
    for finding in findings:
        # That there are more findings is not about the line of the first of them.
        excerpt = by_mark.get(finding.mark) if finding.code != "SC607" else None
        for line in render(finding, excerpt, color=color):
            say(line, err=to_stderr, color=color)
        say(err=to_stderr)


def summary(manifest: object, findings: Iterable[Finding]) -> str:
    """The last line about an invalid manifest."""
    findings = tuple(findings)
    is_cut = any(finding.code == "SC607" for finding in findings)
    shown = [finding for finding in findings if finding.code != "SC607"]
    errors = [finding for finding in shown if finding.severity == "error"]
    counts = [_count(len(errors), "error")]
    if len(errors) < len(shown):
        counts.append(_count(len(shown) - len(errors), "warning"))
    listing = ", ".join(counts) + (" and more" if is_cut else "")
    return (
        f"{printable(manifest)}: invalid, {listing}; `shadowcat-registry explain {errors[0].code}` says more"
    )


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def render(finding: Finding, excerpt: Excerpt | None, *, color: bool = False) -> Iterator[str]:
    """The lines of one finding."""

    def paint(text: str, foreground: str | None = None) -> str:
        return click.style(text, fg=foreground, bold=True) if color else text

    kind = _COLORS[finding.severity]
    number = str(finding.mark.line)
    margin = " " * len(number)
    yield paint(f"{finding.severity}[{finding.code}]", kind) + paint(f": {printable(finding.message)}")
    yield f"{margin}{paint('-->', 'blue')} {printable(finding.mark)}"
    bar = paint("|", "blue")
    if excerpt is not None:
        line, before, width = _fit(excerpt)
        yield f"{margin} {bar}"
        yield f"{paint(number, 'blue')} {bar} {line}".rstrip()
        yield f"{margin} {bar} {' ' * before}{paint('^' * width, kind)}"
    if finding.hint:
        yield f"{margin} {paint('=', 'blue')} {paint('help')}: {printable(finding.hint)}"


def _fit(excerpt: Excerpt) -> tuple[str, int, int]:
    """The line as a terminal shows it, cut around the place; the columns before the place; and its own."""
    text = excerpt.text
    before = _cut_left([_visible(c) for c in text[: excerpt.start]], _BEFORE_COLUMNS)
    place = _cut_right([_visible(c) for c in text[excerpt.start : excerpt.end]], _PLACE_COLUMNS)
    left, width = _width(before), _width(place)
    after = _cut_right([_visible(c) for c in text[excerpt.end :]], _LINE_COLUMNS - left - width)
    return before + place + after, left, max(width, 1)


def _visible(character: str) -> str:
    return _TAB if character == "\t" else printable(character)


def _cut_left(parts: list[str], most_columns: int) -> str:
    if _width("".join(parts)) <= most_columns:
        return "".join(parts)
    while parts and _width("".join(parts)) > most_columns - 1:
        del parts[0]
    while parts and _width(parts[0]) == 0:  # it would combine with the ellipsis
        del parts[0]
    return "".join(["…", *parts])


def _cut_right(parts: list[str], most_columns: int) -> str:
    if _width("".join(parts)) <= most_columns:
        return "".join(parts)
    while parts and _width("".join(parts)) > most_columns - 1:
        del parts[-1]
    return "".join([*parts, "…"])


def _width(text: str) -> int:
    """Columns on a terminal."""
    from wcwidth import wcswidth  # its tables take a while to load: only when there is a line to show

    return int(wcswidth(text))


def _wants_color(*, to_stderr: bool) -> bool:
    """On a terminal that can, unless somebody said no (https://no-color.org)."""
    stream = sys.stderr if to_stderr else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
