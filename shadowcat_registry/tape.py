"""Tape format 2.0: one JSON record a line, an `init` record first, append-only.

Ids, lines and metadata as values and bytes; nothing here opens a file. Source of the format: the
Shadowcat tape specification 2.0 and the recordings that came with it. Messages are spliced into
their envelope verbatim, never parsed and written again, because no JSON library gives back what
was on the wire (NaN, big integers, lone surrogates, key order).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic_ns
from typing import Any, Final, Literal, Protocol, get_args
from uuid import uuid4

from .errors import InvalidMessageError, InvalidMetadataError, InvalidTapeError, InvalidTapeIdError
from .marks import Mark
from .metadata import format_time

Direction = Literal["client_to_server", "server_to_client"]
TapeStatus = Literal["recording", "finalized", "aborted"]


class Digest(Protocol):
    """What `hashlib` makes."""

    @property
    def name(self) -> str: ...

    def hexdigest(self) -> str: ...


Metadata = Mapping[str, Any]
"""A tape's `.meta.json`: a JSON object; keys that we do not know are kept."""

FORMAT_VERSION: Final = "2.0"
_LF: Final = 10
_CR: Final = 13
"""As numbers: `bytes` finds a number at once, and other `bytes` only after an exception of its own."""
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)

_tape_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_checksum = re.compile(r"sha256:[0-9a-f]{64}")
_reserved = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_frame_start = re.compile(rb'\{"type":"frame","seq":(\d{1,18}),')


def check_tape_id(tape_id: str) -> str:
    """Return `tape_id` if it is safe as a file name everywhere. It is never rewritten: a sanitiser
    that maps `a/b` and `a_b` to one file would merge two tapes.

    Raises:
        InvalidTapeIdError: it is not `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, holds `..`, ends in a dot,
            or is a device name of Windows.
    """
    if (
        not isinstance(tape_id, str)
        or not _tape_id.fullmatch(tape_id)
        or ".." in tape_id
        or tape_id.endswith(".")
        or _reserved.fullmatch(tape_id)
    ):
        raise InvalidTapeIdError(str(tape_id))
    return tape_id


def new_tape_id() -> str:
    return str(uuid4())


def dump_line(record: Mapping[str, Any]) -> bytes:
    """One record as one line, as compact as the recordings in the field, newline included."""
    # ASCII escapes: a lone surrogate in a name must not be able to break a tape.
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def make_init_line(
    tape_id: str, session_id: str, created_at: datetime, protocol_version: str | None = None
) -> bytes:
    return dump_line(
        {
            "type": "init",
            "version": FORMAT_VERSION,
            "tape_id": tape_id,
            "session_id": session_id,
            "created_at": format_time(created_at),
            "protocol_version": protocol_version,
        }
    )


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record on `line`, or None where it is no JSON object (such a line is kept all the same)."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def parse_init_line(line: bytes, source: str) -> dict[str, Any]:
    """The `init` record that opens a tape.

    Raises:
        InvalidTapeError: it is no init record of format 2.x; the mark is the first line of `source`.
        InvalidTapeIdError: its `tape_id` is not a safe one.
    """

    def refuse(reason: str) -> InvalidTapeError:
        return InvalidTapeError(Mark(source, 1, 1, 1, 1), reason)

    if not line.endswith(b"\n"):
        raise refuse("not a tape: " + ("its first line is cut off" if line else "it is empty"))
    record = parse_line(line)
    if record is None or record.get("type") != "init":
        raise refuse('not a tape: a tape is JSON Lines and opens with {"type":"init",…}')
    version = record.get("version")
    if not isinstance(version, str) or version.split(".")[0] != "2":
        raise refuse(f"tapes of format {str(version)[:20]!r} cannot be read, only those of format 2.x")
    for key in ("tape_id", "session_id"):
        if not isinstance(record.get(key), str):
            raise refuse(f"not a tape: its init record has no {key}")
    check_tape_id(record["tape_id"])
    return record


def frame_seq(line: bytes) -> int | None:
    """The sequence number of the frame on `line`, or None for any other line."""
    if found := _frame_start.match(line):  # how every known recorder writes it; spares a parse
        return int(found[1])
    record = parse_line(line)
    if record is not None and record.get("type") == "frame":
        seq = record.get("seq")
        return seq if isinstance(seq, int) and not isinstance(seq, bool) else None
    return None


def lines_after(lines: Iterable[bytes], after_seq: int) -> Iterator[bytes]:
    """The lines behind the frame `after_seq`; all of them, `init` included, for -1."""
    iterator = iter(lines)
    if after_seq >= 0:
        for line in iterator:
            seq = frame_seq(line)
            if seq is not None and seq >= after_seq:
                if seq > after_seq:
                    yield line
                break
    yield from iterator


