"""What the runtime tells the world: immutable records, and whoever subscribed to them.

Knows nothing of manifests or registries. A subscriber is foreign code: it is called with no lock
held, in the order of subscription, and one that raises is logged and passed over.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from . import forks
from .errors import Finding
from .metadata import format_time

EventName = Literal["started", "committed", "rejected", "retired", "degraded", "recovered", "stopped"]
WIRE_VERSION: Final = 1

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the whole registry; the lists hold names of providers."""

    event: EventName
    at: datetime
    generation: int
    digest: str | None
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    retiring: tuple[str, ...] = ()
    default: str | None = None
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        """One line for people, and one more for each finding."""
        parts = [f"generation {self.generation}"]
        for verb, names in (
            ("added", self.added),
            ("updated", self.updated),
            ("removed", self.removed),
            ("retiring, in use until its last lease is closed:", self.retiring),
        ):
            if names:
                parts.append(f"{verb} {', '.join(names)}")
        if self.event in ("rejected", "degraded"):
            parts.append("unchanged, because of the manifest:")
        elif self.event != "stopped":
            parts.append(f"default {self.default or 'not set'}")
        line = f"{self.event:<9}  " + "; ".join(parts)
        return "\n".join([line, *(f"  {finding}" for finding in self.findings)])

    def as_json(self) -> dict[str, Any]:
        return {
            "version": WIRE_VERSION,
            "event": self.event,
            "at": format_time(self.at),
            "generation": self.generation,
            "digest": self.digest,
            "added": list(self.added),
            "updated": list(self.updated),
            "removed": list(self.removed),
            "retiring": list(self.retiring),
            "default": self.default,
            "findings": [finding.as_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Event:
        """What `as_json` gave."""
        return cls(
            event=value["event"],
            at=datetime.fromisoformat(value["at"]),
            generation=value["generation"],
            digest=value["digest"],
            added=tuple(value["added"]),
            updated=tuple(value["updated"]),
            removed=tuple(value["removed"]),
            retiring=tuple(value["retiring"]),
            default=value["default"],
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
        )


Subscriber = Callable[[Event], object]


class Subscribers:
    """A list of callables that may change at any time, also from inside one of them."""

    def __init__(self) -> None:
        # Guards the swap of the tuple; nothing is called under it.
        self._lock = threading.Lock()
        self._entries: tuple[tuple[object, Subscriber], ...] = ()
        forks.in_child(self, Subscribers._start_anew)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        """Returns what ends the subscription; calling that again does nothing."""
        key = object()
        with self._lock:
            self._entries = (*self._entries, (key, subscriber))

        def cancel() -> None:
            with self._lock:
                self._entries = tuple(entry for entry in self._entries if entry[0] is not key)

        return cancel

    def publish(self, event: Event) -> None:
        for _, subscriber in self._entries:
            try:
                subscriber(event)
            except KeyboardInterrupt:
                raise
            except BaseException:  # one that calls `sys.exit()` does not end the thread that reloads
                _logger.exception("a subscriber failed on %s of generation %d", event.event, event.generation)
