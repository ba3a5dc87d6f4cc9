"""Where in the directory a tape lies: the layouts, and how a tape is found whatever layout it was made in.

A tape lies in the directory itself, or in a folder directly in it. The layout only says where a new one
goes, so that it may be changed at any time; with `flat`, no folder is ever looked into.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from ...errors import InvalidTapeIdError
from ...tape import check_tape_id
from .locks import LOCK_NAME

Layout = Literal["flat", "date", "session", "sharded"]

TAPE: Final = ".jsonl"
_day = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST_REMEMBERED: Final = 100_000


class Places:
    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory: Final = directory
        self.layout: Final = layout
        self._folds_case: bool | None = None
        self._remembered: dict[str, Path] = {}  # one step each: a look-up, an insertion; never relied on

    def of_new(self, tape_id: str, init: Mapping[str, Any]) -> Path:
        """The folder that a new tape belongs in; it may not be there yet."""
        if self.layout == "flat":
            return self.directory
        if self.layout == "date":
            found = _day.match(str(init.get("created_at")))
            return self.directory / (found[0] if found else datetime.now(UTC).strftime("%Y-%m-%d"))
        if self.layout == "sharded":
            return self.directory / hashlib.sha256(tape_id.encode()).hexdigest()[:2]
        session_id = str(init.get("session_id"))
        try:
            return self.directory / check_tape_id(session_id)
        except InvalidTapeIdError:  # no safe name for a folder: `~` begins none, so that nothing is mixed
            digest = hashlib.sha256(session_id.encode("utf-8", "surrogatepass"))
            return self.directory / f"~{digest.hexdigest()[:32]}"

    def find(self, tape_id: str) -> Path:
        """The folder that has the tape, if any has; otherwise the directory itself."""
        if self.layout == "flat":
            return self.directory
        name = tape_id + TAPE
        known = self._remembered.get(tape_id)
        if known is not None and os.path.lexists(known / name):
            return known
        if not os.path.lexists(self.directory / name):
            # There may be thousands of folders: each costs one call of the system, and little else.
            for folder_name in self._folder_names():
                if os.path.lexists(f"{self.directory}/{folder_name}/{name}"):
                    folder = self.directory / folder_name
                    self.remember(tape_id, folder)
                    return folder
        return self.directory

    def remember(self, tape_id: str, folder: Path) -> None:
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[tape_id] = folder

    def folders(self) -> list[Path]:
        """All that may have tapes, in the order in which they are looked into."""
        if self.layout == "flat":
            return [self.directory]
        return [self.directory, *(self.directory / name for name in self._folder_names())]

    def _folder_names(self) -> list[str]:
        with os.scandir(self.directory) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )

    def has_exactly(self, folder: Path, name: str) -> bool:
        """Whether a file that was opened by this name has it: not so where case is folded, and the file's
        name differs in that."""
        if self._folds_case is None:
            self._folds_case = self._look_for_folding()
        return not self._folds_case or name in os.listdir(folder)  # noqa: PTH208 - names are what is wanted

    def _look_for_folding(self) -> bool:
        here = self.directory / LOCK_NAME
        try:
            status, other = here.lstat(), (self.directory / LOCK_NAME.upper()).lstat()
        except OSError:
            return False
        return os.path.samestat(status, other) and stat.S_ISREG(status.st_mode)
