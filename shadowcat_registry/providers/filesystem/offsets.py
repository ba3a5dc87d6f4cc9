"""Where in a file to begin, to read what is behind a frame: marks, left by whoever had to look for one.

A mark is a frame whose seq is higher than all before it, so that the first frame with a seq of at least that
is never before the mark: true for any tape, in whatever order its frames stand. All of it is derived, is
checked against the file before it is used, and may be forgotten at any time. Knows lines and bytes, no paths.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import BinaryIO, Final

from ...tape import frame_seq, lines_after
from .files import whole_lines

_DISTANCE_BYTES: Final = 4096
_MOST_TAPES: Final = 16
_HIGHEST: Final = 2**63 - 1


class _Marks:
    """Of one file, up to `end`."""

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.seqs = array("q")
        self.offsets = array("q")
        self.highest = -1
        self.end = 0
        # Held by whoever looks beyond the end and leaves marks; nobody waits for it: others look without.
        self.marking = threading.Lock()

    def fit(self, file: BinaryIO, place: int) -> bool:
        """Whether the file is still the one that was looked into, as far as this mark tells."""
        if place < 0:
            return self.end == 0
        file.seek(self.offsets[place])
        return frame_seq(file.readline()) == self.seqs[place]

    def clear(self) -> None:
        """While `marking` is held."""
        self.highest, self.end = -1, 0
        self.seqs, self.offsets = array("q"), array("q")


class Offsets:
    """Of the tapes that were last looked into."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the dict; nothing is called under it
        self._marks: dict[str, _Marks] = {}

    def lines_behind(self, tape_id: str, file: BinaryIO, after_seq: int) -> Iterator[bytes]:
        """What `lines_after` gives of the whole lines of `file`, without reading twice what is before."""
        marks = self._marks_of(tape_id, os.fstat(file.fileno()))
        if after_seq > marks.highest:
            if marks.marking.acquire(blocking=False):
                try:
                    if not marks.fit(file, len(marks.seqs) - 1):
                        marks.clear()
                    line = self._look_beyond(marks, file, after_seq)
                finally:
                    marks.marking.release()
                if line is not None:
                    yield line
                    yield from whole_lines(file)
                return
            place = -1
        else:
            place = bisect_right(marks.seqs, after_seq) - 1
        is_marked = place >= 0 and marks.fit(file, place)
        file.seek(marks.offsets[place] if is_marked else 0)
        yield from lines_after(whole_lines(file), after_seq)

    @staticmethod
    def _look_beyond(marks: _Marks, file: BinaryIO, after_seq: int) -> bytes | None:
        """The first line behind the frame, and the file at its end; None: there is none yet."""
        offset = marks.end
        file.seek(offset)
        found = False
        for line in whole_lines(file):
            seq = frame_seq(line)
            if found:
                return line  # not counted as looked at: the next one does that
            if seq is not None and seq > marks.highest:
                is_far = not marks.offsets or offset - marks.offsets[-1] >= _DISTANCE_BYTES
                if is_far and seq <= _HIGHEST:
                    marks.offsets.append(offset)  # first: whoever finds the seq finds its offset
                    marks.seqs.append(seq)
                marks.highest = seq
            offset += len(line)
            marks.end = offset
            if seq is not None and seq >= after_seq:
                if seq > after_seq:
                    return line
                found = True
        return None

    def _marks_of(self, tape_id: str, status: os.stat_result) -> _Marks:
        with self._lock:
            marks = self._marks.get(tape_id)
            if marks is None or marks.inode != status.st_ino or marks.end > status.st_size:
                self._marks.pop(tape_id, None)
                if len(self._marks) >= _MOST_TAPES:
                    del self._marks[next(iter(self._marks))]
                self._marks[tape_id] = marks = _Marks(status.st_ino)
            return marks

    def forget(self, tape_id: str) -> None:
        """It is deleted: another one may get its name, and its inode."""
        with self._lock:
            self._marks.pop(tape_id, None)
