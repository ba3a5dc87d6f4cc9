"""Checks the providers whose declaration asks for it, again and again, and notes how they stand.

One thread of its own decides when; the checks run beside it (`checks`), so that one which hangs holds up
neither this nor any other. What comes after what is decided by `Health.after`. There is no thread before
a provider asks to be checked.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from . import forks
from .checks import Check
from .leases import Revision
from .registry import StorageProviderRegistry
from .snapshot import Provider

_SPREAD_SECONDS: Final = 1.0
"""The first checks of all providers come within this, not all at once."""
_JITTER: Final = 0.1
"""By how much of an interval a check comes sooner or later, so that processes do not check in step."""

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Slot:
    """When a revision is due, and the check that was started for it. Times are those of `monotonic()`."""

    due: float
    check: Check | None = None
    deadline: float = 0.0
    is_late: bool = False
    """The check has been counted as a timeout; what it answers later does not count."""


class HealthMonitor:
    """Watches over the active providers of `registry`. `look()` says that they may have changed."""

    def __init__(
        self, registry: StorageProviderRegistry, *, random_part: Callable[[], float] = random.random
    ) -> None:
        self._registry = registry
        self._random_part = random_part
        self._slots: dict[Revision, _Slot] = {}  # only the thread's
        # Guards the fields below; nothing else is called under it.
        self._changed = threading.Condition()
        self._is_due = False
        self._is_over = False
        self._thread: threading.Thread | None = None
        forks.in_child(self, HealthMonitor._start_anew)

    def look(self) -> None:
        """Take up what is new, let go of what has left. Never waits."""
        wanted = any(provider.spec.health is not None for provider in self._registry.snapshot().values())
        with self._changed:
            if self._is_over:
                return
            self._is_due = True
            self._changed.notify_all()
            if not wanted or self._thread is not None:
                return
            self._thread = thread = threading.Thread(target=self._work, name="shadowcat-health", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there is none to be had: the next look tries again
            _logger.warning("there is no thread for checking the health of providers")
            with self._changed:
                self._thread = None

    def stop(self, timeout_seconds: float) -> None:
        """No check begins after this. One that hangs is left alone. Idempotent."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(timeout_seconds)

    def _work(self) -> None:
        while True:
            wait_seconds = self._pass()
            with self._changed:
                self._changed.wait_for(lambda: self._is_due or self._is_over, wait_seconds)
                self._is_due = False
                if self._is_over:
                    return

    def _pass(self) -> float | None:
        """Do what is due; returns in how many seconds something is, None: nothing will be."""
        wanted = {
            provider.live: provider
            for provider in self._registry.snapshot().values()
            if provider.spec.health is not None and provider.state == "active" and provider.can_be_checked
        }
        self._slots = {live: slot for live, slot in self._slots.items() if live in wanted}
        for live, provider in wanted.items():
            slot = self._slots.setdefault(live, _Slot(monotonic() + self._random_part() * _SPREAD_SECONDS))
            try:
                self._step(provider, slot)
            except Exception:  # one provider must not end the checks of all
                _logger.exception("checking the health of provider %r failed", provider.name)
                slot.due = monotonic() + _interval(provider)
        if not self._slots:
            return None
        return max(0.0, min(_next_time(slot) for slot in self._slots.values()) - monotonic())

    def _step(self, provider: Provider, slot: _Slot) -> None:
        policy = provider.spec.health
        now = monotonic()
        check = slot.check
        if policy is None:
            return
        if check is not None and check.answered.is_set():
            if not slot.is_late:
                self._note(provider, check.error)
            slot.check, slot.is_late = None, False
        elif check is not None:
            if (now >= slot.deadline and not slot.is_late) or (now >= slot.due and slot.is_late):
                if slot.is_late:
                    slot.due = now + _interval(provider)
                slot.is_late = True
                self._note(provider, check.overdue, is_timeout=True)
            return
        if now >= slot.due:
            slot.check = self._registry.begin_check(provider, self._answered)
            slot.deadline = now + policy.timeout_seconds
            slot.due = now + _interval(provider) * (1 + _JITTER * (2 * self._random_part() - 1))

    def _note(self, provider: Provider, error: str | None, *, is_timeout: bool = False) -> None:
        before = provider.live.health
        health = provider.live.health = before.after(error, datetime.now(UTC), is_timeout=is_timeout)
        if health.state == before.state:
            return
        if health.state != "healthy":
            _logger.warning("provider %r is %s", provider.name, health)
        elif before.state != "unknown":
            _logger.info("provider %r is healthy again", provider.name)

    def _answered(self) -> None:
        with self._changed:
            self._is_due = True
            self._changed.notify_all()

    def _start_anew(self) -> None:
        """In a forked child: nothing is checked there, as nothing is followed."""
        self._changed = threading.Condition()
        self._thread, self._is_over = None, True


def _interval(provider: Provider) -> float:
    return provider.spec.health.interval_seconds if provider.spec.health is not None else 0.0


def _next_time(slot: _Slot) -> float:
    """When something is to be done, unless a check answers sooner."""
    return slot.deadline if slot.check is not None and not slot.is_late else slot.due
