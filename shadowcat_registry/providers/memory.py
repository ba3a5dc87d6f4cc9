"""Tapes in the memory of this process, bounded in bytes and in number, for tests and CI.

Behaves as the filesystem provider does, down to etags, busy tapes and readers during a recording. They
are gone with the backend; `sync` promises nothing more than `append` did. Ids come checked.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..backend import (
    Appender,
    CreateContext,
    Durability,
    FrameReader,
    Page,
    RepairReport,
    StorageStats,
    TapeQuery,
)
from ..errors import (
    MetadataConflictError,
    StorageClosedError,
    StorageFullError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..frame_index import FrameIndex
from ..metadata import Config, ProviderCapability
from ..retention import Retention
from ..schema_files import provider_schema
from ..tape import Metadata, dump_metadata, frame_seq, lines_after, load_metadata, new_tape_id

_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_TAPES: Final = 1000
_METADATA_BYTES: Final = 4096
"""Reserved with each tape, so that a tape which has filled the storage can still be finalized."""


class MemoryProviderFactory:
    name = "memory"
    display_name = "Memory"
    version = "1.0.0"
    description = "Tapes in the memory of the process, bounded, for tests"
    capabilities: frozenset[ProviderCapability] = frozenset()

    def config_schema(self) -> Mapping[str, Any]:
        return provider_schema(self.name)

    def validate_config(self, config: Config) -> None:
        """The schema says it all."""

    def create(self, config: Config, context: CreateContext) -> MemoryBackend:
        max_bytes, max_tapes = _bounds(config)
        return MemoryBackend(
            context.logger,
            max_bytes=max_bytes,
            max_tapes=max_tapes,
            retention=Retention.of(config),
            deterministic_ids=config.get("deterministic_ids", False),
        )

    def check(self, config: Config, context: CreateContext) -> None:
        """There is nothing that could be missing."""


@dataclass(slots=True, eq=False)
class _Tape:
    tape_id: str
    lines: list[bytes]
    line_bytes: int
    metadata: bytes
    ended: bool
    writer: _MemoryAppender | None = None

    @property
    def size_bytes(self) -> int:
        """What it counts for; at least the reserve for its metadata."""
        return self.line_bytes + max(len(self.metadata), _METADATA_BYTES)


class MemoryBackend:
    storage_type = "memory"
    durability = Durability("none", volatile=True)

    def __init__(
        self,
        logger: logging.Logger,
        *,
        max_bytes: int,
        max_tapes: int,
        retention: Retention | None = None,
        deterministic_ids: bool = False,
    ) -> None:
        self.retention: Final = retention
        self._deterministic_ids = deterministic_ids
        self._last_id = 0
        self._logger = logger
        self._max_bytes = max_bytes
        self._max_tapes = max_tapes
        # Guards everything below and every tape in it; nothing outside of this module is called under
        # it. Only `lines` is also read without: it just grows, and a reader goes up to its length.
        self._lock = threading.Lock()
        self._tapes: dict[str, _Tape] = {}  # in the order of creation, which is that of eviction
        self._size_bytes = 0
        self._closed = False

    def new_tape_id(self) -> str:
        if not self._deterministic_ids:
            return new_tape_id()
        with self._lock:
            while True:
                self._last_id += 1
                tape_id = f"tape-{self._last_id:06}"
                if tape_id not in self._tapes:
                    return tape_id

    def create(self, tape_id: str, init_line: bytes, meta: Metadata) -> Appender:
        text = dump_metadata(tape_id, meta)
        tape = _Tape(tape_id, [init_line], len(init_line), text, _has_ended(meta))
        with self._lock:
            self._check_open()
            if tape_id in self._tapes:
                raise TapeExistsError(tape_id)
            evicted = self._make_room(tape.size_bytes, tapes=1)
            self._tapes[tape_id] = tape
            self._size_bytes += tape.size_bytes
            tape.writer = appender = _MemoryAppender(self, tape)
        self._tell(evicted)
        return appender

    def resume(self, tape_id: str) -> tuple[Appender, RepairReport]:
        with self._lock:
            tape = self._tape(tape_id)
            if tape.writer is not None:
                raise TapeBusyError(tape_id)
            tape.writer = appender = _MemoryAppender(self, tape)
        seqs = (frame_seq(line) for line in tape.lines)  # nobody else can add to it now
        last_seq = max((seq for seq in seqs if seq is not None), default=-1)
        return appender, RepairReport(tape_id, last_seq, len(tape.lines))

    def read(self, tape_id: str, after_seq: int = -1) -> Iterator[bytes]:
        with self._lock:
            lines = self._tape(tape_id).lines
        return lines_after(_growing(lines), after_seq)

    def reader(self, tape_id: str) -> FrameReader:
        with self._lock:
            return _MemoryFrameReader(self, self._tape(tape_id))

    def list(self, query: TapeQuery, cursor: str | None, limit: int) -> Page:
        with self._lock:
            self._check_open()
            texts = sorted(
                (tape.tape_id, tape.metadata)
                for tape in self._tapes.values()
                if cursor is None or tape.tape_id > cursor
            )
        items: list[dict[str, Any]] = []
        for tape_id, text in texts:
            meta = {**load_metadata(tape_id, text), "tape_id": tape_id}
            if query.matches(meta):
                if len(items) == limit:
                    return Page(tuple(items), items[-1]["tape_id"])
                items.append(meta)
        return Page(tuple(items))

    def get_meta(self, tape_id: str) -> tuple[dict[str, Any], str]:
        with self._lock:
            text = self._tape(tape_id).metadata
        return load_metadata(tape_id, text), _etag(text)

    def set_meta(self, tape_id: str, meta: Metadata, if_match: str | None) -> str:
        text = dump_metadata(tape_id, meta)
        with self._lock:
            tape = self._tape(tape_id)
            if if_match is not None and if_match != _etag(tape.metadata):
                raise MetadataConflictError(tape_id)
            grown = max(len(text), _METADATA_BYTES) - max(len(tape.metadata), _METADATA_BYTES)
            evicted = self._make_room(grown, keep=tape)
            tape.metadata, tape.ended = text, _has_ended(meta)
            self._size_bytes += grown
        self._tell(evicted)
        return _etag(text)

    def delete(self, tape_id: str) -> None:
        with self._lock:
            tape = self._tape(tape_id)
            if tape.writer is not None:
                raise TapeBusyError(tape_id)
            self._forget(tape)

    def stats(self) -> StorageStats:
        with self._lock:
            self._check_open()
            size = sum(tape.line_bytes + len(tape.metadata) for tape in self._tapes.values())
            return StorageStats(len(self._tapes), size)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._tapes.clear()
            self._size_bytes = 0

    def reconfigure(self, config: Config) -> _Resizing | None:
        """Other bounds, for the tapes that are there. Lower ones evict nothing before the next write. Another
        retention needs another backend: its handles have it."""
        if Retention.of(config) != self.retention:
            return None
        return _Resizing(self, *_bounds(config))

    def resize(self, max_bytes: int, max_tapes: int) -> None:
        with self._lock:
            self._max_bytes, self._max_tapes = max_bytes, max_tapes

    def check_there(self, tape: _Tape) -> None:
        """Raises: TapeNotFoundError: it has been deleted, or made room."""
        with self._lock:
            if self._tape(tape.tape_id) is not tape:
                raise TapeNotFoundError(tape.tape_id)

    # -- for the appender -----------------------------------------------------------------------

    def add(self, tape: _Tape, writer: _MemoryAppender, lines: Sequence[bytes]) -> None:
        size_bytes = sum(map(len, lines))
        with self._lock:
            self._check_open()
            if tape.writer is not writer:
                raise StorageClosedError(f"the appender of tape {tape.tape_id!r}")
            evicted = self._make_room(size_bytes, keep=tape)
            tape.lines.extend(lines)
            tape.line_bytes += size_bytes
            self._size_bytes += size_bytes
        self._tell(evicted)

    def set_free(self, tape: _Tape, writer: _MemoryAppender) -> None:
        with self._lock:
            if tape.writer is writer:
                tape.writer = None

    # -- under the lock -------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise StorageClosedError("the memory storage")

    def _tape(self, tape_id: str) -> _Tape:
        self._check_open()
        try:
            return self._tapes[tape_id]
        except KeyError:
            raise TapeNotFoundError(tape_id) from None

    def _forget(self, tape: _Tape) -> None:
        del self._tapes[tape.tape_id]
        self._size_bytes -= tape.size_bytes

    def _make_room(self, size_bytes: int, *, tapes: int = 0, keep: _Tape | None = None) -> tuple[str, ...]:
        """Evict tapes that have ended, oldest first, until this fits; none at all where it cannot fit."""
        excess_bytes = self._size_bytes + size_bytes - self._max_bytes
        excess_tapes = len(self._tapes) + tapes - self._max_tapes
        if size_bytes <= 0 and not tapes:
            return ()
        chosen: list[_Tape] = []
        for tape in self._tapes.values():
            if excess_bytes <= 0 and excess_tapes <= 0:
                break
            if tape.ended and tape.writer is None and tape is not keep:
                chosen.append(tape)
                excess_bytes -= tape.size_bytes
                excess_tapes -= 1
        if excess_bytes > 0:
            raise StorageFullError(f"it holds {self._max_bytes} bytes at most, and nothing can be evicted")
        if excess_tapes > 0:
            raise StorageFullError(f"it holds {self._max_tapes} tapes at most, and nothing can be evicted")
        for tape in chosen:
            self._forget(tape)
        return tuple(tape.tape_id for tape in chosen)

    def _tell(self, evicted: Sequence[str]) -> None:
        for tape_id in evicted:  # outside of the lock: a log handler is foreign code
            self._logger.warning(
                "the memory storage is full: tape %s, the oldest that has ended, made room", tape_id
            )


@dataclass(frozen=True, slots=True)
class _Resizing:
    backend: MemoryBackend
    max_bytes: int
    max_tapes: int

    def apply(self) -> None:
        self.backend.resize(self.max_bytes, self.max_tapes)

    def discard(self) -> None:
        """Nothing was got ready."""


class _MemoryAppender:
    def __init__(self, backend: MemoryBackend, tape: _Tape) -> None:
        self._backend = backend
        self._tape = tape

    def append(self, lines: Sequence[bytes]) -> None:
        self._backend.add(self._tape, self, lines)

    def sync(self) -> None:
        """Nothing here outlives the process, and so nothing can outlive more than that."""

    def close(self) -> None:
        self._backend.set_free(self._tape, self)


class _MemoryFrameReader:
    """The places in its index are the numbers of lines."""

    def __init__(self, backend: MemoryBackend, tape: _Tape) -> None:
        self._backend = backend
        self._tape = tape
        self._index = FrameIndex()
        # Held by the one who adds to the index; the lines, and nothing else, are looked at under it.
        self._adding = threading.Lock()

    def frame(self, seq: int) -> bytes | None:
        span = self._index.span(seq) or self._caught_up().span(seq)
        if span is None:
            self._backend.check_there(self._tape)
            return None
        return self._tape.lines[span[0]]

    def read(self, after_seq: int) -> Iterator[bytes]:
        lines = self._tape.lines
        if after_seq < 0:
            return _growing(lines)
        index = self._index
        found = index.first_from(after_seq) or (index := self._caught_up()).first_from(after_seq)
        return lines_after(_growing(lines, index.end if found is None else found[1]), after_seq)

    def close(self) -> None:
        """It holds what the tape holds."""

    def _caught_up(self) -> FrameIndex:
        lines = self._tape.lines
        with self._adding:
            index = self._index
            try:
                for number in range(index.end, len(lines)):
                    seq = frame_seq(lines[number])
                    if seq is not None:
                        index.add(seq, number)
                    index.end = number + 1
            except BaseException:
                self._index = FrameIndex()  # wherever it was interrupted
                raise
        return index


def _growing(lines: Sequence[bytes], position: int = 0) -> Iterator[bytes]:
    while position < len(lines):
        yield lines[position]
        position += 1


def _bounds(config: Config) -> tuple[int, int]:
    return config.get("max_bytes", _MAX_BYTES), config.get("max_tapes", _MAX_TAPES)


def _has_ended(meta: Metadata) -> bool:
    return meta.get("status") in {"finalized", "aborted"}


def _etag(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
