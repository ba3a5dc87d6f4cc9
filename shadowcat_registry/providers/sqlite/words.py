"""What of a frame can be searched for, and how: its message as words, a user's text as a query.

What `text_of` gives for a line is also needed to take the line out of the index again. To change it is
therefore a change of the layout: a migration has to build the index anew.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Final

TOKENIZER: Final = "unicode61 remove_diacritics 2"
_SNIPPET_WORDS: Final = 16
_SNIPPET_CHARACTERS: Final = 300
_FOUND, _END = "\x02", "\x03"  # no message has them unescaped, so that a `[` of its own is none of ours
_LONGEST_SHOWN: Final = 1 << 20
"""Beyond that a message is not looked through for the place to show: its beginning is shown."""

_HEAD: Final = b'"env":{"message":'
_TAIL: Final = b',"direction":"'
_CHARACTER: Final = re.compile(rb"\\u([0-9a-fA-F]{4})")
# One after the other: what stands for a backslash first, so that no half of it is taken for a newline.
_ESCAPES: Final = (
    (b"\\\\", b" "), (b"\\n", b" "), (b"\\r", b" "), (b"\\t", b" "), (b'\\"', b'"'),
    (b"\\/", b"/"), (b"\\b", b" "), (b"\\f", b" "),
)  # fmt: skip


def text_of(line: bytes) -> str:
    """The message on the line of a frame, as text; the whole line where the frame is of no known form.

    The strings in it are unescaped and not parsed: that would cost as much as the rest of the indexing,
    and what is no JSON has to be found too.
    """
    start = line.find(_HEAD)
    end = line.rfind(_TAIL)
    message = line[start + len(_HEAD) : end] if 0 <= start < end else line
    if b"\\" in message:
        for escape, meant in _ESCAPES:
            message = message.replace(escape, meant)
        if b"\\u" in message:
            message = _CHARACTER.sub(_character, message)
    return message.decode("utf-8", "replace").replace("\0", " ")


def _character(found: re.Match[bytes]) -> bytes:
    return chr(int(found[1], 16)).encode("utf-8", "replace")


def query_of(text: str) -> str:
    """All words of `text`, each as it is: within quotes nothing is syntax to FTS5. Empty: no word in it."""
    words = text.replace("\0", " ").encode("utf-8", "replace").decode().split()
    return " ".join('"' + word.replace('"', '""') + '"' for word in words)


def snippets(query: str, texts: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Number → the surroundings of what `query` finds in the text, with `[` and `]` around it. FTS5 itself
    says where that is, so that it cannot differ from what the search found."""
    shown: dict[int, str] = {}
    db = sqlite3.connect(":memory:")
    try:
        db.execute(f"CREATE VIRTUAL TABLE shown USING fts5(text, tokenize='{TOKENIZER}')")
        for number, text in texts:
            if len(text) <= _LONGEST_SHOWN:
                db.execute("INSERT INTO shown (rowid, text) VALUES (?, ?)", (number, text))
            shown[number] = _cut(text[:_SNIPPET_CHARACTERS] + "…")
        found = db.execute(
            "SELECT rowid, snippet(shown, 0, ?, ?, '…', ?) FROM shown WHERE shown MATCH ?",
            (_FOUND, _END, _SNIPPET_WORDS, query),
        )
        shown.update((number, _cut(text)) for number, text in found)
    finally:
        db.close()
    return shown


def _cut(text: str) -> str:
    """Few words may be long: a file in base64 is one. What was found is kept in sight."""
    if len(text) > _SNIPPET_CHARACTERS:
        start = max(0, text.find(_FOUND) - _SNIPPET_CHARACTERS // 3)
        end = start + _SNIPPET_CHARACTERS
        text = "…" * (start > 0) + text[start:end] + "…" * (end < len(text))
    return text.replace(_FOUND, "[").replace(_END, "]")
