"""How a runtime stands: what it runs, what is wrong with the file, and what came of the last reloads.

Plain fields under one lock, which is also where everybody waits who wants to know when they change. Nothing
here calls anything foreign, and nothing foreign is called with the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

from .errors import Finding, RuntimeClosedError
from .last_good import KeptManifest
from .manifest import Manifest
from .progress import Progress
from .snapshot import Snapshot
from .status import Outcome, Result, RuntimeState


class Standing:
    """Of one runtime. The fields are guarded by `changed`, and all methods are called with it."""

    def __init__(self, progress: Progress) -> None:
        # Guards the fields below and those of the worker; nothing foreign is called under it.
        self.changed = threading.Condition()
        self.state: RuntimeState = "stopped"
        self.state_since: datetime | None = None
        self.manifest: Manifest | None = None
        """What is running; None before the start, and where there is no file to follow."""
        self.findings: tuple[Finding, ...] = ()
        """What is wrong with the file now."""
        self.started_from: KeptManifest | None = None
        """What serves until there is a good manifest."""
        self.last_reload: Outcome | None = None
        self.reloads: dict[Result, int] = {}
        self.retiring_since: dict[str, datetime] = {}
        self._progress = progress

    def start_anew(self) -> None:
        """In a forked child, without the lock, which is the parent's: nothing follows the file here."""
        self.changed = threading.Condition()
        self.state = "stopped"

    def set_state(self, state: RuntimeState) -> None:
        if state != self.state:
            self.state, self.state_since = state, datetime.now(UTC)

    def check_running(self) -> None:
        """Who was closed says no more.

        Raises:
            RuntimeClosedError: it was.
        """
        if self.state == "stopped":
            raise RuntimeClosedError

    def note_retiring(self, names: Sequence[str], snapshot: Snapshot) -> None:
        """These have begun to; those that came back have been waiting no longer."""
        known = {**dict.fromkeys(names, datetime.now(UTC)), **self.retiring_since}
        self.retiring_since = {
            name: since
            for name, since in known.items()
            if (provider := snapshot.get(name)) is not None and provider.state == "retiring"
        }

    def note_retired(self, names: Sequence[str]) -> None:
        for name in names:
            self.retiring_since.pop(name, None)

    def record(
        self,
        result: Result,
        began: float,
        generation: int,
        findings: tuple[Finding, ...],
        digest: str | None,
    ) -> None:
        """A reload that began then, by `monotonic()`, came to this."""
        self.reloads[result] = self.reloads.get(result, 0) + 1
        self.last_reload = Outcome(
            result=result,
            at=datetime.now(UTC),
            generation=generation,
            digest=digest,
            duration_seconds=monotonic() - began,
            findings=findings,
            phase_seconds=self._progress.take_spent(),
        )
