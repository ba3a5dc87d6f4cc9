"""Digests written into the text of a manifest, with everything else left as it is: comments, layout, line
ends.

Knows a document and where its values stand, and no file: whoever has the text reads and writes it. What it
makes is read again before it is given out, so no text comes of it that says anything but what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from ..document import Document
from ..errors import ManifestError
from ..marks import Pointer
from ..parse import parse_document

Digests = str | Mapping[str, str]
"""Of one plugin, in lower-case hex; or of the plugins of a directory, by the names in it: all of them."""

_Edit = tuple[int, int, str]
"""From, to, and what is to be there instead."""

_LINE: Final = re.compile(r"[^\r\n]*")
_LOOKS_LIKE_A_NUMBER: Final = re.compile(r"[0-9]+(e[0-9]+)?")
_PLAIN_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(\.py)?")
_WORDS: Final = frozenset({"true", "false", "null"})
_STEP: Final = "  "


class CannotWriteError(Exception):
    """The layout at `pointer`, or at another of the pointers, is none that can be written into: somebody has
    to do it by hand."""

    def __init__(self, pointer: Pointer) -> None:
        self.pointer = pointer
        super().__init__(pointer)


def with_pins(document: Document, pins: Mapping[Pointer, Digests]) -> str:
    """The text of `document` with these digests in it, each under `sha256` of the entry of `plugins.sources`
    that its pointer leads to. A directory's `trust` becomes `pinned` where it says something else, and
    digests of what is not there any more go.

    Raises:
        CannotWriteError: an entry is written in a way that leaves no place for it (shared by an alias, say).
    """
    wanted = deepcopy(document.value)
    edits: list[_Edit] = []
    for pointer, digests in pins.items():
        entry = wanted
        for part in pointer:
            entry = entry[part]
        edits += _edits(document, pointer, entry, digests)
        if entry.get("trust", "pinned") != "pinned":
            start, end = document.span((*pointer, "trust"))
            edits.append((start, end, "pinned"))
            entry["trust"] = "pinned"
        entry["sha256"] = digests if isinstance(digests, str) else dict(digests)
    text = document.text
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    if not _says(text, document.source, wanted):
        raise CannotWriteError(next(iter(pins)))
    return text


def _says(text: str, source: str, wanted: Any) -> bool:
    try:
        # The order of keys is nobody's business.
        return bool(parse_document(text.encode("utf-8", "surrogatepass"), source).value == wanted)
    except ManifestError:
        return False


def _edits(
    document: Document, pointer: Pointer, entry: Mapping[str, Any], digests: Digests
) -> Iterator[_Edit]:
    at = (*pointer, "sha256")
    old = entry.get("sha256")
    if old == digests:
        return
    if "sha256" not in entry:
        yield _added(document, pointer, _last_key(entry), ("sha256", digests))
    elif isinstance(old, dict) and isinstance(digests, Mapping) and digests and not _is_flow(document, at):
        for name, digest in digests.items():
            if name not in old:
                yield _added(document, at, next(reversed(old)), (name, digest))
            elif old[name] != digest:
                yield (*document.span((*at, name)), _scalar(digest))
        for name in old.keys() - digests.keys():
            yield _line_of(document, (*at, name))
    else:
        start, end = document.span(at)
        new = _scalar(digests) if isinstance(digests, str) else _flow(digests)
        yield start, end, new if start < end else f" {new}"


def _last_key(entry: Mapping[str, Any]) -> str:
    """Behind which a new key goes: what says which plugins, and why they are trusted."""
    return next(key for key in ("trust", "path", "directory") if key in entry)


def _added(document: Document, mapping: Pointer, behind: str, item: tuple[str, Digests]) -> _Edit:
    """A new key of a mapping, behind one that is there."""
    text, (name, value) = document.text, item
    _, end = document.span((*mapping, behind))
    if _is_flow(document, mapping):
        shown = _scalar(value) if isinstance(value, str) else _flow(value)
        return end, end, f", {_key(name)}: {shown}"
    key = document.key_mark((*mapping, behind))
    indent = " " * (key.column - 1)
    line = _LINE.match(text, end)
    end = line.end() if line is not None else end
    newline = _newline(text)
    if isinstance(value, str):
        lines = [f"{indent}{_key(name)}: {_scalar(value)}"]
    else:
        lines = [f"{indent}{_key(name)}:" if value else f"{indent}{_key(name)}: {{}}"]
        lines += [f"{indent}{_STEP}{_key(it)}: {_scalar(digest)}" for it, digest in value.items()]
    return end, end, "".join(newline + line for line in lines)


def _line_of(document: Document, pointer: Pointer) -> _Edit:
    """The line of a key and its value, gone. A comment in it was about them."""
    text = document.text
    start, end = document.span(pointer)
    start = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    line = _LINE.match(text, end)
    end = line.end() if line is not None else end
    if text.startswith("\r\n", end):
        end += 2
    elif end < len(text):
        end += 1
    return start, end, ""


def _is_flow(document: Document, pointer: Pointer) -> bool:
    start, end = document.span(pointer)
    return document.text[start:end].endswith("}")


def _newline(text: str) -> str:
    found = re.search(r"\r\n|\n|\r", text)
    return found[0] if found is not None else "\n"


def _flow(digests: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_key(name)}: {_scalar(digest)}" for name, digest in digests.items()) + "}"


def _key(name: str) -> str:
    """The name of a plugin, or a word of ours."""
    return name if _PLAIN_NAME.fullmatch(name) and name not in _WORDS else f'"{name}"'


def _scalar(digest: str) -> str:
    """Quoted where YAML would take it for a number."""
    return f'"{digest}"' if _LOOKS_LIKE_A_NUMBER.fullmatch(digest) else digest
