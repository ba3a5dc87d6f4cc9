"""What has become of a registry: the last things in memory, and all of them for the audit.

The audit goes to the logger `shadowcat_registry.audit`: a line for people, and the same as data in the
record's attribute `audit`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from .events import Event
from .status import HistoryEntry

_MOST_ENTRIES: Final = 50

_audit_logger = logging.getLogger(f"{__package__}.audit")


class Journal:
    """Written by whoever publishes an event, one at a time; readable from any thread."""

    def __init__(self) -> None:
        self._entries: deque[HistoryEntry] = deque(maxlen=_MOST_ENTRIES)

    def record(self, event: Event, manifest: str | None, digest: str | None, cause: str) -> None:
        """Note what happened, to the manifest of this digest, and what had asked for it."""
        entry = HistoryEntry(event.at, event.event, event.generation, digest, _summary(event))
        self._entries.append(entry)
        audit: dict[str, Any] = {
            **entry.as_json(),
            "manifest": manifest,
            "cause": cause,
            "added": list(event.added),
            "updated": list(event.updated),
            "removed": list(event.removed),
            "retiring": list(event.retiring),
            "default": event.default,
            "findings": [str(finding) for finding in event.findings],
        }
        _audit_logger.info(
            "%s generation=%d digest=%s cause=%s: %s",
            entry.outcome,
            entry.generation,
            (digest or "unknown")[:12],
            cause,
            entry.summary,
            extra={"audit": audit},
        )

    def entries(self) -> tuple[HistoryEntry, ...]:
        """The oldest first."""
        return tuple(self._entries.copy())


def _summary(event: Event) -> str:
    if event.findings:
        first, rest = event.findings[0], len(event.findings) - 1
        more = f", and {rest} more" if rest else ""
        return f"{first.code} {first.message}{more}"
    parts = [
        f"{verb} {', '.join(names)}"
        for verb, names in (
            ("added", event.added),
            ("updated", event.updated),
            ("removed", event.removed),
            ("retiring", event.retiring),
        )
        if names
    ]
    if event.event not in ("retired", "stopped"):
        parts.append(f"default {event.default or 'not set'}")
    return "; ".join(parts) or "nothing is open any more"
