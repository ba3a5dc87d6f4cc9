"""What follows from a verdict: how the runtime stands then, who is told, and when it is looked at again.

One verdict at a time: the worker's, or that of the start. Whoever is told is told without a lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from .announce import Announcer, Cause
from .backoff import Backoff
from .last_good import LastGood
from .manifest import Manifest
from .reconcile import holders_of
from .registry import StorageProviderRegistry
from .reload import Accepted, Refused, Reloader
from .second_look import SecondLook
from .standing import Standing
from .status import Result
from .watch import Watch

_logger = logging.getLogger(__name__)


class Outcomes:
    """Of one runtime. `follow(manifest)` is called with what runs from then on, `look_after_health()` when
    the providers have changed. Where nobody watches the file, nobody takes a second look at it either."""

    def __init__(
        self,
        registry: StorageProviderRegistry,
        standing: Standing,
        announcer: Announcer,
        retry: Backoff,
        last_good: LastGood | None,
        watch: Watch | None,
        follow: Callable[[Manifest], object],
        look_after_health: Callable[[], object],
    ) -> None:
        self._registry = registry
        self._standing = standing
        self._announcer = announcer
        self._retry = retry  # guarded as the standing
        self._last_good = last_good
        self._watch = watch
        self._second_look = SecondLook(watch.poke) if watch is not None else None
        self._follow = follow
        self._look_after_health = look_after_health
        self._waits_for: tuple[str, ...] = ()
        """The providers that are in use, where that was why something was refused."""

    def note_start(self, accepted: Accepted) -> None:
        """It serves, though nobody has been told yet."""
        standing, manifest = self._standing, accepted.manifest
        with standing.changed:
            standing.manifest, standing.findings = manifest, accepted.findings
            standing.started_from = accepted.kept
        self._follow(manifest)
        for finding in manifest.warnings:
            _logger.warning("%s", finding)

    def reload(self, reloader: Reloader, cause: Cause, *, explicit: bool) -> None:
        """One reload, from reading to events.

        Raises:
            RuntimeClosedError: the runtime was closed before there was an outcome; nothing was changed.
        """
        standing = self._standing
        reloader.progress.take_spent()  # with what the subscribers of the one before took
        began = monotonic()
        with standing.changed:
            running = standing.manifest
        if running is None:
            return
        self._announcer.cause = cause
        second_look = self._second_look
        must_rest = second_look is not None and second_look.waits_for_rest and not explicit
        settled = self._watch.settled() if self._watch is not None and must_rest else None
        verdict = reloader.load_again(running, settled)
        if verdict is None:
            _logger.debug("the manifest %s moved while it was read: a second look is due", reloader.path)
            if second_look is not None:
                second_look.has_moved()
            return
        generation = self._registry.snapshot().generation
        if isinstance(verdict, Refused) and not explicit and self._is_in_the_making(verdict):
            path = reloader.path
            _logger.debug("the manifest %s is wrong, and may be in the making: a second look is due", path)
            return
        if self._second_look is not None:
            self._second_look.end()
        if isinstance(verdict, Refused):
            self._refuse(verdict, began, generation)
        elif not self._accept(verdict, running, began):
            _logger.debug("the manifest %s says what is running", reloader.path)

    def look_for_free(self) -> None:
        """Nobody tells when a provider that is to stay as it is has no leases any more."""
        if not self._waits_for or any(holders_of(self._registry, self._waits_for).values()):
            return
        self._waits_for = ()
        with self._standing.changed:
            self._retry.hurry()

    def keep_if_good(self) -> None:
        """Whatever serves now, unless it is what was kept."""
        standing = self._standing
        with standing.changed:
            manifest = standing.manifest if standing.started_from is None else None
        if self._last_good is not None and manifest is not None:
            self._last_good.keep(manifest)

    # ------------------------------------------------------------------ inside

    def _is_in_the_making(self, refused: Refused) -> bool:
        """Whether a wrong file is to be looked at again before it is reported."""
        # What hangs is not called twice to make sure.
        if self._second_look is None or refused.is_overdue or refused.findings == self._standing.findings:
            return False
        return self._second_look.is_due(refused.findings)

    def _accept(self, accepted: Accepted, running: Manifest, began: float) -> bool:
        """Whether there was anything to tell."""
        standing, manifest, report = self._standing, accepted.manifest, accepted.report
        with standing.changed:
            standing.check_running()
            recovered = standing.state != "ok"
            standing.set_state("ok")
            standing.findings, standing.manifest, standing.started_from = (), manifest, None
            standing.note_retiring(report.retiring, self._registry.snapshot())
            self._retry.stop()
            self._waits_for = ()
            result: Result = "committed" if report.plan else "unchanged"
            standing.record(result, began, report.generation, (), manifest.digest)
        if manifest.reload != running.reload:
            self._follow(manifest)
        if report.plan:
            self._look_after_health()
            self._announcer.publish("committed", report)
        elif recovered:
            self._announcer.publish("recovered", report)
        if manifest.digest != running.digest or recovered:
            self.keep_if_good()
        for finding in manifest.warnings:
            if finding not in running.warnings:
                _logger.warning("%s", finding)
        return bool(report.plan) or recovered

    def _refuse(self, refused: Refused, began: float, generation: int) -> None:
        standing = self._standing
        state, findings = refused.state, refused.findings
        self._waits_for = refused.waits_for
        with standing.changed:
            standing.check_running()
            if standing.started_from is not None:
                # What runs is older than what was good: until that is mended.
                state, findings = "degraded", (standing.findings[0], *findings)
            said = standing.state == state and standing.findings == findings
            standing.set_state(state)
            standing.findings = findings
            standing.record(state, began, generation, findings, refused.digest)
            if refused.retryable:
                self._retry.after_failure(refused.digest, patiently=refused.is_overdue)
            else:
                self._retry.stop()
        if not said:
            self._announcer.publish(state, None, findings=findings, digest=refused.digest)
