"""A tape file into a storage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Self

from ..errors import StorageError, TapeExistsError
from ..marks import Mark
from ..recorder import TapeRecorder
from ..storage import TapeStorage
from ..tape import TapeCounters, load_metadata, make_metadata, parse_init_line
from ..translation import translated
from .batches import batches, unfinished

_logger = logging.getLogger(__name__)

ImportOutcome = Literal["imported", "identical", "differs", "resumed"]

_LONGEST_INIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of a tape file. Only `differs` means that the storage does not hold it now."""

    tape_id: str
    outcome: ImportOutcome
    """`identical`: it was there already, byte for byte; `differs`: another tape has this id, and
    nothing was changed; `resumed`: an import that was killed half-way is complete now."""
    line_count: int
    """Whole lines in the file, the `init` line included."""
    torn_bytes: int = 0
    """Of an unfinished last line, which is no data and was left out."""
    unparsed_count: int = 0
    """Whole lines that are no records; they are kept."""
    first_unparsed: Mark | None = None


def import_tape(storage: TapeStorage, path: str | PathLike[str]) -> ImportResult:
    """Store a tape file, verbatim, under the id in its `init` line, in constant memory. A `.meta.json`
    beside it becomes its metadata as it is; without one that is made, status `finalized`. An import
    that fails leaves nothing behind; one that was killed is completed by the next.

    Raises:
        InvalidTapeError: the file is not a tape; the mark says where.
        InvalidTapeIdError, InvalidMetadataError.
        TapeBusyError: somebody records on a tape of this id, or imports it.
        StorageUnavailableError: the file cannot be read, or the storage failed.
        StorageFullError, StorageClosedError.
    """
    with _TapeFile(Path(path)) as source:
        metadata = source.metadata()
        # Until the last line is in, the tape says `recording`: so the next import knows a killed one.
        beginning = unfinished(source.made_metadata() if metadata is None else metadata)
        try:
            recorder = storage.adopt(source.init_line, beginning)
        except TapeExistsError:
            return _import_again(storage, source, metadata)
        try:
            _copy(source, recorder, metadata)
        except BaseException:
            _drop(storage, recorder)
            raise
        return source.result("imported")


def _import_again(storage: TapeStorage, source: _TapeFile, metadata: dict[str, Any] | None) -> ImportResult:
    """The id is taken: by the same tape, by the beginning of it, or by another one."""
    stored_count = _matching_lines(storage, source)
    if stored_count is None:
        return source.result("differs")
    stored, _ = storage.get_meta(source.tape_id)
    complete = stored_count == source.counters.line_count
    if metadata is None:
        same, is_half = stored.get("status") != "recording", stored.get("status") == "recording"
    else:
        same, is_half = stored == metadata, stored == unfinished(metadata)
    if complete and same:
        return source.result("identical")
    if not is_half:
        return source.result("differs")
    recorder, _ = storage.resume(source.tape_id)
    try:
        stored_count = _matching_lines(storage, source)  # again: until now others could write to it
        if stored_count is None:
            recorder.abort()
            return source.result("differs")
        _copy(source, recorder, metadata, skip=stored_count - 1)
    finally:
        recorder.detach()  # after an error it stays as unfinished as it was
    return source.result("resumed")


def _matching_lines(storage: TapeStorage, source: _TapeFile) -> int | None:
    """How many lines the stored tape has, if those are what the file begins with; reads the file to
    its end in any case, so that its counts are whole."""
    count = 0
    matches = True
    with closing(storage.read(source.tape_id)) as stored:
        for line in chain((source.init_line,), source.lines()):
            found = next(stored, None) if matches else None
            if found is not None:
                matches = found == line
                count += 1
        matches = matches and next(stored, None) is None
    return count if matches else None


def _copy(
    source: _TapeFile, recorder: TapeRecorder, metadata: dict[str, Any] | None, *, skip: int = 0
) -> None:
    for batch in batches(islice(source.lines(), skip, None)):
        recorder.append_lines(batch, counted=False)
    recorder.finalize(source.made_metadata() if metadata is None else metadata)


def _drop(storage: TapeStorage, recorder: TapeRecorder) -> None:
    try:
        recorder.detach()
        storage.delete(recorder.tape_id)
    except StorageError as error:  # the error that ended the import says more
        _logger.warning(
            "the half of tape %s that was imported could not be removed: %s", recorder.tape_id, error
        )


class _TapeFile:
    """A tape file that is being read, once or again, and what was seen on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with translated:
            self._file = path.open("rb")
        try:
            with translated:
                self.init_line = self._file.readline(_LONGEST_INIT_BYTES)
            self.init = parse_init_line(self.init_line, str(path))
        except BaseException:
            self._file.close()
            raise
        self._rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _rewind(self) -> None:
        self._file.seek(len(self.init_line))
        self.counters = TapeCounters(size_bytes=len(self.init_line))
        self.torn_bytes = 0
        self.first_unparsed: Mark | None = None

    @property
    def tape_id(self) -> str:
        tape_id: str = self.init["tape_id"]
        return tape_id

    def lines(self) -> Iterator[bytes]:
        """The whole lines behind the `init` line, from the first one on; counts them."""
        self._rewind()
        for line in self._read():
            if not line.endswith(b"\n"):
                self.torn_bytes = len(line)
                return
            unparsed = self.counters.unparsed_count
            self.counters.add_line(line)
            if self.counters.unparsed_count > unparsed and self.first_unparsed is None:
                number = self.counters.line_count
                self.first_unparsed = Mark(str(self.path), number, 1, number, 1)
            yield line

    def _read(self) -> Iterator[bytes]:
        with translated:
            yield from self._file

    def metadata(self) -> dict[str, Any] | None:
        """What is in the `.meta.json` beside it, or None where there is none."""
        beside = self.path.with_name(self.path.name.removesuffix(".jsonl") + ".meta.json")
        if not beside.exists():
            return None
        with translated:
            text = beside.read_bytes()
        return load_metadata(self.tape_id, text)

    def made_metadata(self) -> dict[str, Any]:
        return make_metadata(self.init, "finalized", stats=self.counters.as_stats())

    def result(self, outcome: ImportOutcome) -> ImportResult:
        counters = self.counters
        return ImportResult(
            self.tape_id,
            outcome,
            counters.line_count,
            self.torn_bytes,
            counters.unparsed_count,
            self.first_unparsed,
        )
