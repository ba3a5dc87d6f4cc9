"""A package of plugin code: which files of a directory are its modules, and the digest of all of them.

Only a file `NAME.py` counts, with a name that can be imported, here and in directories of such names below;
all else is data, and never looked at: `__pycache__` neither, whatever is in it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from . import refusals
from .held import MAX_BYTES, MAX_NAMES, Directory

MAX_FILES: Final = 100
MAX_DEPTH: Final = 8
_MAX_DIRECTORIES: Final = 100
_READ_ATTEMPTS: Final = 3
_identifier: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # of ASCII: others have more than one spelling


def read_package(directory: Directory) -> dict[str, bytes]:
    """The modules of the package in `directory`: relative name, with `/` → content; each read as `directory`
    does. They belong together: two readings in a row gave the same.

    Raises:
        PluginError: it has more than `MAX_FILES` modules, `MAX_BYTES` in all or `MAX_DEPTH` levels, it goes
            on changing, or a rule is broken by one of the files or directories.
    """
    before = _Reading(directory).files
    for _ in range(_READ_ATTEMPTS):
        files = _Reading(directory).files
        if files == before:
            return files
        before = files
    raise refusals.changed(directory.path)


def digest(files: Mapping[str, bytes]) -> str:
    """In hex: that of the lines which `sha256sum` prints for the files, sorted by name.

    find . -name '*.py' -printf '%P\\\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum
    """
    lines = (f"{sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    return sha256("".join(lines).encode()).hexdigest()


def is_module(name: str) -> bool:
    """Whether a file of this name can be imported."""
    return name.endswith(".py") and _identifier.fullmatch(name[:-3]) is not None


class _Reading:
    """One reading of all files."""

    def __init__(self, directory: Directory) -> None:
        self.files: dict[str, bytes] = {}
        self._top = directory.path
        self._size_bytes = 0
        self._directory_count = 0
        self._name_count = 0
        self._read(directory, "", 1)

    def _read(self, directory: Directory, prefix: str, depth: int) -> None:
        self._directory_count += 1
        if depth > MAX_DEPTH:
            raise refusals.too_large(self._top, f"more than {MAX_DEPTH} levels of directories")
        if self._directory_count > _MAX_DIRECTORIES:
            raise refusals.too_large(self._top, f"more than {_MAX_DIRECTORIES} directories")
        names = directory.names()
        self._name_count += len(names)
        if self._name_count > MAX_NAMES:
            raise refusals.too_large(self._top, f"more than {MAX_NAMES:,} entries")
        for name in names:
            if is_module(name):
                self._add(prefix + name, directory.read(name))
            elif name != "__pycache__" and _identifier.fullmatch(name):
                # A link that leads to a directory is entered, or refused there.
                status = directory.status(name, follow=True)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    with directory.enter(name) as below:
                        self._read(below, f"{prefix}{name}/", depth + 1)

    def _add(self, name: str, content: bytes) -> None:
        self.files[name] = content
        self._size_bytes += len(content)
        if len(self.files) > MAX_FILES:
            raise refusals.too_large(self._top, f"more than {MAX_FILES} modules")
        if self._size_bytes > MAX_BYTES:
            raise refusals.too_large(self._top, f"more than {MAX_BYTES // 1024:,} KiB of modules")
