"""Carries out the rule of `retention` on one opened backend: while tapes are written, and when it is asked.

One for all backends, so that none repeats it. Knows the contract of a backend, no kind of storage, and no
handles. It works where an append does, in its thread, under the lock of its tape, in slices: so it needs no
thread that could outlive a lease. It calls the backend, and no recorder.

A tape that is being recorded is safe twice: its metadata says so, and its backend refuses to delete it; one
that is read through a handle of this process is safe by `Readers`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, get_args

from .backend import Appender, TapeQuery, TapeStorageBackend
from .errors import RegistryError, StorageFullError, TapeBusyError, TapeNotFoundError
from .retention import Measure, Removal, Retention, Rule, StoredTape, select
from .translation import translated

_logger = logging.getLogger(__name__)

_HEADROOM: Final = 64
"""In passing, a bound that is exceeded is undercut by this part of itself: not every append may clean up."""
_LOOK_SECONDS: Final = 60.0
"""How often the whole storage is looked at while something is written to it: tapes grow old, and other
processes write too."""
_PASSING_SECONDS: Final = 0.1
"""How long an append may be held up by cleaning; what is left is for the next one."""
_FREE_LOOK_SECONDS: Final = 1.0
_FREE_LOOK_BYTES: Final = 4 << 20
_METADATA_BYTES: Final = 2048
"""Counted with each new tape: its metadata grows until it ends."""
_PAGE: Final = 1000


class Readers:
    """Which tapes are being read through handles of this process.

    Without a lock: a reader that is dropped ends wherever the collector runs, also in the middle of what is
    below. Each change is one step, and whoever looks takes a copy, which is one step too.
    """

    def __init__(self) -> None:
        self._tape_ids: dict[object, str] = {}  # by who reads
        self._dropped: deque[object] = deque()

    def __contains__(self, tape_id: object) -> bool:
        return tape_id in self._tape_ids.copy().values()

    def tape_ids(self) -> frozenset[str]:
        """At this moment."""
        return frozenset(self._tape_ids.copy().values())

    def all(self) -> list[object]:
        """Who reads at this moment."""
        return list(self._tape_ids.copy())

    def add(self, who: object, tape_id: str) -> None:
        self._tape_ids[who] = tape_id

    def remove(self, who: object) -> None:
        """Idempotent."""
        self._tape_ids.pop(who, None)

    def drop(self, who: object) -> None:
        """`remove`, of one who should have been closed; for the collector."""
        self._dropped.append(who)
        self._tape_ids.pop(who, None)

    def take_dropped(self) -> Iterator[object]:
        while self._dropped:
            try:
                yield self._dropped.popleft()
            except IndexError:  # another thread was quicker
                return

    @contextmanager
    def reading(self, tape_id: str) -> Iterator[None]:
        who = object()
        try:
            self._tape_ids[who] = tape_id
            yield
        finally:
            self._tape_ids.pop(who, None)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was removed, or would be, and how full the storage is then."""

    removed: tuple[Removal, ...]
    tape_count: int
    size_bytes: int
    exceeded: tuple[Rule, ...] = ()
    """Bounds that are exceeded still: what is left may not be removed."""

    @property
    def removed_bytes(self) -> int:
        return sum(removal.size_bytes for removal in self.removed)

    def as_json(self) -> dict[str, Any]:
        return {
            "removed": [removal.as_json() for removal in self.removed],
            "removed_bytes": self.removed_bytes,
            "tape_count": self.tape_count,
            "size_bytes": self.size_bytes,
            "exceeded": list(self.exceeded),
        }


