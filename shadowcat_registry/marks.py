"""Where something stands in a source text, and how to point into nested data.

Knows nothing of YAML, of schemas or of files: a `Mark` is a place that somebody else found, and a
pointer is a path of keys and indexes, written the way of RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Pointer = tuple[str | int, ...]
"""A path into nested mappings and sequences: `("providers", "archive", "config", 0)`."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A span of a source text; `str(mark)` is `file:line:column`, what editors jump to.

    Lines and columns are 1-based, columns count characters (code points). The end is the place
    behind the last character, on the same line or a later one.
    """

    source: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"

    @classmethod
    def at_start(cls, source: str) -> Mark:
        """The first character: the place of what is wrong with a source as a whole."""
        return cls(source, 1, 1, 1, 1)


def format_pointer(pointer: Iterable[str | int]) -> str:
    """`("providers", "a/b")` → `/providers/a~1b`; the whole document is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in pointer)


def parse_pointer(text: str) -> Pointer:
    """The pointer of which `format_pointer` has made `text`; an index is a text here."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def format_dotted(pointer: Iterable[str | int]) -> str:
    """`("providers", "a", 0)` → `providers.a[0]`, for sentences that people read."""
    text = ""
    for part in pointer:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
