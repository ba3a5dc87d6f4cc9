"""The index of words over all frames, which may be behind and catches up before it is asked.

A contentless FTS5 table: its row for a frame has the key of the line, and holds where each word is, but not
the text, which is in the segments already. Lines are indexed a thousand at a time, which costs a fraction
of doing so with each append; what is missing is known by the rows of `unindexed`.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from ...backend import SearchHit, SearchPage
from ...errors import StorageDamagedError
from ...tape import frame_seq
from .layout import LINE_BITS, LINES
from .segments import Segments, end_of
from .words import TOKENIZER, query_of, snippets, text_of

BATCH_LINES: Final = 1000
BATCH_BYTES: Final = 1 << 20
_RANKED: Final = 50_000
"""So many of the newest matches are ranked: all of them would take seconds where a word is everywhere."""
_MERGED_PAGES: Final = 64


def has_fts5(db: sqlite3.Connection) -> bool:
    """Whether this SQLite was built with it."""
    try:
        db.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(text)")
    except sqlite3.OperationalError:
        return False
    db.execute("DROP TABLE temp.probe")
    return True


class Index:
    """Every method works within a transaction, or read, of its caller's."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the table where it is missing: this file may have been made without one."""
        db.execute(
            f"CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text, content='', tokenize='{TOKENIZER}')"
        )

    @staticmethod
    def behind(db: sqlite3.Connection) -> list[int]:
        """The numbers of the tapes that may have lines which are not indexed."""
        return [no for (no,) in db.execute("SELECT no FROM unindexed ORDER BY no")]

    @staticmethod
    def is_complete(db: sqlite3.Connection, no: int) -> bool:
        """Whether all lines of a tape are indexed, or it is not there any more."""
        row = db.execute("SELECT indexed FROM tape WHERE no = ?", (no,)).fetchone()
        return row is None or row[0] == end_of(db, no)[0]

    def catch_up(self, db: sqlite3.Connection, no: int) -> bool:
        """Index at most one batch of a tape; whether that was the last of it."""
        row = db.execute("SELECT indexed FROM tape WHERE no = ?", (no,)).fetchone()
        if row is None:
            return True
        first = row[0]
        line = first
        rows: list[tuple[int, str]] = []
        size_bytes = 0
        for key, segment in self._segments.blobs(db, no, first):
            line = key % LINES
            for text_line in io.BytesIO(segment):
                if frame_seq(text_line) is not None:
                    rows.append((no << LINE_BITS | line, text_of(text_line)))
                line += 1
            size_bytes += len(segment)
            if line - first >= BATCH_LINES or size_bytes >= BATCH_BYTES:
                break
        else:
            self._add(db, no, rows, line)
            return True
        self._add(db, no, rows, line)
        return False

    @staticmethod
    def _add(db: sqlite3.Connection, no: int, rows: list[tuple[int, str]], line: int) -> None:
        if rows:
            db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        db.execute("UPDATE tape SET indexed = ? WHERE no = ? AND indexed <> ?", (line, no, line))

    @staticmethod
    def remove(db: sqlite3.Connection, key: int, segment: bytes, indexed: int) -> None:
        """Take the lines of a segment out, as far as they are in: those before the line `indexed`."""
        rows = [
            (number, text_of(line))
            for number, line in enumerate(io.BytesIO(segment), key)
            if number % LINES < indexed and frame_seq(line) is not None
        ]
        db.executemany("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", rows)

    @staticmethod
    def tidy(db: sqlite3.Connection) -> None:
        """After deletions: make the space of what is not there any more free, as far as that is cheap."""
        if db.execute("SELECT NOT EXISTS (SELECT 1 FROM tape)").fetchone()[0]:
            db.execute("INSERT INTO words (words) VALUES ('delete-all')")
        else:
            db.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (_MERGED_PAGES,))

    def search(self, db: sqlite3.Connection, text: str, offset: int, limit: int) -> SearchPage:
        query = query_of(text)
        if not query:
            return SearchPage(())
        found = db.execute(
            "SELECT rowid, score FROM ("
            " SELECT rowid, bm25(words) AS score FROM words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?"
            ") ORDER BY score, rowid DESC LIMIT ? OFFSET ?",
            (query, _RANKED, limit + 1, offset),
        ).fetchall()
        lines = dict(self._lines(db, [key for key, _ in found[:limit]]))
        shown = snippets(query, ((key, text_of(line)) for key, (_, line) in lines.items()))
        hits = []
        for key, score in found[:limit]:
            if key in lines:
                tape_id, line = lines[key]
                seq = frame_seq(line)
                hits.append(SearchHit(tape_id, -1 if seq is None else seq, shown[key], -score))
        return SearchPage(tuple(hits), str(offset + limit) if len(found) > limit else None)

    def _lines(self, db: sqlite3.Connection, keys: list[int]) -> Iterator[tuple[int, tuple[str, bytes]]]:
        """Key → tape id and line. What was deleted since, or is damaged, is left out."""
        for key in keys:
            row = db.execute("SELECT tape_id FROM tape WHERE no = ?", (key >> LINE_BITS,)).fetchone()
            if row is not None:
                with suppress(StorageDamagedError):
                    line = self._segments.line(db, row[0], key)
                    if line is not None:
                        yield key, (row[0], line)
