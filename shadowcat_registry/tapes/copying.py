"""Tapes from one storage into another, of any two kinds."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

from ..backend import TapeQuery
from ..errors import (
    InvalidMetadataError,
    InvalidTapeError,
    InvalidTapeIdError,
    StorageClosedError,
    StorageError,
    StorageUnavailableError,
    TapeBusyError,
    TapeExistsError,
    TapeNotFoundError,
)
from ..recorder import TapeRecorder
from ..storage import TapeStorage
from ..tape import Metadata, checksum_in, checksum_of, parse_init_line, size_of
from .batches import batches, unfinished

CopyOutcome = Literal["copied", "resumed", "identical", "partial", "differs", "busy", "vanished", "failed"]

_ATTEMPTS: Final = 3
"""How often a tape is looked at again that changes, or is being copied by somebody else, meanwhile."""


@dataclass(frozen=True, slots=True)
class CopyResult:
    """What became of one tape."""

    tape_id: str
    outcome: CopyOutcome
    """`copied`, `resumed` (a copy that was interrupted is complete now) and `identical`: the target holds
    the tape, byte for byte, with the metadata of the source. `partial`: so does it, but the tape is still
    being recorded; copying again goes on where this ended. `differs`: another tape has this id there, and
    nothing was changed. `busy`: somebody writes to it there. `vanished`: it was deleted from the source
    meanwhile. `failed`: `problem` says why."""
    line_count: int = 0
    size_bytes: int = 0
    problem: str | None = None
    """Also of a tape that was copied: its source is damaged, and so is the copy, then."""

    @property
    def ok(self) -> bool:
        return self.problem is None and self.outcome not in ("differs", "busy", "failed")

    def as_json(self) -> dict[str, Any]:
        return {
            "tape_id": self.tape_id,
            "outcome": self.outcome,
            "ok": self.ok,
            "line_count": self.line_count,
            "size_bytes": self.size_bytes,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is. `size_bytes` and `total_bytes` go by what the metadata of the tapes says."""

    tape_id: str
    tape_count: int
    """That are done."""
    tape_total: int
    size_bytes: int
    total_bytes: int
    result: CopyResult | None = None
    """Of `tape_id`, once it is done."""


def copy_tapes(
    source: TapeStorage,
    target: TapeStorage,
    *,
    query: TapeQuery | None = None,
    tape_ids: Collection[str] | None = None,
    progress: Callable[[CopyProgress], object] | None = None,
) -> tuple[CopyResult, ...]:
    """Bring every tape of `source` (or those that are asked for) into `target`, verbatim, and return what
    became of each. What is copied is read back, and its SHA-256 compared, before it counts as a tape that has
    ended. A tape that is there already, with the same metadata and a checksum in it, is not read again.

    It may be interrupted at any point, also by a kill: the next one goes on from there. Several may run at
    once. `progress` is called in this thread with each batch and each tape.

    Raises:
        StorageFullError: of the target. What was copied until then stays, and a next copy goes on.
        StorageUnavailableError: the target failed, or the source could not be listed.
        TapeNotFoundError: a tape of `tape_ids` is not there.
        InvalidTapeIdError, StorageClosedError.
    """
    if tape_ids is None:
        wanted = {str(meta["tape_id"]): size_of(meta) for meta in source.list_all(query)}
    else:
        wanted = {tape_id: size_of(source.get_meta(tape_id)[0]) for tape_id in dict.fromkeys(tape_ids)}
    done = _Progress(wanted, progress)
    queue = deque((tape_id, 1) for tape_id in wanted)
    while queue:
        tape_id, attempt = queue.popleft()
        result = _Copy(source, target, tape_id, done).run()
        if result.outcome == "busy" and attempt < _ATTEMPTS and queue:
            queue.append((tape_id, attempt + 1))  # the others first: it may be free then
        else:
            done.add(result)
    return tuple(done.results[tape_id] for tape_id in wanted)


class _Progress:
    def __init__(self, wanted: Mapping[str, int], progress: Callable[[CopyProgress], object] | None) -> None:
        self._wanted = wanted
        self._progress = progress
        self._total_bytes = sum(wanted.values())
        self._done_bytes = 0
        self.results: dict[str, CopyResult] = {}

    def add(self, result: CopyResult) -> None:
        self.results[result.tape_id] = result
        self._done_bytes += self._wanted[result.tape_id]
        self.tell(result.tape_id, 0, result)

    def tell(self, tape_id: str, copied_bytes: int, result: CopyResult | None = None) -> None:
        """So much of this tape."""
        if self._progress is not None:
            size_bytes = self._done_bytes + min(copied_bytes, self._wanted[tape_id])
            total = len(self._wanted), size_bytes, self._total_bytes
            self._progress(CopyProgress(tape_id, len(self.results), *total, result))


class _OneTapeError(Exception):
    """This tape cannot be copied; the next one may be fine."""


class _VanishedError(Exception):
    """The source does not have the tape any more."""


