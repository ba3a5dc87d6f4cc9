"""What a listing is made of, so that it does not read every file each time: an index that only remembers.

All of it is derived. What is remembered of a file counts only while the file's stamps are the same; the
index file `.index` is a copy for the next process, written whole and renamed. It may be deleted, lost or
outdated at any time. Knows stamps and metadata, no tapes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from ...errors import InvalidTapeIdError
from ...tape import check_tape_id
from .files import SAFELY
from .places import TAPE, Places

INDEX_NAME: Final = ".index"
_VERSION: Final = 1
_SETTLED_NS: Final = 50_000_000
"""What changed less than this ago may change again within one tick of the clock, under the same stamps."""
_QUIET_NS: Final = 2_500_000_000
"""How long nothing may have changed in any folder before all of it is remembered at once: longer than the
coarsest clock of a file system ticks (FAT: two seconds)."""
MOST_REMEMBERED: Final = 100_000
_WORTH_SAVING: Final = 64

Stamps = tuple[int, int, int, int]
"""Inode, size, time of modification and time of change, in nanoseconds."""
NO_FILE: Final[Stamps] = (0, 0, 0, 0)
"""Of metadata that was made up from the first line of a tape."""
Signature = tuple[tuple[Path, int, int], ...]
"""Of all folders: inode, and time of modification in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Known:
    """The metadata of a tape, which is handed out as a copy only."""

    stamps: Stamps
    metadata: dict[str, Any]
    nested: tuple[str, ...]
    """The keys under which something lies that a shallow copy would share."""

    @classmethod
    def of(cls, stamps: Stamps, metadata: dict[str, Any]) -> Self:
        nested = tuple(key for key, value in metadata.items() if isinstance(value, dict | list))
        return cls(stamps, metadata, nested)

    @property
    def is_of_a_file(self) -> bool:
        return self.stamps != NO_FILE

    def copy(self) -> dict[str, Any]:
        made = self.metadata.copy()
        for key in self.nested:
            made[key] = _copied(made[key])
        return made


class Listing:
    """Thread-safe: what is remembered is replaced in one step each, and looked at without a lock."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._names: dict[Path, tuple[tuple[int, int], list[str]]] = {}
        self._merged: tuple[list[list[str]], list[tuple[str, Path]]] = ([], [])
        self._known: dict[str, Known] = {}
        self._are_tapes: dict[Path, set[str]] = {}
        self._is_loaded = False
        self._unsaved = 0

    def names(self) -> list[tuple[str, Path]]:
        """What may be a tape by its name, with its folder, by ascending id."""
        folders = self._places.folders()
        parts = [self._names_in(folder) for folder in folders]
        before, merged = self._merged
        if len(before) == len(parts) and all(a is b for a, b in zip(before, parts, strict=True)):
            return merged
        found: dict[str, Path] = {}
        for folder, names in zip(folders, parts, strict=True):
            for tape_id in names:
                found.setdefault(tape_id, folder)  # copied by hand: the first counts, as in `Places.find`
        merged = sorted(found.items())
        self._merged = parts, merged
        return merged

    def signature(self) -> Signature | None:
        """Another one whenever a name came or went, or a file was put in the place of another, in any of the
        folders; None: something changed so lately that it may change again under the same signature."""
        latest_ns = time.time_ns() - _QUIET_NS
        parts = []
        for folder in self._places.folders():
            try:
                status = folder.stat()
            except FileNotFoundError:
                if folder == self._places.directory:
                    raise
                return None
            if status.st_mtime_ns > latest_ns:
                return None
            parts.append((folder, status.st_ino, status.st_mtime_ns))
        return tuple(parts)

    def _names_in(self, folder: Path) -> list[str]:
        try:
            status = folder.stat()
        except FileNotFoundError:
            if folder == self._places.directory:
                raise
            return []
        stamps = status.st_ino, status.st_mtime_ns
        known = self._names.get(folder)
        if known is not None and known[0] == stamps:
            return known[1]
        self._are_tapes.pop(folder, None)
        began = time.time_ns()
        names = []
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(TAPE):
                    with suppress(InvalidTapeIdError):
                        names.append(check_tape_id(entry.name.removesuffix(TAPE)))
        names.sort()
        if began - status.st_mtime_ns > _SETTLED_NS:
            self._names[folder] = stamps, names
        return names

    def are_tapes(self, folder: Path) -> set[str]:
        """Which names in it were seen to be those of tapes since a name came or went there last; to be added
        to."""
        return self._are_tapes.setdefault(folder, set())

    def known(self, tape_id: str, status: os.stat_result) -> Known | None:
        """What is known of a metadata file with these stamps."""
        known = self._known.get(tape_id)
        return known if known is not None and known.stamps == _stamps(status) else None

    def remember(self, tape_id: str, status: os.stat_result, metadata: dict[str, Any]) -> Known:
        """`status` was taken before the file was read."""
        known = Known.of(_stamps(status), metadata)
        if time.time_ns() - status.st_ctime_ns > _SETTLED_NS:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[tape_id] = known
            self._unsaved += 1
        return known

    def load(self) -> None:
        """Once: what another process left. Whatever is wrong with it, it is not there."""
        if self._is_loaded:
            return
        self._is_loaded = True
        for tape_id, stamps, metadata in self._saved():
            self._known.setdefault(tape_id, Known.of(stamps, metadata))

    def _saved(self) -> Iterator[tuple[str, Stamps, dict[str, Any]]]:
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            fd = os.open(self._places.directory / INDEX_NAME, os.O_RDONLY | SAFELY)
            with os.fdopen(fd, "rb") as file:
                saved = json.loads(file.read())
            if saved["version"] != _VERSION:
                return
            for tape_id, (ino, size, mtime_ns, ctime_ns, metadata) in saved["tapes"].items():
                if isinstance(metadata, dict):
                    yield tape_id, (ino, size, mtime_ns, ctime_ns), metadata

    @property
    def is_worth_saving(self) -> bool:
        return self._unsaved >= max(_WORTH_SAVING, len(self._known) // 20)

    def save(self) -> None:
        """Under the lock of the directory: the temporary file has one name. An error costs time, nothing
        else."""
        self._unsaved = 0
        present = {tape_id for tape_id, _ in self._merged[1]}
        tapes = {
            tape_id: [*known.stamps, known.metadata]
            for tape_id, known in self._known.copy().items()
            if tape_id in present
        }
        temporary = self._places.directory / (INDEX_NAME + ".tmp")
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps({"version": _VERSION, "tapes": tapes}).encode())
            temporary.replace(self._places.directory / INDEX_NAME)


def _copied(value: Any) -> Any:
    """A copy of JSON values, faster than `deepcopy`."""
    if isinstance(value, dict):
        return {key: _copied(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    return [_copied(item) if isinstance(item, dict | list) else item for item in value]


def _stamps(status: os.stat_result) -> Stamps:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