class Housekeeper:
    """Keeps one opened backend within its bounds. Thread-safe."""

    def __init__(
        self,
        backend: TapeStorageBackend,
        retention: Retention,
        readers: Readers,
        provider: str,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.retention: Final = retention
        self._backend = backend
        self._readers = readers
        self._provider = provider
        self._clock = clock
        self._now = now
        # Guards `_tidying`; nothing is called under it. The others are estimates of one look, which the next
        # one corrects: a lost update makes it come a little later.
        self._lock = threading.Lock()
        self._tidying = False
        self._room_bytes: float = -1  # the first append looks
        self._room_tapes: float = 0
        self._look_at = 0.0
        self._free_room_bytes: float = -1
        self._free_look_at = 0.0

    # -- while tapes are written ----------------------------------------------------------------

    def watch(self, tape_id: str, appender: Appender, size_bytes: int, *, begun: bool) -> Appender:
        """An appender that does its work within the bounds; `size_bytes` are there already."""
        if begun:
            self._room_tapes -= 1
            self._wrote(size_bytes + _METADATA_BYTES)
        return _WatchedAppender(self, tape_id, appender, size_bytes)

    def check_room(self, tape_id: str, tape_bytes: int, size_bytes: int) -> None:
        """Before so much is added to a tape of so many bytes.

        Raises:
            StorageFullError: there is no room for it; nothing was changed.
        """
        most = self.retention.max_tape_bytes
        if most is not None and tape_bytes + size_bytes > most:
            raise StorageFullError(
                f"tape {tape_id!r} may have {most} bytes at most (max_tape_bytes); end it, and begin another"
            )
        if self.retention.min_free_bytes and (
            self._free_room_bytes < size_bytes or self._clock() >= self._free_look_at
        ):
            self._look_at_the_free(size_bytes)

    def _look_at_the_free(self, size_bytes: int) -> None:
        floor = self.retention.min_free_bytes
        free_bytes = self._free_bytes()
        if free_bytes is not None and free_bytes - size_bytes < floor:
            self._tidy_in_passing()
            free_bytes = self._free_bytes()
            if free_bytes is not None and free_bytes - size_bytes < floor:
                raise StorageFullError(
                    f"{free_bytes} bytes are free, {floor} have to stay so (min_free_bytes), "
                    "and no tape may be removed"
                )
        self._free_look_at = self._clock() + _FREE_LOOK_SECONDS
        self._free_room_bytes = (
            _FREE_LOOK_BYTES if free_bytes is None else min(_FREE_LOOK_BYTES, (free_bytes - floor) // 2)
        )

    def wrote(self, size_bytes: int) -> None:
        """So much was added to a tape."""
        self._free_room_bytes -= size_bytes
        self._wrote(size_bytes)

    def _wrote(self, size_bytes: int) -> None:
        self._room_bytes -= size_bytes
        if self._room_bytes < 0 or self._room_tapes < 0 or self._clock() >= self._look_at:
            self._tidy_in_passing()

    def _tidy_in_passing(self) -> None:
        with self._lock:
            if self._tidying:  # another thread is at it
                return
            self._tidying = True
        try:
            report, is_done = self._tidy(_HEADROOM, self._clock() + _PASSING_SECONDS)
            self._estimate(report, is_done)
        except RegistryError as error:  # no frame is lost over it
            _logger.warning("provider %s: its retention could not be enforced: %s", self._provider, error)
            self._room_bytes = self._room_tapes = float("inf")
            self._look_at = self._clock() + _FREE_LOOK_SECONDS
        finally:
            with self._lock:
                self._tidying = False

    def _estimate(self, report: PruneReport, is_done: bool) -> None:
        """When it has to be looked at again."""
        if not is_done:
            self._room_bytes = self._room_tapes = -1
            return
        bounds = (
            (self.retention.max_total_bytes, report.size_bytes),
            (
                self.retention.max_tapes,
                report.tape_count,
            ),
        )
        self._room_bytes, self._room_tapes = (
            float("inf")
            if bound is None
            else bound - measured
            if measured <= bound
            else bound // _HEADROOM  # nothing more can be removed now; do not look for it at each append
            for bound, measured in bounds
        )
        self._look_at = self._clock() + _LOOK_SECONDS

    # -- a look at the whole --------------------------------------------------------------------

    def tidy(self, *, dry_run: bool = False) -> PruneReport:
        """Remove what has to go, or only say so.

        Raises:
            StorageUnavailableError, StorageClosedError.
        """
        if dry_run:
            measure = self._measure()
            removals = select(self._tapes(frozenset()), self.retention, measure, self._now())
            after = Measure(
                measure.tape_count - len(removals),
                max(0, measure.size_bytes - sum(removal.size_bytes for removal in removals)),
                measure.free_bytes,
            )
            return self._report(removals, after)
        return self._tidy(0, float("inf"))[0]

    def _tidy(self, headroom: int, deadline: float) -> tuple[PruneReport, bool]:
        """The second value: whether everything was done by the deadline."""
        removed: list[Removal] = []
        spared: set[str] = set()
        size_bytes: float = float("inf")
        while True:
            measure = self._measure()
            if measure.size_bytes >= size_bytes:
                # Removing tapes makes nothing smaller (a snapshot of the file system may hold them): to go
                # on would empty the storage for nothing.
                return self._report(removed, measure), True
            chosen = select(self._tapes(spared), self.retention, measure, self._now(), headroom=headroom)
            for removal in chosen:
                if self._clock() >= deadline and removed:
                    return self._report(removed, self._measure()), False
                if self._remove(removal):
                    removed.append(removal)
                else:
                    spared.add(removal.tape_id)
            if not chosen:
                return self._report(removed, measure), True
            # What a tape takes on the medium is not what its metadata says: so it is measured again.
            if removed:
                size_bytes = measure.size_bytes

    def _remove(self, removal: Removal) -> bool:
        if removal.tape_id in self._readers:  # since we looked
            return False
        try:
            with translated:
                self._backend.delete(removal.tape_id)
        except (TapeBusyError, TapeNotFoundError):  # somebody went on with it, or was faster
            return False
        _logger.info(
            "provider %s: tape %s was removed, for %s (%d bytes)",
            self._provider,
            removal.tape_id,
            removal.rule,
            removal.size_bytes,
        )
        return True

    def _tapes(self, spared: set[str] | frozenset[str]) -> Iterator[StoredTape]:
        cursor: str | None = None
        while True:
            with translated:
                page = self._backend.list(TapeQuery(), cursor, _PAGE)
            being_read = self._readers.tape_ids()
            for meta in page.items:
                tape_id = str(meta.get("tape_id"))
                yield StoredTape.of(meta, in_use=tape_id in being_read or tape_id in spared)
            cursor = page.cursor
            if cursor is None:
                return

    def _measure(self) -> Measure:
        with translated:
            stats = self._backend.stats()
        return Measure(stats.tape_count, stats.size_bytes, self._free_bytes())

    def _free_bytes(self) -> int | None:
        method = getattr(self._backend, "free_bytes", None)
        if method is None:
            return None
        with translated:
            free_bytes: int = method()
        return free_bytes

    def _report(self, removed: Sequence[Removal], measure: Measure) -> PruneReport:
        retention = self.retention
        floor = measure.free_bytes is not None and measure.free_bytes < retention.min_free_bytes
        is_exceeded: dict[Rule, bool] = {
            "max_tapes": retention.max_tapes is not None and measure.tape_count > retention.max_tapes,
            "max_total_bytes": retention.max_total_bytes is not None
            and measure.size_bytes > retention.max_total_bytes,
            "min_free_bytes": floor,
        }
        exceeded = tuple(rule for rule in get_args(Rule) if is_exceeded.get(rule))
        return PruneReport(tuple(removed), measure.tape_count, measure.size_bytes, exceeded)


class _WatchedAppender:
    def __init__(self, keeper: Housekeeper, tape_id: str, appender: Appender, size_bytes: int) -> None:
        self._keeper = keeper
        self._tape_id = tape_id
        self._appender = appender
        self._size_bytes = size_bytes

    def append(self, lines: Sequence[bytes]) -> None:
        size_bytes = sum(map(len, lines))
        self._keeper.check_room(self._tape_id, self._size_bytes, size_bytes)
        self._appender.append(lines)
        self._size_bytes += size_bytes
        self._keeper.wrote(size_bytes)

    def sync(self) -> None:
        self._appender.sync()

    def close(self) -> None:
        self._appender.close()
