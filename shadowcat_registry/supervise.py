"""Keeps file events coming: starts an observer, notices when it dies, replaces it, and says what is missing.

Knows directories and what the system refuses, never why a directory matters. All methods are for one
thread, the owner's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, Literal

from .mounts import filesystem_of, is_of_a_network
from .sight import probe

if TYPE_CHECKING:
    import re

    from .hints import Hints

WatchMode = Literal["auto", "events", "poll"]
"""`auto`: file events where they tell everything, beside the periodic check. `events`: also where they may
not, as on a network file system. `poll`: only the check."""

Message = tuple[str, str]
"""What happened, and the path where."""

Identity = tuple[int, ...]

_RETRY_SECONDS: Final = 30.0
"""After events could not be had; doubled with each failure, for with watchdog 6 each costs descriptors."""
_MOST_RETRY_SECONDS: Final = 3600.0

_logger = logging.getLogger(__name__)


class EventSource:
    """File events of the directories that it is armed with, as far as they can be had."""

    def __init__(self, put: Callable[[Message], object], mode: WatchMode, clock: Callable[[], float]) -> None:
        self.mode: WatchMode = mode
        self.fault: str | None = None
        """Why there are no events although there should be."""
        self.unobserved: dict[str, str] = {}
        """Directories without events, each with the reason: not a fault, the periodic check has them."""
        self._put, self._clock = put, clock
        self._hints: Hints | None = None
        self._has_armed = False
        self._networks: dict[tuple[str, Identity], str | None] = {}
        self._retry_at = clock()
        self._retry_seconds = _RETRY_SECONDS

    @property
    def is_on(self) -> bool:
        """Whether events of any directory come."""
        return self._hints is not None and bool(self._hints.directories)

    @property
    def directories(self) -> tuple[str, ...]:
        return () if self._hints is None else self._hints.directories

    def arm(
        self,
        directories: Collection[str],
        entries: Collection[str],
        listings: Mapping[str, re.Pattern[str]],
    ) -> tuple[bool, bool]:
        """Have events of these `entries` of `directories`, and of whatever a listing's pattern matches in its
        directory. Returns whether anything changed, so that nobody told what happened in between, and
        whether that was not for the first time. Never raises for what the system refuses: see `fault`.
        """
        if self.mode == "poll":
            self.close()
            self.unobserved, self.fault = {}, None
            return False, False
        identities = {directory: probe(directory)[:2] for directory in directories}
        existing = {directory: identity for directory, identity in identities.items() if identity}
        observed = self._without_the_deaf(existing)
        dropped: list[str] = []
        if self._hints is not None:
            # Before the question whether it lives: what observes a directory ends with that, as it should.
            dropped = self._hints.keep_only(observed)
            if not self._hints.is_alive:
                _logger.warning("the observer of file events died; starting another one")
                self.close()
        if self._hints is None and (not observed or self._clock() < self._retry_at):
            return False, False
        try:
            if self._hints is None:
                from .hints import Hints  # here: watchdog is not loaded unless somebody watches

                self._hints = Hints(self._put)
            changed = self._hints.arm(observed, frozenset(entries), listings) or bool(dropped)
        except (OSError, RuntimeError, ImportError) as error:
            self.close()
            why = getattr(error, "strerror", None) or str(error)
            if self.fault is None:
                _logger.warning("no file events, only a look now and then: %s", why)
            self.fault = f"no file events: {why}"
            self._retry_at = self._clock() + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, _MOST_RETRY_SECONDS)
            return False, False
        self._retry_seconds = _RETRY_SECONDS
        if self.fault is not None:
            self.fault = None
            _logger.info("file events are back")
        is_again = changed and self._has_armed
        self._has_armed |= changed
        return changed, is_again

    def forget(self, path: str) -> None:
        """What stands there is new, even if it got the old number: `arm` observes it anew."""
        if self._hints is not None:
            self._hints.forget(path)

    def close(self) -> None:
        """End the observer; `arm` starts another one."""
        hints, self._hints = self._hints, None
        if hints is not None:
            try:
                hints.close()
            except Exception:
                _logger.exception("the observer of file events did not end cleanly")

    def _without_the_deaf(self, existing: Mapping[str, Identity]) -> dict[str, Identity]:
        """Those of which events can be believed."""
        unobserved: dict[str, str] = {}
        for path in existing:
            if self.mode == "auto" and (filesystem := self._filesystem(path, existing[path])) is not None:
                unobserved[path] = f"{filesystem} does not tell what other machines do"
            elif not os.access(path, os.R_OK):
                # inotify_add_watch(2) asks for it, and watchdog keeps silent when it is refused.
                unobserved[path] = "no permission to read it"
        self._networks = {key: self._networks[key] for key in existing.items() if key in self._networks}
        for path in unobserved.keys() - self.unobserved.keys():
            _logger.info("no file events of %s: %s; looking now and then", path, unobserved[path])
        self.unobserved = unobserved
        return {path: identity for path, identity in existing.items() if path not in unobserved}

    def _filesystem(self, path: str, identity: Identity) -> str | None:
        """The file system of a directory if it is one of a network; looked up once, until another directory
        takes its place."""
        key = (path, identity)
        if key not in self._networks:
            filesystem = filesystem_of(path)
            self._networks[key] = filesystem if filesystem and is_of_a_network(filesystem) else None
        return self._networks[key]
