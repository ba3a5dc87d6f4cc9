"""All tapes of a directory at one moment, as a listing shows them, looked up by what a query asks for.

Everything is derived, and may be thrown away at any time. Knows metadata and queries, no files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ...backend import Page, TapeQuery, created_moment
from .listing import Known

Look = Callable[[Path, str], Known | None]
"""What a tape's metadata is now, or None: it is no tape."""


class View:
    """Never changes. `tapes` come by ascending id; one whose metadata is not in a file of its own (None) may
    change without a trace, and is looked at by each query."""

    def __init__(self, tapes: Sequence[tuple[str, Path, Known | None]]) -> None:
        self._tapes: Final = tapes
        self._ids: Final = [tape_id for tape_id, _, _ in tapes]
        self._loose: list[int] = []
        self._by_session: dict[object, list[int]] = defaultdict(list)
        self._by_status: dict[object, list[int]] = defaultdict(list)
        self._by_tag: dict[object, list[int]] = defaultdict(list)
        created: list[tuple[datetime, int]] = []
        for place, (_, _, known) in enumerate(tapes):
            if known is None:
                self._loose.append(place)
                continue
            metadata = known.metadata
            _note(self._by_session, metadata.get("session_id"), place)
            _note(self._by_status, metadata.get("status"), place)
            tags = metadata.get("tags")
            if isinstance(tags, list):
                for tag in tags:
                    _note(self._by_tag, tag, place)
            if (moment := created_moment(metadata)) is not None:
                created.append((moment, place))
        created.sort()
        self._moments: Final = [moment for moment, _ in created]
        self._by_moment: Final = [place for _, place in created]

    def page(self, query: TapeQuery, cursor: str | None, limit: int, look: Look) -> Page:
        """As the contract of a backend says."""
        places = self._places(query)
        first = 0 if cursor is None else bisect_left(places, bisect_right(self._ids, cursor))
        items: list[dict[str, Any]] = []
        for place in places[first:]:
            tape_id, folder, known = self._tapes[place]
            if known is None:
                known = look(folder, tape_id)
            if known is not None and query.matches(known.metadata):
                if len(items) == limit:
                    return Page(tuple(items), items[-1]["tape_id"])
                items.append(known.copy())
        return Page(tuple(items))

    def _places(self, query: TapeQuery) -> Sequence[int]:
        """Of all that may match, ascending."""
        found: list[Sequence[int]] = []
        for by, value in (
            (self._by_session, query.session_id),
            (self._by_status, query.status),
            (self._by_tag, query.tag),
        ):
            if value is not None:
                found.append(by.get(value, ()))
        if query.created_after is not None or query.created_before is not None:
            after, before = query.created_after, query.created_before
            start = 0 if after is None else bisect_left(self._moments, after)
            stop = len(self._moments) if before is None else bisect_left(self._moments, before)
            found.append(range(start, stop))
        if not found:
            return range(len(self._tapes))
        fewest = min(found, key=len)
        if isinstance(fewest, range):
            fewest = sorted(self._by_moment[fewest.start : fewest.stop])
        return sorted({*fewest, *self._loose}) if self._loose else fewest


def _note(by: dict[object, list[int]], value: object, place: int) -> None:
    """Only text is ever asked for."""
    if isinstance(value, str) and (not (places := by[value]) or places[-1] != place):
        places.append(place)
