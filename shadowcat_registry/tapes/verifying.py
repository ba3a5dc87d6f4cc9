"""Whether a tape is what it should be: its records, its sequence, its digest, its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..errors import InvalidTapeError, InvalidTapeIdError
from ..storage import TapeStorage
from ..tape import TapeCounters, checksum_in, checksum_of, parse_init_line

FlawKind = Literal["init", "unparsed", "gap", "order", "torn", "checksum", "metadata"]

Checksum = Literal["matches", "differs", "absent", "unknown"]

_MOST_FLAWS: Final = 100
_COMPARED_STATS: Final = (
    "frame_count",
    "last_sequence",
    "file_size_bytes",
    "correlation_count",
    "checkpoint_count",
    "message_counts",
)
"""What a recorder counts as it writes, and so anybody can count again. (Not what it measures.)"""
_COMPARED_FIELDS: Final = ("session_id", "created_at", "protocol_version")


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with a tape."""

    kind: FlawKind
    """`init`: it does not begin as a tape does; `unparsed`: a line that is no record; `gap`: frames are
    missing before this one; `order`: a `seq` that was there before, or comes too late; `torn`: an unfinished
    last line; `checksum`: the records are not those that were finalized; `metadata`: it says otherwise."""
    message: str
    line: int | None = None
    """Counted from 1; None: it is about the whole."""
    offset: int | None = None
    """Of that line's first byte, from the beginning of the tape."""

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "line": self.line, "offset": self.offset}


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a tape was found to be. `ok` is the verdict."""

    tape_id: str
    status: str | None
    """As its metadata has it. Of a tape that is being recorded, the statistics are not compared, and an
    unfinished last line is no flaw: it may be finished in a moment."""
    line_count: int
    frame_count: int
    size_bytes: int
    sha256: str
    """Of all the whole lines, as hexadecimal digits."""
    checksum: Checksum
    """Beside that of its metadata: `absent` where nobody has written one (a recording from elsewhere),
    `unknown` where it is of another kind than ours, which is no flaw."""
    torn_bytes: int = 0
    flaws: tuple[Flaw, ...] = ()
    """The first hundred, in the order of the tape."""
    flaw_count: int = 0

    @property
    def ok(self) -> bool:
        return not self.flaw_count

    def as_json(self) -> dict[str, Any]:
        return {
            "tape_id": self.tape_id,
            "ok": self.ok,
            "status": self.status,
            "line_count": self.line_count,
            "frame_count": self.frame_count,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "checksum": self.checksum,
            "torn_bytes": self.torn_bytes,
            "flaw_count": self.flaw_count,
            "flaws": [flaw.as_json() for flaw in self.flaws],
        }


def verify_tape(storage: TapeStorage, tape_id: str) -> VerifyReport:
    """Read a tape to its end, in constant memory, and say all that is wrong with it. Changes nothing.

    Raises:
        InvalidTapeIdError, TapeNotFoundError, StorageUnavailableError, StorageClosedError.
        InvalidMetadataError: what is stored beside it is no metadata.
    """
    return _Verification(storage, tape_id).report()


class _Verification:
    def __init__(self, storage: TapeStorage, tape_id: str) -> None:
        self._storage = storage
        self._tape_id = tape_id
        self._flaws: list[Flaw] = []
        self._flaw_count = 0
        self._digest = hashlib.sha256()
        self._counters = TapeCounters(line_count=0)
        self._init: Mapping[str, Any] | None = None

    def report(self) -> VerifyReport:
        # Before and after: whoever ended the tape meanwhile, wrote its metadata last.
        before, _ = self._storage.get_meta(self._tape_id)
        with closing(self._storage.read(self._tape_id, raw=True)) as lines:
            torn_bytes = self._read(lines)
        meta, _ = self._storage.get_meta(self._tape_id)
        is_recorded = "recording" in (before.get("status"), meta.get("status"))
        checksum = self._compare_checksum(meta, is_recorded)
        self._compare_metadata(meta, is_recorded)
        if torn_bytes and not is_recorded:
            self._tell(
                "torn",
                f"{torn_bytes} bytes of an unfinished line follow the last whole one",
                self._counters.line_count + 1,
                self._counters.size_bytes,
            )
        status = meta.get("status")
        return VerifyReport(
            self._tape_id,
            status if isinstance(status, str) else None,
            self._counters.line_count,
            self._counters.frame_count,
            self._counters.size_bytes,
            self._digest.hexdigest(),
            checksum,
            torn_bytes,
            tuple(self._flaws),
            self._flaw_count,
        )

    def _tell(self, kind: FlawKind, message: str, line: int | None = None, offset: int | None = None) -> None:
        self._flaw_count += 1
        if len(self._flaws) < _MOST_FLAWS:
            self._flaws.append(Flaw(kind, message, line, offset))

    def _read(self, lines: Iterator[bytes]) -> int:
        """Returns how long the unfinished last line is."""
        counters = self._counters
        expected = 0
        torn_bytes = 0
        for line in lines:
            if not line.endswith(b"\n"):
                torn_bytes = len(line)
                break
            self._digest.update(line)
            number, offset = counters.line_count + 1, counters.size_bytes
            record = counters.add_line(line)
            kind = record.get("type") if record is not None else None
            seq = record.get("seq") if record is not None and kind == "frame" else None
            if number == 1:
                self._check_init(line)
            elif not isinstance(kind, str):
                self._tell("unparsed", "the line is no record", number, offset)
            elif kind == "frame" and not isinstance(seq, int):
                self._tell("unparsed", "the line is a frame without a seq", number, offset)
            elif isinstance(seq, int):
                if seq > expected:
                    missing = (
                        f"frame {expected} is" if seq == expected + 1 else f"{expected} to {seq - 1} are"
                    )
                    self._tell("gap", f"frame {seq} follows here, {missing} missing", number, offset)
                elif seq < expected:
                    self._tell("order", f"frame {seq} comes behind frame {expected - 1}", number, offset)
                expected = max(expected, seq + 1)
        if not counters.line_count:
            self._tell("init", "it is empty", 1, 0)
        return torn_bytes

    def _check_init(self, line: bytes) -> None:
        try:
            self._init = parse_init_line(line, self._tape_id)
        except InvalidTapeError as error:
            self._tell("init", error.reason, 1, 0)
        except InvalidTapeIdError as error:
            self._tell("init", str(error), 1, 0)

    def _compare_checksum(self, meta: Mapping[str, Any], is_recorded: bool) -> Checksum:
        if meta.get("checksum") is None or is_recorded:
            return "absent"
        expected = checksum_in(meta)
        if expected is None:
            return "unknown"
        if expected == checksum_of(self._digest):
            return "matches"
        self._tell("checksum", "the records are not those that were finalized: their SHA-256 is another")
        return "differs"

    def _compare_metadata(self, meta: Mapping[str, Any], is_recorded: bool) -> None:
        if self._init is not None:
            if self._init["tape_id"] != self._tape_id:
                self._tell("metadata", f"its init record says that it is tape {self._init['tape_id']}", 1, 0)
            for key in _COMPARED_FIELDS:
                # A field that is missing there (recorders differ in what they repeat) contradicts nothing.
                if meta.get(key) is not None and meta[key] != self._init.get(key):
                    self._tell("metadata", f"its metadata and its init record differ in {key}")
        stats = meta.get("stats")
        if is_recorded or not isinstance(stats, Mapping):
            return
        counted = self._counters.as_stats()
        for key in _COMPARED_STATS:
            if key in stats and stats[key] != counted[key]:
                self._tell("metadata", f"its metadata says {key} {stats[key]!r}, counted: {counted[key]!r}")
