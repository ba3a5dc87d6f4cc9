"""One tape that is being written, apart from the recorder that writes it: what is locked, and how it ends.

A recorder may be gone when its tape has to be ended; whoever has the lease does that then. Knows no kind of
storage.
"""

from __future__ import annotations

import hashlib
import threading
from datetime import UTC, datetime
from typing import Any

from .backend import Appender
from .durability import TapeSync
from .errors import RegistryForkedError, StorageClosedError
from .gathering import Gathering
from .metadata import format_time
from .tape import Metadata, TapeCounters, TapeStatus, checksum_of
from .translation import translated
from .use import FORKED, Use


class OpenTape:
    """What has to be done when a tape ends, whoever is left to do it."""

    __slots__ = ("appender", "counters", "gathering", "is_open", "lock", "sync", "tape_id", "use")

    def __init__(self, use: Use, tape_id: str, appender: Appender, counters: TapeCounters) -> None:
        self.use = use
        self.tape_id = tape_id
        self.appender = appender
        self.counters = counters
        source = use.source
        self.sync = TapeSync(tape_id, appender, counters, source.durability, source.syncer)
        # Guards the counters, the recorder's encoder and `is_open`, and gives the appender one caller at a
        # time. Under it only the appender is called, which knows neither recorder nor storage.
        self.lock = threading.Lock()
        self.is_open = True
        # A transaction belongs to a thread: where there are any, nobody writes for another one.
        gathers = source.durability.mode == "frame" and "transactions" not in source.capabilities
        self.gathering = Gathering() if gathers else None

    def start_anew(self) -> None:
        """In a forked child, where nobody who had a lock, or waits, lives."""
        self.lock = threading.Lock()
        self.sync.start_anew()
        if self.gathering is not None:
            self.gathering = Gathering()

    def check_open(self) -> None:
        if not self.is_open:
            what = f"the recorder of tape {self.tape_id!r}"
            raise (RegistryForkedError if self.use.state == FORKED else StorageClosedError)(what)

    def end(self, status: TapeStatus | None, metadata: Metadata | None) -> None:
        with self.lock:
            if not self.is_open:
                return
            self.is_open = False
        # No append comes after this, so that the appender is ours without the lock.
        try:
            self.sync.finish(covering=status is not None or self.use.source.durability.mode == "frame")
            if status is not None:
                self._write_metadata(status, metadata)
        finally:
            try:
                with translated:
                    self.appender.close()
            finally:
                self.use.tape_ended(self)

    def _write_metadata(self, status: TapeStatus, metadata: Metadata | None) -> None:
        if metadata is not None:
            self.use.call("set_meta", self.tape_id, metadata, None)
            return
        now = format_time(datetime.now(UTC))
        changes: dict[str, Any] = {
            "status": status,
            "updated_at": now,
            "finalized_at": now if status == "finalized" else None,
            "checksum": self._checksum() if status == "finalized" else None,
        }
        if not self.counters.is_partial:
            changes["stats"] = self.counters.as_stats()
        self.use.update_meta(self.tape_id, changes)

    def _checksum(self) -> str:
        """Read back, not counted along: an append would pay for it, and this says what is really there."""
        digest = hashlib.sha256()
        with translated:
            for line in self.use.call("read", self.tape_id, -1):
                digest.update(line)
        return checksum_of(digest)