def check_message(message: bytes) -> bytes:
    """Return `message` if it can stand on a line of its own.

    Raises:
        InvalidMessageError: it is empty or blank, or holds a CR or LF.
        TypeError: it is not `bytes`: text has to be encoded by whoever knows how it was on the wire.
    """
    if not isinstance(message, bytes):
        raise TypeError(f"a message is bytes, as it was on the wire, not {type(message).__name__}")
    if _LF in message or _CR in message:
        raise InvalidMessageError("it holds a CR or LF, and a record is one line; strip the line end first")
    if not message or message.isspace():
        raise InvalidMessageError("it is empty")
    return message


def check_direction(direction: str) -> None:
    """Raises: ValueError: it is none."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is one of {', '.join(DIRECTIONS)}, not {direction!r}")


class FrameEncoder:
    """Builds the lines of one recording, in constant memory. Not thread-safe: its recorder is.

    `ts` is measured on a clock that never goes back; `timestamp` is the start plus `ts`, so that the
    two always agree and a change of the system's clock cannot reorder a tape.
    """

    def __init__(
        self,
        session_id: str,
        started_at: datetime,
        *,
        elapsed_ms: int = 0,
        clock_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._clock_ns = clock_ns
        self._zero_ns = clock_ns() - elapsed_ms * 1_000_000
        self._started_ms = round(started_at.timestamp() * 1000)
        self._second = -1
        self._second_text = b""
        self._heads = {d: f',"dir":"{d}","env":{{"message":'.encode() for d in DIRECTIONS}
        self._middles = {d: f',"direction":"{d}","timestamp":"'.encode() for d in DIRECTIONS}
        self._tail = b'Z","session_id":' + json.dumps(session_id).encode() + b"}}\n"
        self.last_ms = elapsed_ms

    def encode(self, direction: Direction, message: bytes, seq: int) -> bytes:
        """The line of one frame.

        Raises:
            InvalidMessageError, TypeError: as `check_message`.
            ValueError: `direction` is none.
        """
        check_message(message)
        try:
            head, middle = self._heads[direction], self._middles[direction]
        except KeyError:
            check_direction(direction)
            raise
        milli = self._tick()
        return b'{"type":"frame","seq":%d,"ts":%d%b%b%b%b%03d%b' % (
            seq, self.last_ms, head, message, middle, self._second_text, milli, self._tail,
        )  # fmt: skip

    def encode_many(self, frames: Iterable[tuple[Direction, bytes]], first_seq: int) -> list[bytes]:
        """The lines of frames that are recorded at one moment, which is the `ts` of them all. Their messages
        have been checked by `check_message`.

        Raises:
            ValueError: a direction is none.
        """
        milli = self._tick()
        heads = {d: b',"ts":%d%b' % (self.last_ms, head) for d, head in self._heads.items()}
        tails = {
            d: b"%b%b%03d%b" % (m, self._second_text, milli, self._tail) for d, m in self._middles.items()
        }
        lines: list[bytes] = []
        seq = first_seq
        for direction, message in frames:
            try:
                head, tail = heads[direction], tails[direction]
            except KeyError:
                check_direction(direction)
                raise
            lines.append(b'{"type":"frame","seq":%d%b%b%b' % (seq, head, message, tail))
            seq += 1
        return lines

    def _tick(self) -> int:
        """Takes the time, and returns the milliseconds of `timestamp`; its second is in `_second_text`."""
        self.last_ms = elapsed_ms = (self._clock_ns() - self._zero_ns) // 1_000_000
        second, milli = divmod(self._started_ms + elapsed_ms, 1000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.").encode()
        return milli


@dataclass(slots=True)
class TapeCounters:
    """Running statistics of one tape: a fixed number of integers, however long it gets."""

    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DIRECTIONS, 0))
    frame_count: int = 0
    line_count: int = 1
    """The `init` line counts too."""
    last_seq: int = -1
    last_ts_ms: int = 0
    correlation_count: int = 0
    checkpoint_count: int = 0
    error_count: int = 0
    unparsed_count: int = 0
    size_bytes: int = 0
    is_partial: bool = False
    """There are lines that were not looked at, so that these are no statistics of the tape."""

    def add_frame(self, direction: str, seq: int, ts_ms: int, size_bytes: int) -> None:
        if direction in self.frames:  # a tape from elsewhere may hold anything; two integers it stays
            self.frames[direction] += 1
        self.frame_count += 1
        if seq > self.last_seq:  # lines that come from elsewhere may stand in any order
            self.last_seq = seq
        self.line_count += 1  # behind the seq: whoever looks meanwhile finds no line without its seq
        self.last_ts_ms = ts_ms
        self.size_bytes += size_bytes

    def add_frames(
        self, directions: Iterable[str], first_seq: int, lines: Sequence[bytes], ts_ms: int
    ) -> None:
        """`add_frame` for new frames that follow each other."""
        for direction in directions:
            self.frames[direction] += 1
        self.frame_count += len(lines)
        self.last_seq = first_seq + len(lines) - 1
        self.last_ts_ms = ts_ms
        self.size_bytes += sum(map(len, lines))
        self.line_count += len(lines)  # last, as above

    def add_line(self, line: bytes) -> dict[str, Any] | None:
        """Count a line as it was found, by parsing it, and return the record on it; one that cannot be
        parsed counts as such."""
        record = parse_line(line)
        kind = record.get("type") if record is not None else None
        if record is not None and kind == "frame" and isinstance(record.get("seq"), int):
            ts = record.get("ts")
            self.add_frame(str(record.get("dir")), record["seq"], ts if isinstance(ts, int) else 0, len(line))
            flags = record.get("flags")
            self.error_count += isinstance(flags, dict) and flags.get("is_error") is True
            return record
        self.size_bytes += len(line)
        self.line_count += 1
        self.correlation_count += kind == "correlation"
        self.checkpoint_count += kind == "checkpoint"
        self.unparsed_count += not isinstance(kind, str)
        return record

    def pass_line(self, line: bytes) -> None:
        """Note a line whose statistics are known elsewhere: that it is there, and its `seq`."""
        seq = frame_seq(line)
        if seq is not None and seq > self.last_seq:
            self.last_seq = seq
        self.size_bytes += len(line)
        self.line_count += 1  # last, as above
        self.is_partial = True

    def as_stats(self) -> dict[str, Any]:
        """The `stats` object of `.meta.json`."""
        return {
            "frame_count": self.frame_count,
            "duration_ms": self.last_ts_ms,
            "message_counts": dict(self.frames),
            "error_count": self.error_count,
            "correlation_count": self.correlation_count,
            "file_size_bytes": self.size_bytes,
            "last_sequence": self.last_seq,
            "checkpoint_count": self.checkpoint_count,
        }


def make_metadata(
    init: Mapping[str, Any],
    status: TapeStatus,
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    stats: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Metadata for a tape that has none of its own, from its `init` record."""
    return {
        "tape_id": init["tape_id"],
        "name": name,
        "description": None,
        "tags": list(tags),
        "session_id": init.get("session_id"),
        "created_at": init.get("created_at"),
        "updated_at": init.get("created_at"),
        "finalized_at": None,
        "status": status,
        "protocol_version": init.get("protocol_version"),
        "stats": dict(stats) if stats is not None else TapeCounters().as_stats(),
    }