class _OfTheSource:
    """`with _of_the_source:` around what the source does: its failures are no failures of the target."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TapeNotFoundError):
            raise _VanishedError from error
        if isinstance(error, StorageError) and not isinstance(error, StorageClosedError):
            raise _OneTapeError(str(error)) from error


_of_the_source: Final = _OfTheSource()


class _Copy:
    """The copy of one tape."""

    def __init__(self, source: TapeStorage, target: TapeStorage, tape_id: str, progress: _Progress) -> None:
        self._source = source
        self._target = target
        self._tape_id = tape_id
        self._progress = progress
        self._resumed = False
        self._damage: str | None = None
        self._rewind()

    def _rewind(self) -> None:
        self._digest = hashlib.sha256()
        self._line_count = self._size_bytes = 0

    def run(self) -> CopyResult:
        try:
            for _ in range(_ATTEMPTS):
                meta = self._source_meta()
                outcome = self._attempt(meta)
                now = self._source_meta()
                if outcome in ("differs", "busy"):
                    return self._result(outcome)
                if now == meta:
                    break
                # It was ended, renamed or gone on with while we read it: what is there is a beginning.
            if _is_recorded(now):
                return self._result("partial")
            return self._result("resumed" if self._resumed and outcome == "copied" else outcome)
        except (TapeBusyError, TapeExistsError):  # another copy was faster
            return self._result("busy")
        except _VanishedError:
            return self._result("vanished")
        except (
            _OneTapeError,
            InvalidTapeError,
            InvalidTapeIdError,
            InvalidMetadataError,
            TapeNotFoundError,  # deleted from the target meanwhile
        ) as error:
            self._damage = str(error)
            return self._result("failed")

    def _result(self, outcome: CopyOutcome) -> CopyResult:
        return CopyResult(self._tape_id, outcome, self._line_count, self._size_bytes, self._damage)

    def _attempt(self, meta: Metadata) -> CopyOutcome:
        self._rewind()
        try:
            stored, _ = self._target.get_meta(self._tape_id)
        except TapeNotFoundError:
            return self._begin(meta)
        if stored == meta and not _is_recorded(meta) and checksum_in(meta) is not None:
            return "identical"
        if stored == meta and not _is_recorded(meta):
            return "identical" if self._compare(None) else "differs"
        if not _is_recorded(stored):
            return "differs"
        recorder, _ = self._target.resume(self._tape_id)
        try:
            self._resumed = True
            if not self._compare(recorder):
                return "differs"
            self._finish(recorder, meta)
        finally:
            recorder.detach()  # does nothing to a tape that was finished
        return "copied"

    def _begin(self, meta: Metadata) -> CopyOutcome:
        self._check_fits(size_of(meta))
        with closing(self._lines()) as lines:
            init_line = next(lines, b"")
            init = parse_init_line(init_line, self._tape_id)
            if init["tape_id"] != self._tape_id:
                raise _OneTapeError(f"its init record says that it is tape {init['tape_id']}")
            recorder = self._target.adopt(init_line, unfinished(meta))
            try:
                self._append(recorder, lines)
                self._finish(recorder, meta)
            finally:
                recorder.detach()
        return "copied"

    def _compare(self, recorder: TapeRecorder | None) -> bool:
        """Whether the target has the lines of the source: all of them or, for a recorder, the first ones.
        The recorder gets the rest."""
        with closing(self._lines()) as lines, closing(self._target.read(self._tape_id)) as stored:
            for found in stored:
                if next(lines, None) != found:
                    return False
            if recorder is not None:
                self._append(recorder, lines)
            return next(lines, None) is None

    def _append(self, recorder: TapeRecorder, lines: Iterator[bytes]) -> None:
        for batch in batches(lines):
            self._check_fits(self._size_bytes)
            recorder.append_lines(batch, counted=False)
            self._progress.tell(self._tape_id, self._size_bytes)

    def _check_fits(self, size_bytes: int) -> None:
        most = None if self._target.retention is None else self._target.retention.max_tape_bytes
        if most is not None and size_bytes > most:
            raise _OneTapeError(f"the target takes tapes of {most} bytes at most (max_tape_bytes)")

    def _finish(self, recorder: TapeRecorder, meta: Metadata) -> None:
        recorder.flush(durable=True)
        digest = hashlib.sha256()
        with closing(self._target.read(self._tape_id)) as stored:
            for line in stored:
                digest.update(line)
        if digest.digest() != self._digest.digest():
            raise StorageUnavailableError(
                f"tape {self._tape_id!r} does not read back as it was written; the copy was left unfinished"
            )
        expected = checksum_in(meta)
        if expected is not None and not _is_recorded(meta) and expected != checksum_of(self._digest):
            self._damage = "its records are not those that were finalized: their SHA-256 is another"
        recorder.finalize(meta)

    def _source_meta(self) -> dict[str, Any]:
        with _of_the_source:
            return self._source.get_meta(self._tape_id)[0]

    def _lines(self) -> Generator[bytes, None, None]:
        """Of the source; counts and hashes what it gives."""
        with _of_the_source, closing(self._source.read(self._tape_id)) as lines:
            for line in lines:
                self._digest.update(line)
                self._line_count += 1
                self._size_bytes += len(line)
                yield line


def _is_recorded(meta: Mapping[str, Any]) -> bool:
    return meta.get("status") == "recording"
