"""A manifest's files: the one it was loaded from, and those that it and they include.

Reads and parses; a text that was parsed before is not parsed again. Of what a file says, this knows the
field `include` and nothing else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import Final

from .document import Document
from .errors import Finding, ManifestError
from .interpolate import describe, has_reference
from .marks import Pointer
from .parse import MAX_BYTES, Budget, parse_document
from .sight import read_settled

MAX_FILES: Final = 1_000
MAX_INCLUDE_DEPTH: Final = 8
MAX_PATH_CHARACTERS: Final = 1024
_MAX_PATTERN_MATCHES: Final = 10_000
_MAX_LOOKS: Final = 500_000
_MAGIC: Final = frozenset("*?[")

PartKey = tuple[str, bytes]
"""The name that a file has in marks, and the SHA-256 of its content."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One file of a manifest, as it was read."""

    path: Path
    key: PartKey
    document: Document


@dataclass(frozen=True, slots=True, eq=False)
class BrokenPart:
    """A file that could not be parsed."""

    source: str
    data: bytes
    findings: tuple[Finding, ...]

    @property
    def text(self) -> str:
        """Empty where it is not UTF-8."""
        try:
            return self.data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            return ""

    def __repr__(self) -> str:
        return "<BrokenPart>"  # no content: it may be secret


class PartReader:
    """Reads a manifest's files, each once, however often it is included. For one manifest, then thrown away.

    `parsed` are documents of an earlier load, by their key; what is among them is not parsed again. `kept`
    are texts that stand for all there is on the disk.
    """

    def __init__(self, parsed: Mapping[PartKey, Document], kept: Mapping[Path, bytes] | None = None) -> None:
        self.parts: list[Part] = []
        """The manifest itself, then the others in the order in which they are included."""
        self.broken: list[BrokenPart] = []
        self.findings: list[Finding] = []
        """About what includes; what is wrong inside of a file is with the broken ones."""
        self.files: list[Path] = []
        """Every file that was asked for, also those that could not be read."""
        self.patterns: list[Path] = []
        """What new files may come to match."""
        self._parsed, self._kept = parsed, kept
        self._seen: set[str] = set()
        self._bytes_left = MAX_BYTES
        self._budget = Budget()
        self._is_full = False
        self._listings = DirectoryListings()
        self._entry_count = 0
        self.has_too_many_entries = False
        """Some of a list were not even looked at."""

    def read(self, path: Path, source: str, data: bytes) -> None:
        """Begin with `data`, the content of the manifest at `path`; `source` is its name in marks."""
        self._seen.add(os.path.normpath(path))
        self._add(path, source, data, ())

    def _add(self, path: Path, source: str, data: bytes, chain: tuple[Part, ...]) -> Part | None:
        self.files.append(path)
        key = (source, sha256(data).digest())
        self._bytes_left -= len(data)
        document = self._parsed.get(key)
        try:
            if document is None:
                document = parse_document(data, source, self._budget)
            else:
                self._budget.take(document.size)
        except ManifestError as error:
            self.broken.append(BrokenPart(source, data, error.findings))
            self._is_full = self._budget.is_exceeded
            return None
        part = Part(path, key, document)
        self.parts.append(part)
        entries = document.value.get("include") if isinstance(document.value, dict) else None
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            self._entry_count += 1
            if self._entry_count > MAX_FILES:
                self.has_too_many_entries = True
                self._stop("SC609", f"more than {MAX_FILES:,} files and patterns", ("include", index), part)
                break
            # What is not of the right form, the schema of the manifest refuses.
            if not isinstance(entry, str) or not 0 < len(entry) <= MAX_PATH_CHARACTERS:
                continue
            if "**" not in entry and not has_reference(entry):
                self._follow(entry, ("include", index), (*chain, part))
        return part

    def _follow(self, entry: str, place: Pointer, chain: tuple[Part, ...]) -> None:
        including = chain[-1]
        found = [including.path.parent / entry]
        if _MAGIC & set(entry):
            self.patterns += found
            try:
                if self._kept is None:
                    found = expand(found[0], self._listings)
                else:
                    found = _kept_matches(self._kept, found[0])
            except OSError as error:
                message = f"a directory of this pattern cannot be read: {describe(error)}"
                self._find("SC117", message, place, including)
                return
        for path in found:
            if self._is_full:
                return
            source = str(path)
            if not Path(entry).is_absolute():
                beside = os.path.relpath(path, including.path.parent)
                source = os.path.normpath(Path(including.document.source).parent / beside)
            self._include(path, source, place, chain)

    def _include(self, path: Path, source: str, place: Pointer, chain: tuple[Part, ...]) -> None:
        including = chain[-1]
        normal = os.path.normpath(path)
        names = [part.document.source for part in chain]
        if normal in (os.path.normpath(part.path) for part in chain):
            message = "files that include each other: " + " → ".join([*names[:20], source])
            self._find("SC308", message, place, including)
            return
        if normal in self._seen:
            return
        if len(chain) > MAX_INCLUDE_DEPTH:
            message = f"included over more than {MAX_INCLUDE_DEPTH} files: {' → '.join(names)}"
            self._find("SC608", message, place, including)
            return
        if len(self._seen) >= MAX_FILES:
            self._stop("SC609", f"more than {MAX_FILES:,} files", place, including)
            return
        self._seen.add(normal)
        try:
            data = self._content(path)
        except OSError as error:
            self.files.append(path)  # it may come yet
            is_missing = isinstance(error, FileNotFoundError)
            reason = "does not exist" if is_missing else f"cannot be read: {describe(error)}"
            hint = f"a relative path is relative to {including.document.source}" if is_missing else None
            self._find("SC117", f"the included file {source} {reason}", place, including, hint)
            return
        if len(data) > self._bytes_left:
            message = f"the files together have more than {MAX_BYTES // 1024 // 1024} MiB"
            self._stop("SC601", message, place, including)
            return
        self._add(path, source, data, chain)
        if self._budget.is_exceeded and not self._is_full:
            self._stop("SC603", "the files together have too many values", place, including)

    def _content(self, path: Path) -> bytes:
        if self._kept is None:
            return read_settled(path, limit_bytes=self._bytes_left + 1)
        if path not in self._kept:
            raise FileNotFoundError(errno.ENOENT, "it was not kept", str(path))
        return self._kept[path]

    def _stop(self, code: str, message: str, place: Pointer, including: Part) -> None:
        self._is_full = True
        self._find(code, message, place, including)

    def _find(
        self, code: str, message: str, place: Pointer, including: Part, hint: str | None = None
    ) -> None:
        self.findings.append(Finding(code, message, including.document.mark(place), place, hint))


