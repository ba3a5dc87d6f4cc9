"""The line `...` that may have to end a file, so that one half written is not taken for the whole.

Knows texts, never files or who asks for the line.
"""

from __future__ import annotations

import re
from typing import Final

from .errors import Finding
from .marks import Mark

_marker = re.compile(r"(?:\A|[\r\n])\.\.\.[ \t]*(?:\r\n?|\n)?\Z")
_MOST_OF_END: Final = 100
"""Characters among which it is looked for: trailing spaces are no reason to scan a file."""
_line_end = re.compile(r"\r\n?|\n")


def has_end_marker(text: str) -> bool:
    """Whether the last line is `...`, the end of a document (YAML 1.2.2, 9.1.2)."""
    return _marker.search(text, max(0, len(text) - _MOST_OF_END)) is not None


def unfinished(source: str, text: str) -> list[Finding]:
    """What there is to say of a file without an end marker: at most one finding, where it ends."""
    if has_end_marker(text):
        return []
    written = text.rstrip()
    line_start = max(written.rfind("\n"), written.rfind("\r")) + 1
    line = len(_line_end.findall(written)) + 1
    column = len(written) - line_start + 1
    return [
        Finding(
            "SC118",
            "the last line is not the end marker `...`: the file may not be finished",
            Mark(source, line, column, line, column),
            hint="end it in a line `...`, or see `reload.require_end_marker`",
        )
    ]