def checksum_of(digest: Digest) -> str:
    """The `checksum` of a `.meta.json`, of a SHA-256 over all lines of the tape: what `sha256sum` says of
    its file, with the name of the function before it."""
    return f"{digest.name}:{digest.hexdigest()}"


def checksum_in(metadata: Metadata) -> str | None:
    """The checksum that a tape's metadata has, if it is one of ours: other recorders may write others."""
    checksum = metadata.get("checksum")
    return checksum if isinstance(checksum, str) and _checksum.fullmatch(checksum) else None


def size_of(metadata: Metadata) -> int:
    """The bytes of a tape's lines, as its metadata says; 0 where it does not say."""
    stats = metadata.get("stats")
    size_bytes = stats.get("file_size_bytes") if isinstance(stats, Mapping) else None
    return max(size_bytes, 0) if isinstance(size_bytes, int) else 0


def dump_metadata(tape_id: str, metadata: Metadata) -> bytes:
    """The bytes of a `.meta.json`: byte for byte what the recorders in the field write.

    Raises:
        InvalidMetadataError: it is not a JSON object, or it belongs to another tape.
    """
    if metadata.get("tape_id", tape_id) != tape_id:
        raise InvalidMetadataError(tape_id, f"it belongs to tape {str(metadata['tape_id'])[:140]!r}")
    try:
        text = json.dumps(dict(metadata), indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: escaped, it is still the same JSON string
        return json.dumps(dict(metadata), indent=2, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMetadataError(tape_id, f"it cannot be written as JSON: {error}") from error


def load_metadata(tape_id: str, text: bytes) -> dict[str, Any]:
    """The reverse of `dump_metadata`.

    Raises:
        InvalidMetadataError: as there.
    """
    record = parse_line(text)
    if record is None:
        raise InvalidMetadataError(tape_id, "it is not a JSON object")
    if record.get("tape_id", tape_id) != tape_id:
        raise InvalidMetadataError(tape_id, f"it belongs to tape {str(record['tape_id'])[:140]!r}")
    return record
