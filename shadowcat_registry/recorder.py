"""What writes one tape: frames in their order, how far they are durable, and the end of the tape.

What is common to all storages is done here, once: sequence numbers, envelopes, statistics. Knows no kind of
storage.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from .backend import Appender
from .errors import InvalidMessageError, RegistryError, StorageFullError
from .gathering import Batch
from .open_tape import OpenTape
from .tape import Direction, FrameEncoder, Metadata, TapeCounters, check_message
from .translation import translate, translated
from .use import FORKED

if TYPE_CHECKING:
    from .frame_queue import FrameQueue
    from .storage import TapeStorage  # only a word in a signature: nothing is imported from above

_logger = logging.getLogger(__name__)

OnFull = Literal["raise", "drop"]
"""What a recorder does with a frame for which there is no space: say so, and the caller decides; or leave it
out, count it in `dropped`, and go on as soon as there is space again."""

_LONGEST_MS: Final = 10**13  # three centuries: no believable tape is longer


class TapeRecorder:
    """Writes one tape. Thread-safe; frames get their `seq` in the order in which they get in.

    As a context manager it finalizes the tape, or aborts it when the block is left by an error.
    """

    _own_queue: FrameQueue | None = None

    def __init__(
        self,
        storage: TapeStorage,
        init: Mapping[str, Any],
        appender: Appender,
        counters: TapeCounters,
        on_full: OnFull = "raise",
    ) -> None:
        self.tape_id: Final[str] = init["tape_id"]
        self.session_id: Final[str] = init["session_id"]
        self._storage = storage  # the lease lives as long as its last recorder
        self.tape = OpenTape(storage.use, self.tape_id, appender, counters)
        self._appender = appender
        self._counters = counters
        self._encoder = encoder_for(init, counters)
        self._next_seq = counters.last_seq + 1
        self._drops = on_full == "drop"
        self._full_reason = ""
        self._told_full = False
        self._sync = self.tape.sync
        self._followers = storage.use.source.followers
        self.dropped = 0
        """How many frames were left out since the storage was full, where that was asked for."""

    def __repr__(self) -> str:
        return f"<TapeRecorder tape_id={self.tape_id!r} accepted_seq={self.accepted_seq}>"

    @property
    def accepted_seq(self) -> int:
        """Of the last frame that was acknowledged, -1 before the first."""
        return self._counters.last_seq

    @property
    def durable_seq(self) -> int:
        """Of the last frame that, with all before it, outlives a loss of power; -1: of none that is known. A
        storage that promises nothing of the kind (`memory`) never gets further than that."""
        return self._sync.durable_seq

    @property
    def line_count(self) -> int:
        """How many lines the tape has, the `init` line included."""
        return self._counters.line_count

    @property
    def unparsed_count(self) -> int:
        """How many lines were added by `append_lines`, or found by `resume`, that are no records."""
        return self._counters.unparsed_count

    def append(self, direction: Direction, message: bytes) -> int:
        """Add one frame and return its `seq`; on return it outlives this process, and what else the
        `durability` of the storage says. `message` is spliced in as it is, not parsed. After an error the
        frame is not in the tape, its `seq` is used by the next one, and the recorder goes on.

        Raises:
            InvalidMessageError: it is empty, or holds a CR or LF.
            StorageClosedError: the tape has ended.
            StorageFullError, StorageUnavailableError.
            SyncFailedError: an earlier frame, or with `durability: frame` this one, which then is in the
                tape, may not outlive a loss of power.
        """
        gathering, sync = self.tape.gathering, self._sync
        if gathering is not None:
            seq = gathering.append(self._write_one, self._write, sync.cover, direction, message)
        else:
            seq, line_count = self._write_one(direction, message)
            if not sync.is_noted:
                sync.appended(line_count)
        if self._followers.all:
            self._followers.ring(self.tape_id)
        if self._full_reason or self._told_full:
            self._tell_full()
        return seq

    def _write_one(self, direction: Direction, message: bytes) -> tuple[int, int]:
        """Returns its `seq`, and how many lines the tape has then."""
        with self.tape.lock:
            if not self.tape.is_open:
                self.tape.check_open()
            if self._sync.failure is not None:
                self._sync.check()
            seq = self._next_seq
            line = self._encoder.encode(direction, message, seq)
            # Taken before the write: an interrupt in the middle of it leaves a gap, never a double.
            self._next_seq = seq + 1
            try:
                self._appender.append((line,))
            except Exception as error:
                if not self._is_dropped(error, 1):
                    self._next_seq = seq
                    translation = translate(error)
                    if translation is error:
                        raise
                    raise translation from error
            else:
                self._full_reason = ""
                self._counters.add_frame(direction, seq, self._encoder.last_ms, len(line))
            return seq, self._counters.line_count

    def append_many(self, frames: Iterable[tuple[Direction, bytes]]) -> range:
        """Add frames in one write and return their `seq`s: all of them are in the tape, or, after an
        error, none. `frames` is held in memory.

        Raises:
            As `append`.
        """
        batch = tuple(frames)  # before the lock: an iterable is foreign code
        for _, message in batch:
            check_message(message)
        return self._append_checked(batch)

    def _append_checked(self, frames: Sequence[tuple[Direction, bytes]]) -> range:
        batch = Batch(frames)
        line_count = self._write(batch)
        seqs = batch.seqs or range(0)
        if seqs:
            self._appended(line_count)
        return seqs

    def _write(self, batch: Batch) -> int:
        """Returns how many lines the tape has then; says in the batch what its `seqs` are."""
        with self.tape.lock:
            self.tape.check_open()
            if self._sync.failure is not None:
                self._sync.check()
            first = self._next_seq
            lines = self._encoder.encode_many(batch.frames, first)
            seqs = range(first, first + len(lines))
            if lines:
                directions = [direction for direction, _ in batch.frames]
                self._next_seq = seqs.stop
                try:
                    self._appender.append(lines)
                except Exception as error:
                    if not (batch.drops and self._is_dropped(error, len(lines))):
                        self._next_seq = first
                        raise translate(error) from error
                    batch.seqs = seqs
                else:
                    batch.seqs = seqs  # at once: an interrupt from here on leaves no doubt
                    self._full_reason = ""
                    self._counters.add_frames(directions, first, lines, self._encoder.last_ms)
            else:
                batch.seqs = seqs
            return self._counters.line_count

    def append_lines(self, lines: Iterable[bytes], *, counted: bool = True) -> int:
        """Add whole lines verbatim, in one write, and count what is on them; returns how many. Later
        frames go on behind the highest `seq` among them. They are never dropped. Without `counted` they are
        not parsed: for a tape that ends with metadata from elsewhere. One that ends without any keeps the
        `stats` that it has.

        Raises:
            InvalidMessageError: one of them does not end in its only newline; none was added.
            StorageClosedError, StorageFullError, StorageUnavailableError, SyncFailedError.
        """
        batch = tuple(lines)
        for line in batch:
            if not line.endswith(b"\n") or line.count(b"\n") != 1:
                raise InvalidMessageError("a raw line ends in a newline, and holds no other")
        with self.tape.lock:
            self.tape.check_open()
            if self._sync.failure is not None:
                self._sync.check()
            if not batch:
                return 0
            with translated:
                self._appender.append(batch)
            add = self._counters.add_line if counted else self._counters.pass_line
            for line in batch:
                add(line)
            self._next_seq = max(self._next_seq, self._counters.last_seq + 1)
            line_count = self._counters.line_count
        self._appended(line_count)
        return len(batch)

    def _appended(self, line_count: int) -> None:
        if not self._sync.is_noted:
            self._sync.appended(line_count)
        self._announce()

    def _announce(self) -> None:
        if self._followers.all:
            self._followers.ring(self.tape_id)
        if self._full_reason or self._told_full:
            self._tell_full()

    def _is_dropped(self, error: Exception, frame_count: int) -> bool:
        """Whether these frames are left out, since the storage is full: their `seq`s stay as a gap."""
        if not self._drops or not isinstance(translate(error), StorageFullError):
            return False
        self.dropped += frame_count
        self._full_reason = str(translate(error))
        return True

    def _tell_full(self) -> None:
        """Once when frames begin to be dropped, and once when that is over. Not under the lock: a handler of
        a log is foreign code."""
        with self.tape.lock:
            reason, was_told = self._full_reason, self._told_full
            self._told_full = bool(reason)
        if reason and not was_told:
            _logger.warning("tape %s drops frames: %s", self.tape_id, reason)
        elif was_told and not reason:
            _logger.warning("tape %s goes on; %d frames were dropped so far", self.tape_id, self.dropped)

    def flush(self, durable: bool = False) -> None:
        """Every acknowledged frame has left this process already; with `durable` it outlives a loss of
        power too, as far as the storage can promise that at all.

        Raises:
            StorageClosedError: the tape has ended.
            SyncFailedError: with `durable` always once a sync has failed, without it if nobody was told yet.
        """
        with self.tape.lock:
            self.tape.check_open()
            line_count = self._counters.line_count
        if durable:
            self._sync.cover(line_count)
        elif self._sync.failure is not None:
            self._sync.check()

    def finalize(self, metadata: Metadata | None = None) -> None:
        """End the tape: everything in it is durable before its metadata says `finalized`. Statistics
        are written, what others set meanwhile is kept; a given `metadata` is stored as it is instead.
        Idempotent, also after `abort`. After an error the tape is free for others all the same.

        Raises:
            StorageFullError, StorageUnavailableError, TapeNotFoundError, InvalidMetadataError.
            SyncFailedError: not everything is durable; the tape stays what it was, `recording`.
            RegistryForkedError: this is a forked child, and the tape is its parent's.
        """
        if self.tape.use.state == FORKED:
            self.tape.check_open()
        self.tape.end("finalized", metadata)

    def abort(self) -> None:
        """End the tape as `aborted`, with every frame kept. Otherwise as `finalize`."""
        self.tape.end("aborted", None)

    def detach(self) -> None:
        """Give the tape free as it is, status `recording`, for a later `resume`. Idempotent."""
        self.tape.end(None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finalize()
            return
        try:
            self.abort()
        except RegistryError as failure:  # the error that ends the block says more
            _logger.warning("tape %s could not be marked as aborted: %s", self.tape_id, failure)

    # -- awaited: off the loop, in the order in which they were asked for, frames in batches

    async def aappend(self, direction: Direction, message: bytes) -> int:
        """`append`, awaited. Any number may wait at once, from any loops: their frames are written together,
        and each is answered when its own is. One that is cancelled before that is not recorded, or was
        already."""
        queue = self._own_queue
        if queue is None or self.tape.use.state == FORKED:
            queue = self._queue()
        return await queue.append(self._append_checked, direction, message)

    async def aappend_many(self, frames: Iterable[tuple[Direction, bytes]]) -> range:
        """`append_many`, awaited, behind every frame that was asked for before."""
        batch = tuple(frames)  # here: an iterable may belong to its loop
        return await self._queue().run(partial(self.append_many, batch))

    async def aflush(self, durable: bool = False) -> None:
        """`flush`, awaited, behind every frame that was asked for before."""
        await self._queue().run(partial(self.flush, durable))

    async def afinalize(self) -> None:
        """`finalize`, awaited, behind every frame that was asked for before. It goes on also if it is
        cancelled."""
        await self._queue().end(self.finalize)

    async def aabort(self) -> None:
        """`abort`, awaited, behind every frame that was asked for before. It goes on also if it is
        cancelled."""
        await self._queue().end(self.abort)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._queue().end(partial(self.__exit__, kind, error, trace))

    def _queue(self) -> FrameQueue:
        if self.tape.use.state == FORKED:  # the parent's may look busy here for ever
            self.tape.check_open()
        if self._own_queue is None:
            from .frame_queue import FrameQueue

            self.__dict__.setdefault("_own_queue", FrameQueue())  # one step: of two, the first counts
        assert self._own_queue is not None  # noqa: S101 - it was made here, or by another
        return self._own_queue


def encoder_for(init: Mapping[str, Any], counters: TapeCounters) -> FrameEncoder:
    """An encoder that goes on where the tape stands: `ts` counts from the start of the tape and never
    falls behind its last frame, also where the system's clock did."""
    now = datetime.now(UTC)
    try:
        started_at = datetime.fromisoformat(str(init.get("created_at")))
        if started_at.tzinfo is None:
            started_at = started_at.replace(tzinfo=UTC)
    except ValueError:
        started_at = now
    if not 1970 <= started_at.year <= 2999:  # a tape from elsewhere: no later frame may fail over it
        started_at = now
    elapsed_ms = round((now - started_at).total_seconds() * 1000)
    last_ms = min(counters.last_ts_ms, _LONGEST_MS)
    return FrameEncoder(init["session_id"], started_at, elapsed_ms=max(elapsed_ms, last_ms, 0))
