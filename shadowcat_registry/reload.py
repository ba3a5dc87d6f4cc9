"""One reload, from the file to a verdict: it is read, checked, planned and reconciled.

Whatever is in the way becomes findings; only a start raises them. Knows no state of a runtime: what follows
from a verdict is `outcomes`.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from .catalog import Catalog
from .errors import Finding, ManifestError, ManifestNotFoundError, RuntimeClosedError
from .last_good import KeptManifest, LastGood, NothingKeptError
from .load import ManifestLoader
from .manifest import Manifest
from .marks import Mark
from .metadata import format_time
from .plugin_types import may_pass
from .preview import PlanReport
from .progress import OverdueError, Progress
from .reconcile import Report, preview_reload, reconcile
from .registry import StorageProviderRegistry
from .settled import MovedError, Settled

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The registry is on what the manifest says."""

    manifest: Manifest
    report: Report
    kept: KeptManifest | None = None
    """At a start from the last good manifest: that one, `findings` say why."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed, and why."""

    state: Literal["degraded", "rejected"]
    findings: tuple[Finding, ...]
    digest: str | None = None
    """Of the manifest that was refused, where it could be read."""
    retryable: bool = False
    """It may be accepted later, as it is."""

    @property
    def is_overdue(self) -> bool:
        """Something hung: it is not called twice to make sure."""
        return any(finding.code == "SC705" for finding in self.findings)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The providers that are not to be in use."""
        found = self.findings if self.retryable else ()
        return tuple(str(finding.pointer[1]) for finding in found if finding.code == "SC708")


@dataclass(frozen=True, slots=True)
class Reloader:
    """Brings `registry` to what the manifest at `path` says. Once `cancelled` is set, it commits nothing."""

    path: Path
    loader: ManifestLoader
    registry: StorageProviderRegistry
    catalog: Catalog
    progress: Progress
    cancelled: threading.Event
    eager: bool = field(kw_only=True)

    # ------------------------------------------------------------------ the start

    def load_first(self, last_good: LastGood | None) -> Accepted:
        """What is there, or else what `last_good` has kept.

        Raises:
            ManifestNotFoundError, ManifestError: the manifest cannot be applied; and what was kept neither.
            RuntimeClosedError: it was cancelled.
        """
        try:
            manifest = self.loader.load()
            report = self._reconcile_first(manifest)
            self.loader.keep(manifest)
            return Accepted(manifest, report)
        except (ManifestNotFoundError, ManifestError) as error:
            if last_good is None:
                raise
            return self._load_last_good(last_good, error)

    def _load_last_good(self, last_good: LastGood, error: ManifestNotFoundError | ManifestError) -> Accepted:
        start = Mark.at_start(str(self.path))
        findings = (
            error.findings if isinstance(error, ManifestError) else (Finding("SC117", str(error), start),)
        )
        try:
            kept = last_good.read()
            manifest = self.loader.load_kept(kept.texts)
            report = self._reconcile_first(manifest)
            self.loader.keep(manifest)
        except NothingKeptError as reason:
            _logger.error("cannot start from the last good manifest either: %s", reason)
            raise error from None
        except ManifestError as other:
            _logger.error("cannot start from the last good manifest either: %s", other.findings[0])
            raise error from None
        message = (
            f"started from the last good manifest, kept {format_time(kept.at)}, "
            "since the one that is there cannot be used"
        )
        hint = "mend the file: this process follows it"
        warning = Finding("SC710", message, start, hint=hint, severity="warning")
        return Accepted(manifest, report, kept, (warning, *findings))

    def _reconcile_first(self, manifest: Manifest) -> Report:
        try:
            report = self._reconcile(manifest, None)
        finally:
            self.progress.close()
        if report.findings:
            raise ManifestError(report.findings)
        return report

    # ------------------------------------------------------------------ every other time

    def load_again(self, running: Manifest, settled: Settled | None = None) -> Accepted | Refused | None:
        """What is there now, in the place of what is running; None: not all that was read is what had
        `settled`. Without that, anything counts.

        Raises:
            RuntimeClosedError: it was cancelled. Nothing was changed.
        """
        digest: str | None = None
        start = Mark.at_start(str(self.path))
        try:
            manifest = self._load(running, settled)
            digest = manifest.digest
            report = self._reconcile(manifest, running)
        except MovedError:
            return None
        except ManifestNotFoundError as error:
            return Refused("degraded", (self._missing(error),))
        except ManifestError as error:
            is_absent = any(finding.code == "SC103" for finding in error.findings)
            state: Literal["degraded", "rejected"] = "degraded" if is_absent else "rejected"
            return Refused(state, error.findings, error.digest, retryable=may_pass(error.findings))
        except OverdueError as error:
            message = f"loading the manifest: {error}; what runs is kept"
            return Refused("rejected", (Finding("SC705", message, start),), digest, retryable=True)
        except RuntimeClosedError:
            raise
        except BaseException as error:
            _logger.exception("a reload failed")
            message = f"the reload failed with {type(error).__name__}, see the log; what runs is kept"
            return Refused("rejected", (Finding("SC901", message, start),), digest)
        finally:
            self.progress.enter(None)
            self.progress.close()
        if report.findings:
            return Refused("rejected", report.findings, digest, report.retryable)
        self.loader.keep(manifest)
        return Accepted(manifest, report)

    def preview(self, running: Manifest) -> PlanReport:
        """What `load_again` would do now, and what is in its way. Changes nothing; a plugin that was not
        imported yet runs in another process only."""
        try:
            return preview_reload(self.registry, self.loader.load(plugins="probe"), running)
        except ManifestNotFoundError as error:
            refused = ManifestError([self._missing(error)])
        except ManifestError as error:
            refused = error
        findings, digest = refused.findings, refused.digest
        generation = self.registry.snapshot().generation
        return PlanReport(str(self.path), generation, running.digest, digest, findings=findings)

    def _load(self, running: Manifest, settled: Settled | None) -> Manifest:
        """Checks of types are foreign code too.

        Raises:
            ManifestNotFoundError, ManifestError, OverdueError: there is none.
            MovedError: there is one, or none, but not of what had settled.
        """
        self.progress.enter("load")
        timeout_seconds = running.reload.step_timeout_seconds
        load = partial(
            self.loader.load, require_end_marker=running.reload.require_end_marker, settled=settled
        )
        error: ManifestNotFoundError | ManifestError | None = None
        try:
            manifest = self.progress.run("loading the manifest", None, load, timeout_seconds)
        except (ManifestNotFoundError, ManifestError) as wrong:
            error = wrong
        if settled is not None and settled.has_moved(self.loader.files()):
            raise MovedError
        if error is not None:
            raise error
        return manifest

    def _missing(self, error: ManifestNotFoundError) -> Finding:
        return Finding("SC117", f"{error}; what runs is kept", Mark.at_start(str(self.path)))

    def _reconcile(self, manifest: Manifest, running: Manifest | None) -> Report:
        return reconcile(
            self.registry,
            self.catalog,
            manifest,
            running=running,
            eager=self.eager,
            cancelled=self.cancelled,
            progress=self.progress,
        )
