"""What tapes there are, with their metadata, and how much they take: out of memory, as far as that may be.

What is remembered is in `listing` and in `views`; here it is looked up, and made where it is missing.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any, Final

from ...backend import Page, StorageStats, TapeQuery
from ...errors import InvalidMetadataError, InvalidTapeError, InvalidTapeIdError, TapeNotFoundError
from ...tape import load_metadata
from .compression import SUFFIXES
from .listing import MOST_REMEMBERED, NO_FILE, Known, Listing, Signature
from .locks import directory_lock
from .metadata_files import META, MetadataFiles
from .places import TAPE, Places
from .tape_opener import TapeOpener
from .views import View

VIEW_SECONDS: Final = 10.0
"""How long a listing may go by what was seen, if nothing came, went or was replaced in the folders."""


class Overview:
    """Thread-safe: what is remembered is replaced in one step each."""

    def __init__(self, places: Places, metadata: MetadataFiles, logger: logging.Logger) -> None:
        self._places: Final = places
        self._metadata: Final = metadata
        self._logger: Final = logger
        self._listing = Listing(places)
        # Replaced in one step: the signature that was seen last, what is remembered for it, and until when.
        self._seen: tuple[Signature | None, View | None, float] = (None, None, 0.0)

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        self._listing.load()
        view = self._current_view()
        if view is not None:
            return view.page(query, cursor, limit, self._listed)
        names = self._listing.names()
        first = 0 if cursor is None else bisect_right(names, cursor, key=itemgetter(0))
        items: list[dict[str, Any]] = []
        more = False
        for tape_id, folder in islice(names, first, None):
            known = self._listed(folder, tape_id)
            if known is not None and query.matches(known.metadata):
                if len(items) == limit:
                    more = True
                    break
                items.append(known.copy())
        self._save_listing()
        return Page(tuple(items), items[-1]["tape_id"] if more else None)

    def _current_view(self) -> View | None:
        """One that still holds; made for the second who asks while nothing changes. A metadata file that
        somebody writes in its place, as only foreign tools do, leaves no trace in its folder: it is seen when
        the view has become old."""
        signature = self._listing.signature()
        seen, view, until = self._seen
        if signature is None:
            return None
        if signature != seen:
            self._seen = signature, None, 0.0
            return None
        if view is None or monotonic() >= until:
            until = monotonic() + VIEW_SECONDS
            names = self._listing.names()
            if len(names) > MOST_REMEMBERED:
                return None
            tapes = []
            for tape_id, folder in names:
                known = self._listed(folder, tape_id)
                tapes.append((tape_id, folder, known if known is not None and known.is_of_a_file else None))
            view = View(tapes)
            self._seen = signature, view, until
            self._save_listing()
        return view

    def _save_listing(self) -> None:
        if self._listing.is_worth_saving:
            with suppress(OSError), directory_lock(self._places.directory):
                self._listing.save()

    def stats(self) -> StorageStats:
        count = size_bytes = 0
        blocks = self._sizes_of_blocks()
        for tape_id, folder in self._listing.names():
            tape = TapeOpener.status(folder, tape_id)
            if tape is None or self._listed(folder, tape_id) is None:
                continue
            count += 1
            size_bytes += tape.st_size + blocks.get((folder, tape_id), 0)
            with suppress(FileNotFoundError):
                size_bytes += os.lstat(f"{folder}/{tape_id}{META}").st_size
        return StorageStats(count, size_bytes)

    def _sizes_of_blocks(self) -> dict[tuple[Path, str], int]:
        """By folder and id, of whatever is named so."""
        sizes: dict[tuple[Path, str], int] = {}
        for folder in self._places.folders():
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    tape_id, tape, suffix = entry.name.rpartition(TAPE)
                    if tape and suffix in SUFFIXES.values():
                        with suppress(FileNotFoundError):
                            sizes[folder, tape_id] = entry.stat(follow_symlinks=False).st_size
        return sizes

    def _listed(self, folder: Path, tape_id: str) -> Known | None:
        """Metadata for a listing, which one bad file must not break; None: no tape after all."""
        are_tapes = self._listing.are_tapes(folder)
        if tape_id not in are_tapes:
            if TapeOpener.status(folder, tape_id) is None:
                return None
            are_tapes.add(tape_id)
        try:
            status = os.lstat(f"{folder}/{tape_id}{META}")
        except FileNotFoundError:
            pass
        else:
            known = self._listing.known(tape_id, status)
            if known is not None:
                return known
            try:
                text = self._metadata.text(folder, tape_id)
                if text is not None:
                    meta = {**load_metadata(tape_id, text), "tape_id": tape_id}
                    return self._listing.remember(tape_id, status, meta)
            except (InvalidMetadataError, OSError) as error:
                self._logger.warning("listing tape %s by its init line: %s", tape_id, error)
        try:
            return Known.of(NO_FILE, self._metadata.made(folder, tape_id))
        except (InvalidTapeError, InvalidTapeIdError, TapeNotFoundError):
            return None
