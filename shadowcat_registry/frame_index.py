"""Where in a tape each frame is: exact, in whatever order the frames stand, and small.

A place is a number that rises along the tape, of a byte or of a line: whoever adds the frames knows. Knows no
lines and no files.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final

HIGHEST: Final = 2**63 - 1


class FrameIndex:
    """Of the frames before the place `end`. One thread at a time adds to it, in the order of the tape; any
    may look meanwhile, and finds what is not there yet as missing.

    It takes 8 bytes a frame, 16 more for each gap in `seq`, and about 100 for a frame behind one with a
    higher `seq`, as no recorder writes them.
    """

    __slots__ = ("_begins", "_beyond", "_firsts", "_late", "_places", "end", "highest")

    def __init__(self) -> None:
        # Frames with a higher seq than all before them, in runs without a gap: the place of each, and of
        # each run its first seq and where in `_places` it begins.
        self._places, self._begins, self._firsts = array("q"), array("q"), array("q")
        self._late: dict[int, int] = {}
        """The place of every other frame whose seq was not there before."""
        self._beyond: tuple[int, int] | None = None
        """Seq and place of the first whose seq is above `HIGHEST`."""
        self.highest = -1
        self.end = 0

    def add(self, seq: int, place: int) -> None:
        """The next frame. Of those with one seq, the first is the one that is found."""
        if self.highest < seq <= HIGHEST:
            if seq != self.highest + 1 or not self._places:
                # In this order: whoever looks in between finds an empty run, or none.
                self._begins.append(len(self._places))
                self._firsts.append(seq)
            self._places.append(place)
            self.highest = seq
        elif self.span(seq) is None:
            self._late[seq] = place
            if seq > HIGHEST and self._beyond is None:
                self._beyond = seq, place

    def span(self, seq: int) -> tuple[int, int] | None:
        """The place of a frame, and the nearest behind it that is known; where that says nothing, a lower
        one. None: there is no such frame so far."""
        places, firsts = self._places, self._firsts
        count = len(places)  # before the runs: the last of those that are seen goes as far at least
        run = bisect_right(firsts, seq) - 1
        if run >= 0:
            number = seq - firsts[run] + self._begins[run]
            if number < (self._begins[run + 1] if run + 1 < len(firsts) else count):
                return places[number], places[number + 1] if number + 1 < count else self.end
        place = self._late.get(seq)
        return None if place is None else (place, 0)

    def first_from(self, seq: int) -> tuple[int, int] | None:
        """Seq and place of a frame before which none has a seq of this or more, which is at least 0.
        None: none has so far."""
        places, firsts = self._places, self._firsts
        count = len(places)
        run = bisect_right(firsts, seq) - 1
        number = 0
        if run >= 0:
            stop = self._begins[run + 1] if run + 1 < len(firsts) else count
            number = min(seq - firsts[run] + self._begins[run], stop)
        if run < 0 or number == stop:
            run += 1
        found = None
        if number < count:
            found = firsts[run] + number - self._begins[run], places[number]
        beyond = self._beyond
        return beyond if beyond is not None and (found is None or beyond[1] < found[1]) else found