class DirectoryListings:
    """What is in directories, for several patterns: each is listed once, and no more names are looked at than
    can be in a moment."""

    def __init__(self) -> None:
        self._names: dict[Path, Sequence[str]] = {}
        self._looks_left = _MAX_LOOKS

    def matching(self, directory: Path, pattern: str) -> list[str]:
        """Raises: OSError: it cannot be read, or it is one too many."""
        if directory not in self._names and self._looks_left >= 0:
            self._names[directory] = _names(directory)
        names = self._names.get(directory, ())
        self._looks_left -= len(names) + 1
        if self._looks_left < 0:
            raise OSError(f"more than {_MAX_LOOKS:,} names to look at")
        return [name for name in names if _matches(name, pattern)]


def expand(pattern: Path, known: DirectoryListings | None = None) -> list[Path]:
    """What matches an absolute path with `*`, `?` and `[…]` in its parts, sorted; directories, and hidden
    names unless the pattern asks for them, are left out. A directory that does not exist holds nothing.

    Raises:
        OSError: a directory on the way cannot be read, or too many match: what matches is not known.
    """
    known = known or DirectoryListings()
    found = [Path(pattern.anchor)]
    for part in pattern.parts[1:]:
        if not _MAGIC & set(part):
            found = [directory / part for directory in found]
            continue
        matches: list[Path] = []
        for directory in found:
            matches += [directory / name for name in known.matching(directory, part)]
            if len(matches) > _MAX_PATTERN_MATCHES:
                raise OSError(f"more than {_MAX_PATTERN_MATCHES:,} files match")
        found = matches
    # A link that leads nowhere is there: to leave it out would be to take its providers away.
    return sorted(path for path in found if os.path.lexists(path) and not path.is_dir())


def listings(patterns: Iterable[Path]) -> dict[Path, set[str]]:
    """The directories that decide what absolute patterns match, each with the patterns of those names in it
    that matter. The first of each may not exist yet. Beyond as many names as `expand` looks at, none: what
    appears there is found by looking at it again."""
    known = DirectoryListings()
    found: dict[Path, set[str]] = {}
    for pattern in patterns:
        directories = [Path(pattern.anchor)]
        has_begun = False
        for index, part in enumerate(pattern.parts[1:], 2):
            is_magic = bool(_MAGIC & set(part))
            has_begun |= is_magic
            for directory in directories if has_begun else ():
                found.setdefault(directory, set()).add(part if is_magic else escape(part))
            if index == len(pattern.parts):
                break
            if not is_magic:
                directories = [it / part for it in directories]
            else:
                directories = [it / name for it in directories for name in _matching(known, it, part)]
            if len(found) + len(directories) > _MAX_PATTERN_MATCHES:
                return found
            if has_begun:
                directories = [it for it in directories if it.is_dir()]
    return found


def _matching(known: DirectoryListings, directory: Path, pattern: str) -> list[str]:
    try:
        return known.matching(directory, pattern)
    except OSError:
        return []


def _kept_matches(paths: Iterable[Path], pattern: Path) -> list[Path]:
    """What `expand` would give, if there were no other files than these."""
    parts = pattern.parts
    return sorted(
        path
        for path in paths
        if len(path.parts) == len(parts)
        and all(
            _matches(name, part) if _MAGIC & set(part) else name == part
            for name, part in zip(path.parts, parts, strict=True)
        )
    )


def _names(directory: Path) -> Sequence[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are wanted, and this runs each second
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
