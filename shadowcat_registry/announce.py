"""Tells what has become of the registry: the journal, the subscribers and the log.

In the thread of whoever publishes, one event at a time, and never under a lock: subscribers are foreign.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from .errors import Finding
from .events import Event, EventName, Subscribers
from .journal import Journal
from .metadata import serving_default
from .progress import Progress
from .reconcile import Report
from .registry import StorageProviderRegistry
from .standing import Standing

Cause = Literal["start", "request", "file", "retry"]
"""What has asked for a reload."""

_event_logger = logging.getLogger(f"{__package__}.events")


class Announcer:
    """Of one runtime."""

    def __init__(
        self, path: Path | None, registry: StorageProviderRegistry, standing: Standing, progress: Progress
    ) -> None:
        self.subscribers = Subscribers()
        self.journal = Journal()
        self.cause: Cause = "start"
        """Of what is published now; only the worker's, once that runs."""
        self._path = path
        self._registry = registry
        self._standing = standing
        self._progress = progress

    def publish(
        self,
        name: EventName,
        report: Report | None,
        *,
        removed: tuple[str, ...] = (),
        findings: tuple[Finding, ...] = (),
        digest: str | None = None,
    ) -> None:
        """`digest` is that of a manifest that was refused, where it could be read; all others are running."""
        snapshot = self._registry.snapshot()
        standing = self._standing
        with standing.changed:
            running = standing.manifest.digest if standing.manifest is not None else None
            standing.changed.notify_all()
        event = Event(
            event=name,
            at=datetime.now(UTC),
            generation=report.generation if report is not None else snapshot.generation,
            digest=running,
            added=report.added if report is not None else (),
            updated=report.updated if report is not None else (),
            removed=report.removed if report is not None else removed,
            retiring=report.retiring if report is not None else (),
            default=serving_default(snapshot.default, snapshot),
            findings=findings,
        )
        level = logging.WARNING if name in ("rejected", "degraded") else logging.INFO
        _event_logger.log(level, "%s: %s", self._path or "no manifest", event)
        self._progress.enter("notify")  # whoever has subscribed is waited for
        path = str(self._path) if self._path is not None else None
        self.journal.record(event, path, digest if findings else running, self._cause_of(name))
        try:
            self.subscribers.publish(event)
        finally:
            self._progress.enter(None)

    def _cause_of(self, name: EventName) -> str:
        return {"started": "start", "retired": "release", "stopped": "close"}.get(name, self.cause)
